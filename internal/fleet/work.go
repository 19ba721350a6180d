package fleet

import "time"

// ClaimRequest asks the store for operations that are due.
type ClaimRequest struct {
	Worker WorkerID
	// Executors are who this process can act as, besides ExecutorAny.
	Executors []HostID
	// Interactive and Bulk bound how many operations of each class are claimed.
	Interactive, Bulk int
	// Signalled are waiting operations to claim though they are not due yet.
	Signalled []OperationID
	// Lease is how long the claim holds unless it is extended.
	Lease time.Duration
}

// Result is what became of one step, for the store to commit. It is written
// only if the operation is still active under that epoch.
type Result struct {
	Kind        OperationKind `json:"-"`
	OperationID OperationID   `json:"operation_id"`
	Epoch       Epoch         `json:"epoch"`
	// Revision is the operation's as the worker knows it. A database that has an
	// earlier one has forgotten what it acknowledged (a failover to a standby that was
	// behind), and the result rests on that: it is stale.
	Revision       int64          `json:"revision"`
	InstallationID InstallationID `json:"installation_id,omitempty"`
	ClusterID      ClusterID      `json:"cluster_id,omitempty"`
	// State is OperationActive while there is more to do.
	State OperationState `json:"state"`
	// Step and its number are what comes next, or what ended.
	Step       string `json:"step"`
	StepNumber int    `json:"step_number"`
	StepsTotal int    `json:"steps_total"`
	// Ran is the number of the step that ran.
	Ran int `json:"ran"`
	// Done is the name of the step that this result completes; empty while it is not done.
	Done     string `json:"done"`
	Executor string `json:"executor"`
	// DueMillis is when the operation may be claimed, from now.
	DueMillis int64 `json:"due_ms"`
	// Keep says that the worker goes on with the operation itself.
	Keep bool `json:"keep"`
	// DeadlineMillis is the deadline of a step that begins now; 0 keeps what is set.
	DeadlineMillis int64     `json:"deadline_ms"`
	Attempt        int       `json:"attempt"`
	WaitReason     Reason    `json:"wait_reason"`
	WaitDetail     string    `json:"wait_detail"`
	ErrorKind      ErrorKind `json:"error_kind"`
	FailReason     Reason    `json:"fail_reason"`
	Error          string    `json:"error"`
	// From and To change the resource's state; empty To leaves it.
	From       string `json:"from_state"`
	To         string `json:"to_state"`
	ToReason   Reason `json:"to_reason"`
	ToDetail   string `json:"to_detail"`
	Generation int64  `json:"generation"`
	// Follow are the kinds of queued operation that the state To accepts.
	Follow  []OperationKind `json:"follow"`
	Changes Changes         `json:"-"`
}

// Committed is what the store made of a Result.
type Committed struct {
	OperationID OperationID
	// Stale: another worker or a delete has taken over, and nothing was written.
	Stale bool
	// Denied: the hold or the address that was asked for is not to be had now;
	// the operation waits with this reason and runs the step again.
	Denied Reason
	// Lease is the address that the installation was given.
	Lease *AddressLease
	// Next is the queued operation that became active.
	Next OperationID
}
