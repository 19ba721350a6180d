package integration

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/pgtest"
	"dormouse/internal/provider/sim"
	"dormouse/internal/store"
	"dormouse/internal/supervisor/cluster"
	"dormouse/internal/supervisor/engine"
	"dormouse/internal/supervisor/installation"
	"dormouse/internal/supervisor/rollout/steps"
)

const patience = 30 * time.Second

// world is a control plane but for its HTTP: a database, a simulator and engines.
type world struct {
	t      *testing.T
	ctx    context.Context
	url    string
	db     *sql.DB
	store  *store.Store
	sim    *sim.Provider
	images *images
	// sick says of some instances how they end when they are switched on; cured takes that back.
	sick  sync.Map
	cured atomic.Bool
	// blind: nobody's health can be told.
	blind atomic.Bool
	// sickness: everybody is said to be unhealthy.
	sickness atomic.Bool
	// health bounds the wait for health.
	health time.Duration
	// booting: no answer to a switching on says that it is on already, however
	// slow the machine that the tests run on.
	booting bool
	// clock is the time, and poll how often engines look for work though nothing called.
	clock engine.Clock
	poll  time.Duration
	// changed is told of commits, and has room for one.
	changed chan struct{}

	mu      sync.Mutex
	engines map[*worker]bool
	workers int
	cases   int
	// life is where the events read so far have brought each resource.
	life      map[string]string
	lastEvent int64
	// steps are those of each scenario, once they are known.
	steps map[string][]string
}

const clusterName = "local"

// newWorld makes one with a stable cluster and two packages.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := bareWorld(t)
	w.booting = true
	w.createCluster(clusterName, map[string]string{"hosts": "3", "boot_time": "2ms", "stop_time": "1ms", "memory_mib": "100000", "disk_mib": "100000"})
	for _, p := range []fleet.Package{
		{Name: "web", Version: "1", Digest: "d1", Kernel: fleet.KernelLinux, Manifest: fleet.Manifest{Program: "/web", Persist: []string{"/data"},
			Ports: []fleet.Port{{Number: 80, Protocol: fleet.ProtocolHTTP}}}},
		{Name: "web2", Version: "1", Digest: "d3", Kernel: fleet.KernelLinux, Manifest: fleet.Manifest{Program: "/web", Persist: []string{"/data"},
			Ports: []fleet.Port{{Number: 80, Protocol: fleet.ProtocolHTTP}}}},
		{Name: "bad", Version: "1", Digest: "d4", Kernel: fleet.KernelLinux, Manifest: fleet.Manifest{Program: "/web", Persist: []string{"/data"},
			Ports: []fleet.Port{{Number: 80, Protocol: fleet.ProtocolHTTP}}, Env: map[string]string{"SICK": "1"}}},
		{Name: "plain", Version: "1", Digest: "d2", Kernel: fleet.KernelLinux, Manifest: fleet.Manifest{Program: "/plain"}},
	} {
		_, err := w.store.CreatePackage(w.ctx, p)
		require.NoError(t, err)
	}
	return w
}

func migrate(ctx context.Context, url string) error {
	_, _, err := store.Migrate(ctx, url)
	return err
}

func bareWorld(t *testing.T) *world {
	t.Helper()
	return newBareWorld(t, pgtest.NewMigrated(t, migrate), wallClock{}, sim.Options{})
}

// open opens the test's own sessions.
func (w *world) open(url string) *sql.DB {
	w.t.Helper()
	db, err := sql.Open("postgres", url+"&application_name=observer")
	require.NoError(w.t, err)
	return db
}

func newBareWorld(t *testing.T, url string, clock engine.Clock, o sim.Options) *world {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{URL: url, MaxConns: 6})
	require.NoError(t, err)
	w := &world{t: t, ctx: context.WithoutCancel(t.Context()), url: url, store: s, engines: map[*worker]bool{}, images: &images{}, health: 2 * time.Minute,
		clock: clock, poll: time.Second,
		changed: make(chan struct{}, 1), life: map[string]string{}, steps: map[string][]string{}}
	w.db = w.open(url)
	o.OnChange, o.LedgerSize = w.signal, 1<<16
	w.sim, err = sim.New(o)
	require.NoError(t, err)
	t.Cleanup(func() {
		w.mu.Lock()
		left := len(w.engines)
		w.mu.Unlock()
		require.Zero(t, left, "engines that were not stopped")
		require.NoError(t, w.sim.Close())
		_ = s.Close()
		_ = w.db.Close()
	})
	return w
}

func (w *world) signal(id fleet.InstanceID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := range w.engines {
		e.Signal(string(id))
	}
}

// wake is what an API does after it has accepted something.
func (w *world) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := range w.engines {
		e.Wake()
	}
}

func (w *world) createCluster(name string, settings map[string]string) fleet.ClusterView {
	w.t.Helper()
	c, err := w.store.CreateCluster(w.ctx, newCluster(name, settings))
	require.NoError(w.t, err)
	e := w.start(setup{})
	w.finished(c.Operation.ID)
	e.stop()
	c, err = w.store.Cluster(w.ctx, string(c.ID))
	require.NoError(w.t, err)
	require.Equal(w.t, fleet.ClusterStable, c.State, "%s", c.StateDetail)
	return c
}

func newCluster(name string, settings map[string]string) fleet.NewCluster {
	return fleet.NewCluster{ID: fleet.ClusterID(fleet.NewID()), OperationID: fleet.OperationID(fleet.NewID()), Name: name,
		Provider: fleet.ProviderSim, Settings: settings}
}

// allWorkflows are those of a provisioner.
func allWorkflows(w *world, p *provider, still bool) []*engine.Workflow {
	o := installation.Options{Secrets: opener{}}
	if w != nil {
		place := installation.Place{Provider: p, Images: w.images}
		if still {
			place.Provider = struct {
				installation.Provider
				installation.Volumes
			}{p, p}
		}
		o.Places = map[fleet.ProviderKind]installation.Place{fleet.ProviderSim: place}
		o.HealthDeadline = w.health
	}
	all := append(installation.Workflows(o), cluster.Workflows(map[fleet.ProviderKind]cluster.Provider{fleet.ProviderSim: p})...)
	if w == nil {
		return append(all, steps.Workflow(steps.Options{}), cluster.Drain(cluster.DrainOptions{}))
	}
	return append(all, steps.Workflow(steps.Options{Store: w.store, Log: logrus.StandardLogger(), Health: w.healths, Query: steps.Query}),
		cluster.Drain(cluster.DrainOptions{Store: w.store, FirstBackoff: 20 * time.Millisecond, MaxBackoff: 100 * time.Millisecond}))
}

// healths is what a cluster's provider says of its installations.
func (w *world) healths(_ context.Context, id fleet.ClusterID) (steps.Health, error) {
	all := map[fleet.InstallationID]fleet.HealthState{}
	for _, st := range w.simInstances(id) {
		if st.Power == fleet.PowerOn && !st.Clone {
			all[st.InstallationID] = st.Health
			if w.blind.Load() {
				all[st.InstallationID] = fleet.HealthUnknown
			}
			if w.sickness.Load() {
				all[st.InstallationID] = fleet.HealthUnhealthy
			}
		}
	}
	return steps.Health{Of: all}, nil
}

// setup says what is done to an engine's steps and calls; the zero value is nothing.
type setup struct {
	// wrap replaces the function of a step.
	wrap func(kind fleet.OperationKind, step string, run engine.Run) engine.Run
	// store stands before the real one.
	store func(engine.Store) engine.Store
	// gate stops calls of the provider.
	gate *gate
	// still: volumes can't be moved.
	still bool
	lease time.Duration
	slots int
}

// worker is an engine that runs.
type worker struct {
	*engine.Engine
	w      *world
	name   fleet.WorkerID
	cancel context.CancelFunc
	done   chan error
}

func (w *world) start(s setup) *worker {
	w.t.Helper()
	w.mu.Lock()
	w.workers++
	x := &worker{w: w, name: fleet.WorkerID(fmt.Sprintf("worker-%d", w.workers)), done: make(chan error, 1)}
	w.mu.Unlock()
	log := logrus.New()
	log.SetOutput(w.t.Output())
	log.SetLevel(logrus.WarnLevel)
	flows := allWorkflows(w, &provider{Provider: w.sim, w: w, gate: s.gate}, s.still)
	if s.wrap != nil {
		for _, f := range flows {
			f.Steps, f.Rollback = slices.Clone(f.Steps), slices.Clone(f.Rollback) // workflows share some
			for _, steps := range [][]engine.Step{f.Steps, f.Rollback} {
				for i := range steps {
					steps[i].Run = s.wrap(f.Kind, steps[i].Name, steps[i].Run)
				}
			}
		}
	}
	o := engine.Options{
		Store: w.store, Workflows: flows, Worker: x.name, Clock: w.clock, Log: log, Poll: w.poll, Lease: s.lease, Slots: s.slots,
		FirstBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond,
		OnCommit: func(fleet.OperationID, fleet.InstallationID) {
			select {
			case w.changed <- struct{}{}:
			default:
			}
		},
	}
	if s.store != nil {
		o.Store = s.store(w.store)
	}
	e, err := engine.New(o)
	require.NoError(w.t, err)
	x.Engine = e
	ctx, cancel := context.WithCancel(w.ctx)
	x.cancel = cancel
	w.mu.Lock()
	w.engines[x] = true
	w.mu.Unlock()
	go func() { x.done <- e.Run(ctx); close(x.done) }()
	return x
}

// stop ends the engine; it may have been killed, or stopped before.
func (x *worker) stop() {
	x.w.t.Helper()
	x.cancel()
	x.w.mu.Lock()
	delete(x.w.engines, x)
	x.w.mu.Unlock()
	select {
	case <-x.done:
	case <-time.After(patience):
		require.FailNow(x.w.t, "the engine does not stop")
	}
}

func (w *world) finished(id fleet.OperationID) fleet.Operation {
	w.t.Helper()
	var op fleet.Operation
	w.eventually(func() bool {
		var err error
		op, err = w.store.Operation(w.ctx, id)
		return err == nil && op.State.Finished()
	}, func() string { return fmt.Sprintf("operation %s stands at %+v", id, op) })
	return op
}

func (w *world) eventually(cond func() bool, what func() string) {
	w.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			require.FailNow(w.t, "this did not come true", what())
		case <-w.changed:
		case <-tick.C:
		}
	}
}

type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

func (wallClock) AfterFunc(d time.Duration, f func()) func() {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}
