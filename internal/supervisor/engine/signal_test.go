package engine_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// waits is a step that waits for an hour the first time and is done the next.
func waits(ran chan<- int, during func(run int)) *engine.Workflow {
	var n atomic.Int32
	return &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		run := int(n.Add(1))
		if during != nil {
			during(run)
		}
		ran <- run
		if run == 1 {
			return fleet.Wait(time.Hour, fleet.WaitHealthy, "not yet"), nil
		}
		return fleet.Advance(fleet.Changes{}), nil
	}}}}
}

// parked waits until the engine has put the operation down.
func (x *world) parked(id fleet.OperationID) {
	x.t.Helper()
	x.eventually(func() bool { return x.op(id).Worker == "" && x.op(id).WaitReason != "" }, 0)
}

// The clock stands still and the poll is far away in all of these: only the
// signal can bring the operation on.
func TestSignal(t *testing.T) {
	t.Parallel()
	t.Run("AfterTheCommit", func(t *testing.T) {
		t.Parallel()
		for _, key := range []string{"r-1", "i-1"} {
			ran := make(chan int, 10)
			x := newWorld(t, waits(ran, nil), nil)
			id := x.add("1", fleet.ClassInteractive)
			x.run()
			require.Equal(t, 1, got(t, ran))
			x.parked(id)
			x.Signal(key)
			x.finished(id)
			require.Equal(t, 2, got(t, ran))
			require.Equal(t, []fleet.Reason{fleet.WaitHealthy, ""}, []fleet.Reason{x.results(id)[0].WaitReason, x.results(id)[1].WaitReason})
		}
	})
	t.Run("DuringTheStep", func(t *testing.T) {
		t.Parallel()
		var x *world
		ran := make(chan int, 10)
		x = newWorld(t, waits(ran, func(run int) {
			if run == 1 {
				x.Signal("i-1")
			}
		}), nil)
		id := x.add("1", fleet.ClassInteractive)
		x.run().finished(id)
	})
	t.Run("BeforeTheCommit", func(t *testing.T) {
		t.Parallel()
		x := newWorld(t, waits(make(chan int, 10), nil), nil)
		id := x.add("1", fleet.ClassInteractive)
		x.store.onCommit = func(r []fleet.Result) error {
			if r[0].WaitReason != "" {
				x.Signal("i-1")
			}
			return nil
		}
		x.run().finished(id)
	})
	t.Run("BetweenTheCommitAndTheWait", func(t *testing.T) {
		t.Parallel()
		var x *world
		x = newWorld(t, waits(make(chan int, 10), nil), func(o *engine.Options) {
			o.OnCommit = func(fleet.OperationID, fleet.InstallationID) { x.Signal("i-1") }
		})
		id := x.add("1", fleet.ClassInteractive)
		x.run().finished(id)
	})
	t.Run("DuringTheClaim", func(t *testing.T) {
		t.Parallel()
		x := newWorld(t, waits(make(chan int, 10), nil), nil)
		id := x.add("1", fleet.ClassInteractive)
		var failed atomic.Bool
		x.store.onClaim = func(in fleet.ClaimRequest) error {
			if len(in.Signalled) > 0 && failed.CompareAndSwap(false, true) {
				return fleet.Errorf(fleet.KindUnavailable, "the database is away")
			}
			return nil
		}
		x.run()
		x.parked(id)
		x.Signal("i-1")
		x.eventually(failed.Load, 0)
		x.eventually(func() bool { return x.op(id).State.Finished() }, time.Second)
		require.Less(t, x.clock.Now().Sub(newClock().now), time.Hour, "the signal outlived the failed claim")
	})
}

// The signals were taken from the list before it was known that no slot was
// free, and were lost.
func TestASignalWaitsForASlot(t *testing.T) {
	t.Parallel()
	busy, leave := make(chan struct{}), make(chan struct{})
	var n atomic.Int32
	w := &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		if s.Operation.ID == "2" {
			close(busy)
			<-leave
		} else if n.Add(1) == 1 {
			return fleet.Wait(time.Hour, fleet.WaitHealthy, ""), nil
		}
		return fleet.Advance(fleet.Changes{}), nil
	}}}}
	x := newWorld(t, w, func(o *engine.Options) { o.Slots = 1 })
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	x.parked(id)
	x.add("2", fleet.ClassInteractive)
	x.Wake()
	got(t, busy)
	x.Signal("i-1")
	x.Wake()
	close(leave)
	x.finished(id)
}

// A signal that came right after the wait was registered had the operation
// claimed again before the first run had put itself away; that then put the second one
// away: its lease was not extended and its signals were lost.
func TestASignalRightAfterTheWaitDoesNotLoseTheNextRun(t *testing.T) {
	t.Parallel()
	again, leave, parking := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var n atomic.Int32
	w := &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		if n.Add(1) == 1 {
			return fleet.Wait(time.Minute, fleet.WaitHealthy, ""), nil
		}
		close(again)
		<-leave
		return fleet.Advance(fleet.Changes{}), nil
	}}}}
	x := newWorld(t, w, func(o *engine.Options) { o.Lease = 15 * time.Second })
	id := x.add("1", fleet.ClassInteractive)
	x.clock.onAfter = func(d time.Duration) {
		if d == time.Minute+time.Millisecond { // the first run is registered and not yet put away
			x.Signal("i-1")
			got(t, again)
			close(parking)
		}
	}
	x.run()
	got(t, parking)
	x.eventually(func() bool {
		x.store.mu.Lock()
		defer x.store.mu.Unlock()
		for _, held := range x.store.extends {
			if held[id] != 0 {
				return true
			}
		}
		return false
	}, time.Second)
	close(leave)
	x.finished(id)
}

func TestUnsolicitedSignals(t *testing.T) {
	t.Parallel()
	x := newWorld(t, waits(make(chan int, 10), nil), nil)
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	x.parked(id)
	told := func() []string {
		x.mu.Lock()
		defer x.mu.Unlock()
		return append([]string{}, x.unsolicited...)
	}
	x.Signal("somebody")
	require.Equal(t, []string{"somebody"}, told())
	// The operation is taken over by another process: what is known here is old.
	// The signal vanished, and so did all later ones for that instance.
	x.store.steal(id)
	x.Signal("i-1")
	x.eventually(func() bool { return len(told()) == 2 }, 0)
	x.Signal("i-1")
	require.Equal(t, []string{"somebody", "i-1", "i-1"}, told())
}

func TestDeniedCapacityWaitsAndWakesWhenItIsFreed(t *testing.T) {
	t.Parallel()
	// Whoever is denied by the store, or finds no room itself, is woken.
	for _, byStore := range []bool{true, false} {
		var room atomic.Bool
		let := make(chan struct{})
		w := &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			if s.Operation.ID == "giver" {
				<-let
				room.Store(true)
				return fleet.Advance(fleet.Changes{Hold: &fleet.Hold{}}), nil
			}
			if !byStore && !room.Load() {
				return fleet.Wait(5*time.Second, fleet.WaitCapacity, "full"), nil
			}
			return fleet.Advance(fleet.Changes{Hold: &fleet.Hold{HostID: "h", MemoryMiB: 200}}), nil
		}}, {Name: "b", Run: advance}}}
		x := newWorld(t, w, nil)
		x.store.deny = func(r fleet.Result) fleet.Reason {
			if r.Changes.Hold != nil && r.Changes.Hold.MemoryMiB > 0 && !room.Load() {
				return fleet.WaitCapacity
			}
			return ""
		}
		id := x.add("taker", fleet.ClassInteractive)
		x.run()
		x.parked(id)
		op := x.op(id)
		require.Equal(t, []any{"a", fleet.WaitCapacity, 0}, []any{op.Step, op.WaitReason, op.Attempt})
		giver := x.add("giver", fleet.ClassInteractive)
		x.Wake()
		close(let)
		x.finished(giver)
		x.finished(id) // the clock has not moved
	}
}

// Capacity that was freed while the one who wants it was about to be told that
// there is none was noticed five seconds later; where the outcome would have
// ended the operation, only at the next poll.
func TestCapacityFreedWhileBeingDenied(t *testing.T) {
	t.Parallel()
	var denied atomic.Int32
	asked, freed := make(chan struct{}), make(chan struct{})
	w := &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		if s.Operation.ID == "giver" {
			<-asked
			return fleet.Advance(fleet.Changes{ReleaseAddress: true}), nil
		}
		return fleet.Advance(fleet.Changes{Address: "h"}), nil
	}}}}
	x := newWorld(t, w, func(o *engine.Options) {
		o.OnCommit = func(id fleet.OperationID, _ fleet.InstallationID) {
			if id == "taker" && denied.Load() == 1 {
				close(asked)
				<-freed
			}
		}
	})
	x.store.deny = func(r fleet.Result) fleet.Reason {
		if r.OperationID == "taker" && denied.Add(1) == 1 {
			return fleet.WaitAddress
		}
		return ""
	}
	giver, taker := x.add("giver", fleet.ClassInteractive), x.add("taker", fleet.ClassInteractive)
	x.run().finished(giver)
	close(freed)
	x.finished(taker)
}

func TestPollFindsWorkWithoutAnyCall(t *testing.T) {
	t.Parallel()
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: advance}}}, func(o *engine.Options) { o.Poll = 15 * time.Second })
	x.run()
	x.eventually(func() bool {
		x.store.mu.Lock()
		defer x.store.mu.Unlock()
		return len(x.store.claims) > 0
	}, 0)
	began := x.clock.Now()
	id := x.add("1", fleet.ClassInteractive)
	x.eventually(func() bool { return x.op(id).State.Finished() }, time.Second)
	require.Greater(t, x.clock.Now().Sub(began), 11*time.Second, "not before 0.8 polls")
}

func TestRunFailsWhereTheStoreDoesNotAnswer(t *testing.T) {
	t.Parallel()
	e, err := engine.New(engine.Options{Store: awayStore{}, Clock: newClock()})
	require.NoError(t, err)
	require.ErrorIs(t, e.Run(context.Background()), errAway)
}

type awayStore struct{ engine.Store }

var errAway = errors.New("away")

func (awayStore) Release(context.Context, fleet.WorkerID) (int64, error) { return 0, errAway }
