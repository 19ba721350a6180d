package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// block is a workflow of one step that stays until it is let go.
func block(entered chan<- context.Context, leave <-chan struct{}) *engine.Workflow {
	return &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(ctx context.Context, _ *fleet.Snapshot) (fleet.Outcome, error) {
		entered <- ctx
		select {
		case <-leave:
		case <-ctx.Done():
		}
		return fleet.Advance(fleet.Changes{}), nil
	}}}}
}

func TestALongStepKeepsItsLease(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan context.Context, 1), make(chan struct{})
	x := newWorld(t, block(entered, leave), func(o *engine.Options) { o.Lease, o.Poll = 15*time.Second, time.Second })
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	ctx := got(t, entered)
	extended := func() int {
		x.store.mu.Lock()
		defer x.store.mu.Unlock()
		return len(x.store.extends)
	}
	for i := range 12 { // a minute: four leases
		x.eventually(func() bool { return extended() >= i }, 100*time.Millisecond)
		x.clock.advance(time.Second)
	}
	require.NoError(t, ctx.Err())
	close(leave)
	op := x.finished(id)
	require.EqualValues(t, 1, op.Epoch, "nobody took it over")
	require.Len(t, x.results(id), 1)
}

func TestALostLeaseCancelsTheStep(t *testing.T) {
	t.Parallel()
	entered := make(chan context.Context, 1)
	x := newWorld(t, block(entered, nil), nil)
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	ctx := got(t, entered)
	x.store.steal(id)
	x.eventually(func() bool { return ctx.Err() != nil }, time.Second)
	require.Empty(t, x.results(id))
	require.EqualValues(t, "another", x.op(id).Worker)
}

func TestAStaleCommitLetsGo(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan context.Context, 1), make(chan struct{})
	w := block(entered, leave)
	var next atomic.Bool
	w.Steps = append(w.Steps, engine.Step{Name: "b", Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		next.Store(true)
		return fleet.Advance(fleet.Changes{}), nil
	}})
	var told atomic.Int32
	x := newWorld(t, w, func(o *engine.Options) { o.OnCommit = func(fleet.OperationID, fleet.InstallationID) { told.Add(1) } })
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	got(t, entered)
	x.store.steal(id)
	close(leave)
	x.eventually(func() bool {
		x.store.mu.Lock()
		defer x.store.mu.Unlock()
		return len(x.store.batches) == 1
	}, 0)
	x.cancel()
	require.NoError(t, got(t, x.done))
	x.done <- nil
	require.False(t, next.Load())
	require.Zero(t, told.Load())
	require.Empty(t, x.results(id))
	require.EqualValues(t, "another", x.op(id).Worker, "what another holds is not released")
}

func TestTheOutcomeOutlivesTheDatabasesAbsence(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	var tries, ran atomic.Int32
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		ran.Add(1)
		return fleet.Advance(fleet.Changes{}), nil
	}}}}, nil)
	away.Store(true)
	x.store.onCommit = func([]fleet.Result) error {
		tries.Add(1)
		if away.Load() {
			return fleet.Errorf(fleet.KindUnavailable, "the database does not answer")
		}
		return nil
	}
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	x.eventually(func() bool { return tries.Load() >= 5 }, 100*time.Millisecond)
	away.Store(false)
	x.eventually(func() bool { return x.op(id).State.Finished() }, 100*time.Millisecond)
	require.EqualValues(t, 1, ran.Load(), "the step was not run again")
	require.Len(t, x.results(id), 1)
}

// After the lease had run out, each result of a batch waited for another lease
// of its own, one behind the other.
func TestALongAbsenceLetsGoOfTheWholeBatchAtOnce(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	away.Store(true)
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: advance}}}, func(o *engine.Options) { o.Poll = time.Second })
	var ids []fleet.OperationID
	for i := range 20 {
		ids = append(ids, x.add(fmt.Sprint(i), fleet.ClassInteractive))
	}
	var refused sync.Map
	x.store.onCommit = func(r []fleet.Result) error {
		if !away.Load() {
			return nil
		}
		for _, one := range r {
			n, _ := refused.LoadOrStore(one.OperationID, new(atomic.Int32))
			n.(*atomic.Int32).Add(1)
		}
		return fleet.Errorf(fleet.KindUnavailable, "the database does not answer")
	}
	began := x.clock.Now()
	x.store.onClaim = func(fleet.ClaimRequest) error {
		if away.Load() && x.clock.Now().After(began) {
			return fleet.Errorf(fleet.KindUnavailable, "the database does not answer")
		}
		return nil
	}
	x.run()
	seen := func(id fleet.OperationID) bool { _, ok := refused.Load(id); return ok }
	x.eventually(func() bool { return slices.ContainsFunc(ids, seen) }, 0)
	// Three leases are enough for all: each of the two committers has one batch
	// on its way and at the most one more after it.
	x.eventually(func() bool { return x.clock.Now().Sub(began) > 50*time.Second }, 200*time.Millisecond)
	away.Store(false)
	x.eventually(func() bool {
		for _, id := range ids {
			if !x.op(id).State.Finished() {
				return false
			}
		}
		return true
	}, 200*time.Millisecond)
	require.Less(t, x.clock.Now().Sub(began), 2*time.Minute)
}

func TestOnePoisonRowDoesNotStopTheOthersOfItsBatch(t *testing.T) {
	t.Parallel()
	// The first two commits hold both committers until ten results have come together.
	var gate sync.Once
	open, arrived := make(chan struct{}), atomic.Int32{}
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		if arrived.Add(1) == 12 {
			gate.Do(func() { close(open) })
		}
		return fleet.Advance(fleet.Changes{}), nil
	}}, {Name: "b", Run: advance}}}, func(o *engine.Options) { o.MaxAttempts = 3 })
	poison := fleet.OperationID("5")
	x.store.onCommit = func(r []fleet.Result) error {
		<-open
		for _, one := range r {
			if one.OperationID == poison && one.Done == "a" {
				return errors.New("invalid input syntax for type json")
			}
		}
		return nil
	}
	var ids []fleet.OperationID
	for i := range 12 {
		ids = append(ids, x.add(fmt.Sprint(i), fleet.ClassInteractive))
	}
	x.run()
	for _, id := range ids {
		if id != poison {
			require.Equal(t, fleet.OperationSucceeded, x.finished(id).State)
		}
	}
	x.eventually(func() bool { return x.op(poison).State.Finished() }, 100*time.Millisecond)
	op := x.op(poison)
	require.Equal(t, []any{fleet.OperationFailed, fleet.StateRestartFailed}, []any{op.State, x.state(poison)})
	r := x.results(poison)
	require.Len(t, r, 3)
	require.Equal(t, []any{"a", 1, 1}, []any{r[0].Step, r[0].StepNumber, r[0].Attempt}, "it is the step that ran that failed")
	require.Contains(t, r[0].Error, "storing the outcome: invalid input syntax")
	require.Equal(t, fleet.ReasonQuarantined, r[2].ToReason)
}

func TestResultsThatAreReadyTogetherAreCommittedTogether(t *testing.T) {
	t.Parallel()
	open, arrived := make(chan struct{}), atomic.Int32{}
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		if arrived.Add(1) == 30 {
			close(open)
		}
		return fleet.Advance(fleet.Changes{}), nil
	}}}}, nil)
	x.store.onCommit = func([]fleet.Result) error { <-open; return nil }
	for i := range 30 {
		x.add(fmt.Sprint(i), fleet.ClassInteractive)
	}
	x.run()
	for i := range 30 {
		x.finished(fleet.OperationID(fmt.Sprint(i)))
	}
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	require.Less(t, len(x.store.batches), 30)
}
