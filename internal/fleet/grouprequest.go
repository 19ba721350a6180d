package fleet

import "slices"

// NewGroup is a validated request to create a group with its first revision.
type NewGroup struct {
	Key    IdempotencyKey
	ID     GroupID
	Name   string
	Labels map[string]string
	Config GroupChange
}

// GroupChange changes a group's configuration: nil stays as it is, and a nil
// value in the map removes the key.
type GroupChange struct {
	PackageRef       *string // name or name@version
	MemoryMiB, VCPUs *int    // 0 leaves it to the members
	Env              map[string]*string
	Idle             *IdleChange
	Wake             *WakeChange
	Unverifiable     *UnverifiablePolicy
}

// ChangeGroup is a validated request on a group. Where it changes the
// configuration it makes a new revision, which no member has until a rollout
// brings it there.
type ChangeGroup struct {
	Key      IdempotencyKey
	IDOrName string
	// IfMatch is the version that the caller saw; 0 is any.
	IfMatch int64
	// Labels replaces them; nil leaves them.
	Labels map[string]string
	Config GroupChange
}

// GroupView is a group with what is shown beside it.
type GroupView struct {
	Group
	// Config is that of Revision, LatestConfig that of Latest.
	Config, LatestConfig GroupConfig
	// Members counts those that are not deleted, by the revision that they pin.
	Members map[RevisionNumber]int
	// Rollout is the one that is not finished, or else the last; nil where there was none.
	Rollout *Rollout
	// Replayed: the idempotency key was known.
	Replayed bool
}

// GroupMembership asks for a change of an installation's group.
type GroupMembership struct {
	// Join names the group to join, or Match the labels by which the emptiest
	// is chosen; both empty leave the group.
	Join  string
	Match map[string]string
	// KeepConfiguration: on leaving, what the group had set stays as the installation's own.
	KeepConfiguration bool
}

// NewRollout is a validated request to move a group's members to a revision.
type NewRollout struct {
	Key         IdempotencyKey
	ID          RolloutID
	OperationID OperationID
	Group       string // ID or name
	// To is 0 for the newest.
	To   RevisionNumber
	Spec RolloutSpec
}

// RolloutVerb is what can be asked of a rollout.
type RolloutVerb string

// The verbs.
const (
	RolloutPause RolloutVerb = "pause"
	// RolloutResume goes on after a pause; after a halt it takes RolloutForce.
	RolloutResume RolloutVerb = "resume"
	// RolloutForce goes on against the judge and the limits, which no longer halt it.
	RolloutForce RolloutVerb = "force"
	// RolloutCancel ends it and leaves every member where it is.
	RolloutCancel RolloutVerb = "cancel"
	// RolloutRollback puts back what was touched.
	RolloutRollback RolloutVerb = "rollback"
	// RolloutRetry puts the new release again on the members that failed.
	RolloutRetry RolloutVerb = "retry"
)

// rolloutVerbs are all verbs, in the order in which they are offered.
func rolloutVerbs() []RolloutVerb {
	return []RolloutVerb{RolloutPause, RolloutResume, RolloutForce, RolloutRetry, RolloutRollback, RolloutCancel}
}

// RolloutMoves says in which states a verb is accepted, and where it leads; an
// empty state for what is no verb.
func RolloutMoves(verb RolloutVerb) (from []RolloutState, to RolloutState) {
	open := []RolloutState{RolloutRunning, RolloutPaused, RolloutHalted, RolloutRollingBack}
	switch verb {
	case RolloutPause:
		return open[:2], RolloutPaused
	case RolloutResume:
		return open[:2], RolloutRunning
	case RolloutForce, RolloutRetry:
		return open[:3], RolloutRunning
	case RolloutCancel:
		return open, RolloutCancelled
	case RolloutRollback:
		return open, RolloutRollingBack
	}
	return nil, ""
}

// RolloutAccepts returns the verbs that a rollout in a state accepts.
func RolloutAccepts(state RolloutState) []RolloutVerb {
	return slices.DeleteFunc(rolloutVerbs(), func(v RolloutVerb) bool {
		from, _ := RolloutMoves(v)
		return !slices.Contains(from, state)
	})
}

// RolloutControl is a verb on a rollout.
type RolloutControl struct {
	Key IdempotencyKey
	ID  RolloutID
	// IfMatch is the version that the caller saw; 0 is any.
	IfMatch int64
	Verb    RolloutVerb
}

// RolloutView is a rollout with what is shown beside it.
type RolloutView struct {
	Rollout
	// Counts are the members by ring and state; Total counts all but those that are gone.
	Counts []RolloutRingCount
	Total  int
	// Failures are the members that failed, newest first, at most 20.
	Failures []RolloutMember
	// Operation carries it out.
	Operation *Operation
	// Replayed: the idempotency key was known.
	Replayed bool
}

// RolloutRingCount counts the members of one ring in one state.
type RolloutRingCount struct {
	Ring  int         `json:"ring"`
	State MemberState `json:"state"`
	N     int         `json:"n"`
}

// RolloutQuery asks for a page of rollouts, newest first.
type RolloutQuery struct {
	// Before is the ID before which to go on; empty is the newest.
	Before string
	Limit  int
	Group  string // ID or name; empty is all
}

// MemberQuery asks for a page of a rollout's members, in order of installation ID.
type MemberQuery struct {
	Page
	Rollout RolloutID
	State   MemberState // empty is all
}
