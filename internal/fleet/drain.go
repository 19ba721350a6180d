package fleet

import (
	"slices"
	"time"
)

// HostVerb is what somebody asks of a host.
type HostVerb string

// The verbs.
const (
	HostCordon   HostVerb = "cordon"
	HostUncordon HostVerb = "uncordon"
	HostDrain    HostVerb = "drain"
	// HostRemove forgets an empty host.
	HostRemove HostVerb = "remove"
)

// hostMoves says in which states each verb is accepted, and where it leads.
// Asking for what is so already changes nothing.
var hostMoves = map[HostVerb]map[HostState]HostState{
	HostCordon:   {HostUp: HostCordoned, HostCordoned: HostCordoned, HostDraining: HostDraining},
	HostUncordon: {HostUp: HostUp, HostCordoned: HostUp, HostDraining: HostUp},
	HostDrain:    {HostUp: HostDraining, HostCordoned: HostDraining, HostDraining: HostDraining},
	HostRemove:   {HostCordoned: "", HostDown: ""},
}

// Accepts returns the state that a host in state s is in after the verb; false where it is not accepted.
func (s HostState) Accepts(verb HostVerb) (HostState, bool) {
	to, ok := hostMoves[verb][s]
	return to, ok
}

// HostControl asks something of a host.
type HostControl struct {
	// Cluster and Host are IDs or names.
	Cluster, Host string
	Verb          HostVerb
	// AtOnce bounds how many installations a drain moves at a time; 0 is
	// DefaultDrainAtOnce, or what a drain under way has.
	AtOnce int
	// OperationID names the operation of a drain that begins.
	OperationID OperationID
	Key         IdempotencyKey
}

// How many installations a drain moves at a time.
const (
	DefaultDrainAtOnce = 2
	MaxDrainAtOnce     = 1000
)

// HostView is a host with what lies there and its last drain.
type HostView struct {
	Host
	ClusterName string `json:"cluster_name"`
	// Operation is the last drain; nil where there was none.
	Operation *Operation `json:"-"`
	// Members are the installations that lie there; nil where they were not looked for.
	Members []DrainMember `json:"-"`
	// Replayed: the same request was accepted before.
	Replayed bool `json:"-"`
}

// DrainMember is an installation that lies on a host.
type DrainMember struct {
	InstallationID InstallationID `json:"installation_id"`
	Name           string         `json:"name"`
	State          State          `json:"state"`
	MemoryMiB      int64          `json:"memory_mib"`
	DiskMiB        int64          `json:"disk_mib"`
	// Busy is the kind of operation that is at work on it; empty for none.
	Busy OperationKind `json:"busy"`
	// Failures counts the moves of this drain that failed; Reason, Detail and
	// FailedAt are the last one's.
	Failures int       `json:"failures"`
	Reason   Reason    `json:"reason"`
	Detail   string    `json:"detail"`
	FailedAt time.Time `json:"failed_at,omitzero"`
}

// DrainProgress is where a member of a drain stands.
type DrainProgress string

// The ways in which a member may stand.
const (
	// DrainMoving: its move is under way.
	DrainMoving DrainProgress = "moving"
	// DrainWaiting: for its turn, for room, or for other work on it to end.
	DrainWaiting DrainProgress = "waiting"
	// DrainFailed: its move failed and is tried again, or its deletion failed and
	// somebody must retry that.
	DrainFailed DrainProgress = "failed"
	// DrainStays: its data can't be moved.
	DrainStays DrainProgress = "stays"
)

// Progress tells where the member stands.
func (m DrainMember) Progress() DrainProgress {
	switch {
	case m.Busy == OperationMove:
		return DrainMoving
	case m.Busy != "" || m.State.Transient():
		return DrainWaiting
	case m.Reason == ReasonDataCannotMove:
		return DrainStays
	case !m.Movable(), m.Failures > 0 && m.Reason != ReasonCapacity:
		return DrainFailed
	}
	return DrainWaiting
}

// Movable tells whether a move of it may begin in the state that it is in.
func (m DrainMember) Movable() bool { return slices.Contains(movable, m.State) }

// DrainLook is what a drain's step sees.
type DrainLook struct {
	Host    Host
	Members []DrainMember
	// Others are the hosts of the cluster that take installations, those with the most free memory.
	Others []Host
	Now    time.Time
}

// StepPrepareMove is the first step of a move. Until it is done, a request takes the
// move's place; after it, requests follow the move.
const StepPrepareMove = "prepare-move"

// DrainChange is what a drain's step decided. It is written only while the host
// is drained by that operation.
type DrainChange struct {
	HostID      HostID
	OperationID OperationID
	// Begin are the moves to begin. Those that can't begin now (deleted, busy, gone
	// from the host) are left.
	Begin []MoveStart
	// Over: the host stays cordoned, and is drained no more.
	Over bool
}

// MoveStart begins the move of one installation.
type MoveStart struct {
	InstallationID InstallationID `json:"installation_id"`
	OperationID    OperationID    `json:"operation_id"`
}
