package client

import "time"

// Rollout moves the members of a group from their revisions to another.
type Rollout struct {
	ID      string `json:"id"`
	GroupID string `json:"group_id"`
	Group   string `json:"group"`
	// FromRevision is the group's when the rollout began, ToRevision where it leads.
	FromRevision int64 `json:"from_revision"`
	ToRevision   int64 `json:"to_revision"`
	// State is running, paused, halted, rolling-back, succeeded, rolled-back,
	// cancelled or superseded. Reason and Detail say why, or while it runs Detail
	// what it waits for.
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Ring and Wave are those being worked on, from 0: Rings[Ring] is its ring.
	Ring      int       `json:"ring"`
	Wave      int       `json:"wave"`
	WaveSince time.Time `json:"wave_since,omitzero"`
	// ProgressAt is when a member last came to its end.
	ProgressAt time.Time `json:"progress_at,omitzero"`
	// Forced: somebody resumed it against the judge; it no longer halts.
	Forced bool `json:"forced"`
	// Counts are the members of all rings by state, Total how many they are.
	// Members that were deleted or have left the group count nowhere.
	Counts RolloutCounts `json:"counts"`
	Total  int           `json:"total"`
	Rings  []RingStatus  `json:"rings"`
	// RatePerMinute is how many members came to their end in a minute, on the
	// average so far, and SecondsLeft what remains at that rate; nil where unknown.
	RatePerMinute *float64 `json:"rate_per_minute"`
	SecondsLeft   *float64 `json:"seconds_left"`
	// Failures are members that failed, newest first, at most 20.
	Failures []RolloutMember `json:"failures"`
	// Spec is what was asked for, with the defaults filled in.
	Spec RolloutSpec `json:"spec"`
	// Operation carries the rollout out, as long as that lasts.
	Operation *Operation `json:"operation,omitempty"`
	// Version is what If-Match compares, also given as the ETag; ?version=N waits for one after N.
	Version    int64     `json:"version"`
	CreatedAt  time.Time `json:"created_at"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// Finished tells whether the rollout has come to its end.
func (r Rollout) Finished() bool {
	switch r.State {
	case "succeeded", "rolled-back", "cancelled", "superseded":
		return true
	}
	return false
}

// RolloutSummary is a rollout in brief, as lists and groups show it.
type RolloutSummary struct {
	ID           string    `json:"id"`
	GroupID      string    `json:"group_id"`
	Group        string    `json:"group"`
	FromRevision int64     `json:"from_revision"`
	ToRevision   int64     `json:"to_revision"`
	State        string    `json:"state"`
	Reason       string    `json:"reason,omitempty"`
	Detail       string    `json:"detail,omitempty"`
	Version      int64     `json:"version"`
	CreatedAt    time.Time `json:"created_at"`
	FinishedAt   time.Time `json:"finished_at,omitzero"`
}

// RolloutCounts counts members by state.
type RolloutCounts struct {
	Waiting   int `json:"waiting"`
	Rolling   int `json:"rolling"`
	Verifying int `json:"verifying"`
	Done      int `json:"done"`
	// AsleepVerified sleep, and a clone of each was healthy on the new release;
	// of the Unverifiable no clone could be tried.
	AsleepVerified int `json:"asleep_verified"`
	Unverifiable   int `json:"unverifiable"`
	Failed         int `json:"failed"`
	RollingBack    int `json:"rolling_back"`
	RolledBack     int `json:"rolled_back"`
}

// RingStatus is where one ring of a rollout is.
type RingStatus struct {
	Name   string        `json:"name"`
	Total  int           `json:"total"`
	Counts RolloutCounts `json:"counts"`
}

// RolloutMember is one installation in a rollout.
type RolloutMember struct {
	InstallationID string `json:"installation_id"`
	Name           string `json:"name"`
	// Ring and Wave are its place in the plan, from 0.
	Ring int `json:"ring"`
	Wave int `json:"wave"`
	// FromRevision is what it pinned before.
	FromRevision int64             `json:"from_revision"`
	ClusterID    string            `json:"cluster_id"`
	MemoryMiB    int               `json:"memory_mib"`
	Labels       map[string]string `json:"labels,omitempty"`
	// State is waiting, rolling, verifying, done, asleep-verified, unverifiable,
	// failed, rolling-back, rolled-back, or gone (deleted, or out of the group).
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Attempts counts how often the new release was put on it or on a clone of it.
	Attempts    int    `json:"attempts"`
	OperationID string `json:"operation_id,omitempty"`
	// Asleep and Busy are as of now: it hibernates; work that is not the rollout's goes on.
	Asleep     bool      `json:"asleep"`
	Busy       bool      `json:"busy"`
	Health     string    `json:"health,omitempty"`
	BadSince   time.Time `json:"bad_since,omitzero"`
	GoodSince  time.Time `json:"good_since,omitzero"`
	ObservedAt time.Time `json:"observed_at,omitzero"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// RolloutSpec says how a rollout goes about it. What is left out has a default,
// which the rollout shows. Durations are Go's, such as 30s or 1h30m.
type RolloutSpec struct {
	// Rings are worked on in order; each installation belongs to the first that
	// matches it, and to the last where none does. None is one ring of all.
	Rings []RolloutRing `json:"rings,omitempty"`
	// FirstWave is how many installations each ring begins with, drawn over all
	// sizes, labels and clusters. Later waves are larger and larger.
	FirstWave int `json:"first_wave,omitempty"`
	// Slots bounds the installations in work at once, or SlotsPercent does, as a
	// percentage of the members. VerifySlots bounds the clones of sleepers.
	Slots        int     `json:"slots,omitempty"`
	SlotsPercent float64 `json:"slots_percent,omitempty"`
	VerifySlots  int     `json:"verify_slots,omitempty"`
	// HealthyFor is how long a member must answer well, after at most
	// HealthDeadline, to count as done.
	HealthyFor     string `json:"healthy_for,omitempty"`
	HealthDeadline string `json:"health_deadline,omitempty"`
	// Soak is how long a ring is watched after its last member is done; "0s" is not at all.
	Soak string `json:"soak,omitempty"`
	// MinSamples is how many members must have been judged before a ring is left.
	MinSamples int `json:"min_samples,omitempty"`
	// MaxFailures and MaxFailuresPercent (of those that were begun) may fail; more
	// halt the rollout, whatever the judge says. 0 is no limit of that kind.
	MaxFailures        int     `json:"max_failures,omitempty"`
	MaxFailuresPercent float64 `json:"max_failures_percent,omitempty"`
	// AutoRollback takes back what was touched when the rollout halts.
	AutoRollback bool `json:"auto_rollback,omitempty"`
	// ProgressDeadline halts a rollout in which nothing came to an end for so long.
	ProgressDeadline string      `json:"progress_deadline,omitempty"`
	Metric           *MetricGate `json:"metric,omitempty"`
}

// RolloutRing chooses installations: by labels that must all be there, by name
// or ID, or a percentage of the members. With none of them it matches all.
type RolloutRing struct {
	Name          string            `json:"name"`
	Labels        map[string]string `json:"labels,omitempty"`
	Installations []string          `json:"installations,omitempty"`
	Percent       float64           `json:"percent,omitempty"`
	// Soak overrides that of the rollout; "0s" is none.
	Soak string `json:"soak,omitempty"`
}

// MetricGate halts a rollout while an instant query of the Prometheus HTTP API
// answers with a value above Max for as long as For.
type MetricGate struct {
	// URL is where /api/v1/query is found below.
	URL   string  `json:"url"`
	Query string  `json:"query"`
	Max   float64 `json:"max"`
	For   string  `json:"for,omitempty"`
}

// CreateRollout is the body of POST /api/v1/groups/{id}/rollouts.
type CreateRollout struct {
	// ToRevision is where the members are moved; the newest if 0.
	ToRevision int64 `json:"to_revision,omitempty"`
	RolloutSpec
	// DryRun asks for the plan only.
	DryRun bool `json:"dry_run,omitempty"`
}

// RolloutPlan is what a rollout would do.
type RolloutPlan struct {
	GroupID      string `json:"group_id"`
	Group        string `json:"group"`
	FromRevision int64  `json:"from_revision"`
	ToRevision   int64  `json:"to_revision"`
	// Spec is what was asked for, with the defaults filled in.
	Spec RolloutSpec `json:"spec"`
	// Total is how many installations would be moved, Asleep how many of them
	// sleep now and would be tried on clones.
	Total  int           `json:"total"`
	Asleep int           `json:"asleep"`
	Rings  []PlannedRing `json:"rings"`
}

// PlannedRing is what a rollout would do with one ring.
type PlannedRing struct {
	Name   string `json:"name"`
	Total  int    `json:"total"`
	Asleep int    `json:"asleep"`
	// Waves are how many installations each wave has, in order.
	Waves []int `json:"waves"`
	// FirstWave are the names of those that the ring begins with.
	FirstWave []string `json:"first_wave"`
}
