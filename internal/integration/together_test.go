package integration

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// at runs f n times at once and waits for all.
func at(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func (w *world) another(name, pkg string, d ...doing) *kase {
	c := w.newCase(scenario{name: name, before: func(c *kase) { c.do(append([]doing{created(pkg)}, d...)...) }})
	c.end = "stable"
	return c
}

func TestPatchesAtOnceAreAllKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.another("patched", "web")
	e := w.start(setup{})
	var mu sync.Mutex
	var errs []error
	at(8, func(client int) {
		for i := range 25 {
			value := "x"
			_, err := w.store.ChangeInstallation(w.ctx, fleet.Change{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: c.id,
				Kind: fleet.OperationUpdate, Env: map[string]*string{fmt.Sprintf("K_%d_%d", client, i): &value}})
			w.wake()
			mu.Lock()
			if err != nil {
				errs = append(errs, err)
			}
			mu.Unlock()
		}
	})
	require.Empty(t, errs)
	w.settled()
	e.stop()
	c.verify()
	require.Equal(t, []string{"200 200"}, w.strings(`SELECT (SELECT count(*) FROM jsonb_object_keys(i.env)) || ' ' || (SELECT count(*) FROM jsonb_object_keys(x.spec -> 'env'))
		FROM installation i JOIN instance x ON x.installation_id = i.id AND x.deleted_at IS NULL WHERE i.id = $1`, c.id))
}

// settled waits until no operation is open.
func (w *world) settled() {
	w.t.Helper()
	var open []string
	w.eventually(func() bool {
		open = w.strings(`SELECT resource_name || ' ' || kind || ' ' || state || ' at ' || step || ' ' || wait_reason || ' ' || error FROM operation WHERE state IN ('active', 'queued')`)
		return len(open) == 0
	}, func() string { return fmt.Sprint(open) })
}

func TestWakesAtOnceAreOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, working := range []bool{false, true} {
		c := w.another("woken", "web", asleep)
		var e *worker
		if working {
			e = w.start(setup{})
		}
		var refused atomic.Int32
		var ids sync.Map
		at(20, func(int) {
			a, err := w.store.ChangeInstallation(w.ctx, fleet.Change{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: c.id, Kind: fleet.OperationWake})
			w.wake()
			if err != nil {
				refused.Add(1)
				if fleet.KindOf(err) != fleet.KindNotAccepted { // it is awake already
					t.Errorf("%v", err)
				}
				return
			}
			ids.Store(a.Operation.ID, true)
		})
		n := 0
		ids.Range(func(any, any) bool { n++; return true })
		require.Equal(t, 1, n)
		require.True(t, working || refused.Load() == 0)
		if !working {
			e = w.start(setup{})
		}
		w.settled()
		e.stop()
		c.verify()
		require.Equal(t, []string{"1"}, w.strings(`SELECT count(*)::text FROM operation WHERE kind = 'wake' AND resource_id = $1`, c.id))
	}
}

func TestOneNameOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var made, refused atomic.Int32
	at(10, func(int) {
		_, err := w.store.CreateInstallation(w.ctx, fleet.NewInstallation{ID: fleet.InstallationID(fleet.NewID()), OperationID: fleet.OperationID(fleet.NewID()),
			Name: "twin", Owner: "acme", PackageRef: "web", MemoryMiB: 128, DiskMiB: 100, VCPUs: 1, WhenFull: fleet.WhenFullWait})
		switch fleet.KindOf(err) {
		case "":
			made.Add(1)
		case fleet.KindConflict:
			refused.Add(1)
		default:
			t.Errorf("%v", err)
		}
	})
	require.Equal(t, []int32{1, 9}, []int32{made.Load(), refused.Load()})
	e := w.start(setup{})
	w.settled()
	e.stop()
	w.invariants()
}

// Several processes share the work while clients ask for this and that, and
// delete what is being worked on.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	engines := []*worker{w.start(setup{slots: 4}), w.start(setup{slots: 4}), w.start(setup{})}
	const n = 24
	ids := make([]fleet.InstallationID, n)
	at(n, func(i int) {
		ids[i] = fleet.InstallationID(fleet.NewID())
		_, err := w.store.CreateInstallation(w.ctx, fleet.NewInstallation{ID: ids[i], OperationID: fleet.OperationID(fleet.NewID()),
			Name: fmt.Sprintf("many-%d", i), Owner: "acme", PackageRef: []string{"web", "plain"}[i%2], MemoryMiB: 128, DiskMiB: 100, VCPUs: 1, WhenFull: fleet.WhenFullWait})
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		w.wake()
		value := "2"
		ask := func(kind fleet.OperationKind, env map[string]*string) {
			_, err := w.store.ChangeInstallation(w.ctx, fleet.Change{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: string(ids[i]), Kind: kind, Env: env})
			if err != nil && fleet.KindOf(err) != fleet.KindNotAccepted {
				t.Errorf("%s: %v", kind, err)
			}
			w.wake()
		}
		ask(fleet.OperationUpdate, map[string]*string{"A": &value})
		ask(fleet.OperationHibernate, nil)
		ask(fleet.OperationWake, nil)
		ask(fleet.OperationRestart, nil)
		if i%3 == 0 {
			ask(fleet.OperationDelete, nil)
		}
	})
	w.settled()
	// Where deletions come in the middle of something.
	at(n, func(i int) {
		for _, kind := range []fleet.OperationKind{fleet.OperationHibernate, fleet.OperationDelete} {
			if i%3 == 1 {
				_, err := w.store.ChangeInstallation(w.ctx, fleet.Change{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: string(ids[i]), Kind: kind})
				if err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				w.wake()
			}
		}
	})
	w.settled()
	for _, e := range engines {
		e.stop()
	}
	w.invariants()
	for i, id := range ids {
		want := "stable"
		if i%3 != 2 {
			want = "deleted"
		}
		require.Equal(t, []string{want}, w.strings(`SELECT state FROM installation WHERE id = $1`, id))
	}
}

func TestAFullClusterWaitsUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	w.createCluster(clusterName, map[string]string{"memory_mib": "300"})
	_, err := w.store.CreatePackage(w.ctx, fleet.Package{Name: "web", Version: "1", Digest: "d", Kernel: fleet.KernelLinux, Manifest: fleet.Manifest{Program: "/web", Persist: []string{"/data"}}})
	require.NoError(t, err)
	first, second := w.another("first", "web"), w.another("second", "web")
	e := w.start(setup{})
	third := w.newCase(scenario{name: "third", end: "stable"})
	waiting := third.create(nil, "web")
	w.eventually(func() bool {
		op, err := w.store.Operation(w.ctx, waiting)
		return err == nil && op.WaitReason == fleet.WaitCapacity
	}, third.last)
	require.Equal(t, "creation-in-progress", third.state())
	_, err = w.store.CreateInstallation(w.ctx, fleet.NewInstallation{ID: fleet.InstallationID(fleet.NewID()), OperationID: fleet.OperationID(fleet.NewID()),
		Name: "fourth", Owner: "acme", PackageRef: "web", MemoryMiB: 128, DiskMiB: 100, VCPUs: 1, WhenFull: fleet.WhenFullRefuse})
	require.Equal(t, fleet.KindCapacity, fleet.KindOf(err))
	// One that sleeps makes room; it can't be woken until there is some again.
	w.finished(first.ask(fleet.OperationHibernate, nil))
	w.finished(waiting)
	third.verify()
	wake := first.ask(fleet.OperationWake, nil)
	w.eventually(func() bool {
		op, err := w.store.Operation(w.ctx, wake)
		return err == nil && op.WaitReason == fleet.WaitCapacity
	}, first.last)
	w.finished(second.remove())
	w.finished(wake)
	e.stop()
	first.verify()
	second.gone()
}

// lookOften has a step that waits look again soon.
func lookOften(_ fleet.OperationKind, _ string, run engine.Run) engine.Run {
	return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		out, err := run(ctx, s)
		out.After = min(out.After, 10*time.Millisecond)
		return out, err
	}
}

func TestUnhealthyInTimeSaysWhatItWaitedFor(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	w.health = 200 * time.Millisecond
	w.createCluster(clusterName, map[string]string{"boot_time": "1h"})
	_, err := w.store.CreatePackage(w.ctx, fleet.Package{Name: "web", Version: "1", Digest: "d", Kernel: fleet.KernelLinux, Manifest: fleet.Manifest{Program: "/web", Persist: []string{"/data"}}})
	require.NoError(t, err)
	c := w.newCase(scenario{name: "slow", end: "creation-failed"})
	e := w.start(setup{wrap: lookOften})
	op := w.finished(c.create(nil, "web"))
	c.verify()
	require.Equal(t, fleet.ReasonNotHealthy, op.FailReason)
	// The claim wiped out what the operation had waited for, just before it was to be told.
	require.Contains(t, op.Error, "waiting-for-health")
	w.finished(c.remove())
	e.stop()
	c.gone()
}

// A process that is killed gives nothing back: its lease has to run out.
func TestTakeOverWhenTheLeaseHasRunOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.newCase(scenario{name: "orphan", end: "stable"})
	steps := &ranSteps{last: map[fleet.OperationID][2]string{}}
	cutting := &cutStore{kind: fleet.OperationCreate, step: "start-instance", n: 1, steps: steps, dead: make(chan struct{})}
	first := w.start(setup{wrap: steps.wrap, lease: 500 * time.Millisecond, store: func(real engine.Store) engine.Store { cutting.Store = real; return cutting }})
	id := c.create(nil, "web")
	w.received(cutting.dead)
	first.stop()
	second := w.start(setup{lease: 500 * time.Millisecond})
	op := w.finished(id)
	second.stop()
	require.Equal(t, second.name, fleet.WorkerID(fmt.Sprintf("worker-%d", w.workers)))
	require.Greater(t, op.Epoch, fleet.Epoch(1))
	c.verify()
}

func TestTheDatabaseCutsItsConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.start(setup{})
	const n = 10
	var ids []fleet.OperationID
	for i := range n {
		ids = append(ids, w.newCase(scenario{name: fmt.Sprintf("cut-%d", i)}).create(nil, "web"))
	}
	for range 15 {
		w.strings(`SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'observer'`)
		w.wake()
	}
	for _, id := range ids {
		w.eventually(func() bool {
			op, err := w.store.Operation(w.ctx, id)
			return err == nil && op.State.Finished()
		}, func() string { return string(id) })
	}
	e.stop()
	w.invariants()
	require.Len(t, w.strings(`SELECT id FROM installation WHERE state = 'stable'`), n)
}
