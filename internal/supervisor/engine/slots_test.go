package engine_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// The slot was kept while the outcome went to the database, so that a process of
// few slots was idle for most of the time.
func TestACommitTakesNoSlot(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan fleet.OperationID, 2), make(chan struct{})
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		entered <- s.Operation.ID
		return fleet.Advance(fleet.Changes{}), nil
	}}}}, func(o *engine.Options) { o.Slots = 1 })
	var first atomic.Bool
	first.Store(true)
	x.store.onCommit = func([]fleet.Result) error {
		if first.CompareAndSwap(true, false) {
			<-leave
		}
		return nil
	}
	one := x.add("1", fleet.ClassInteractive)
	x.run()
	got(t, entered)
	two := x.add("2", fleet.ClassInteractive)
	x.Wake()
	got(t, entered)
	close(leave)
	x.finished(one)
	x.finished(two)
}

// Where steps take no time, how many outcomes share a transaction must not hang
// on how many slots there are: four processes of eight slots each cost several times the
// statements of one of 32.
func TestQuickStepsAreCommittedTogether(t *testing.T) {
	t.Parallel()
	const n = 400
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: advance}, {Name: "b", Run: advance}, {Name: "c", Run: advance}}},
		func(o *engine.Options) { o.Slots = 4 })
	t.Log("a commit takes 5 ms, as it does on a disk: what gathers meanwhile is what is tested")
	x.store.onCommit = func([]fleet.Result) error { time.Sleep(5 * time.Millisecond); return nil }
	for i := range n {
		x.add(fmt.Sprint(i), fleet.ClassBulk)
	}
	x.run()
	x.eventually(func() bool {
		return !slices.ContainsFunc(x.store.order, func(id fleet.OperationID) bool { return !x.op(id).State.Finished() })
	}, 0)
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	require.Less(t, len(x.store.batches), 3*n/12, "outcomes were committed by %v", x.store.batches)
	require.Less(t, len(x.store.claims), n/8)
}
