package client

import "time"

// Installation is one tenant's workspace.
type Installation struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Owner       string `json:"owner"`
	State       string `json:"state"`
	StateReason string `json:"state_reason,omitempty"`
	StateDetail string `json:"state_detail,omitempty"`
	// URL is where the tenant's users reach it, from the first day on.
	URL       string     `json:"url"`
	Endpoints []Endpoint `json:"endpoints"`
	Cluster   string     `json:"cluster"`
	// Package is the desired release as name@version.
	Package string `json:"package"`
	// RunningPackage and VerifiedPackage are releases as name@version; empty where none.
	RunningPackage  string            `json:"running_package,omitempty"`
	VerifiedPackage string            `json:"verified_package,omitempty"`
	MemoryMiB       int               `json:"memory_mib"`
	DiskMiB         int               `json:"disk_mib"`
	VCPUs           int               `json:"vcpus"`
	Env             map[string]string `json:"env,omitempty"`
	// SecretNames are the names of the secrets; their values are never returned.
	SecretNames []string          `json:"secret_names,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	// DNSNames are the names besides URL's under which it is reached.
	DNSNames []string `json:"dns_names,omitempty"`
	// Idle says when it is put to sleep without anybody asking, and Wake who does not
	// wake it, as comes of its group's and its own; absent where nothing is said.
	Idle *IdlePolicy `json:"idle,omitempty"`
	Wake *WakeRules  `json:"wake,omitempty"`
	// NextSchedule is what its schedules do next.
	NextSchedule *NextSchedule `json:"next_schedule,omitempty"`
	// LastActiveAt is when somebody last came; absent where nobody has. AwakeSince is
	// when it last came into service, AsleepSince when it went to sleep.
	LastActiveAt time.Time `json:"last_active_at,omitzero"`
	AwakeSince   time.Time `json:"awake_since,omitzero"`
	AsleepSince  time.Time `json:"asleep_since,omitzero"`
	// Wakes is how often it was woken.
	Wakes int64 `json:"wakes,omitempty"`
	// Group is the name of its group, GroupRevision the revision that it pins, and
	// Own what it sets itself; all absent where it is in none.
	Group         string `json:"group,omitempty"`
	GroupRevision int64  `json:"group_revision,omitempty"`
	Own           *Own   `json:"own,omitempty"`
	// Instance is the virtual machine that serves, or served last; absent before there is one.
	Instance *Instance `json:"instance,omitempty"`
	// Operation is the work under way, or else the last one done; lists show
	// only work under way.
	Operation  *Operation `json:"operation,omitempty"`
	Generation int64      `json:"generation"`
	// Version is what If-Match compares, also given as the ETag.
	Version   int64     `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Endpoint is where one port is reached.
type Endpoint struct {
	Port     int    `json:"port"`
	Protocol string `json:"protocol"`
	Name     string `json:"name,omitempty"`
	// URL is where the tenant's users reach it, if it is the first HTTP port, and
	// GatewayAddress the host:port at the gateway where its protocol is tcp. Both are
	// there from the first day on.
	URL            string `json:"url,omitempty"`
	GatewayAddress string `json:"gateway_address,omitempty"`
	// Address is host:port as seen from the host on which the instance lies.
	Address string `json:"address"`
}

// Instance is one virtual machine.
type Instance struct {
	ID        string `json:"id"`
	Host      string `json:"host,omitempty"`
	Power     string `json:"power"`
	Image     string `json:"image,omitempty"`
	MemoryMiB int    `json:"memory_mib"`
	Restarts  int    `json:"restarts"`
	Exit      *Exit  `json:"exit,omitempty"`
	// Saved is what is kept of its memory while it sleeps, where that is known.
	Saved     *Saved    `json:"saved,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// Exit tells how a program ended.
type Exit struct {
	Reason    string    `json:"reason,omitempty"`
	Code      int       `json:"code"`
	Signal    string    `json:"signal,omitempty"`
	At        time.Time `json:"at,omitzero"`
	LastLines []string  `json:"last_lines,omitempty"`
}

// CreateInstallation is the body of POST /api/v1/installations.
type CreateInstallation struct {
	Name  string `json:"name"`
	Owner string `json:"owner"`
	// Package is name or name@version; the newest version where none is named. It
	// may be left to the group, as may MemoryMiB and VCPUs.
	Package string `json:"package,omitempty"`
	// Group is the name of the group to join. Or GroupMatch are labels, and the
	// emptiest of the groups that have them all is joined.
	Group      string            `json:"group,omitempty"`
	GroupMatch map[string]string `json:"group_match,omitempty"`
	// Cluster is a cluster's name; may be left out where only one allows installations.
	Cluster string `json:"cluster,omitempty"`
	// MemoryMiB, DiskMiB and VCPUs default to 128, 1024 and 1.
	MemoryMiB int               `json:"memory_mib,omitempty"`
	DiskMiB   int               `json:"disk_mib,omitempty"`
	VCPUs     int               `json:"vcpus,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Secrets   map[string]string `json:"secrets,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	// DNSNames are names besides its own under which it is reached, in lower case.
	DNSNames []string    `json:"dns_names,omitempty"`
	Idle     *IdlePolicy `json:"idle,omitempty"`
	Wake     *WakeRules  `json:"wake,omitempty"`
	// WhenFull is wait (the default) or refuse.
	WhenFull string `json:"when_full,omitempty"`
}

// UpdateInstallation is the body of PATCH /api/v1/installations/{id}, a JSON
// merge patch (RFC 7386): what is absent stays, a null in a map removes the key.
type UpdateInstallation struct {
	Package   *string            `json:"package,omitempty"`
	MemoryMiB *int               `json:"memory_mib,omitempty"`
	DiskMiB   *int               `json:"disk_mib,omitempty"`
	VCPUs     *int               `json:"vcpus,omitempty"`
	Env       map[string]*string `json:"env,omitempty"`
	Secrets   map[string]*string `json:"secrets,omitempty"`
	Labels    map[string]*string `json:"labels,omitempty"`
	// DNSNames replaces them all.
	DNSNames *[]string         `json:"dns_names,omitempty"`
	Idle     *UpdateIdlePolicy `json:"idle,omitempty"`
	Wake     *UpdateWakeRules  `json:"wake,omitempty"`
	// Group is the group to join, by name; the empty name leaves the group it is
	// in. Or GroupMatch are labels, and the emptiest of the groups that have them
	// all is joined.
	Group      *GroupName        `json:"group,omitempty"`
	GroupMatch map[string]string `json:"group_match,omitempty"`
	// KeepConfiguration: on leaving, what the group had set becomes its own.
	KeepConfiguration bool `json:"keep_configuration,omitempty"`
	// FromGroup names what it sets itself no longer, so that its group decides
	// again: package, memory_mib, vcpus.
	FromGroup []string `json:"from_group,omitempty"`
}

// Operation is one durable piece of work.
type Operation struct {
	ID           string `json:"id"`
	Kind         string `json:"kind"`
	ResourceType string `json:"resource_type"`
	ResourceID   string `json:"resource_id"`
	ResourceName string `json:"resource_name"`
	// State is queued, active, succeeded, failed or cancelled.
	State      string     `json:"state"`
	Step       string     `json:"step,omitempty"`
	StepNumber int        `json:"step_number"`
	StepsTotal int        `json:"steps_total"`
	StepSince  time.Time  `json:"step_since,omitzero"`
	Steps      []StepDone `json:"steps"`
	Attempt    int        `json:"attempt"`
	WaitReason string     `json:"wait_reason,omitempty"`
	WaitDetail string     `json:"wait_detail,omitempty"`
	// FailReason and Error tell of the last failure.
	FailReason string `json:"fail_reason,omitempty"`
	Error      string `json:"error,omitempty"`
	// NextAt is when it is tried again at the latest; absent once finished.
	NextAt         time.Time `json:"next_at,omitzero"`
	StepDeadlineAt time.Time `json:"step_deadline_at,omitzero"`
	Executor       string    `json:"executor,omitempty"`
	Worker         string    `json:"worker,omitempty"`
	// RolloutID names the rollout for which it works; empty for none.
	RolloutID string `json:"rollout_id,omitempty"`
	// Revision rises with every change; ?revision=N waits for one after N.
	Revision   int64     `json:"revision"`
	CreatedAt  time.Time `json:"created_at"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// Finished tells whether the operation has come to its end.
func (o Operation) Finished() bool {
	return o.State == "succeeded" || o.State == "failed" || o.State == "cancelled"
}

// StepDone is a step that an operation has behind it.
type StepDone struct {
	Name       string    `json:"name"`
	StartedAt  time.Time `json:"started_at"`
	FinishedAt time.Time `json:"finished_at"`
	// Number is the step's place in its workflow, from 1; skipped steps leave gaps.
	Number   int `json:"number"`
	Attempts int `json:"attempts"`
}

// Explanation is what an installation, a cluster, a rollout or an operation waits
// for, and why.
type Explanation struct {
	// About is what is explained: installation, cluster, rollout or operation. Name
	// is its name, or its ID where it has none.
	About string `json:"about"`
	Name  string `json:"name"`
	State string `json:"state"`
	// Summary is one sentence for people.
	Summary string `json:"summary"`
	// WaitingFor is a typed reason; empty where nothing is waited for.
	WaitingFor string `json:"waiting_for,omitempty"`
	Detail     string `json:"detail,omitempty"`
	// Step is where the work is; of a rollout, its ring and wave.
	Step       string    `json:"step,omitempty"`
	StepNumber int       `json:"step_number,omitempty"`
	StepsTotal int       `json:"steps_total,omitempty"`
	Since      time.Time `json:"since,omitzero"`
	Attempts   int       `json:"attempts"`
	LastError  string    `json:"last_error,omitempty"`
	// Next says what comes next, and NextAt when at the latest.
	Next   string    `json:"next"`
	NextAt time.Time `json:"next_at,omitzero"`
	// Advice says what an operator can do about it; empty where nothing is to be done.
	Advice []string `json:"advice,omitempty"`
	// Accepts are the requests, or a rollout's verbs, accepted in this state.
	Accepts   []string   `json:"accepts"`
	Operation *Operation `json:"operation,omitempty"`
	Queued    []string   `json:"queued,omitempty"`
}

// Cluster is a place to run.
type Cluster struct {
	ID                 string            `json:"id"`
	Name               string            `json:"name"`
	Provider           string            `json:"provider"`
	State              string            `json:"state"`
	StateReason        string            `json:"state_reason,omitempty"`
	StateDetail        string            `json:"state_detail,omitempty"`
	Settings           map[string]string `json:"settings,omitempty"`
	AllowInstallations bool              `json:"allow_installations"`
	Checks             []Check           `json:"checks"`
	Hosts              []Host            `json:"hosts"`
	Operation          *Operation        `json:"operation,omitempty"`
	CreatedAt          time.Time         `json:"created_at"`
	UpdatedAt          time.Time         `json:"updated_at"`
}

// Check is one need of a cluster, and whether it is met.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Mend   string `json:"mend,omitempty"`
}

// CreateCluster is the body of POST /api/v1/clusters.
type CreateCluster struct {
	Name     string            `json:"name"`
	Provider string            `json:"provider"`
	Settings map[string]string `json:"settings,omitempty"`
}

// CheckCluster is the body of POST /api/v1/clusters/{id}/check.
type CheckCluster struct {
	// Settings are those that change, if the check passes with them; an empty value takes one away.
	Settings map[string]string `json:"settings,omitempty"`
}

// Package is an application ready to be built into an image.
type Package struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	Version   string   `json:"version"`
	Digest    string   `json:"digest"`
	SizeBytes int64    `json:"size_bytes"`
	Kernel    string   `json:"kernel"`
	Program   string   `json:"program"`
	Warnings  []string `json:"warnings,omitempty"`
	// Evidence is what boots of it have told that reading could not.
	Evidence  []string  `json:"evidence,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// Page is one page of a list. There are no totals: counting costs as much as listing.
type Page[T any] struct {
	Items []T `json:"items"`
	// NextCursor asks for the following page; empty on the last.
	NextCursor string `json:"next_cursor,omitempty"`
}

// Problem is an error, as RFC 9457 describes it.
type Problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty"`
	// Kind is one of invalid, not-found, conflict, not-accepted, stale,
	// insufficient-capacity, throttled, unavailable, permanent, internal.
	Kind string `json:"kind"`
	// Field names the part of the request that is wrong, as a dotted JSON path.
	Field string `json:"field,omitempty"`
	// Accepts are the requests accepted now, where this one was not.
	Accepts   []string `json:"accepts,omitempty"`
	RequestID string   `json:"request_id,omitempty"`
}
