package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dormouse/internal/fleet"
)

const (
	// committers is how many batches may be on their way to the database at
	// once: while one waits for the disk, the next one gathers.
	committers = 2
	// batchSize bounds the results of one transaction.
	batchSize = 100
)

type commitRequest struct {
	result fleet.Result
	// attempt and executor are the operation's before the step ran.
	attempt  int
	executor string
	rollout  *fleet.RolloutWork
	answer   chan<- commitAnswer
}

type commitAnswer struct {
	committed fleet.Committed
	err       error
}

// commit hands a result to a committer and waits for its answer.
func (e *Engine) commit(r *run, res fleet.Result) (fleet.Committed, error) {
	op, answer := &r.snap.Operation, make(chan commitAnswer, 1)
	e.mu.Lock()
	r.committing = true
	e.letGo()
	more := e.more
	e.mu.Unlock()
	if more {
		e.Wake() // there may be work that found no room
	}
	defer func() {
		e.mu.Lock()
		r.committing = false
		e.atHand++
		e.mu.Unlock()
	}()
	e.commits <- commitRequest{res, op.Attempt, op.Executor, op.Rollout, answer}
	a := <-answer
	return a.committed, a.err
}

// letGo says that one operation less is at hand; the lock is held.
func (e *Engine) letGo() {
	if e.atHand--; e.atHand > 0 {
		return
	}
	select {
	case e.settled <- struct{}{}:
	default:
	}
}

// idle tells whether nothing is at hand whose outcome could come soon.
func (e *Engine) idle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.atHand <= 0
}

// commitLoop gathers outcomes and commits them together: what is ready, and what
// other steps under way may bring within the time that a commit takes.
func (e *Engine) commitLoop(ctx context.Context) {
	for {
		// One gathers while the other commits: else each would get half.
		select {
		case <-ctx.Done():
			return
		case e.gathering <- struct{}{}:
		}
		var batch []commitRequest
		select {
		case <-ctx.Done():
			return
		case first := <-e.commits:
			batch = append(batch, first)
		}
		e.o.Yield(YieldGather, batch[0].result.OperationID)
		batch = e.gather(batch)
		<-e.gathering
		e.commitBatch(ctx, batch)
	}
}

func (e *Engine) gather(batch []commitRequest) []commitRequest {
	var over <-chan time.Time
	e.mu.Lock()
	wait := min(e.o.Gather, e.pace.commit.d)
	e.mu.Unlock()
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		over = t.C
	}
	for len(batch) < batchSize {
		select {
		case more := <-e.commits:
			batch = append(batch, more)
			continue
		default:
		}
		if over == nil || e.idle() {
			return batch
		}
		select {
		case more := <-e.commits:
			batch = append(batch, more)
		case <-e.settled:
		case <-over:
			over = nil
		}
	}
	return batch
}

// commitBatch commits all together, and one by one where that fails for
// another reason than the database's absence: one bad row must not stop the others.
func (e *Engine) commitBatch(ctx context.Context, batch []commitRequest) {
	results := make([]fleet.Result, len(batch))
	for i, b := range batch {
		results[i] = b.result
	}
	began := time.Now()
	committed, err := e.persist(ctx, results)
	e.mu.Lock()
	e.pace.commit.add(time.Since(began))
	e.mu.Unlock()
	switch {
	case err == nil:
		for i, b := range batch {
			b.answer <- commitAnswer{committed: committed[i]}
		}
	case len(batch) == 1:
		batch[0].answer <- e.commitFailure(ctx, batch[0], err)
	case lost(err):
		for _, b := range batch {
			b.answer <- commitAnswer{err: err}
		}
	default:
		for _, b := range batch {
			e.commitBatch(ctx, []commitRequest{b})
		}
	}
}

// persist tries again while the database does not answer, as long as the
// leases may hold: the effects are done, and their outcome should not be lost.
func (e *Engine) persist(ctx context.Context, results []fleet.Result) ([]fleet.Committed, error) {
	began := e.o.Clock.Now()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		committed, err := e.o.Store.Commit(ctx, results)
		if fleet.KindOf(err) != fleet.KindUnavailable || e.o.Clock.Now().Sub(began) > e.o.Lease {
			return committed, err
		}
		again := make(chan struct{})
		stop := e.o.Clock.AfterFunc(wait, func() { close(again) })
		select {
		case <-again:
		case <-ctx.Done():
			stop()
			return nil, err
		}
	}
}

// lost tells whether it is not the result that the database does not like.
func lost(err error) bool {
	return fleet.KindOf(err) == fleet.KindUnavailable || errors.Is(err, context.Canceled)
}

// commitFailure makes a failed try of the step out of a result that the
// database refuses, so that it is counted, shown, and ends.
func (e *Engine) commitFailure(ctx context.Context, req commitRequest, err error) commitAnswer {
	res := req.result
	if lost(err) {
		return commitAnswer{err: err}
	}
	e.o.Log.WithError(err).WithField("operation", res.OperationID).Error("the database refused the outcome of a step")
	if res.Done != "" {
		res.Step, res.StepNumber, res.Executor = res.Done, res.Ran, req.executor
	}
	res.State, res.To, res.Done, res.Keep, res.Changes, res.DeadlineMillis = fleet.OperationActive, "", "", false, fleet.Changes{}, 0
	res.Attempt = req.attempt + 1 // a step that was done has set it to 0
	if w := e.workflows[res.Kind]; res.Attempt >= e.o.MaxAttempts && !(w != nil && w.Endless) {
		res.To = res.Kind.GivenUp(res.From, res.Step)
		res.State, res.ToReason, res.ToDetail = fleet.OperationFailed, fleet.ReasonQuarantined, err.Error()
		repin(req.rollout, &res)
	}
	res.ErrorKind, res.FailReason, res.Error = fleet.KindInternal, fleet.ReasonPanic, fmt.Sprintf("storing the outcome: %v", err)
	res.WaitReason, res.WaitDetail, res.DueMillis = fleet.WaitBackoff, res.Error, e.backoff(res.Attempt).Milliseconds()
	committed, err2 := e.persist(ctx, []fleet.Result{res})
	if err2 != nil {
		return commitAnswer{err: errors.Join(err, err2)}
	}
	e.o.Clock.AfterFunc(time.Duration(res.DueMillis+1)*time.Millisecond, e.Wake)
	// The caller believes in the result it sent: it must let go of the operation.
	committed[0].Stale = true
	return commitAnswer{committed: committed[0]}
}
