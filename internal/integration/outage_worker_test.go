package integration

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
	"dormouse/internal/provider/sim"
	"dormouse/internal/supervisor/engine"
)

// mortal is a store that is out of reach once its process has died.
type mortal struct {
	engine.Store
	dead atomic.Bool
}

func (m *mortal) wrap(real engine.Store) engine.Store {
	m.Store = real
	return m
}

func (m *mortal) gone() error {
	if m.dead.Load() {
		return errKilled
	}
	return nil
}

func (m *mortal) Claim(ctx context.Context, in fleet.ClaimRequest) ([]fleet.Snapshot, error) {
	if err := m.gone(); err != nil {
		return nil, err
	}
	return m.Store.Claim(ctx, in)
}

func (m *mortal) Commit(ctx context.Context, results []fleet.Result) ([]fleet.Committed, error) {
	if err := m.gone(); err != nil {
		return nil, err
	}
	return m.Store.Commit(ctx, results)
}

func (m *mortal) Extend(ctx context.Context, held map[fleet.OperationID]fleet.Epoch, lease time.Duration) (map[fleet.OperationID]bool, error) {
	if err := m.gone(); err != nil {
		return nil, err
	}
	return m.Store.Extend(ctx, held, lease)
}

func (m *mortal) Release(ctx context.Context, worker fleet.WorkerID) (int64, error) {
	if err := m.gone(); err != nil {
		return 0, err
	}
	return m.Store.Release(ctx, worker)
}

// killable starts an engine that can be killed: nothing of it reaches the database any more.
func (w *world) killable(s setup) (kill func()) {
	m := &mortal{}
	s.store = m.wrap
	e := w.start(s)
	return func() {
		m.dead.Store(true)
		e.stop()
	}
}

// everything is every row that work may change, to be compared.
func (w *world) everything() []string {
	return w.strings(`SELECT 'i' || to_jsonb(x)::text FROM installation x UNION ALL SELECT 'o' || to_jsonb(x)::text FROM operation x
		UNION ALL SELECT 'x' || to_jsonb(x)::text FROM instance x UNION ALL SELECT 'v' || to_jsonb(x)::text FROM volume x
		UNION ALL SELECT 'e' || to_jsonb(x)::text FROM event x UNION ALL SELECT 'h' || to_jsonb(x)::text FROM host x ORDER BY 1`)
}

// A worker is stopped in the middle of a call (SIGSTOP, a frozen machine, a long
// pause of the collector). Another takes over, finishes, and what it made is
// updated and restarted. Then the first wakes up, and goes on where it was.
func TestOutageAStaleWorkerWritesAfterANewerOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := newGate(2) // the machine, after its volume
	stale := w.start(setup{gate: g})
	c := w.newCase(scenario{name: "contested", end: "stable"})
	id := c.create(nil, "web")
	w.received(g.arrived)
	before, err := w.store.Operation(w.ctx, id)
	require.NoError(t, err)
	_, err = w.store.Release(w.ctx, stale.name) // its lease has run out
	require.NoError(t, err)
	newer := w.start(setup{})
	w.finished(id)
	w.finished(c.ask(fleet.OperationUpdate, env("A", "2")))
	w.finished(c.ask(fleet.OperationRestart, nil))
	w.settled()

	rows, calls := w.everything(), len(w.sim.Ledger())
	close(g.leave)
	require.Equal(t, fleet.KindFenced, fleet.KindOf(<-g.result), "the provider knows of the newer one")
	// And what it would have committed, had the provider not told it.
	committed, err := w.store.Commit(w.ctx, []fleet.Result{{Kind: fleet.OperationCreate, OperationID: id, Epoch: before.Epoch, InstallationID: fleet.InstallationID(c.id),
		State: fleet.OperationFailed, From: "creation-in-progress", To: "creation-failed", Step: "start-instance"}})
	require.NoError(t, err)
	require.True(t, committed[0].Stale)
	stale.stop()
	newer.stop()
	require.Equal(t, rows, w.everything(), "not one row has changed")
	for _, entry := range w.sim.Ledger()[calls:] {
		require.Equal(t, sim.EffectNone, entry.Effect, "%+v", entry)
	}
	c.verify()
}

// Some 500 operations are held by one process when it dies: all leases run out in
// the same moment. Taking them over costs about what the work itself costs.
func TestOutageAllLeasesRunOutAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`CREATE EXTENSION IF NOT EXISTS pg_stat_statements`)
	const n = 500
	round := func(name string, die bool) (statements int, took time.Duration) {
		for i := range n {
			_, err := w.store.CreateInstallation(w.ctx, fleet.NewInstallation{ID: fleet.InstallationID(fleet.NewID()), OperationID: newOp(),
				Name: fmt.Sprintf("%s-%d", name, i), Owner: "acme", PackageRef: "plain", ClusterName: clusterName, MemoryMiB: 1, VCPUs: 1, WhenFull: fleet.WhenFullWait})
			require.NoError(t, err)
		}
		if die {
			claimed, err := w.store.Claim(w.ctx, fleet.ClaimRequest{Worker: "the-dead", Interactive: n, Lease: time.Millisecond})
			require.NoError(t, err)
			require.Len(t, claimed, n)
		}
		before, began := w.statements(), time.Now()
		first, second := w.start(setup{}), w.start(setup{})
		w.eventually(func() bool {
			return len(w.strings(`SELECT id FROM operation watched WHERE state = 'active' LIMIT 1`)) == 0
		}, func() string { return fmt.Sprint(w.numbers(`SELECT count(*) FROM operation WHERE state = 'active'`)) })
		took = time.Since(began)
		first.stop()
		second.stop()
		return w.statements() - before, took
	}
	plain, plainTook := round("calm", false)
	after, afterTook := round("storm", true)
	t.Logf("%d operations: %d statements in %s; after their worker's death %d in %s", n, plain, plainTook, after, afterTook)
	require.LessOrEqual(t, after, 2*plain+50, "statements to take over and finish, beside those to finish")
	require.Less(t, afterTook, 3*plainTook+10*time.Second)
	w.invariants()
	w.none("a machine was made twice", `SELECT installation_id FROM instance GROUP BY 1 HAVING count(*) > 1`)
}

// statements counts what the world's database was asked, but for what the test itself looks at.
func (w *world) statements() int {
	w.t.Helper()
	return w.numbers(`SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements
		WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND query NOT ILIKE ALL (ARRAY['begin%', 'commit%', 'rollback%', '%pg_stat_statements%', '%operation watched%'])`)[0]
}

// One installation makes its step panic, one fails whatever is tried, one has a row that
// nobody can read, one's outcome the database refuses. The others do not notice.
func TestOutagePoisonStopsOnlyItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	poison := map[string]func() (fleet.Outcome, error){
		"panics": func() (fleet.Outcome, error) { panic("injected: a nil pointer, say") },
		"fails":  func() (fleet.Outcome, error) { return fleet.Outcome{}, errors.New("injected: it can't be done") },
		"refused": func() (fleet.Outcome, error) {
			return fleet.Wait(time.Hour, fleet.WaitHealthy, "a zero byte, which no text of Postgres may hold: \x00"), nil
		},
	}
	create := func(name string) *kase {
		c := w.newCase(scenario{name: name, end: "stable"})
		c.create(nil, "web")
		return c
	}
	var good []*kase
	bad := map[string]*kase{}
	for i := range 8 {
		good = append(good, create(fmt.Sprintf("good-%d", i)))
	}
	for _, name := range []string{"panics", "fails", "refused", "unreadable"} {
		bad[name] = create(name)
	}
	w.exec(`UPDATE installation SET env = '{"A": {"nested": 1}}' WHERE name = $1`, bad["unreadable"].subject)
	e := w.start(setup{slots: 4, wrap: func(_ fleet.OperationKind, step string, run engine.Run) engine.Run {
		return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			for name, p := range poison {
				if step == "start-instance" && s.Installation.Name == bad[name].subject {
					return p()
				}
			}
			return run(ctx, s)
		}
	}})
	w.settled()
	for _, c := range good {
		require.Equal(t, "stable", c.state(), "%s", c.last())
	}
	for name, said := range map[string]string{"panics": "panic: injected", "fails": "injected: it can't be done", "refused": "storing the outcome", "unreadable": "decoding a stored JSON column"} {
		require.Equal(t, "creation-failed", bad[name].state(), "%s", bad[name].last())
		require.Contains(t, bad[name].last(), said)
	}
	// They can be deleted, the unreadable one when its row is mended.
	w.exec(`UPDATE installation SET env = '{}' WHERE name = $1`, bad["unreadable"].subject)
	for _, c := range bad {
		w.finished(c.remove())
		require.Equal(t, "deleted", c.state(), "%s", c.last())
	}
	e.stop()
	w.invariants()
}

// A power cut, or an upgrade of everything: all processes end in the middle of
// something, the database's sessions with them, and all come back in one moment.
func TestOutageEverythingRestartsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 40
	lease := 500 * time.Millisecond
	var kills []func()
	for range 3 {
		kills = append(kills, w.killable(setup{lease: lease, slots: 8}))
	}
	var cases []*kase
	for i := range n {
		c := w.newCase(scenario{name: fmt.Sprintf("many-%d", i), end: "stable"})
		c.create(nil, []string{"web", "plain"}[i%2])
		cases = append(cases, c)
	}
	for round := range 4 {
		least := 20 * (round + 1)
		w.eventually(func() bool { return w.numbers(`SELECT count(*) FROM event`)[0] > least }, func() string { return "something was done" })
		var dying sync.WaitGroup
		for _, kill := range kills {
			dying.Go(kill)
		}
		dying.Wait()
		w.strings(`SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'observer'
			AND backend_type = 'client backend'`)
		kills = nil
		for range 3 {
			kills = append(kills, w.killable(setup{lease: lease, slots: 8}))
		}
		if round == 1 {
			for _, c := range cases[:10] {
				value := "2"
				w.eventually(func() bool { // the store's sessions were cut as well
					_, err := w.store.ChangeInstallation(w.ctx, fleet.Change{OperationID: newOp(), IDOrName: c.id, Kind: fleet.OperationUpdate, Env: map[string]*string{"A": &value}})
					return err == nil
				}, c.last)
			}
		}
	}
	w.settled()
	for _, kill := range kills {
		kill()
	}
	for _, c := range cases {
		require.Equal(t, "stable", c.state(), "%s", c.last())
	}
	w.invariants()
	w.none("a change that was acknowledged was lost", `SELECT name FROM installation i WHERE env ->> 'A' = '2'
		AND NOT EXISTS (SELECT FROM instance x WHERE x.installation_id = i.id AND x.deleted_at IS NULL AND x.spec -> 'env' ->> 'A' = '2')`)
	made := map[string]int{}
	for _, entry := range w.sim.Ledger() {
		if entry.Effect == sim.EffectCreated {
			made[entry.Object]++
			require.Equal(t, 1, made[entry.Object], "%s was made twice", entry.Object)
		}
	}
}

// shift moves the database's time ahead.
func (w *world) shift(by time.Duration) {
	w.t.Helper()
	w.exec(fmt.Sprintf(`CREATE OR REPLACE FUNCTION dormouse_now() RETURNS timestamptz LANGUAGE sql STABLE AS $$SELECT now() + interval '%d ms'$$`, by.Milliseconds()))
}

// Everything was down for a night. Leases and deadlines have passed meanwhile,
// and nothing is held to be late: nobody looked.
func TestOutageLeasesAndDeadlinesPassedWhileAllWasDown(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	w.createCluster(clusterName, map[string]string{"boot_time": "300ms"})
	_, err := w.store.CreatePackage(w.ctx, fleet.Package{Name: "web", Version: "1", Digest: "d", Kernel: fleet.KernelLinux, Manifest: fleet.Manifest{Program: "/web", Persist: []string{"/data"}}})
	require.NoError(t, err)
	w.health = time.Minute
	reached := make(chan struct{})
	leave := make(chan struct{})
	var once sync.Once
	kill := w.killable(setup{wrap: func(_ fleet.OperationKind, step string, run engine.Run) engine.Run {
		return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			switch {
			case s.Installation == nil || step != "await-healthy":
			case s.Installation.Name == "held-1":
				once.Do(func() { close(reached) })
				<-leave
			default:
				return fleet.Wait(patience, fleet.WaitHealthy, "it boots"), nil
			}
			return run(ctx, s)
		}
	}})
	held := w.newCase(scenario{name: "held", end: "stable"})   // a worker is at it
	waits := w.newCase(scenario{name: "waits", end: "stable"}) // it is to be looked at again later
	first, second := held.create(nil, "web"), waits.create(nil, "web")
	w.received(reached)
	w.eventually(func() bool {
		op, err := w.store.Operation(w.ctx, second)
		return err == nil && op.WaitDetail == "it boots"
	}, waits.last)
	close(leave)
	kill()

	w.shift(8 * time.Hour)
	w.none("the night is over all deadlines", `SELECT resource_name FROM operation WHERE state = 'active' AND step_deadline_at > dormouse_now()`)
	e := w.start(setup{})
	for _, op := range []fleet.OperationID{first, second} {
		require.Equal(t, fleet.OperationSucceeded, w.finished(op).State, "%s %s", held.last(), waits.last())
	}
	e.stop()
	held.verify()
	waits.verify()
}
