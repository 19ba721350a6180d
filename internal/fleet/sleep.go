package fleet

import "time"

// SleepTier says how a sleeping machine's memory is kept.
type SleepTier string

// The tiers, from the fastest wake to the cheapest sleep.
const (
	// TierWarm: the memory lies on the disk as it was, ready to be mapped.
	TierWarm SleepTier = "warm"
	// TierPacked: the memory is compressed, and unpacked before it is mapped.
	TierPacked SleepTier = "packed"
	// TierCold: nothing is kept but the disks. The next wake is a boot.
	TierCold SleepTier = "cold"
)

// Saved is what a provider keeps of a machine that sleeps.
type Saved struct {
	Tier SleepTier
	// Bytes is what the saved memory takes on the disk; 0 where it is cold.
	Bytes int64
	At    time.Time
}

// SuspendOptions say how an instance is put to sleep.
type SuspendOptions struct {
	// Mode is SuspendMemory (also where empty) or SuspendCold.
	Mode SuspendMode
	// Idle: nobody asked for it but the idle policy, so that whoever comes, what is in
	// flight, and who came less than IdleFor ago, goes before it: KindConflict with
	// ReasonVisited.
	Idle    bool
	IdleFor time.Duration
}

// SuspendMode says what of a machine outlives its sleep.
type SuspendMode string

// The modes.
const (
	// SuspendMemory keeps disks and memory: programs go on where they were.
	SuspendMemory SuspendMode = "memory"
	// SuspendCold stops the program cleanly and keeps the disks only.
	SuspendCold SuspendMode = "cold"
)

// Check is KindInvalid where there is no such mode.
func (o SuspendOptions) Check() error {
	switch o.Mode {
	case "", SuspendMemory, SuspendCold:
		return nil
	}
	return InvalidField("mode", "a machine sleeps with its memory (%s) or without (%s), not %q", SuspendMemory, SuspendCold, o.Mode)
}

// Start says how a machine came to run.
type Start string

// The ways.
const (
	StartBooted  Start = "booted"
	StartResumed Start = "resumed"
)

// Observed values of a hibernation, which its request writes.
const (
	// ObservedSleep is the operation's SuspendMode.
	ObservedSleep = "sleep"
	// ObservedIdle is set where nobody asked for it but the idle policy: it gives way
	// to whoever comes, and to what is in flight. Its value is IdleVisits or IdleSchedule.
	ObservedIdle = "idle"
	// IdleVisits: nobody has come for a while. IdleSchedule: it is time.
	IdleVisits   = "visits"
	IdleSchedule = "schedule"
)

// Reasons of sleep.
const (
	// ReasonVisited: a hibernation was given up, because somebody came or something was in flight.
	ReasonVisited Reason = "visited"
	// ReasonNotSaved: the memory could not be saved, and the machine runs on.
	ReasonNotSaved Reason = "not-saved"
	// ReasonCannotSleep: the provider can't let this machine sleep; it can be stopped.
	ReasonCannotSleep Reason = "cannot-sleep"
	// ReasonCommitting: an overlay can't be dropped any more, since it is being committed.
	ReasonCommitting Reason = "overlay-being-committed"
	// WaitSaving: the machine's memory is being saved.
	WaitSaving Reason = "saving-memory"
)
