package api

import (
	"fmt"
	"strings"
	"time"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// Explain says what an installation waits for, and why, from what the store
// shows of it and nothing else. Ages in the summary are as of now.
func Explain(v InstallationView, now time.Time) client.Explanation {
	e := client.Explanation{
		Installation: v.Name, State: string(v.State), Accepts: accepts(&v),
		Queued: make([]string, len(v.Queued)),
	}
	for i, kind := range v.Queued {
		e.Queued[i] = string(kind)
	}
	if v.Operation != nil {
		op := wireOperation(v.Operation)
		e.Operation = &op
	}
	switch op := v.Operation; {
	case op != nil && op.State == fleet.OperationQueued:
		explainQueued(&e, op, now)
	case op != nil && op.State == fleet.OperationActive:
		explainActive(&e, op, now)
	default:
		explainResting(&e, v, now)
	}
	if len(v.Queued) > 0 {
		e.Next += "; then: " + strings.Join(e.Queued, ", ")
	}
	return e
}

func explainQueued(e *client.Explanation, op *fleet.Operation, now time.Time) {
	e.WaitingFor, e.Detail = string(op.WaitReason), op.WaitDetail
	e.StepsTotal, e.Since, e.NextAt = op.StepsTotal, op.CreatedAt, op.DueAt
	e.Summary = fmt.Sprintf("the %s of %s is queued%s", op.Kind, e.Installation, lasting(op.CreatedAt, now))
	e.Next = fmt.Sprintf("the %s begins when the work before it is done", op.Kind)
}

func explainActive(e *client.Explanation, op *fleet.Operation, now time.Time) {
	e.WaitingFor, e.Detail = string(op.WaitReason), op.WaitDetail
	e.Step, e.StepNumber, e.StepsTotal = op.Step, op.StepNumber, op.StepsTotal
	e.Since, e.NextAt, e.Attempts, e.LastError = op.StepSince, op.DueAt, op.Attempt, op.Error
	if e.Since.IsZero() {
		e.Since = op.CreatedAt
	}
	step := fmt.Sprintf("the %s of %s is at step %s (%d of %d)", op.Kind, e.Installation, op.Step, op.StepNumber, op.StepsTotal)
	switch {
	case op.Step == "" && op.Worker != "":
		e.Summary = fmt.Sprintf("the %s of %s is at its first step%s", op.Kind, e.Installation, lasting(op.StartedAt, now))
	case op.Step == "" || op.StartedAt.IsZero() && op.Attempt == 0 && op.WaitReason == "":
		e.Summary = fmt.Sprintf("the %s of %s waits%s for a worker", op.Kind, e.Installation, lasting(op.CreatedAt, now))
	case op.WaitReason == fleet.WaitBackoff:
		e.Summary = fmt.Sprintf("%s%s: it failed %s and is tried again%s", step, lasting(e.Since, now), times(op.Attempt), in(op.DueAt, now))
	case op.WaitReason != "":
		e.Summary = fmt.Sprintf("%s%s: %s%s", step, lasting(e.Since, now), words(op.WaitReason), colon(op.WaitDetail))
	default:
		e.Summary = step + lasting(e.Since, now)
	}
	e.Next = nextOf(op)
	if !op.StepDeadlineAt.IsZero() {
		e.Next += "; the step counts as failed at " + op.StepDeadlineAt.UTC().Format(time.RFC3339)
	}
}

// nextOf says what follows the current step of an active operation.
func nextOf(op *fleet.Operation) string {
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
	case fleet.OperationVerify:
		return next + "; it is the last step, and the installation sleeps on"
	case fleet.OperationMove:
		return next + "; it is the last step, and the state stays as it is"
	}
	return fmt.Sprintf("%s; it is the last step, and the state becomes %s", next, op.Kind.DoneState())
}

func explainResting(e *client.Explanation, v InstallationView, now time.Time) {
	e.Since, e.Detail = v.UpdatedAt, v.StateDetail
	retry, retryable := fleet.RetryOf(v.State)
	switch {
	case v.State == fleet.StateStable:
		e.Summary = v.Name + " runs; nothing is waited for"
		e.Next = "nothing, until there is a request"
	case v.State == fleet.StateHibernating:
		e.Summary = v.Name + " sleeps" + lasting(v.UpdatedAt, now) + "; its disk is kept"
		e.Next = "nothing, until a wake is requested"
	case v.State == fleet.StateDeleted:
		e.Summary = v.Name + " is deleted"
		e.Since = v.DeletedAt
		e.Next = "nothing: the name may be used again"
	case v.State.Transient():
		e.Summary = fmt.Sprintf("%s is %s, but no work is recorded for it: a supervisor's sweep has to find it", v.Name, v.State)
		e.Next = "the sweep of its cluster repairs it, or fails it with a reason"
	default:
		explainFailed(e, v, now)
	}
	if retryable && !v.State.Transient() {
		e.Next = fmt.Sprintf("nothing by itself: a retry repeats the %s", retry)
	}
}

// explainFailed is for what failed, ended or keeps ending.
func explainFailed(e *client.Explanation, v InstallationView, now time.Time) {
	e.Next = "nothing, until there is a request"
	e.Summary = fmt.Sprintf("%s is %s%s%s%s", v.Name, v.State, lasting(v.UpdatedAt, now), because(v.StateReason), colon(v.StateDetail))
	op := v.Operation
	if op != nil && op.Kind == fleet.OperationMove && op.Error != v.StateDetail {
		op = nil // the state is from before, and a move that failed has left it
	}
	if v.State.Failed() && op != nil && op.State == fleet.OperationFailed {
		e.Step, e.StepNumber, e.StepsTotal = op.Step, op.StepNumber, op.StepsTotal
		e.Attempts, e.LastError = op.Attempt, op.Error
		if op.Step != "" {
			e.Summary = fmt.Sprintf("the %s of %s failed at step %s (%d of %d)%s%s", op.Kind, v.Name, op.Step,
				op.StepNumber, op.StepsTotal, because(op.FailReason), colon(op.Error))
		}
	}
	if i := v.Instance; !v.State.Failed() && i != nil && i.Exit != nil {
		e.Summary = fmt.Sprintf("%s is %s: its program ended with %s", v.Name, v.State, ending(i.Exit))
		e.Attempts = i.Restarts
		if n := len(i.Exit.LastLines); n > 0 {
			e.LastError = i.Exit.LastLines[n-1]
		}
	}
}

func ending(x *fleet.Exit) string {
	if x.Signal != "" {
		return "signal " + x.Signal
	}
	return fmt.Sprintf("exit code %d", x.Code)
}

func words(r fleet.Reason) string { return strings.ReplaceAll(string(r), "-", " ") }

func because(r fleet.Reason) string {
	if r == "" {
		return ""
	}
	return ", " + words(r)
}

func colon(detail string) string {
	if detail == "" {
		return ""
	}
	return ": " + detail
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// lasting is the age of t in words, "" where it is unknown.
func lasting(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf(" for %s", max(now.Sub(t), 0).Round(time.Second))
}

func in(t, now time.Time) string {
	if t.IsZero() || !t.After(now) {
		return " now"
	}
	return fmt.Sprintf(" in %s", t.Sub(now).Round(time.Second))
}
