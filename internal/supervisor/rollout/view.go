package rollout

import (
	"time"

	"dormouse/internal/fleet"
)

// BusyLook is how soon Decide asks again while members that it would have work for
// are in somebody else's hands: who carries decisions out looks at them then.
const BusyLook = 3 * time.Second

// View is all that Decide looks at.
type View struct {
	Rollout fleet.Rollout
	// Members are all members, those gone included, in any order.
	Members []fleet.RolloutMember
	// Metric is the last answer to the query of Spec.Metric; nil where none is known.
	Metric *MetricReading
	// Unverifiable is the policy of the revision that the rollout leads to; empty is keep.
	Unverifiable fleet.UnverifiablePolicy
	// NoClones holds the clusters whose provider can't clone: sleepers there are unverifiable.
	NoClones map[fleet.ClusterID]bool
	// Index is one that NewIndex made of the same members in the same order, or
	// nil. It makes Decide several times faster and changes no decision.
	Index *Index
	// WatchedSince is since when somebody has been looking without a long break:
	// what took too long while every process was down is not held against
	// anything. Zero is ever since the rollout began.
	WatchedSince time.Time
	Now          time.Time
}

// MetricReading is an answer to the metric gate's query.
type MetricReading struct {
	// At is when it was asked. A reading older than five minutes is none.
	At time.Time
	// Answered is false where the query failed or had no value.
	Answered bool
	// Problem says why it did not answer.
	Problem string
	Value   float64
	// AboveSince is since when all answers were above the limit; zero where the last was not.
	AboveSince time.Time
}

// Decision says what is to be done now. The lists are disjoint, but for
// those in Done and Cleared, which say what is known of members and not what to do.
type Decision struct {
	// State is the rollout's next state; Reason and Detail say why it is in it
	// or, while it runs, what it waits for.
	State  fleet.RolloutState
	Reason fleet.Reason
	Detail string
	// Ring, Wave and WaveSince replace the rollout's.
	Ring      int
	Wave      int
	WaveSince time.Time
	// Update lists waiting members to put the new release on; Verify lists
	// sleepers whose clone is to try it, for the first time or again; Retry lists
	// failed or rolled-back members to put it on again.
	Update []fleet.InstallationID
	Verify []fleet.InstallationID
	Retry  []fleet.InstallationID
	// RollBack lists members to put the old release back on.
	RollBack []PutBack
	// Recall lists members whose operation is to be given up, because everything is
	// rolled back: it puts the old release back by itself, and does not wait for
	// health. They are listed for as long as it is under way.
	Recall []fleet.InstallationID
	// Done lists rolling members that have passed the health gate.
	Done []fleet.InstallationID
	// Cleared lists members that failed before and have been sound for long enough
	// since: their Strikes become 0.
	Cleared []fleet.InstallationID
	// Unverifiable lists sleepers of which no clone can be tried.
	Unverifiable []fleet.InstallationID
	// Evidence is what the judge saw, for people.
	Evidence Evidence
	// Next is after how long to decide again if nothing happens before, a second at
	// least; 0 is never, because the rollout has ended.
	Next time.Duration
}

// PutBack is a member to put the old release back on, with the reason to record.
// In a rollback of the whole rollout the reason is empty: the member's own stays.
type PutBack struct {
	ID     fleet.InstallationID
	Reason fleet.Reason
	Detail string
}

// Evidence sums up what the judge saw.
type Evidence struct {
	// Begun counts the members on which the new release was put at least once,
	// Failures those that it is not on (or is bad on) although it was.
	Begun    int
	Failures int
	// Odds is how much likelier the observations are if the release is bad than
	// if it is not; Where names the installations it is bad for ("all" or a stratum).
	Odds  float64
	Where string
	// ControlBad of ControlSeen untouched members answer badly.
	ControlBad  int
	ControlSeen int
}
