package installation

import (
	"time"

	"dormouse/internal/fleet"
)

// FindingKind says what a sweep found amiss.
type FindingKind string

// The kinds of finding.
const (
	// FindingLost: a row says on and serving, and the provider has no such machine.
	FindingLost FindingKind = "lost"
	// FindingOff: a row says on and serving, and the machine is off.
	FindingOff FindingKind = "off"
	// FindingDouble: a machine is on beside the one that serves the installation.
	FindingDouble FindingKind = "double"
	// FindingStray: a machine without a live row.
	FindingStray FindingKind = "stray-instance"
	// FindingStrayVolume: a volume without a live row.
	FindingStrayVolume FindingKind = "stray-volume"
	// FindingDrift: store and provider differ in a way that nothing is done about.
	FindingDrift FindingKind = "drift"
)

// Action is what a sweep, or the watcher, did about a finding.
type Action string

// The actions.
const (
	// ActionNone: nothing, because it was no longer so, or because it failed (see Err).
	ActionNone Action = "none"
	// ActionWait: too young; a later pass looks again.
	ActionWait Action = "waiting"
	// ActionHeld: held back by the brake or by the bound of repairs per pass.
	ActionHeld     Action = "held"
	ActionRestart  Action = "restart-requested"
	ActionRecorded Action = "exit-recorded"
	ActionStopped  Action = "stopped"
	ActionDeleted  Action = "deleted"
)

// Finding is one thing that a sweep found amiss.
type Finding struct {
	Kind FindingKind
	// InstallationID and InstallationName are empty where they are not known.
	InstallationID   fleet.InstallationID
	InstallationName string
	// One of InstanceID and VolumeID is set.
	InstanceID fleet.InstanceID
	VolumeID   fleet.VolumeID
	Detail     string
	Action     Action
	// Err says why a repair did not succeed; empty where it did or none was tried.
	Err string

	status fleet.InstanceStatus
	row    fleet.ExpectedInstance
	volume fleet.VolumeStatus
	// deleted: the volume's row says that it was deleted.
	deleted bool
}

// key tells one finding from another, also in the next pass.
func (f *Finding) key() string {
	return string(f.Kind) + "/" + string(f.InstanceID) + string(f.VolumeID)
}

// Report is what one pass over one cluster saw and did.
type Report struct {
	ClusterID   fleet.ClusterID
	ClusterName string
	At          time.Time
	// Listed and ListedVolumes are what the provider has, Expected the instances
	// that should be on, and Broken how many of those are not.
	Listed, ListedVolumes, Expected, Broken int
	// Partial says why the provider's list can't be trusted to be whole; empty
	// where it is. Nothing is concluded from absence then.
	Partial string
	// Brake says, with the numbers, why repairs were held back; empty where they were not.
	Brake    string
	Findings []Finding
}

// Count returns how many findings ended with that action.
func (r Report) Count(a Action) int {
	n := 0
	for _, f := range r.Findings {
		if f.Action == a {
			n++
		}
	}
	return n
}

// Failed returns how many repairs were tried and did not succeed.
func (r Report) Failed() int {
	n := 0
	for _, f := range r.Findings {
		if f.Err != "" {
			n++
		}
	}
	return n
}
