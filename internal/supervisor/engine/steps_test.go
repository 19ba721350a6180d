package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

func TestStepsRunInOrderAndEachIsCommitted(t *testing.T) {
	t.Parallel()
	var ran []string
	step := func(name string, out fleet.Outcome) engine.Step {
		return engine.Step{Name: name, Run: func(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			ran = append(ran, name+s.Operation.Observed["seen"])
			return out, nil
		}}
	}
	skipped := step("b", fleet.Advance(fleet.Changes{}))
	skipped.Skip = func(s *fleet.Snapshot) bool { return s.Operation.Observed["seen"] != "" }
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{
		step("a", fleet.Advance(fleet.Changes{Observed: map[string]string{"seen": "!"}})), skipped, step("c", fleet.Advance(fleet.Changes{})),
	}}, nil)
	var told []fleet.OperationID
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	op := x.finished(id)
	require.Equal(t, fleet.OperationSucceeded, op.State)
	require.Equal(t, []string{"a", "c!"}, ran, "what a observed has skipped b, and c knows it")
	require.Equal(t, fleet.StateStable, x.state(id))
	r := x.results(id)
	require.Len(t, r, 2)
	require.Equal(t, []any{"a", "c", 3, true, 1}, []any{r[0].Done, r[0].Step, r[0].StepNumber, r[0].Keep, r[0].Ran})
	require.Equal(t, []any{"c", fleet.OperationSucceeded, "stable"}, []any{r[1].Done, r[1].State, r[1].To})
	require.Equal(t, "restart-in-progress", r[1].From)
	require.Empty(t, told)
	require.Len(t, x.store.claims[0].Executors, 0)
}

func TestRepeatRunsAgainWithWhatItChanged(t *testing.T) {
	t.Parallel()
	n := 0
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		n++
		if len(s.Instances) > 0 {
			gone := s.Instances[0]
			gone.DeletedAt = s.Now
			return fleet.Repeat(fleet.Changes{Instances: []fleet.Instance{gone}}), nil
		}
		return fleet.Advance(fleet.Changes{End: fleet.StateExited}), nil
	}}}}, nil)
	id := x.add("1", fleet.ClassInteractive)
	x.run().finished(id)
	require.Equal(t, 2, n)
	require.Equal(t, fleet.StateExited, x.state(id), "the outcome names the state in which it ends")
}

func TestTheQueuedOperationFollowsAtOnce(t *testing.T) {
	t.Parallel()
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: advance}}}, nil)
	first, second := x.addFor("1", "r", fleet.ClassInteractive, false), x.addFor("2", "r", fleet.ClassInteractive, true)
	x.run().finished(first)
	require.Equal(t, fleet.OperationSucceeded, x.finished(second).State)
}

func TestInteractiveBeforeBulkAndSlots(t *testing.T) {
	t.Parallel()
	var now, most atomic.Int32
	var mu sync.Mutex
	var order []fleet.Class
	entered, leave := make(chan struct{}, 100), make(chan struct{})
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		mu.Lock()
		order = append(order, s.Operation.Class)
		mu.Unlock()
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		entered <- struct{}{}
		<-leave
		now.Add(-1)
		return fleet.Advance(fleet.Changes{}), nil
	}}}}, func(o *engine.Options) { o.Slots = 4 })
	for i := range 10 {
		x.add(fmt.Sprintf("bulk%d", i), fleet.ClassBulk)
	}
	var last fleet.OperationID
	for i := range 4 {
		x.add(fmt.Sprintf("person%d", i), fleet.ClassInteractive)
	}
	x.run()
	for range 4 {
		got(t, entered)
	}
	mu.Lock()
	require.Equal(t, []fleet.Class{0, 0, 0, 0}, order, "all slots are for people as long as they ask")
	mu.Unlock()
	for range 4 {
		leave <- struct{}{}
	}
	// Three quarters of the slots at the most are for bulk work.
	for range 3 {
		got(t, entered)
	}
	last = x.add("late", fleet.ClassInteractive)
	x.Wake()
	got(t, entered)
	mu.Lock()
	require.Equal(t, []fleet.Class{1, 1, 1, 0}, order[4:])
	mu.Unlock()
	close(leave)
	x.finished(last)
	x.eventually(func() bool {
		for id := range x.store.ops {
			if !x.op(id).State.Finished() {
				return false
			}
		}
		return true
	}, 0)
	require.EqualValues(t, 4, most.Load())
}

// With one slot, three quarters of it were none, and bulk work never ran.
func TestOneSlotServesBulkToo(t *testing.T) {
	t.Parallel()
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: advance}}}, func(o *engine.Options) { o.Slots = 1 })
	id := x.add("1", fleet.ClassBulk)
	x.run().finished(id)
}

// The first step was run by whichever process claimed the operation, because
// the store knows the executor only from the second step on.
func TestAStepOfAnotherHostIsReleased(t *testing.T) {
	t.Parallel()
	ran := make(chan struct{}, 1)
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{
		{Name: "a", Executor: func(*fleet.Snapshot) fleet.HostID { return "far" }, Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
			ran <- struct{}{}
			return fleet.Advance(fleet.Changes{}), nil
		}},
	}}, func(o *engine.Options) { o.Hosts = []fleet.HostID{"near"} })
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	x.eventually(func() bool { return x.op(id).Executor == "far" && x.op(id).Worker == "" }, 0)
	require.Empty(t, ran)
	require.Equal(t, fleet.OperationActive, x.op(id).State)
}

func TestTheNextStepOfAnotherHostIsReleased(t *testing.T) {
	t.Parallel()
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{
		{Name: "a", Run: advance},
		{Name: "b", Executor: func(*fleet.Snapshot) fleet.HostID { return "far" }, Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
			return fleet.Outcome{}, errors.New("this must not run here")
		}},
	}}, nil)
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	x.eventually(func() bool { return x.op(id).Executor == "far" && x.op(id).Worker == "" }, 0)
	r := x.results(id)
	require.Len(t, r, 1)
	require.Equal(t, []any{"a", "b", false, int64(0)}, []any{r[0].Done, r[0].Step, r[0].Keep, r[0].DueMillis})
}

// The drain took the operation on to its end, step after step, and cut the
// step in which the time ran out.
func TestStopLetsTheStepUnderWayFinishAndBeginsNoOther(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{
		{Name: "a", Run: func(ctx context.Context, _ *fleet.Snapshot) (fleet.Outcome, error) {
			close(entered)
			<-leave
			return fleet.Advance(fleet.Changes{}), ctx.Err()
		}},
		{Name: "b", Run: advance},
	}}, func(o *engine.Options) { o.Lease = 15 * time.Second })
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	got(t, entered)
	x.cancel()
	// The engine has begun to drain when its timer is set, beside that of the
	// leases, which runs as long.
	x.eventually(func() bool {
		x.clock.mu.Lock()
		defer x.clock.mu.Unlock()
		same := 0
		for _, timer := range x.clock.timers {
			if timer.at.Equal(x.clock.now.Add(5 * time.Second)) {
				same++
			}
		}
		return same == 2
	}, 0)
	close(leave)
	require.NoError(t, got(t, x.done))
	x.done <- nil
	op := x.op(id)
	require.Equal(t, []any{"b", fleet.OperationActive, fleet.WorkerID("")}, []any{op.Step, op.State, op.Worker}, "a is committed, the operation given back")
	require.Equal(t, x.clock.Now(), x.store.ops[id].due, "and due at once")
}

func TestStopCutsAStepThatTakesTooLong(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(ctx context.Context, _ *fleet.Snapshot) (fleet.Outcome, error) {
		close(entered)
		<-ctx.Done()
		return fleet.Outcome{}, ctx.Err()
	}}}}, func(o *engine.Options) { o.MaxAttempts = 1 })
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	got(t, entered)
	x.cancel()
	x.eventually(func() bool { return len(x.done) > 0 }, time.Second)
	// To be stopped is no failed try: it was quarantined where it was the last one.
	require.Equal(t, fleet.OperationActive, x.op(id).State)
	require.Zero(t, x.op(id).Attempt)
	require.Empty(t, x.op(id).Worker)
}

func TestNewRefusesWorkflowsThatCannotWork(t *testing.T) {
	t.Parallel()
	for _, w := range []*engine.Workflow{
		{Kind: kind},
		{Kind: kind, Steps: []engine.Step{{Name: "a"}}},
		{Kind: kind, Steps: []engine.Step{{Run: advance}}},
		{Kind: kind, Steps: []engine.Step{{Name: "a", Run: advance}}, Rollback: []engine.Step{{Name: "a", Run: advance}}},
	} {
		_, err := engine.New(engine.Options{Workflows: []*engine.Workflow{w}})
		require.Error(t, err)
	}
	w := &engine.Workflow{Kind: kind, Steps: []engine.Step{{Name: "a", Run: advance}, {Name: "b", Run: advance}}}
	require.Equal(t, []string{"a", "b"}, w.StepNames())
}
