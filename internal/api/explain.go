package api

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// Explain says what an installation waits for, and why, from what the store
// shows of it and nothing else. Ages in the summary are as of now.
func Explain(v InstallationView, now time.Time) client.Explanation {
	e := client.Explanation{
		About: string(fleet.ResourceInstallation), Name: v.Name, State: string(v.State), Accepts: accepts(&v),
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
	case op != nil && !op.State.Finished():
		x := work{op: op, host: executorName(&v, op), now: now}
		x.explain(&e)
	default:
		explainResting(&e, v, now)
	}
	if len(v.Queued) > 0 {
		e.Next += "; then: " + strings.Join(e.Queued, ", ")
	}
	unreadable(&e, v.StateDetail)
	return e
}

// executorName names the host that must run the operation's step, as far as it is known.
func executorName(v *InstallationView, op *fleet.Operation) string {
	if v.HostName != "" && v.Instance != nil && string(v.Instance.HostID) == op.Executor {
		return v.HostName
	}
	return op.Executor
}

func (s *server) explainInstallation(w http.ResponseWriter, r *http.Request) error {
	v, err := s.installation(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, Explain(v, s.Clock()))
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
		e.Advice = []string{"where it stays so: delete it, which is accepted in every state"}
	default:
		explainFailed(e, v, now)
	}
	if retryable && !v.State.Transient() {
		e.Next = fmt.Sprintf("nothing by itself: a retry repeats the %s", retry)
		e.Advice = append(e.Advice, "when the cause is mended: cloudctl installation retry "+v.Name)
	}
}

// explainFailed is for what failed, ended or keeps ending.
func explainFailed(e *client.Explanation, v InstallationView, now time.Time) {
	e.Next = "nothing, until there is a request"
	e.Summary = fmt.Sprintf("%s is %s%s%s%s", v.Name, v.State, lasting(v.UpdatedAt, now), because(v.StateReason), colon(v.StateDetail))
	e.Advice = adviceOn(v.StateReason, v.Name)
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
		e.Advice = []string{"see what it said: cloudctl installation logs " + v.Name}
	}
}

// unreadable says first what hides behind everything else: a row that a hand or
// another version has written.
func unreadable(e *client.Explanation, detail string) {
	if !strings.Contains(detail, fleet.Unreadable) {
		return
	}
	e.Detail, e.LastError = detail, detail
	if !strings.Contains(e.Summary, fleet.Unreadable) {
		e.Summary += "; but " + fleet.Unreadable
	}
	e.Advice = append(adviceOn(fleet.ReasonPanic, e.Name), e.Advice...)
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
	return " for " + age(t, now)
}

func age(t, now time.Time) string { return max(now.Sub(t), 0).Round(time.Second).String() }

func in(t, now time.Time) string {
	if t.IsZero() || !t.After(now) {
		return " now"
	}
	return fmt.Sprintf(" in %s", t.Sub(now).Round(time.Second))
}
