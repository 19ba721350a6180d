package integration

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
	"dormouse/internal/store"
	"dormouse/internal/supervisor/engine"
)

// pool opens a pool of its own on the world's database.
func (w *world) pool(name string, conns int) *store.Store {
	w.t.Helper()
	s, err := store.Open(w.ctx, store.Options{URL: w.url, MaxConns: conns, Name: name, Wait: 300 * time.Millisecond})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = s.Close() })
	return s
}

// Every connection of the API is held by a request that the database lets
// stand. The engine has connections of its own: it works on, and extends leases.
func TestOutageSlowRequestsHoldEveryConnectionOfTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	front, enginePool := w.api(w.pool("api", 4)), w.pool("engine", 4)
	require.Equal(t, http.StatusOK, front.get("/api/v1/groups", nil).StatusCode, "the statement is known")
	longStep, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	lease := time.Second
	e := w.start(setup{lease: lease, store: func(engine.Store) engine.Store { return enginePool },
		wrap: func(_ fleet.OperationKind, step string, run engine.Run) engine.Run {
			return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
				if step == "start-instance" && s.Installation.Name == "long-1" {
					once.Do(func() { close(longStep); <-leave })
				}
				return run(ctx, s)
			}
		}})
	long := w.newCase(scenario{name: "long", end: "stable"})
	longOp := long.create(nil, "web")
	w.received(longStep)
	before, err := w.store.Operation(w.ctx, longOp)
	require.NoError(t, err)
	began := time.Now()

	lock, err := w.db.BeginTx(w.ctx, nil)
	require.NoError(t, err)
	defer func() { _ = lock.Rollback() }()
	_, err = lock.Exec(`LOCK TABLE installation_group IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	var slow sync.WaitGroup
	for range 3 {
		slow.Go(func() {
			answer, err := http.Get(front.server.URL + "/api/v1/groups")
			if err != nil {
				t.Error(err)
				return
			}
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Errorf("who had a connection was answered with %s", answer.Status)
			}
		})
	}
	w.eventually(func() bool {
		return slices.Equal(w.numbers(`SELECT count(*) FROM pg_locks WHERE relation = 'installation_group'::regclass AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`), []int{3})
	}, func() string { return "three requests stand" })

	var problem client.Problem
	answer := front.get("/api/v1/installations", &problem)
	require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode, "it is told to come again, and soon")
	require.Equal(t, "1", answer.Header.Get("Retry-After"))
	require.Equal(t, "unavailable", problem.Kind)
	require.Contains(t, problem.Detail, "the api's 3 connections to the database have been busy")
	require.Equal(t, http.StatusOK, front.get("/healthz", nil).StatusCode)
	require.Equal(t, http.StatusOK, front.get("/readyz", nil).StatusCode, "the database takes writes, and that is what is asked")

	// Meanwhile the engine does what it does, for more than a lease.
	other := w.newCase(scenario{name: "other", end: "stable"})
	w.finished(other.create(nil, "web"))
	w.eventually(func() bool { return time.Since(began) > lease+lease/2 }, func() string { return "a lease and more has passed" })
	op, err := w.store.Operation(w.ctx, longOp)
	require.NoError(t, err)
	require.Equal(t, before.Epoch, op.Epoch, "nobody took it over")
	require.Equal(t, e.name, op.Worker)
	require.True(t, op.DueAt.After(began.Add(lease)), "its lease was extended: it ends at %s", op.DueAt)

	require.NoError(t, lock.Rollback())
	slow.Wait()
	require.Equal(t, http.StatusOK, front.get("/api/v1/installations", nil).StatusCode)
	close(leave)
	w.finished(longOp)
	e.stop()
	long.verify()
	other.verify()
}

// The other way round: the engine has no connection, and the API answers.
func TestOutageTheEngineHasNoConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	front, enginePool := w.api(w.pool("api", 3)), w.pool("engine", 3)
	e := w.start(setup{store: func(engine.Store) engine.Store { return enginePool }})
	first := w.newCase(scenario{name: "first", end: "stable"})
	w.finished(first.create(nil, "web")) // the engine has begun
	held, release := make(chan struct{}), make(chan struct{})
	var holding sync.WaitGroup
	for range 2 {
		holding.Go(func() {
			err := enginePool.InTx(w.ctx, func(*store.Tx) error { held <- struct{}{}; <-release; return nil })
			if err != nil {
				t.Error(err)
			}
		})
		w.received(held)
	}
	c := w.newCase(scenario{name: "patient", end: "stable"})
	op := c.create(nil, "web")
	w.eventually(func() bool { return enginePool.PoolStats().TimedOut > 0 }, func() string { return "the engine waited in vain" })
	for _, path := range []string{"/healthz", "/readyz", "/api/v1/installations", "/api/v1/operations", "/api/v1/installations/" + c.subject} {
		require.Equal(t, http.StatusOK, front.get(path, nil).StatusCode, path)
	}
	var why client.Explanation
	require.Equal(t, http.StatusOK, front.get("/api/v1/installations/"+c.subject+"/explain", &why).StatusCode)
	require.Contains(t, why.Summary, "for a worker")
	close(release)
	holding.Wait()
	w.finished(op)
	e.stop()
	first.verify()
	c.verify()
}
