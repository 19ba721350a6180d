package integration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
	"dormouse/internal/supervisor/engine"
)

// TestTriad takes every scenario through all that can happen to it, in a world
// of its own.
func TestTriad(t *testing.T) {
	t.Parallel()
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			part := func(name string, f func(*world, scenario)) {
				t.Run(name, func(t *testing.T) {
					w.t = t
					f(w, s)
				})
			}
			part("EveryStepTwice", everyStepTwice)
			part("CutAtEveryWrite", cutAtEveryWrite)
			part("FailedThenDeleted", failedThenDeleted)
			part("TransientErrors", transientErrors)
			part("DeletedDuring", deletedDuring)
			part("LateCalls", lateCalls)
			w.t = t
		})
	}
}

func everyStepTwice(w *world, s scenario) {
	c := w.newCase(s)
	before := len(w.sim.Ledger())
	e := w.start(setup{wrap: func(kind fleet.OperationKind, step string, run engine.Run) engine.Run {
		return func(ctx context.Context, snap *fleet.Snapshot) (fleet.Outcome, error) {
			covered.hit(kind, step, cutTwice)
			first := *snap
			if _, err := run(ctx, &first); err != nil {
				return fleet.Outcome{}, err
			}
			return run(ctx, snap)
		}
	}})
	w.finished(s.begin(c))
	e.stop()
	c.verify()
	// Of each object, each effect happened once, but for switching on and off.
	made := map[string]int{}
	for _, entry := range w.sim.Ledger()[before:] {
		require.NotContains(w.t, []fleet.ErrorKind{fleet.KindFenced, fleet.KindConflict}, entry.Kind)
		if entry.Effect == sim.EffectCreated || entry.Effect == sim.EffectDeleted || entry.Effect == sim.EffectGrown {
			made[string(entry.Effect)+" "+entry.Object]++
			require.Equal(w.t, 1, made[string(entry.Effect)+" "+entry.Object], "%+v", entry)
		}
	}
}

// cutStore drops the connection to the database at the n-th commit of a step,
// before or after it, and for good: what a kill does.
type cutStore struct {
	engine.Store
	kind  fleet.OperationKind
	step  string
	n     int
	after bool
	// last is the step that ran last, by operation.
	steps *ranSteps

	mu   sync.Mutex
	seen int
	dead chan struct{}
}

// ranSteps remembers which step an operation ran last.
type ranSteps struct {
	mu   sync.Mutex
	last map[fleet.OperationID][2]string
}

func (r *ranSteps) wrap(kind fleet.OperationKind, step string, run engine.Run) engine.Run {
	return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		r.mu.Lock()
		r.last[s.Operation.ID] = [2]string{string(kind), step}
		r.mu.Unlock()
		return run(ctx, s)
	}
}

// any tells whether one of the results is of that step.
func (r *ranSteps) any(results []fleet.Result, kind fleet.OperationKind, step string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(results, func(x fleet.Result) bool { return r.last[x.OperationID] == [2]string{string(kind), step} })
}

var errKilled = fmt.Errorf("the process was killed: %w", context.Canceled)

func (s *cutStore) killed() bool {
	select {
	case <-s.dead:
		return true
	default:
		return false
	}
}

func (s *cutStore) Claim(ctx context.Context, in fleet.ClaimRequest) ([]fleet.Snapshot, error) {
	if s.killed() {
		return nil, errKilled
	}
	return s.Store.Claim(ctx, in)
}

func (s *cutStore) Release(ctx context.Context, worker fleet.WorkerID) (int64, error) {
	if s.killed() {
		return 0, errKilled
	}
	return s.Store.Release(ctx, worker)
}

func (s *cutStore) Extend(ctx context.Context, held map[fleet.OperationID]fleet.Epoch, lease time.Duration) (map[fleet.OperationID]bool, error) {
	if s.killed() {
		return nil, errKilled
	}
	return s.Store.Extend(ctx, held, lease)
}

func (s *cutStore) Commit(ctx context.Context, results []fleet.Result) ([]fleet.Committed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.killed() {
		return nil, errKilled
	}
	if !s.steps.any(results, s.kind, s.step) {
		return s.Store.Commit(ctx, results)
	}
	if s.seen++; s.seen != s.n {
		return s.Store.Commit(ctx, results)
	}
	defer close(s.dead)
	if !s.after {
		covered.hit(s.kind, s.step, cutBefore)
		return nil, errKilled
	}
	covered.hit(s.kind, s.step, cutAfter)
	if _, err := s.Store.Commit(ctx, results); err != nil {
		return nil, err
	}
	return nil, errKilled
}

// cutAt runs a scenario with a cut at the n-th commit of a step, and tells whether there were so many.
func (w *world) cutAt(s scenario, step string, n int, after bool) bool {
	c := w.newCase(s)
	steps := &ranSteps{last: map[fleet.OperationID][2]string{}}
	cutting := &cutStore{kind: s.kind, step: step, n: n, after: after, steps: steps, dead: make(chan struct{})}
	first := w.start(setup{wrap: steps.wrap, store: func(real engine.Store) engine.Store { cutting.Store = real; return cutting }})
	id := s.begin(c)
	w.eventually(func() bool {
		if cutting.killed() {
			return true
		}
		op, err := w.store.Operation(w.ctx, id)
		return err == nil && op.State.Finished()
	}, c.last)
	first.stop()
	if !cutting.killed() {
		c.verify()
		return false
	}
	// Its lease runs out.
	_, err := w.store.Release(w.ctx, first.name)
	require.NoError(w.t, err)
	second := w.start(setup{})
	w.finished(id)
	second.stop()
	c.verify()
	return true
}

func cutAtEveryWrite(w *world, s scenario) {
	steps := w.stepsOf(s)
	slices.Sort(steps)
	for _, step := range slices.Compact(steps) {
		n := 1
		for w.cutAt(s, step, n, false) {
			w.cutAt(s, step, n, true) // where it waits, it need not come so far again
			n++
			require.Less(w.t, n, 60, "the step does not end")
		}
		require.Greater(w.t, n, 1, "%s was not cut", step)
	}
}

// stepsOf finds the steps that a scenario runs, in order.
func (w *world) stepsOf(s scenario) []string {
	if known := w.steps[s.name]; known != nil {
		return slices.Clone(known)
	}
	c := w.newCase(s)
	var steps []string
	e := w.start(setup{wrap: func(kind fleet.OperationKind, step string, run engine.Run) engine.Run {
		return func(ctx context.Context, snap *fleet.Snapshot) (fleet.Outcome, error) {
			if kind != s.kind {
				return run(ctx, snap)
			}
			if len(steps) == 0 || steps[len(steps)-1] != step {
				steps = append(steps, step)
			}
			return run(ctx, snap)
		}
	}})
	w.finished(s.begin(c))
	e.stop()
	c.verify()
	w.steps[s.name] = steps
	return slices.Clone(steps)
}

func failedThenDeleted(w *world, s scenario) {
	for _, at := range w.stepsOf(s) {
		c := w.newCase(s)
		// Its effect has happened, and it fails all the same.
		e := w.start(setup{wrap: func(kind fleet.OperationKind, step string, run engine.Run) engine.Run {
			return func(ctx context.Context, snap *fleet.Snapshot) (fleet.Outcome, error) {
				out, err := run(ctx, snap)
				if step == at && kind == s.kind && err == nil {
					covered.hit(kind, step, cutFailed)
					return fleet.Outcome{}, fleet.Failure(fleet.ReasonProvider, "injected: it can't be done")
				}
				return out, err
			}
		}})
		op := w.finished(s.begin(c))
		e.stop()
		require.Equal(w.t, fleet.OperationFailed, op.State)
		_, failed := s.kind.EndStates()
		switch s.kind {
		case fleet.OperationVerify, fleet.OperationClone:
			failed = "hibernating" // its users notice nothing
		case fleet.OperationCheckCluster:
			failed = "stable"
		case fleet.OperationMove:
			if failed = c.began; onTheWayBack(at) {
				failed = cmp.Or(s.kind.GivenUp(c.began, at), c.began)
			}
		}
		require.Equal(w.t, failed, c.state(), "at %s", at)
		require.Contains(w.t, op.Error, "injected", "at %s", at)
		w.invariants()
		if s.comesBack && !onTheWayBack(at) {
			c.backInService() // the way back was free
		}

		second := w.start(setup{})
		w.finished(c.remove())
		second.stop()
		c.gone()
	}
}

// onTheWayBack tells the steps that undo what others have done.
func onTheWayBack(step string) bool {
	return strings.HasSuffix(step, "cessor") || strings.HasPrefix(step, "return-") || step == "release-host" || step == "drop-overlay"
}

func transientErrors(w *world, s scenario) {
	for _, at := range w.stepsOf(s) {
		c := w.newCase(s)
		tries := 0
		// Once before the effect, once after it: the answer is lost.
		e := w.start(setup{wrap: func(kind fleet.OperationKind, step string, run engine.Run) engine.Run {
			return func(ctx context.Context, snap *fleet.Snapshot) (fleet.Outcome, error) {
				if step != at {
					return run(ctx, snap)
				}
				switch tries++; tries {
				case 1:
					covered.hit(kind, step, cutTransient)
					return fleet.Outcome{}, errors.New("injected: connection refused")
				case 2:
					if _, err := run(ctx, snap); err != nil {
						return fleet.Outcome{}, err
					}
					return fleet.Outcome{}, fleet.Errorf(fleet.KindUnavailable, "injected: the answer was lost")
				}
				return run(ctx, snap)
			}
		}})
		w.finished(s.begin(c))
		e.stop()
		require.GreaterOrEqual(w.t, tries, 3)
		c.verify()
	}
}

func deletedDuring(w *world, s scenario) {
	for _, at := range w.stepsOf(s) {
		c := w.newCase(s)
		entered, leave, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
		var once sync.Once
		var begun fleet.OperationID
		e := w.start(setup{wrap: func(kind fleet.OperationKind, step string, run engine.Run) engine.Run {
			return func(ctx context.Context, snap *fleet.Snapshot) (fleet.Outcome, error) {
				held := false
				if step == at && kind == s.kind {
					once.Do(func() {
						covered.hit(kind, step, cutDeleted)
						held = true
						close(entered)
						<-leave
					})
				}
				if held {
					defer close(left)
					ctx = context.WithoutCancel(ctx) // the call is on its way already
				}
				return run(ctx, snap)
			}
		}})
		begun = s.begin(c)
		w.received(entered)
		deletion := c.remove()
		if deletion != begun { // a deletion under way is joined, and must go on
			w.finished(deletion)
		}
		close(leave)
		w.received(left)
		w.finished(deletion)
		e.stop()
		c.gone()
	}
}

func (w *world) received(c <-chan struct{}) {
	w.t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		require.FailNow(w.t, "nothing came")
	}
}

// A worker's call is on its way for so long that another worker has taken over
// and is done when it arrives.
func lateCalls(w *world, s scenario) {
	for n := 1; w.lateCall(s, n); n++ {
		require.Less(w.t, n, 20)
	}
}

// lateCall delays the n-th changing call; false where there are not so many.
func (w *world) lateCall(s scenario, n int) bool {
	c := w.newCase(s)
	g := newGate(n)
	first := w.start(setup{gate: g})
	id := s.begin(c)
	arrived := false
	w.eventually(func() bool {
		select {
		case <-g.arrived:
			arrived = true
			return true
		default:
		}
		op, err := w.store.Operation(w.ctx, id)
		return err == nil && op.State.Finished()
	}, c.last)
	if !arrived {
		first.stop()
		c.verify()
		return false
	}
	_, err := w.store.Release(w.ctx, first.name) // its lease has run out
	require.NoError(w.t, err)
	second := w.start(setup{})
	w.finished(id)
	before := w.sim.Ledger()
	close(g.leave)
	select {
	case err := <-g.result:
		require.Equal(w.t, fleet.KindFenced, fleet.KindOf(err), "call %d of %s: %v", n, s.name, err)
	case <-time.After(patience):
		require.FailNow(w.t, "the call does not return")
	}
	for _, entry := range w.sim.Ledger()[len(before):] {
		require.Equal(w.t, sim.EffectNone, entry.Effect, "%+v", entry)
	}
	first.stop()
	second.stop()
	c.verify()
	return true
}
