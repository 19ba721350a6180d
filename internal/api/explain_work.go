package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/gorilla/mux"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// takenWithin is how soon an operation is taken by a worker once it is due, also
// where the one that held it has died. After that, nobody is there to take it.
const takenWithin = 10 * time.Second

// work explains an operation that has not ended.
type work struct {
	op *fleet.Operation
	// ahead is what a queued operation waits for; nil where it is not known.
	ahead *fleet.Operation
	// host names the host that must run the step; "" is any process.
	host string
	now  time.Time
}

func (x *work) explain(e *client.Explanation) {
	if x.op.State == fleet.OperationQueued {
		x.queued(e)
	} else {
		x.active(e)
	}
	unreadable(e, x.op.Error)
}

func (x *work) queued(e *client.Explanation) {
	op := x.op
	e.WaitingFor, e.Detail = string(fleet.WaitTurn), op.WaitDetail
	e.StepsTotal, e.Since, e.NextAt = op.StepsTotal, op.CreatedAt, op.DueAt
	e.Summary = fmt.Sprintf("%s is queued%s", x.name(), lasting(op.CreatedAt, x.now))
	e.Next = fmt.Sprintf("the %s begins when the work before it is done", op.Kind)
	e.Advice = []string{"see what the work before it waits for: " + explainCommand(op)}
	if a := x.ahead; a != nil {
		e.Detail = fmt.Sprintf("the %s %s is under way", a.Kind, a.ID)
		e.Summary += fmt.Sprintf(" behind the %s %s", a.Kind, a.ID)
		e.Advice = []string{"see what that waits for: cloudctl operation explain " + string(a.ID)}
	}
}

func (x *work) active(e *client.Explanation) {
	op := x.op
	e.WaitingFor, e.Detail = string(op.WaitReason), op.WaitDetail
	e.Step, e.StepNumber, e.StepsTotal = op.Step, op.StepNumber, op.StepsTotal
	e.Since, e.NextAt, e.Attempts, e.LastError = op.StepSince, op.DueAt, op.Attempt, op.Error
	if e.Since.IsZero() {
		e.Since = op.CreatedAt
	}
	e.Summary = x.summary(e.Since)
	e.Advice = adviceOn(op.WaitReason, op.ResourceName)
	if op.WaitReason == fleet.WaitBackoff {
		e.Advice = append(e.Advice, adviceOn(op.FailReason, op.ResourceName)...)
	}
	if x.building() {
		e.WaitingFor, e.Detail = string(fleet.WaitImage), "the image of its package is built, or fetched"
		e.Summary += ": " + e.Detail
		e.Advice = adviceOn(fleet.WaitImage, op.ResourceName)
	}
	e.Next = x.next()
	x.abandoned(e)
	switch d := x.deadline(); {
	case d.IsZero() || d.Sub(x.now) > 365*24*time.Hour:
	case d.After(x.now):
		e.Next += "; the step counts as failed at " + d.UTC().Format(time.RFC3339)
	default:
		e.Summary += fmt.Sprintf("; its time was over %s ago", age(d, x.now))
		e.Next += "; it is looked at once more, and fails unless what it waits for has come true"
	}
}

// deadline is when the step counts as failed. Time in which it is due and nobody
// comes for it does not count.
func (x *work) deadline() time.Time {
	d, late := x.op.StepDeadlineAt, x.now.Sub(x.op.DueAt)
	if d.IsZero() || x.op.DueAt.IsZero() || late <= 0 {
		return d
	}
	return d.Add(late)
}

func (x *work) name() string { return fmt.Sprintf("the %s of %s", x.op.Kind, x.op.ResourceName) }

// summary is what the operation does or waits for, as its row says.
func (x *work) summary(since time.Time) string {
	op := x.op
	step := fmt.Sprintf("%s is at step %s (%d of %d)", x.name(), op.Step, op.StepNumber, op.StepsTotal)
	switch {
	case op.Step == "" && op.Worker != "":
		return fmt.Sprintf("%s is at its first step%s", x.name(), lasting(op.StartedAt, x.now))
	case op.Step == "" || op.StartedAt.IsZero() && op.Attempt == 0 && op.WaitReason == "":
		return fmt.Sprintf("%s waits%s for a worker", x.name(), lasting(op.CreatedAt, x.now))
	case op.WaitReason == fleet.WaitBackoff:
		return fmt.Sprintf("%s%s: it failed %s and is tried again%s", step, lasting(since, x.now), times(op.Attempt), in(op.DueAt, x.now))
	case op.WaitReason != "":
		return fmt.Sprintf("%s%s: %s%s", step, lasting(since, x.now), words(op.WaitReason), colon(op.WaitDetail))
	}
	return step + lasting(since, x.now)
}

// building tells whether a worker is at the step that makes the image: nothing
// else in it takes any time.
func (x *work) building() bool {
	op := x.op
	if op.Worker == "" || op.WaitReason != "" || x.now.Sub(op.StartedAt) < time.Second {
		return false
	}
	return op.Step == "prepare" || op.Step == "" && op.Kind == fleet.OperationCreate
}

// abandoned says where a worker has died or nobody is there to take the work.
func (x *work) abandoned(e *client.Explanation) {
	op := x.op
	late := x.now.Sub(op.DueAt)
	switch {
	case op.DueAt.IsZero() || late <= 0:
		if op.Worker != "" {
			e.Next += fmt.Sprintf("; if its worker %s has died, another one takes over when the lease ends, at next_at", op.Worker)
		}
		return
	case op.Worker != "":
		e.WaitingFor = string(fleet.WaitWorker)
		e.Detail = fmt.Sprintf("worker %s has not extended its lease, which ended %s ago: it has died, was stopped or does not reach the database", op.Worker, age(op.DueAt, x.now))
		e.Summary += "; its worker is gone"
		e.Next = "another worker takes over, and does the step again"
	case late <= takenWithin:
		return // a poll or two
	case op.Executor != fleet.ExecutorAny:
		e.WaitingFor = string(fleet.WaitHost)
		e.Detail = fmt.Sprintf("only host %s may do this step, and it has not come for it in %s", x.host, age(op.DueAt, x.now))
		e.Summary += fmt.Sprintf("; its host %s is away", x.host)
		e.Next = "it goes on when the host is back"
	default:
		e.WaitingFor = string(fleet.WaitWorker)
		e.Detail = fmt.Sprintf("it has been due for %s, and no worker has come for it", age(op.DueAt, x.now))
		if op.Step != "" {
			e.Summary += "; no worker comes for it"
		}
	}
	if late > takenWithin {
		e.Advice = adviceOn(fleet.Reason(e.WaitingFor), x.host)
	}
}

// next says what follows the current step of an active operation.
func (x *work) next() string {
	op := x.op
	var next string
	switch {
	case op.Step == "" && op.Worker != "":
		return "the step after it"
	case op.Step == "":
		return "a worker begins with the first step"
	case op.WaitReason == fleet.WaitBackoff || op.Attempt > 0:
		next = fmt.Sprintf("step %s is tried again", op.Step)
	case op.WaitReason != "":
		next = fmt.Sprintf("step %s looks again when it is told of a change, or at next_at", op.Step)
	default:
		next = fmt.Sprintf("step %s ends", op.Step)
	}
	if op.StepNumber < op.StepsTotal {
		return fmt.Sprintf("%s; step %d of %d follows", next, op.StepNumber+1, op.StepsTotal)
	}
	switch op.Kind {
	case fleet.OperationVerify, fleet.OperationClone:
		return next + "; it is the last step, and the installation sleeps on"
	case fleet.OperationMove, fleet.OperationCheckCluster:
		return next + "; it is the last step, and the state stays as it is"
	}
	done, _ := op.Kind.EndStates()
	return fmt.Sprintf("%s; it is the last step, and the state becomes %s", next, done)
}

// ExplainOperation says what an operation waits for, or how it ended. ahead is
// the active operation of the same resource, for one that is queued; may be nil.
func ExplainOperation(op *fleet.Operation, ahead *fleet.Operation, now time.Time) client.Explanation {
	wire := wireOperation(op)
	e := client.Explanation{About: "operation", Name: string(op.ID), State: string(op.State), Accepts: []string{}, Operation: &wire}
	if !op.State.Finished() {
		x := work{op: op, ahead: ahead, host: op.Executor, now: now}
		x.explain(&e)
		return e
	}
	e.Since, e.Step, e.StepNumber, e.StepsTotal = op.FinishedAt, op.Step, op.StepNumber, op.StepsTotal
	e.Next = "nothing: it has ended"
	name := fmt.Sprintf("the %s of %s", op.Kind, op.ResourceName)
	switch op.State {
	case fleet.OperationFailed:
		e.Attempts, e.LastError, e.Detail = op.Attempt, op.Error, op.Error
		e.Summary = fmt.Sprintf("%s failed at step %s (%d of %d)%s%s", name, op.Step, op.StepNumber, op.StepsTotal, because(op.FailReason), colon(op.Error))
		e.Advice = append(adviceOn(op.FailReason, op.ResourceName), "see where that left it: "+explainCommand(op))
	case fleet.OperationCancelled:
		e.Detail = op.Error
		e.Summary = fmt.Sprintf("%s was cancelled%s%s", name, because(op.FailReason), colon(op.Error))
		e.Advice = []string{"see what came instead: " + explainCommand(op)}
	default:
		e.Summary = fmt.Sprintf("%s succeeded, after %s", name, age(op.CreatedAt, op.FinishedAt))
	}
	unreadable(&e, op.Error)
	return e
}

// explainCommand is the command that explains an operation's resource.
func explainCommand(op *fleet.Operation) string {
	switch op.ResourceType {
	case fleet.ResourceRollout:
		return "cloudctl rollout explain " + op.ResourceID
	case fleet.ResourceCluster:
		return "cloudctl cluster explain " + op.ResourceName
	}
	return "cloudctl installation explain " + op.ResourceName
}

func (s *server) explainOperation(w http.ResponseWriter, r *http.Request) error {
	id := fleet.OperationID(mux.Vars(r)["id"])
	if !fleet.ValidID(string(id)) {
		return fleet.Errorf(fleet.KindNotFound, "there is no operation %s", printable(string(id)))
	}
	op, err := s.Store.Operation(r.Context(), id)
	if err != nil {
		return err
	}
	ahead, err := s.ahead(r.Context(), &op)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, ExplainOperation(&op, ahead, s.Clock()))
}

// ahead finds what a queued operation waits for; nil where nothing is.
func (s *server) ahead(ctx context.Context, op *fleet.Operation) (*fleet.Operation, error) {
	if op.State != fleet.OperationQueued {
		return nil, nil //nolint:nilnil // nothing is ahead of it
	}
	active, err := s.Store.ListOperations(ctx, OperationQuery{Resource: op.ResourceID, State: fleet.OperationActive, Limit: 1})
	if err != nil || len(active) == 0 {
		return nil, err
	}
	return &active[0], nil
}
