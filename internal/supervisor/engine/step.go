package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
)

// work runs steps of one claimed operation until it ends, waits, or is lost.
func (e *Engine) work(ctx context.Context, r *run) {
	for !e.stopping.Load() {
		e.o.Yield(YieldStep, r.snap.Operation.ID)
		started := e.o.Clock.Now()
		res := e.inSlot(ctx, r)
		if res == nil {
			return // overtaken or stopped: whoever claims it next finds what was done
		}
		c, err := e.commit(r, *res)
		e.o.Yield(YieldCommitted, r.snap.Operation.ID)
		if err != nil {
			e.log(&r.snap).WithError(err).Warn("the outcome of a step could not be committed; the lease will run out")
			return
		}
		e.report(r, res, c, e.o.Clock.Now().Sub(started))
		if c.Stale {
			return
		}
		e.o.OnCommit(res.OperationID, res.InstallationID)
		if c.Next != "" || res.Changes.Begins() {
			e.Wake()
		}
		if c.Denied == "" && frees(&r.snap, res.Changes) {
			e.capacityFreed()
		}
		if res.State != fleet.OperationActive && c.Denied == "" {
			e.mu.Lock()
			r.ended = true
			e.mu.Unlock()
			return
		}
		if !res.Keep || c.Denied != "" {
			e.park(r, res, c)
			return
		}
		e.mu.Lock()
		advance(&r.snap, res, c)
		r.since, r.keys = e.o.Clock.Now(), signalKeys(&r.snap)
		e.mu.Unlock()
	}
}

// inSlot runs a step when a slot is free; nil where there is no outcome.
func (e *Engine) inSlot(ctx context.Context, r *run) *fleet.Result {
	if !e.slots.take(ctx, r.snap.Operation.Class) {
		return nil
	}
	defer e.slots.give(r.snap.Operation.Class)
	if e.stopping.Load() {
		return nil
	}
	began := time.Now()
	res := e.step(ctx, &r.snap)
	e.mu.Lock()
	e.pace.step.add(time.Since(began))
	e.mu.Unlock()
	return res
}

// frees tells whether a change gives capacity or an address back, or may have
// found more of it.
func frees(s *fleet.Snapshot, c fleet.Changes) bool {
	less := c.Hold != nil && s.Installation != nil &&
		(c.Hold.MemoryMiB < s.Installation.HeldMemoryMiB || c.Hold.DiskMiB < s.Installation.HeldDiskMiB)
	return less || c.ReleaseAddress || c.Check != nil
}

// deniedWait is how long the store lets an operation wait that was denied capacity.
const deniedWait = 5 * time.Second

// park leaves an operation waiting in the store and remembers to come back.
func (e *Engine) park(r *run, res *fleet.Result, c fleet.Committed) {
	why := c.Denied
	if why == "" {
		why = res.WaitReason
	}
	if e.await(r, why == fleet.WaitCapacity || why == fleet.WaitAddress) {
		e.Wake()
		return
	}
	due := time.Duration(res.DueMillis) * time.Millisecond
	if c.Denied != "" {
		due = deniedWait
	}
	if due < e.o.Poll {
		e.o.Clock.AfterFunc(due+time.Millisecond, e.Wake)
	}
}

// capacityFreed wakes the operations of this process that wait for capacity.
// Others find out when they are due again.
func (e *Engine) capacityFreed() {
	e.mu.Lock()
	e.freed++
	for id := range e.denied {
		if e.signalled[id] == nil {
			e.signalled[id] = []string{}
		}
	}
	clear(e.denied)
	e.mu.Unlock()
	e.Wake()
}

// advance brings the snapshot to where the commit has brought the store.
func advance(s *fleet.Snapshot, res *fleet.Result, c fleet.Committed) {
	s.Apply(res.Changes)
	if c.Lease != nil {
		s.Lease = c.Lease
	}
	op := &s.Operation
	op.Revision++
	op.Step, op.StepNumber, op.StepsTotal, op.Executor, op.Attempt = res.Step, res.StepNumber, res.StepsTotal, res.Executor, res.Attempt
	op.FailReason, op.Error, op.WaitReason, op.WaitDetail = res.FailReason, res.Error, "", ""
	if res.DeadlineMillis > 0 {
		op.StepDeadlineAt = s.Now.Add(time.Duration(res.DeadlineMillis) * time.Millisecond)
	}
}

// step runs one step and says what is to be committed; nil where the operation
// is no longer ours, or the engine was stopped in the middle.
func (e *Engine) step(ctx context.Context, s *fleet.Snapshot) (res *fleet.Result) {
	w := e.workflows[s.Operation.Kind]
	if w == nil {
		e.log(s).Error("there is no workflow for this kind of operation")
		return nil
	}
	defer func() {
		// A step's Run is caught in call; this is for Skip, Executor and Deadline.
		if p := recover(); p != nil {
			e.log(s).WithField("stack", string(debug.Stack())).Errorf("panic around a step: %v", p)
			res = e.broken(w, s, fmt.Sprintf("panic: %v", p))
		}
	}()
	if s.Malformed != "" {
		return e.broken(w, s, s.Malformed)
	}
	p, err := w.find(s)
	if err != nil {
		return e.broken(w, s, err.Error())
	}
	if p.atEnd() {
		return e.ended(w, s, p, fleet.Changes{})
	}
	if !e.mayRun(p.step().executor(s)) {
		return e.result(w, s, p) // due at once, for the host that may
	}
	out, err := e.call(ctx, p.step(), s)
	if err != nil && ctx.Err() != nil {
		return nil
	}
	if d := s.Operation.StepDeadlineAt; !d.IsZero() && s.Now.After(d) && unfinished(out, err) {
		return e.failedWith(w, s, p, out.Changes, p.step().overdueReason(), overdue(s, p, out, err))
	}
	if err != nil {
		return e.erred(w, s, p, err)
	}
	switch out.Verdict {
	case fleet.VerdictAdvance:
		return e.advanced(w, s, p, out.Changes)
	case fleet.VerdictRepeat:
		res := e.result(w, s, p)
		res.Keep, res.DueMillis, res.Changes = true, e.o.Lease.Milliseconds(), out.Changes
		return res
	case fleet.VerdictWait:
		res := e.result(w, s, p)
		res.DueMillis, res.WaitReason, res.WaitDetail = out.After.Milliseconds(), out.Reason, out.Detail
		res.Changes = out.Changes
		if w.Endless {
			res.Attempt, res.ErrorKind, res.FailReason, res.Error = 0, "", "", ""
		}
		return res
	case fleet.VerdictFail:
		return e.failedWith(w, s, p, out.Changes, out.Reason, out.Detail)
	}
	return e.failed(w, s, p, fleet.ReasonPanic, fmt.Sprintf("step %s returned verdict %q", p.step().Name, out.Verdict))
}

// unfinished tells whether a step has come to no end by itself: past its deadline
// it is not run again. That it is run once after the deadline, before it is
// failed, is because nobody may have looked since: whoever held it died, and
// what it waited for has come true meanwhile.
func unfinished(out fleet.Outcome, err error) bool {
	switch fleet.KindOf(err) {
	case "":
		return out.Verdict == fleet.VerdictWait || out.Verdict == fleet.VerdictRepeat
	case fleet.KindFenced, fleet.KindStale, fleet.KindPermanent, fleet.KindInvalid, fleet.KindConflict:
		return false
	}
	return true
}

func overdue(s *fleet.Snapshot, p place, out fleet.Outcome, err error) string {
	what, op := "step "+p.step().Name+" did not end in time", &s.Operation
	switch {
	case err != nil:
		what += ": " + err.Error()
	case out.Reason != "":
		what += ": it was " + string(out.Reason) + " " + out.Detail
	case op.WaitReason != "":
		what += ": it was " + string(op.WaitReason) + " " + op.WaitDetail
	case op.Attempt > 0 && !p.back: // else the error is another step's
		what += ": " + op.Error
	}
	return what
}

// call runs the step's function; a panic becomes an error.
func (e *Engine) call(ctx context.Context, step Step, s *fleet.Snapshot) (out fleet.Outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, step.timeout())
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			e.log(s).WithField("stack", string(debug.Stack())).Errorf("panic in step %s: %v", step.Name, p)
			err = &fleet.Error{Kind: fleet.KindInternal, Reason: fleet.ReasonPanic, Err: fmt.Errorf("panic: %v", p)}
		}
	}()
	return step.Run(ctx, s)
}

// broken ends an operation of which nothing can be run, not even a rollback.
// It calls nothing of the workflow.
func (e *Engine) broken(w *Workflow, s *fleet.Snapshot, why string) *fleet.Result {
	res := e.base(w, s)
	res.To = w.Kind.GivenUp(res.From, s.Operation.Step)
	res.State, res.ErrorKind, res.FailReason, res.Error = fleet.OperationFailed, fleet.KindInternal, fleet.ReasonPanic, why
	res.ToReason, res.ToDetail = res.FailReason, why
	settle(s, res)
	return res
}

// base is a result that leaves the operation as it is.
func (e *Engine) base(w *Workflow, s *fleet.Snapshot) *fleet.Result {
	op := &s.Operation
	res := &fleet.Result{
		Kind: op.Kind, OperationID: op.ID, Epoch: op.Epoch, Revision: op.Revision, State: fleet.OperationActive, Generation: op.Generation,
		Step: op.Step, StepNumber: op.StepNumber, StepsTotal: len(w.Steps), Executor: op.Executor,
		FailReason: op.FailReason, Error: op.Error, ErrorKind: op.ErrorKind, Attempt: op.Attempt,
	}
	switch op.ResourceType {
	case fleet.ResourceRollout, fleet.ResourceHost:
	case fleet.ResourceCluster:
		res.ClusterID = fleet.ClusterID(op.ResourceID)
		if s.Cluster != nil {
			res.From = string(s.Cluster.State)
		}
	default:
		res.InstallationID = fleet.InstallationID(op.ResourceID)
		if s.Installation != nil {
			res.From = string(s.Installation.State)
		}
	}
	return res
}

// result is what all results of a place have in common: the operation stays there.
func (e *Engine) result(w *Workflow, s *fleet.Snapshot, p place) *fleet.Result {
	op, res := &s.Operation, e.base(w, s)
	res.Ran = min(p.index, len(p.steps)-1) + 1
	e.at(res, s, p)
	if op.StepDeadlineAt.IsZero() && !p.atEnd() {
		res.DeadlineMillis = p.step().deadline(s).Milliseconds()
	}
	return res
}

// at names the place where the operation stands after the result.
func (e *Engine) at(res *fleet.Result, s *fleet.Snapshot, p place) {
	i := min(p.index, len(p.steps)-1)
	res.Step, res.StepNumber, res.Executor = p.steps[i].Name, i+1, fleet.ExecutorAny
	if !p.atEnd() {
		res.Executor = p.step().executor(s)
	}
}

// advanced moves to the next step, or to the end.
func (e *Engine) advanced(w *Workflow, s *fleet.Snapshot, p place, c fleet.Changes) *fleet.Result {
	after := *s
	after.Apply(c)
	next := w.next(&after, p)
	if next.atEnd() {
		return e.ended(w, s, p, c)
	}
	res := e.result(w, s, p)
	res.Done, res.Changes, res.Attempt = p.step().Name, c, 0
	e.at(res, &after, next)
	res.DeadlineMillis = next.step().deadline(&after).Milliseconds()
	res.DueMillis, res.Keep = e.o.Lease.Milliseconds(), e.mayRun(res.Executor)
	if !res.Keep {
		res.DueMillis = 0
	}
	return res
}

func (e *Engine) mayRun(executor string) bool {
	if executor == fleet.ExecutorAny {
		return true
	}
	for _, h := range e.o.Hosts {
		if executor == string(h) {
			return true
		}
	}
	return false
}

// ended is the result of an operation whose last step is done.
func (e *Engine) ended(w *Workflow, s *fleet.Snapshot, p place, c fleet.Changes) *fleet.Result {
	res := e.result(w, s, p)
	if !p.atEnd() {
		res.Done = p.step().Name
	}
	res.Changes, res.Attempt, res.DeadlineMillis = c, 0, 0
	done, failed := w.Kind.EndStates()
	if p.back {
		res.State, res.To, res.ToReason, res.ToDetail = fleet.OperationFailed, failed, s.Operation.FailReason, s.Operation.Error
	} else {
		res.State, res.To = fleet.OperationSucceeded, done
		if c.End != "" {
			res.To = string(c.End)
		}
	}
	settle(s, res)
	return res
}

// settle says what an operation that has ended leaves behind.
func settle(s *fleet.Snapshot, res *fleet.Result) {
	after := res.To
	if after == "" { // a verification leaves the state as it is
		after = res.From
	}
	res.Follow = fleet.Accepts(fleet.State(after))
	repin(s.Operation.Rollout, res)
}

// repin takes a member of a rollout whose update failed back to the revision
// before: that is what runs again, and the next start must not try the failed one.
func repin(w *fleet.RolloutWork, res *fleet.Result) {
	if w != nil && res.Kind == fleet.OperationUpdate && res.State == fleet.OperationFailed {
		res.Changes.Pin = &w.From
	}
}

// erred decides by the kind of error: let go, wait, try again, or fail.
func (e *Engine) erred(w *Workflow, s *fleet.Snapshot, p place, err error) *fleet.Result {
	kind := fleet.KindOf(err)
	var fe *fleet.Error
	errors.As(err, &fe)
	reason := fleet.ReasonProvider
	if fe != nil && fe.Reason != "" {
		reason = fe.Reason
	}
	switch kind {
	case fleet.KindFenced, fleet.KindStale:
		e.log(s).WithError(err).Info("overtaken by a newer worker")
		return nil
	case fleet.KindPermanent, fleet.KindInvalid, fleet.KindConflict:
		return e.failed(w, s, p, reason, err.Error())
	}
	attempt := s.Operation.Attempt + 1
	if attempt >= e.o.MaxAttempts && !w.Endless {
		return e.failed(w, s, p, fleet.ReasonQuarantined, fmt.Sprintf("step %s failed %d times, the last time: %v", p.step().Name, attempt, err))
	}
	res := e.result(w, s, p)
	res.Attempt = attempt
	if !p.back { // else what began the rollback stays what is told
		res.ErrorKind, res.Error, res.FailReason = kind, err.Error(), reason
	}
	wait := e.backoff(attempt)
	if fe != nil && fe.RetryAfter > wait {
		wait = fe.RetryAfter
	}
	res.WaitReason, res.WaitDetail, res.DueMillis = fleet.WaitBackoff, err.Error(), wait.Milliseconds()
	return res
}

func (e *Engine) backoff(attempt int) time.Duration {
	d := e.o.FirstBackoff << min(attempt-1, 16)
	if d > e.o.MaxBackoff || d <= 0 {
		d = e.o.MaxBackoff
	}
	return time.Duration(float64(d) * (0.75 + 0.5*e.o.Rand()))
}

// failed begins the rollback, or ends the operation.
func (e *Engine) failed(w *Workflow, s *fleet.Snapshot, p place, reason fleet.Reason, detail string) *fleet.Result {
	res := e.result(w, s, p)
	res.Attempt, res.FailReason, res.Error, res.ErrorKind = 0, reason, detail, fleet.KindPermanent
	if !p.back && len(w.Rollback) > 0 {
		back := w.next(s, place{steps: w.Rollback, index: -1, back: true})
		if !back.atEnd() {
			e.at(res, s, back)
			res.DeadlineMillis = back.step().deadline(s).Milliseconds()
			res.DueMillis, res.Keep = e.o.Lease.Milliseconds(), e.mayRun(res.Executor)
			return res
		}
	}
	if p.back && s.Operation.FailReason != "" && p.index < len(p.steps) && len(w.Rollback) > 0 {
		// The rollback failed too: what began it stays the reason.
		res.FailReason = s.Operation.FailReason
		res.Error = s.Operation.Error + "; and going back failed: " + detail
	}
	_, to := w.Kind.EndStates()
	if p.back {
		to = w.Kind.GivenUp(res.From, res.Step)
	}
	res.State, res.To, res.ToReason, res.ToDetail = fleet.OperationFailed, to, res.FailReason, res.Error
	res.DeadlineMillis = 0
	settle(s, res)
	return res
}

// failedWith is failed where the step's last run has changed something.
func (e *Engine) failedWith(w *Workflow, s *fleet.Snapshot, p place, c fleet.Changes, reason fleet.Reason, detail string) *fleet.Result {
	after := *s
	after.Apply(c)
	res := e.failed(w, &after, p, reason, detail)
	c.Pin = res.Changes.Pin
	res.Changes = c
	return res
}

func (e *Engine) log(s *fleet.Snapshot) logrus.FieldLogger {
	return e.o.Log.WithFields(logrus.Fields{
		"operation": s.Operation.ID, "kind": s.Operation.Kind, "resource": s.Operation.ResourceName, "step": s.Operation.Step,
	})
}

// report logs one line per outcome.
func (e *Engine) report(r *run, res *fleet.Result, c fleet.Committed, took time.Duration) {
	log := e.o.Log.WithFields(logrus.Fields{
		"operation": res.OperationID, "kind": r.snap.Operation.Kind, "resource": r.snap.Operation.ResourceName,
		"epoch": res.Epoch, "took_ms": took.Milliseconds(),
	})
	switch {
	case c.Stale:
		log.WithField("step", r.snap.Operation.Step).Info("outcome refused: overtaken")
	case c.Denied != "":
		log.WithField("wait", c.Denied).Info("waiting")
	case res.State == fleet.OperationFailed:
		log.WithFields(logrus.Fields{"reason": res.FailReason, "error": res.Error}).Warn("operation failed")
	case res.State == fleet.OperationSucceeded:
		log.WithField("state", res.To).Info("operation succeeded")
	case res.Done == "" && res.Step != r.snap.Operation.Step && r.snap.Operation.Step != "":
		log.WithFields(logrus.Fields{"step": r.snap.Operation.Step, "next": res.Step, "reason": res.FailReason, "error": res.Error}).Warn("step failed; rolling back")
	case res.Done != "":
		log.WithFields(logrus.Fields{"done": res.Done, "next": res.Step}).Info("step done")
	case res.Attempt > r.snap.Operation.Attempt:
		log.WithFields(logrus.Fields{"step": res.Step, "attempt": res.Attempt, "error": res.WaitDetail}).Warn("step failed; will try again")
	default:
		log.WithFields(logrus.Fields{"step": res.Step, "wait": res.WaitReason}).Debug("waiting")
	}
}
