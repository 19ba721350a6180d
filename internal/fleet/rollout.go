package fleet

import "time"

// RolloutID names a rollout.
type RolloutID string

// RolloutState is where a rollout is in its life.
type RolloutState string

// The states of a rollout.
const (
	RolloutRunning RolloutState = "running"
	// RolloutPaused: nothing new is begun until somebody resumes it.
	RolloutPaused RolloutState = "paused"
	// RolloutHalted: the judge or a limit stopped it, with a reason; somebody
	// resumes it by force, rolls it back or cancels it.
	RolloutHalted      RolloutState = "halted"
	RolloutRollingBack RolloutState = "rolling-back"
	RolloutSucceeded   RolloutState = "succeeded"
	RolloutRolledBack  RolloutState = "rolled-back"
	RolloutCancelled   RolloutState = "cancelled"
	// RolloutSuperseded: a later rollout of the same group took its place.
	RolloutSuperseded RolloutState = "superseded"
)

// RolloutStates returns every state of a rollout, in the order of a life.
func RolloutStates() []RolloutState {
	return []RolloutState{RolloutRunning, RolloutPaused, RolloutHalted, RolloutRollingBack,
		RolloutSucceeded, RolloutRolledBack, RolloutCancelled, RolloutSuperseded}
}

// Finished tells whether nothing follows.
func (s RolloutState) Finished() bool {
	switch s {
	case RolloutSucceeded, RolloutRolledBack, RolloutCancelled, RolloutSuperseded:
		return true
	}
	return false
}

// Rollout moves the members of a group from their revisions to another.
type Rollout struct {
	ID        RolloutID `json:"id"`
	GroupID   GroupID   `json:"group_id"`
	GroupName string    `json:"group_name"`
	// From is the group's revision when the rollout began; To is where it leads.
	From   RevisionNumber `json:"from_revision"`
	To     RevisionNumber `json:"to_revision"`
	Spec   RolloutSpec    `json:"spec"`
	State  RolloutState   `json:"state"`
	Reason Reason         `json:"reason"`
	Detail string         `json:"detail"`
	// Ring and Wave are those being worked on, from 0; WaveSince is when this
	// wave began, and ProgressAt when a member last came to its end.
	Ring       int       `json:"ring"`
	Wave       int       `json:"wave"`
	WaveSince  time.Time `json:"wave_since,omitzero"`
	ProgressAt time.Time `json:"progress_at,omitzero"`
	// Forced: somebody resumed it against the judge; it no longer halts.
	Forced     bool      `json:"forced"`
	CreatedAt  time.Time `json:"created_at"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	// Version rises with every write.
	Version int64 `json:"version"`
}

// RolloutSpec says how a rollout goes about it. NormaliseRollout fills in defaults.
type RolloutSpec struct {
	// Rings are worked on in order; each installation belongs to the first that
	// matches it, and to the last where none does. Empty is one ring of all.
	Rings []RolloutRing `json:"rings,omitempty"`
	// FirstWave is how many installations each ring begins with, drawn over all
	// sizes, labels and clusters; 0 lets the planner choose. Later waves double.
	FirstWave int `json:"first_wave,omitempty"`
	// Slots bounds the installations in work at once: a count, or a percentage
	// of the members where SlotsPercent is not 0.
	Slots        int     `json:"slots,omitempty"`
	SlotsPercent float64 `json:"slots_percent,omitempty"`
	// VerifySlots bounds the clones of sleepers at once.
	VerifySlots int `json:"verify_slots,omitempty"`
	// HealthyFor is how long a member must answer well, after at most
	// HealthDeadline, to count as done. An unknown answer is not a bad one.
	HealthyFor     time.Duration `json:"healthy_for,omitempty"`
	HealthDeadline time.Duration `json:"health_deadline,omitempty"`
	// Soak is how long each ring is watched after its last member is done,
	// before the next ring begins, unless the ring says otherwise.
	Soak time.Duration `json:"soak,omitempty"`
	// MinSamples is how many members must have been judged before a ring is
	// left, where the ring has as many.
	MinSamples int `json:"min_samples,omitempty"`
	// MaxFailures and MaxFailuresPercent (of those that were begun) halt the
	// rollout whatever the judge says; 0 is no limit of that kind.
	MaxFailures        int     `json:"max_failures,omitempty"`
	MaxFailuresPercent float64 `json:"max_failures_percent,omitempty"`
	// AutoRollback takes back what was touched when the rollout halts.
	AutoRollback bool `json:"auto_rollback,omitempty"`
	// ProgressDeadline halts a rollout in which nothing came to an end for so long.
	ProgressDeadline time.Duration `json:"progress_deadline,omitempty"`
	// Metric is a query as gate; nil is none.
	Metric *MetricGate `json:"metric,omitempty"`
}

// RolloutRing chooses installations.
type RolloutRing struct {
	Name string `json:"name"`
	// Labels must all be there. Installations lists names or IDs. Percent takes
	// that share of the members, stratified. A ring with none of them matches all.
	Labels        map[string]string `json:"labels,omitempty"`
	Installations []string          `json:"installations,omitempty"`
	Percent       float64           `json:"percent,omitempty"`
	// Soak overrides that of the spec; nil does not.
	Soak *time.Duration `json:"soak,omitempty"`
}

// MetricGate halts a rollout while an instant query of the Prometheus HTTP API
// (/api/v1/query) answers with a value above Max. A query that does not answer
// holds the next wave back and is not a failure.
type MetricGate struct {
	URL   string  `json:"url"`
	Query string  `json:"query"`
	Max   float64 `json:"max"`
	// For is how long it must be above Max; both windows of a burn rate are put in the query.
	For time.Duration `json:"for,omitempty"`
}

// MemberState is where an installation is in a rollout.
type MemberState string

// The states of a member.
const (
	MemberWaiting   MemberState = "waiting"
	MemberRolling   MemberState = "rolling"
	MemberVerifying MemberState = "verifying"
	// MemberDone: it runs the new release, and was healthy for long enough.
	MemberDone MemberState = "done"
	// MemberVerified: it sleeps, and a clone of it was healthy on the new release.
	MemberVerified MemberState = "asleep-verified"
	// MemberUnverifiable: it sleeps, and no clone could be tried.
	MemberUnverifiable MemberState = "unverifiable"
	MemberFailed       MemberState = "failed"
	MemberRollingBack  MemberState = "rolling-back"
	MemberRolledBack   MemberState = "rolled-back"
	// MemberGone: deleted, or no longer in the group; it counts nowhere.
	MemberGone MemberState = "gone"
)

// MemberStates returns every state of a member.
func MemberStates() []MemberState {
	return []MemberState{MemberWaiting, MemberRolling, MemberVerifying, MemberDone, MemberVerified, MemberUnverifiable,
		MemberFailed, MemberRollingBack, MemberRolledBack, MemberGone}
}

// RolloutMember is one installation in a rollout, with what is observed of it.
type RolloutMember struct {
	InstallationID InstallationID `json:"installation_id"`
	Name           string         `json:"name"`
	// Ring, Wave and Order are its place in the plan.
	Ring  int `json:"ring"`
	Wave  int `json:"wave"`
	Order int `json:"order"`
	// From is the revision that it pinned before.
	From      RevisionNumber    `json:"from_revision"`
	ClusterID ClusterID         `json:"cluster_id"`
	MemoryMiB int               `json:"memory_mib"`
	Labels    map[string]string `json:"labels,omitempty"`
	State     MemberState       `json:"state"`
	Reason    Reason            `json:"reason,omitempty"`
	Detail    string            `json:"detail,omitempty"`
	// Attempts counts how often the new release was put on it or on a clone of it.
	Attempts int `json:"attempts"`
	// Strikes counts how often in a row the new release failed on it: one more for
	// each failed operation and each time that it is put back for being bad,
	// none any more when the judge clears it. The judge's memory.
	Strikes     int         `json:"strikes,omitempty"`
	OperationID OperationID `json:"operation_id,omitempty"`
	StartedAt   time.Time   `json:"started_at,omitzero"`
	FinishedAt  time.Time   `json:"finished_at,omitzero"`
	// Asleep and Busy are as of now: it hibernates; an operation that is not the
	// rollout's is under way on it (it is being created, deleted, woken, …).
	Asleep bool `json:"asleep"`
	Busy   bool `json:"busy"`
	// Health is what its provider answered when last asked; BadSince is since when it
	// has been answering badly, with no two good answers in a row, zero where it is not.
	// Of a member that was not begun, it tells of the release before.
	Health   HealthState `json:"health,omitempty"`
	BadSince time.Time   `json:"bad_since,omitzero"`
	// GoodSince is since when it has been answering well without a bad answer in
	// between, zero where it is not. An unknown answer changes neither.
	GoodSince time.Time `json:"good_since,omitzero"`
	// ObservedAt is when Health was answered.
	ObservedAt time.Time `json:"observed_at,omitzero"`
}

// MemberLook is a member as its rows say now, for the rollout's step.
type MemberLook struct {
	RolloutMember
	// Pinned is the revision that it pins now.
	Pinned RevisionNumber `json:"pinned"`
	// Installation is its state; StateDeleted also where it has left the group.
	Installation State `json:"installation"`
	// Verified: the release that it is to run has passed its health check on it.
	Verified bool `json:"verified"`
	// Work is the state of its operation for this rollout, and why that failed;
	// empty where there was none.
	Work       OperationState `json:"work"`
	WorkReason Reason         `json:"work_reason"`
	WorkError  string         `json:"work_error"`
	// Recalled: its operation was told to give up.
	Recalled bool `json:"recalled"`
	// Malformed says what of the member can't be read; empty where all is well.
	Malformed string `json:"malformed"`
}

// RolloutSeen tells a rollout as it was last written: by whom, and how often.
type RolloutSeen struct {
	Version int64
	// Epoch is the claim under which a step last wrote it.
	Epoch Epoch
}

// RolloutKnown is what a rollout's step knows already.
type RolloutKnown struct {
	Seen RolloutSeen
	// Also are members to look at though they are not in work.
	Also []InstallationID
}

// RolloutLook is what a rollout's step reads.
type RolloutLook struct {
	Rollout Rollout
	Seen    RolloutSeen
	// To is the configuration that it leads to.
	To GroupConfig
	// Whole: Members are all there are; else those in work or asked for, and Joined is empty.
	Whole   bool
	Members []MemberLook
	// Joined are members of the group that are in no plan yet.
	Joined []RolloutMember
	Now    time.Time
}
