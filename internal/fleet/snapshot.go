package fleet

import (
	"maps"
	"slices"
	"time"
)

// Snapshot is all that a step may know: the operation and everything around
// its resource, as of the last commit.
type Snapshot struct {
	Operation Operation
	// Installation is nil for an operation on a cluster.
	Installation *Installation
	// Package is the installation's desired package.
	Package *Package
	// Instances are those not deleted, oldest first.
	Instances []Instance
	// Volume is the application's volume; nil before there is one.
	Volume *Volume
	// Lease is the installation's address; nil before there is one.
	Lease   *AddressLease
	Cluster *Cluster
	// Hosts are the cluster's hosts that matter here: the one that the
	// installation lies on, or else those with the most free memory.
	Hosts []Host
	// Target is the release and configuration that a verification tries; nil for
	// other operations.
	Target *Target
	// Now is the database's time at the claim.
	Now time.Time
	// Malformed says why a stored row could not be read; empty where all is well.
	Malformed string
}

// Instance returns the instance with that ID; nil if there is none.
func (s *Snapshot) Instance(id InstanceID) *Instance {
	for i := range s.Instances {
		if s.Instances[i].ID == id {
			return &s.Instances[i]
		}
	}
	return nil
}

// Serving returns the instance that serves in the given role; nil if there is none.
func (s *Snapshot) Serving(role Role) *Instance {
	for i := range s.Instances {
		if s.Instances[i].Role == role && s.Instances[i].Serving {
			return &s.Instances[i]
		}
	}
	return nil
}

// Host returns the host with that ID; nil if it is not among those that matter.
func (s *Snapshot) Host(id HostID) *Host {
	for i := range s.Hosts {
		if s.Hosts[i].ID == id {
			return &s.Hosts[i]
		}
	}
	return nil
}

// Verdict is how a step ended.
type Verdict string

// The verdicts.
const (
	// VerdictAdvance: the step is done; the next one follows.
	VerdictAdvance Verdict = "advance"
	// VerdictRepeat: the step did one piece of its work and is to run again at once.
	VerdictRepeat Verdict = "repeat"
	// VerdictWait: nothing to do until a signal or a point in time.
	VerdictWait Verdict = "wait"
	// VerdictFail: it can't succeed.
	VerdictFail Verdict = "fail"
)

// Outcome is what a step returns. It says what was observed; the engine writes it.
type Outcome struct {
	Verdict Verdict
	// Reason and Detail say why it waits or failed.
	Reason Reason
	Detail string
	// After is how long a wait lasts at the most, without a signal.
	After   time.Duration
	Changes Changes
}

// Changes is what an outcome changes in the store, in one transaction with the
// operation's own progress.
type Changes struct {
	// Instances and Volume are stored whole: new ones are inserted.
	Instances []Instance
	Volume    *Volume
	// Hold asks for capacity on a host (or gives it back). An operation whose
	// hold does not fit waits with WaitCapacity and runs the step again.
	Hold *Hold
	// Address asks for an address lease on that host where the installation has none.
	Address HostID
	// Reserve asks for capacity and an address on another host besides what is held,
	// for a move; an empty HostID gives them back. It is denied as a Hold is.
	Reserve *Hold
	// HoldOn makes what is reserved on that host what is held, and the other way
	// round. Where that host is held already it changes nothing, so that a commit
	// whose answer was lost can be sent again.
	HoldOn HostID
	// ReleaseAddress gives the installation's lease back.
	ReleaseAddress bool
	// End is the state in which the installation ends when the operation
	// succeeds with this outcome; empty is the kind's DoneState.
	End State
	// Releases of the installation, where they change; a pointer to "" clears.
	Verified, Running, Saved *PackageID
	// Observed is merged into the operation's.
	Observed map[string]string
	// Check is what the check of a cluster found, and Settings what it passed with, where they change.
	Check    *CheckReport
	Settings map[string]string
	// Pin moves the installation to that revision of its group, without work on
	// it: what a sleeper's next wake starts, or what a failed update goes back to.
	Pin *RevisionNumber
	// Rollout is what a rollout's step decided, and Drain what a drain's did.
	Rollout *RolloutChange
	Drain   *DrainChange
}

// Begins tells whether operations begin with these changes.
func (c Changes) Begins() bool {
	return c.Rollout != nil && len(c.Rollout.Begin) > 0 || c.Drain != nil && len(c.Drain.Begin) > 0
}

// Target is what a revision of its group makes of an installation.
type Target struct {
	Package Package     `json:"package"`
	Config  GroupConfig `json:"config"`
}

// RolloutChange is what a rollout's step decided. It is written only if the
// rollout still has the version that the decision was made from, and not at all else.
type RolloutChange struct {
	// Rollout is its row as it is to be, with the version that it was read with;
	// Before is the state that it had.
	Rollout Rollout
	Before  RolloutState
	// Epoch is the claim under which it was decided.
	Epoch Epoch
	// Members are the rows that change.
	Members []RolloutMember
	// Begin are the members to begin on. Those that can't be begun now (deleted,
	// left, busy, in another state than expected) are left waiting.
	Begin []MemberStart
	// Recall are operations on members that are to be given up. One that is being
	// written at this moment is left out, as its next look shows.
	Recall []OperationID
}

// MemberStart begins work on one member.
type MemberStart struct {
	InstallationID InstallationID
	OperationID    OperationID
	// Kind is OperationUpdate, or OperationVerify for a sleeper. OperationUpdate
	// on a sleeper moves it without anything being started.
	Kind OperationKind
	Work RolloutWork
	// Strike: it is one more time that the new release failed on it.
	Strike bool
}

// Hold is the whole capacity that an installation holds from now on.
type Hold struct {
	HostID    HostID
	MemoryMiB int64
	DiskMiB   int64
}

// Advance returns the outcome of a step that is done.
func Advance(c Changes) Outcome { return Outcome{Verdict: VerdictAdvance, Changes: c} }

// Repeat returns the outcome of a step that has more of the same to do.
func Repeat(c Changes) Outcome { return Outcome{Verdict: VerdictRepeat, Changes: c} }

// Wait returns the outcome of a step that waits for a signal, or for that long.
func Wait(after time.Duration, reason Reason, detail string) Outcome {
	return Outcome{Verdict: VerdictWait, Reason: reason, Detail: detail, After: after}
}

// Fail returns the outcome of a step that can't succeed.
func Fail(reason Reason, detail string) Outcome {
	return Outcome{Verdict: VerdictFail, Reason: reason, Detail: detail}
}

// Apply changes the snapshot as the store does when it commits an outcome, but
// for what only the store can decide (grants of capacity and addresses).
func (s *Snapshot) Apply(c Changes) {
	s.Instances = slices.Clone(s.Instances)
	for _, changed := range c.Instances {
		switch have := s.Instance(changed.ID); {
		case have == nil:
			s.Instances = append(s.Instances, changed)
		case !changed.DeletedAt.IsZero():
			s.Instances = slices.DeleteFunc(s.Instances, func(i Instance) bool { return i.ID == changed.ID })
		default:
			*have = changed
		}
	}
	if c.Volume != nil {
		v := *c.Volume
		s.Volume = &v
		if !v.DeletedAt.IsZero() {
			s.Volume = nil
		}
	}
	if s.Installation != nil {
		changed := *s.Installation // never the one that another snapshot shares
		s.Installation = &changed
		if c.Hold != nil {
			changed.HeldHostID, changed.HeldMemoryMiB, changed.HeldDiskMiB = c.Hold.HostID, c.Hold.MemoryMiB, c.Hold.DiskMiB
		}
		if c.Reserve != nil {
			changed.ReservedHostID, changed.ReservedMemoryMiB, changed.ReservedDiskMiB = c.Reserve.HostID, c.Reserve.MemoryMiB, c.Reserve.DiskMiB
		}
		if c.HoldOn != "" && c.HoldOn == changed.ReservedHostID {
			changed.HeldHostID, changed.ReservedHostID = changed.ReservedHostID, changed.HeldHostID
			changed.HeldMemoryMiB, changed.ReservedMemoryMiB = changed.ReservedMemoryMiB, changed.HeldMemoryMiB
			changed.HeldDiskMiB, changed.ReservedDiskMiB = changed.ReservedDiskMiB, changed.HeldDiskMiB
			s.Lease = nil // the store says which one it has there
		}
		if c.Verified != nil {
			s.Installation.VerifiedPackageID = *c.Verified
		}
		if c.Running != nil {
			s.Installation.RunningPackageID = *c.Running
		}
		if c.Saved != nil {
			s.Installation.SavedPackageID = *c.Saved
		}
	}
	if len(c.Observed) > 0 {
		merged := maps.Clone(s.Operation.Observed)
		if merged == nil {
			merged = map[string]string{}
		}
		maps.Copy(merged, c.Observed)
		s.Operation.Observed = merged
	}
}
