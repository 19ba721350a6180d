// Package sim is the simulator: a provider whose instances exist only in its
// own durable state. Load tests, the workflows' tests and demonstrations use it
// where machines would cost too much, and tests inject faults through it.
//
// # State
//
// With Options.Dir, every change is appended to a log before the call answers,
// and the whole state is written anew from time to time (see journal.go for the
// format). It outlives the provisioner: a process that is killed at any moment
// finds at its next start all that was answered before. Only Options.Sync makes it
// outlive a power failure too; without it nothing is synced but snapshots. The directory
// is locked, so that a second opener is refused. Many processes share one simulator
// through package remote: `provisioner simulator` serves it.
//
// # Settings
//
// One Provider serves all clusters of this kind, each with settings of its own
// (Keys lists them, ParseSettings reads them). They arrive through Check and Configure
// and are kept with the state. A provisioner that has the simulator to itself calls Configure
// with every cluster that is not deleted, before supervisors start: its store is the truth about
// settings. One that serves others calls ConfigureKept. Until then, calls about the
// cluster answer KindUnavailable, and boots that were under way stand still.
//
// # Faults
//
// Whether a fault strikes, and how long a call takes, is computed from (seed,
// what is drawn, call, object, number of the attempt) and from nothing else. Two runs
// that ask the same questions about the same IDs get the same answers however
// their goroutines interleave. Attempts are counted by object and call from the time the
// cluster was configured, in memory. What comes over instances by itself (failures in the
// background, outages of the observer) depends on the seed, the ID and the time.
//
// All time comes from Options.Clock, all chance from the seed, and nothing from
// the order of a map: two runs that make the same calls in the same order at the
// same times are alike in all that can be seen, OnChange and the ledger included.
//
// # Releases that behave badly
//
// An instance does what its environment says in SIM_BEHAVIOUR (BehaviourVariable),
// so that a package, a group or an installation makes a release bad. Its value is
// words with ";" between them; ParseBehaviour reads them, and Behaviour says precisely
// what each means:
//
//	crash              it ends while it boots, as a crash loop
//	slow=90s           healthy only that long after its boot
//	fail_after=60s     healthy for that long, then unhealthy
//	exit_after=60s     healthy for that long, then its program ends, with code 1
//
// and, as many as are wanted, where and when; else it is always and for all:
//
//	only_memory=256    only instances of that many MiB
//	only_cluster=NAME  only in the cluster of that name or ID
//	fraction=0.05      only that part of all installations, the same ones each time
//	only_clone         only clones
//	not_clone          all but clones
//	only_wake          only a boot of an installation that slept: that had been off for
//	                   a minute at least, or for D with only_wake=D; see Behaviour.OnlyWake
//
// So "crash;only_wake" is a release that is fine when it is created, updated and
// cloned, and that no sleeper that was moved to it wakes on. There is no restriction to labels:
// a spec has none. A value that can't be read is refused (KindInvalid), so that a
// typing error does not pass for a good release. The health of what behaves so is the same in
// Observe and List, and OnChange tells of each change.
//
// # Ledger
//
// Every call is counted, and the last ones are kept (Ledger). Totals sums up, and
// counts what must never happen: an instance made twice, two of one installation on at
// once. Leaks compares what is there with what ought to be.
//
// # Costs
//
// No goroutine, timer or file belongs to an instance at rest, but for a timer
// where its release or a failure in the background is to change its health. With no latency
// and no boot time, Ensure answers at once that the instance is on and healthy,
// in less than 20 µs on an ordinary machine, one write system call and no fsync
// included. Every now and then a call also pays for a compaction.
//
// OnChange is called without locks held, on the goroutine of a timer or of
// SetExit and SetHealth; it must not block.
package sim
