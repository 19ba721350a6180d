package fleet

import "time"

// OperationKind is what an operation does.
type OperationKind string

// The kinds of operation. The first six are on installations, the others on clusters.
const (
	OperationCreate        OperationKind = "create"
	OperationUpdate        OperationKind = "update"
	OperationRestart       OperationKind = "restart"
	OperationHibernate     OperationKind = "hibernate"
	OperationWake          OperationKind = "wake"
	OperationDelete        OperationKind = "delete"
	OperationCreateCluster OperationKind = "create-cluster"
	OperationDeleteCluster OperationKind = "delete-cluster"
	// OperationCheckCluster checks a cluster again, and leaves its state alone.
	OperationCheckCluster OperationKind = "check-cluster"
	// OperationVerify tries a release on a clone of a sleeping installation,
	// whose state it leaves alone. Any request on the installation pre-empts it.
	OperationVerify OperationKind = "verify"
	// OperationRollout carries a rollout out, as long as that lasts.
	OperationRollout OperationKind = "rollout"
	// OperationMove takes an installation to another host, and leaves its state
	// alone: what served serves again there, what slept sleeps on.
	OperationMove OperationKind = "move"
	// OperationClone makes a throw-away copy of a sleeping installation, which is
	// looked at for a while, and leaves its state alone. Any request on the
	// installation pre-empts it.
	OperationClone OperationKind = "clone"
	// OperationDrain moves everything away from a host, as long as that lasts.
	OperationDrain OperationKind = "drain"
)

// ResourceType is what an operation or event is about.
type ResourceType string

// The types of resource.
const (
	ResourceInstallation ResourceType = "installation"
	ResourceCluster      ResourceType = "cluster"
	ResourcePackage      ResourceType = "package"
	ResourceGroup        ResourceType = "group"
	ResourceRollout      ResourceType = "rollout"
	ResourceHost         ResourceType = "host"
)

// OperationState is where an operation is in its life. A resource has at most
// one active operation; queued ones follow it in order of their IDs.
type OperationState string

// The states of an operation.
const (
	OperationQueued    OperationState = "queued"
	OperationActive    OperationState = "active"
	OperationSucceeded OperationState = "succeeded"
	OperationFailed    OperationState = "failed"
	// OperationCancelled: a delete pre-empted it, or what it would have followed failed.
	OperationCancelled OperationState = "cancelled"
)

// Finished tells whether the operation has come to its end.
func (s OperationState) Finished() bool {
	return s == OperationSucceeded || s == OperationFailed || s == OperationCancelled
}

// Class orders work: interactive work never waits behind bulk.
type Class int

// The classes of work.
const (
	ClassInteractive Class = 0
	ClassBulk        Class = 1
)

// ExecutorAny says that any process may run a step. Another executor is the
// HostID of the host that must run it.
const ExecutorAny = ""

// Operation is one durable piece of work on one resource.
type Operation struct {
	ID           OperationID   `json:"id"`
	Kind         OperationKind `json:"kind"`
	ResourceType ResourceType  `json:"resource_type"`
	ResourceID   string        `json:"resource_id"`
	// ResourceName is the resource's name when the operation was requested.
	ResourceName string `json:"resource_name"`
	// Owner is the owner of the installation; empty for clusters.
	Owner string         `json:"owner"`
	Class Class          `json:"class"`
	State OperationState `json:"state"`
	// Step is the step to run next, or running now; StepNumber counts from 1.
	Step       string    `json:"step"`
	StepNumber int       `json:"step_number"`
	StepsTotal int       `json:"steps_total"`
	StepSince  time.Time `json:"step_since,omitzero"`
	// Steps are the steps that are done.
	Steps []StepDone `json:"steps"`
	// Attempt counts the failed tries of the current step.
	Attempt int `json:"attempt"`
	// Executor is who may run the current step: ExecutorAny or a HostID.
	Executor string   `json:"executor"`
	Worker   WorkerID `json:"worker"`
	Epoch    Epoch    `json:"epoch"`
	// DueAt is when the operation may be claimed; while a worker holds it, the end of its lease.
	DueAt time.Time `json:"due_at,omitzero"`
	// StepDeadlineAt is when the current step counts as failed; zero is none.
	StepDeadlineAt time.Time `json:"step_deadline_at,omitzero"`
	// Generation is the installation's generation that this operation brings about.
	Generation int64     `json:"generation"`
	WaitReason Reason    `json:"wait_reason"`
	WaitDetail string    `json:"wait_detail"`
	ErrorKind  ErrorKind `json:"error_kind"`
	// FailReason and Error tell of the last failure; they stay after a later success.
	FailReason Reason `json:"fail_reason"`
	Error      string `json:"error"`
	// Observed is what earlier steps stored for later ones.
	Observed map[string]string `json:"observed"`
	// Rollout says for which rollout it works; nil for none.
	Rollout *RolloutWork `json:"rollout,omitempty"`
	// Revision rises with every write, so that a watcher can wait for a change.
	Revision   int64     `json:"revision"`
	CreatedAt  time.Time `json:"created_at,omitzero"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// RolloutWork is what an operation on a member does for a rollout.
type RolloutWork struct {
	ID RolloutID `json:"id"`
	// From is what the member pins again if it fails; To is where it leads.
	From RevisionNumber `json:"from"`
	To   RevisionNumber `json:"to"`
	// HealthyForMillis is how long it must answer well, after at most
	// HealthDeadlineMillis (0: as without a rollout).
	HealthyForMillis     int64 `json:"healthy_for_ms,omitempty"`
	HealthDeadlineMillis int64 `json:"health_deadline_ms,omitempty"`
	// Back: it goes back to the revision before, which is in service again as soon as it runs.
	Back bool `json:"back,omitempty"`
	// Recalled: everything is rolled back meanwhile, or a trial on a clone is of no
	// use any more. What was begun is given up, and
	// does not wait for the health of the release before.
	Recalled bool `json:"recalled,omitempty"`
}

// StepDone is a step that an operation has behind it.
type StepDone struct {
	Name       string    `json:"name"`
	StartedAt  time.Time `json:"started_at"`
	FinishedAt time.Time `json:"finished_at"`
	// Number is the step's place in its workflow, from 1; skipped steps leave gaps.
	Number int `json:"number"`
	// Attempts counts the tries it took, the last one included.
	Attempts int `json:"attempts"`
}

// Reason says, as a typed word, why something waits or failed.
type Reason string

// Why something waits.
const (
	WaitBackoff  Reason = "backing-off"
	WaitCapacity Reason = "waiting-for-capacity"
	WaitAddress  Reason = "waiting-for-address"
	WaitImage    Reason = "waiting-for-image"
	WaitInstance Reason = "waiting-for-instance"
	WaitHealthy  Reason = "waiting-for-health"
	WaitStopped  Reason = "waiting-for-shutdown"
	WaitCluster  Reason = "waiting-for-cluster"
	// WaitHost: only one host may do the step, and it does not come for it.
	WaitHost Reason = "waiting-for-host"
	// WaitTurn, in explanations only: another operation of the same resource comes first.
	WaitTurn Reason = "waiting-for-its-turn"
	// WaitWorker, in explanations only: it is due, and nobody comes for it, or who had it is gone.
	WaitWorker Reason = "waiting-for-worker"
	// WaitRollout: a rollout waits for its members, for time to pass, or for somebody to decide.
	WaitRollout Reason = "waiting-for-rollout"
	// WaitSteady: healthy, and watched for a while before it counts as done.
	WaitSteady Reason = "waiting-for-steady-health"
	// WaitLookedAt: a clone runs, and is looked at.
	WaitLookedAt Reason = "being-looked-at"
	// WaitMoves: a drain waits for installations that are being moved, or worked on otherwise.
	WaitMoves Reason = "waiting-for-moves"
)

// Unreadable begins what is said of a row of which a part can't be read.
const Unreadable = "a part of its row can't be read"

// Why something failed.
const (
	ReasonCheckFailed Reason = "check-failed"
	ReasonCapacity    Reason = "insufficient-capacity"
	ReasonNoAddress   Reason = "addresses-exhausted"
	// ReasonNoPort: all TCP ports of the gateway are leased.
	ReasonNoPort        Reason = "gateway-ports-exhausted"
	ReasonImageBuild    Reason = "image-build-failed"
	ReasonNotHealthy    Reason = "not-healthy-in-time"
	ReasonProgramExited Reason = "program-exited"
	ReasonCrashLoop     Reason = "crash-loop"
	ReasonGuestPanic    Reason = "guest-panic"
	ReasonProvider      Reason = "provider-error"
	ReasonDeadline      Reason = "deadline-exceeded"
	ReasonPanic         Reason = "internal-panic"
	ReasonQuarantined   Reason = "too-many-attempts"
	// ReasonRolledBack: it was given up because its rollout was rolled back or, with
	// a trial on a clone, has ended.
	ReasonRolledBack Reason = "rolled-back"
	ReasonInUse      Reason = "in-use"
	ReasonPreempted  Reason = "preempted-by-delete"
	// ReasonGaveWay: a verification was cancelled by a request of the installation's own.
	ReasonGaveWay        Reason = "preempted"
	ReasonPredecessor    Reason = "predecessor-failed"
	ReasonHostLost       Reason = "host-lost"
	ReasonVolumeTooSmall Reason = "volume-cannot-shrink"
	// ReasonUnverifiable: a sleeper's release can't be tried on a clone.
	ReasonUnverifiable Reason = "unverifiable"
	// ReasonDataCannotMove: the provider can't take a volume to another host.
	ReasonDataCannotMove Reason = "data-cannot-move"
	// ReasonUncordoned: the host that was drained takes installations again.
	ReasonUncordoned Reason = "uncordoned"
	// ReasonSuperseded: a newer rollout of the same group took over.
	ReasonSuperseded Reason = "superseded"
)
