package installation

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	const back = fleet.State("back")
	for _, test := range []struct {
		reason fleet.Reason
		code   int
		policy fleet.RestartPolicy
		want   fleet.State
	}{
		{fleet.ReasonProgramExited, 0, fleet.RestartNever, fleet.StateExited},
		{fleet.ReasonProgramExited, 1, fleet.RestartNever, fleet.StateExited},
		{fleet.ReasonProgramExited, 0, fleet.RestartOnFailure, fleet.StateExited},
		{fleet.ReasonProgramExited, 1, fleet.RestartOnFailure, fleet.StateCrashLooping},
		{fleet.ReasonProgramExited, 0, fleet.RestartAlways, fleet.StateCrashLooping},
		{fleet.ReasonProgramExited, 1, "", fleet.StateCrashLooping},
		{fleet.ReasonCrashLoop, 1, fleet.RestartAlways, fleet.StateCrashLooping},
		{fleet.ReasonCrashLoop, 0, fleet.RestartNever, fleet.StateCrashLooping},
		{fleet.ReasonGuestPanic, -1, fleet.RestartNever, fleet.StateExited},
		{fleet.ReasonGuestPanic, -1, fleet.RestartAlways, back},
		{fleet.ReasonHostLost, -1, fleet.RestartNever, back},
		{fleet.ReasonProvider, -1, fleet.RestartAlways, back},
		{"", 0, fleet.RestartAlways, back},
	} {
		again, rest := judge(fleet.Exit{Reason: test.reason, Code: test.code}, test.policy)
		if again {
			require.True(t, fleet.CanMove(fleet.StateStable, rest))
			rest = back
		}
		require.Equal(t, test.want, rest, "%+v", test)
	}
}

func newSweepWatcher(t *testing.T, change ...func(*WatcherOptions)) (*sweepWorld, *Watcher) {
	w := newSweepWorld(t)
	o := WatcherOptions{Store: w.store, Endings: w.endings, Places: w.sweeper.o.Places, Clock: w.clock, Log: w.sweeper.o.Log}
	for _, f := range change {
		f(&o)
	}
	return w, NewWatcher(o)
}

// run starts the watcher until the test ends.
func (w *sweepWorld) run(x *Watcher) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		require.NoError(w.t, <-done)
		require.Zero(w.t, w.clock.waiting())
	})
}

// idle waits until nothing is queued, looked at or backing off.
func (w *sweepWorld) idle(x *Watcher) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return len(x.known) == 0
	}, 10*time.Second, time.Millisecond)
}

func TestWatcherRecordsACrashLoop(t *testing.T) {
	t.Parallel()
	w, x := newSweepWatcher(t)
	id := w.serve("a")
	exit := fleet.Exit{Reason: fleet.ReasonCrashLoop, Code: 2, LastLines: []string{"bad config"}}
	w.end(id, &exit)
	w.run(x)
	x.Notify(string(id))
	w.idle(x)
	require.Equal(t, sweepExit{exit, fleet.StateCrashLooping}, w.store.exits[id])
	require.Equal(t, map[string]int{"place": 1, "exit": 1}, w.store.calls)
	require.Equal(t, 1, w.place.observed)
}

func TestWatcherRecordsAJobThatIsDone(t *testing.T) {
	t.Parallel()
	w, x := newSweepWatcher(t)
	id := w.serve("a")
	w.store.policy[id] = fleet.RestartOnFailure
	w.end(id, &fleet.Exit{Reason: fleet.ReasonProgramExited})
	w.run(x)
	x.Notify(string(id))
	w.idle(x)
	require.Equal(t, fleet.StateExited, w.store.exits[id].to)
}

func TestWatcherBringsALostMachineBackButNotForEver(t *testing.T) {
	t.Parallel()
	w, x := newSweepWatcher(t)
	id := w.serve("a")
	w.end(id, &fleet.Exit{Reason: fleet.ReasonHostLost, Code: -1})
	w.run(x)
	for n := range maxRevivals {
		x.Notify(string(id))
		w.idle(x)
		require.Len(t, w.store.changes, n+1)
		require.Empty(t, w.store.exits)
		w.clock.advance(time.Minute)
	}
	x.Notify(string(id))
	w.idle(x)
	require.Len(t, w.store.changes, maxRevivals)
	require.Equal(t, fleet.StateCrashLooping, w.store.exits[id].to)
	require.Equal(t, fleet.ReasonHostLost, w.store.exits[id].exit.Reason)
	// Started by somebody, it has its tries again after the window.
	row := w.store.rows[id]
	row.State, row.Power = fleet.StateStable, fleet.PowerOn
	w.store.rows[id] = row
	w.clock.advance(revivalWindow)
	x.Notify(string(id))
	w.idle(x)
	require.Len(t, w.store.changes, maxRevivals+1)
	require.Len(t, w.endings.revivals, 1)
}

func TestWatcherLeavesAlone(t *testing.T) {
	t.Parallel()
	failed := fleet.Exit{Reason: fleet.ReasonProgramExited, Code: 1}
	for name, change := range map[string]func(*sweepWorld, fleet.InstanceID){
		"StillOn":         func(w *sweepWorld, id fleet.InstanceID) { w.machine(id, "i-a", fleet.PowerOn, 0) },
		"StoppedForAsked": func(w *sweepWorld, id fleet.InstanceID) { w.end(id, &fleet.Exit{}) },
		"Resuming": func(w *sweepWorld, id fleet.InstanceID) {
			m := w.place.machines[id]
			m.Power = fleet.PowerPending
			w.place.machines[id] = m
		},
		"Gone":      func(w *sweepWorld, id fleet.InstanceID) { delete(w.place.machines, id) },
		"RowIsGone": func(w *sweepWorld, id fleet.InstanceID) { delete(w.store.rows, id) },
		"OperationActive": func(w *sweepWorld, id fleet.InstanceID) {
			row := w.store.rows[id]
			row.OperationActive = true
			w.store.rows[id] = row
		},
		"Hibernating": func(w *sweepWorld, id fleet.InstanceID) {
			row := w.store.rows[id]
			row.State, row.Power, row.Serving = fleet.StateHibernating, fleet.PowerOff, false
			w.store.rows[id] = row
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, x := newSweepWatcher(t)
			id := w.serve("a")
			w.end(id, &failed)
			change(w, id)
			w.run(x)
			x.Notify(string(id))
			w.idle(x)
			require.Empty(t, w.store.exits)
			require.Empty(t, w.store.changes)
		})
	}
}

func TestWatcherTriesAgainWithBackoff(t *testing.T) {
	t.Parallel()
	w, x := newSweepWatcher(t)
	id := w.serve("a")
	w.end(id, &fleet.Exit{Reason: fleet.ReasonCrashLoop, Code: 1})
	w.store.fail, w.store.failures = fleet.Errorf(fleet.KindUnavailable, "the database is away"), 3
	w.run(x)
	x.Notify(string(id))
	for n, wait := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second} {
		require.Eventually(t, func() bool { return w.clock.waiting() == 1 }, 10*time.Second, time.Millisecond)
		w.clock.advance(wait - time.Millisecond)
		require.Equal(t, n+1, w.store.statements())
		w.clock.advance(time.Millisecond)
	}
	w.idle(x)
	require.Equal(t, fleet.StateCrashLooping, w.store.exits[id].to)
}

func TestWatcherNewsEndTheBackoff(t *testing.T) {
	t.Parallel()
	w, x := newSweepWatcher(t)
	id := w.serve("a")
	w.end(id, &fleet.Exit{Reason: fleet.ReasonCrashLoop, Code: 1})
	w.store.fail, w.store.failures = fleet.Errorf(fleet.KindUnavailable, "the database is away"), 1
	w.run(x)
	x.Notify(string(id))
	require.Eventually(t, func() bool { return w.clock.waiting() == 1 }, 10*time.Second, time.Millisecond)
	x.Notify(string(id))
	w.idle(x)
	require.Len(t, w.store.exits, 1)
	require.Zero(t, w.clock.waiting())
}

func TestWatcherGivesUpAndGoesOn(t *testing.T) {
	t.Parallel()
	w, x := newSweepWatcher(t, func(o *WatcherOptions) { o.MaxTries = 2 })
	id := w.serve("a")
	w.end(id, &fleet.Exit{Reason: fleet.ReasonCrashLoop, Code: 1})
	w.place.boom = true // each look panics
	w.run(x)
	x.Notify(string(id))
	require.Eventually(t, func() bool { return w.clock.waiting() == 1 }, 10*time.Second, time.Millisecond)
	w.clock.advance(time.Second)
	w.idle(x)
	require.Equal(t, 2, w.place.observed)
	w.place.mu.Lock()
	w.place.boom = false
	w.place.mu.Unlock()
	x.Notify(string(id))
	w.idle(x)
	require.Len(t, w.store.exits, 1)
}

func TestWatcherCoalescesAndIsBounded(t *testing.T) {
	t.Parallel()
	w, x := newSweepWatcher(t, func(o *WatcherOptions) { o.Queue, o.Workers = 10, 2 })
	for range 100 {
		for n := range 50 {
			x.Notify(fmt.Sprintf("x%d", n))
		}
	}
	require.Equal(t, 4000, x.dropped)
	w.run(x)
	w.idle(x)
	require.Equal(t, 10, w.store.statements(), "one look for each that found room, however often it called")
	require.Zero(t, x.dropped)
}

func TestWatcherSignalDuringALookMeansAnother(t *testing.T) {
	t.Parallel()
	w, x := newSweepWatcher(t)
	id := w.serve("a")
	w.run(x)
	w.place.mu.Lock() // the look stops in Observe
	x.Notify(string(id))
	for deadline := time.Now().Add(10 * time.Second); w.store.statements() == 0 && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	x.Notify(string(id))
	x.Notify(string(id))
	x.mu.Lock()
	again := x.known[id].again
	x.mu.Unlock()
	w.place.mu.Unlock()
	require.True(t, again)
	w.idle(x)
	require.Equal(t, 2, w.store.statements())
}
