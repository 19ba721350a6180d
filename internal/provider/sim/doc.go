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
// is locked, so that a second opener is refused. It follows that the simulator's
// clusters belong to the one process that has the directory.
//
// # Settings
//
// One Provider serves all clusters of this kind, each with settings of its own
// (Keys lists them, ParseSettings reads them). The settings live in the store, not here: they
// arrive through Check, and after a restart the composition root calls Configure with every
// cluster that is not deleted, before supervisors start. Until then, calls about the cluster
// answer KindUnavailable, and boots that were under way stand still.
//
// # Faults
//
// Whether a fault strikes, and how long a call takes, is computed from (seed,
// what is drawn, call, object, number of the attempt) and from nothing else. Two runs
// that ask the same questions about the same IDs get the same answers however
// their goroutines interleave. Attempts are counted by object and call from the time the
// cluster was configured, in memory.
//
// # Costs
//
// No goroutine, timer or file belongs to an instance at rest. With no latency
// and no boot time, Ensure answers at once that the instance is on and healthy,
// in less than 20 µs on an ordinary machine, one write system call and no fsync
// included. Every now and then a call also pays for a compaction.
//
// OnChange is called without locks held, on the goroutine of a timer or of
// SetExit and SetHealth; it must not block.
package sim
