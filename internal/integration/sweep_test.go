package integration

import (
	"context"
	"fmt"
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
)

// sweepClock is the real time, shifted.
type sweepClock struct{ ahead atomic.Int64 }

func (c *sweepClock) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *sweepClock) AfterFunc(d time.Duration, f func()) func() {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}

func (c *sweepClock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

type sweepImages struct{}

func (sweepImages) Ensure(_ context.Context, p fleet.Package) (fleet.ImageID, error) {
	return fleet.ImageID("image-" + p.Digest), nil
}

// sweepPlane is one control plane on its own, with what world has not: a store, the simulator, an engine, a watcher.
type sweepPlane struct {
	store  *store.Store
	sim    *sim.Provider
	engine *engine.Engine
	places map[fleet.ProviderKind]installation.Place
	log    logrus.FieldLogger
	// deaf are the instances of whose changes the watcher is not told.
	deaf sync.Map
}

// newSweepPlane runs until the test and its subtests have ended.
func newSweepPlane(t *testing.T) *sweepPlane {
	ctx := context.Background()
	p := &sweepPlane{}
	var err error
	p.store, err = store.Open(ctx, store.Options{URL: pgtest.NewMigrated(t, migrate)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.store.Close()) })
	log := logrus.New()
	log.SetOutput(t.Output())
	log.SetLevel(logrus.WarnLevel)
	p.log = log
	p.sim, err = sim.New(sim.Options{OnChange: func(id fleet.InstanceID) { p.engine.Signal(string(id)) }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.sim.Close()) })
	p.places = map[fleet.ProviderKind]installation.Place{fleet.ProviderSim: {Provider: p.sim, Images: sweepImages{}}}
	var watcher *installation.Watcher
	p.engine, err = engine.New(engine.Options{
		Store: p.store, Worker: "w1", Clock: &sweepClock{}, Log: p.log, Poll: 200 * time.Millisecond,
		Workflows: append(installation.Workflows(installation.Options{Places: p.places}),
			cluster.Workflows(map[fleet.ProviderKind]cluster.Provider{fleet.ProviderSim: p.sim})...),
		Unsolicited: func(key string) {
			if _, deaf := p.deaf.Load(fleet.InstanceID(key)); !deaf {
				watcher.Notify(key)
			}
		},
	})
	require.NoError(t, err)
	watcher = installation.NewWatcher(installation.WatcherOptions{
		Store: p.store, Places: p.places, Clock: &sweepClock{}, Log: p.log,
		Endings: installation.NewEndings(p.store, p.store, p.engine.Wake, &sweepClock{}, p.log),
	})
	run, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = p.engine.Run(run) })
	running.Go(func() { _ = watcher.Run(run) })
	t.Cleanup(func() { stop(); running.Wait() })
	_, err = p.store.CreatePackage(ctx, fleet.Package{Name: "web", Version: "1", Digest: "d1", Kernel: fleet.KernelLinux,
		Manifest: fleet.Manifest{Program: "/web", Restart: fleet.RestartAlways, Persist: []string{"/data"},
			Ports: []fleet.Port{{Number: 80, Protocol: fleet.ProtocolHTTP}}}})
	require.NoError(t, err)
	return p
}

// sweepSite is a cluster of its own with a sweeper and a clock of its own.
type sweepSite struct {
	*sweepPlane
	t       *testing.T
	clock   *sweepClock
	cluster fleet.Cluster
	sweeper *installation.Sweeper
}

func (p *sweepPlane) site(t *testing.T) *sweepSite {
	s := &sweepSite{sweepPlane: p, t: t, clock: &sweepClock{}}
	in := fleet.NewCluster{ID: fleet.ClusterID(fleet.NewID()), OperationID: fleet.OperationID(fleet.NewID()), Provider: fleet.ProviderSim}
	in.Name = "c-" + string(in.ID)
	_, err := p.store.CreateCluster(t.Context(), in)
	require.NoError(t, err)
	p.engine.Wake()
	require.Eventually(t, func() bool {
		c, err := p.store.Cluster(t.Context(), in.Name)
		require.NoError(t, err)
		s.cluster = c.Cluster
		return c.State == fleet.ClusterStable
	}, time.Minute, 5*time.Millisecond)
	s.sweeper = installation.NewSweeper(installation.SweeperOptions{
		Store: agedStore{p.store, s.clock}, Places: p.places, Clock: s.clock, Log: p.log,
		Endings: installation.NewEndings(p.store, p.store, p.engine.Wake, s.clock, p.log),
	})
	return s
}

// agedStore has rows rest for as long as a site's clock is ahead: the sites share a
// database, and its clock.
type agedStore struct {
	installation.SweepStore
	clock *sweepClock
}

func (s agedStore) ExpectedInstances(ctx context.Context, cluster fleet.ClusterID) ([]fleet.ExpectedInstance, error) {
	rows, err := s.SweepStore.ExpectedInstances(ctx, cluster)
	for i := range rows {
		rows[i].Rested += time.Duration(s.clock.ahead.Load())
	}
	return rows, err
}

// create makes installations and returns them when they are stable.
func (s *sweepSite) create(n int) []fleet.InstallationView {
	s.t.Helper()
	ids := make([]fleet.InstallationID, n)
	for i := range n {
		ids[i] = fleet.InstallationID(fleet.NewID())
		_, err := s.store.CreateInstallation(s.t.Context(), fleet.NewInstallation{ID: ids[i], OperationID: fleet.OperationID(fleet.NewID()),
			Name: fmt.Sprintf("n%s", ids[i]), Owner: "acme", PackageRef: "web", ClusterName: s.cluster.Name,
			MemoryMiB: 128, DiskMiB: 64, VCPUs: 1, WhenFull: fleet.WhenFullWait})
		require.NoError(s.t, err)
	}
	s.engine.Wake()
	views := make([]fleet.InstallationView, n)
	for i, id := range ids {
		views[i] = s.await(id, fleet.StateStable)
	}
	return views
}

func (s *sweepSite) await(id fleet.InstallationID, state fleet.State) (v fleet.InstallationView) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		var err error
		v, err = s.store.Installation(s.t.Context(), "", string(id))
		require.NoError(s.t, err)
		return v.State == state
	}, time.Minute, 5*time.Millisecond, "state %s", state)
	return v
}

// restarted waits until a restart has brought the installation back.
func (s *sweepSite) restarted(id fleet.InstallationID) {
	s.t.Helper()
	var v fleet.InstallationView
	defer func() {
		if s.t.Failed() {
			s.t.Logf("it is %s %s (%s), its operation: %+v", v.State, v.StateReason, v.StateDetail, v.Operation)
		}
	}()
	require.Eventually(s.t, func() bool {
		var err error
		v, err = s.store.Installation(s.t.Context(), "", string(id))
		require.NoError(s.t, err)
		return v.State == fleet.StateStable && v.Operation.Kind == fleet.OperationRestart && v.Operation.State == fleet.OperationSucceeded
	}, time.Minute, 5*time.Millisecond)
}

// exit ends the program and waits until the watcher has done something about
// it. The engine keeps a signal to itself that comes in the moment in which it
// lets an operation go (the sweep is there for those), so it is given again.
func (s *sweepSite) exit(v fleet.InstallationView, x fleet.Exit) {
	s.t.Helper()
	require.NoError(s.t, s.sim.SetExit(v.Instance.ID, x))
	require.Eventually(s.t, func() bool {
		got, err := s.store.Installation(s.t.Context(), "", string(v.ID))
		require.NoError(s.t, err)
		if got.Version == v.Version {
			s.engine.Signal(string(v.Instance.ID))
		}
		return got.Version > v.Version
	}, time.Minute, 5*time.Millisecond)
}

func (s *sweepSite) sweep() installation.Report {
	s.t.Helper()
	r, err := s.sweeper.Sweep(s.t.Context(), s.cluster)
	require.NoError(s.t, err)
	return r
}

func (s *sweepSite) epoch() fleet.Epoch {
	s.t.Helper()
	e, err := s.store.NextEpoch(s.t.Context())
	require.NoError(s.t, err)
	return e
}

func (s *sweepSite) power(id fleet.InstanceID) fleet.Power {
	s.t.Helper()
	st, err := s.sim.Observe(s.t.Context(), fleet.InstanceRef{ID: id, ClusterID: s.cluster.ID})
	require.NoError(s.t, err)
	return st.Power
}

// lose makes a machine vanish as if its provider had forgotten it.
func (s *sweepSite) lose(id fleet.InstanceID) {
	s.t.Helper()
	require.NoError(s.t, s.sim.Delete(s.t.Context(), fleet.InstanceRef{ID: id, ClusterID: s.cluster.ID, Epoch: s.epoch()}))
}

func sweepActions(r installation.Report) []installation.Action {
	got := []installation.Action{}
	for _, f := range r.Findings {
		got = append(got, f.Action)
	}
	return got
}

func TestSweep(t *testing.T) {
	t.Parallel()
	p := newSweepPlane(t)
	for name, test := range map[string]func(*testing.T, *sweepSite){
		"NothingAmiss":                  sweepNothingAmiss,
		"StraysAreReapedAfterTheGrace":  sweepStrays,
		"LostMachineComesBack":          sweepLost,
		"CrashLoopIsRecordedByWatcher":  sweepWatched,
		"CrashLoopIsRecordedBySweep":    sweepMissedSignal,
		"LostHostIsBroughtBack":         sweepHostLost,
		"BrokenObserverMeetsTheBrake":   sweepBrokenObserver,
		"ManyLostComeBackOnceConfirmed": sweepManyLost,
		"SecondMachineIsStopped":        sweepDouble,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, p.site(t))
		})
	}
}

func sweepNothingAmiss(t *testing.T, s *sweepSite) {
	s.create(4)
	s.clock.advance(24 * time.Hour)
	r := s.sweep()
	require.Empty(t, r.Findings)
	require.Equal(t, []int{4, 4, 4}, []int{r.Listed, r.ListedVolumes, r.Expected})
}

func sweepStrays(t *testing.T, s *sweepSite) {
	keep := s.create(1)[0]
	// A machine and a volume that no row ever knew of.
	volume, err := s.sim.EnsureVolume(t.Context(), fleet.VolumeSpec{ID: "stray-volume", InstallationID: "nobody", ClusterID: s.cluster.ID, Epoch: s.epoch(), SizeMiB: 8})
	require.NoError(t, err)
	_, err = s.sim.Ensure(t.Context(), fleet.InstanceSpec{ID: "stray", InstallationID: "nobody", ClusterID: s.cluster.ID, Epoch: s.epoch(), MemoryMiB: 64})
	require.NoError(t, err)
	// And a volume that came back after its installation was deleted.
	gone := s.create(1)[0]
	rows, err := s.store.ExpectedVolumes(t.Context(), s.cluster.ID)
	require.NoError(t, err)
	var deleted fleet.VolumeID
	for _, row := range rows {
		if row.InstallationID == gone.ID {
			deleted = row.ID
		}
	}
	require.NotEmpty(t, deleted)
	del, err := s.store.ChangeInstallation(t.Context(), fleet.Change{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: string(gone.ID), Kind: fleet.OperationDelete})
	require.NoError(t, err)
	s.engine.Wake()
	require.Eventually(t, func() bool {
		op, err := s.store.Operation(t.Context(), del.Operation.ID)
		require.NoError(t, err)
		return op.State == fleet.OperationSucceeded
	}, time.Minute, 5*time.Millisecond)
	_, err = s.sim.EnsureVolume(t.Context(), fleet.VolumeSpec{ID: deleted, InstallationID: gone.ID, ClusterID: s.cluster.ID, Epoch: s.epoch(), SizeMiB: 8})
	require.NoError(t, err)

	const wait, del3 = installation.ActionWait, installation.ActionDeleted
	require.Equal(t, []installation.Action{wait, wait, wait}, sweepActions(s.sweep()))
	s.clock.advance(9 * time.Minute)
	require.Equal(t, []installation.Action{wait, wait, wait}, sweepActions(s.sweep()))
	s.clock.advance(time.Minute)
	r := s.sweep()
	require.Equal(t, 2, r.Count(del3), "%+v", r.Findings)
	require.Equal(t, 1, r.Count(wait), "data that nobody knows of waits longer")
	s.clock.advance(24 * time.Hour)
	require.Equal(t, []installation.Action{del3}, sweepActions(s.sweep()))
	require.Empty(t, s.sweep().Findings)
	volumes, err := s.sim.ListVolumes(t.Context(), s.cluster.ID)
	require.NoError(t, err)
	require.Len(t, volumes, 1)
	require.NotEqual(t, volume.ID, volumes[0].ID)
	require.Equal(t, fleet.PowerOn, s.power(keep.Instance.ID))
	// The reaper's epoch stands: who is older than it can't make the machine again.
	_, err = s.sim.Ensure(t.Context(), fleet.InstanceSpec{ID: "stray", InstallationID: "nobody", ClusterID: s.cluster.ID, Epoch: 1, MemoryMiB: 64})
	require.Equal(t, fleet.KindFenced, fleet.KindOf(err))
}

func sweepLost(t *testing.T, s *sweepSite) {
	views := s.create(3)
	lost := views[1]
	s.lose(lost.Instance.ID)
	require.Empty(t, s.sweep().Findings, "its row was written a moment ago")
	s.clock.advance(time.Minute)
	r := s.sweep()
	require.Equal(t, []installation.Action{installation.ActionRestart}, sweepActions(r))
	require.Equal(t, installation.FindingLost, r.Findings[0].Kind)
	s.restarted(lost.ID)
	require.Equal(t, fleet.PowerOn, s.power(lost.Instance.ID))
	s.clock.advance(time.Minute)
	require.Empty(t, s.sweep().Findings)
}

var sweepCrashLoop = fleet.Exit{Reason: fleet.ReasonCrashLoop, Code: 3, LastLines: []string{"config.yaml: no such file"}}

func sweepWatched(t *testing.T, s *sweepSite) {
	v := s.create(1)[0]
	s.exit(v, sweepCrashLoop)
	got := s.await(v.ID, fleet.StateCrashLooping)
	require.Equal(t, fleet.ReasonCrashLoop, got.StateReason)
	require.Contains(t, got.StateDetail, "config.yaml: no such file")
	s.clock.advance(time.Hour)
	require.Empty(t, s.sweep().Findings, "it rests")
	// Somebody acts.
	_, err := s.store.ChangeInstallation(t.Context(), fleet.Change{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: string(v.ID)})
	require.NoError(t, err)
	s.engine.Wake()
	s.await(v.ID, fleet.StateStable)
	require.Equal(t, fleet.PowerOn, s.power(v.Instance.ID))
}

func sweepMissedSignal(t *testing.T, s *sweepSite) {
	v := s.create(2)[0]
	s.deaf.Store(v.Instance.ID, true)
	require.NoError(t, s.sim.SetExit(v.Instance.ID, sweepCrashLoop))
	s.clock.advance(time.Minute)
	require.Equal(t, []installation.Action{installation.ActionRecorded}, sweepActions(s.sweep()))
	got := s.await(v.ID, fleet.StateCrashLooping)
	require.Contains(t, got.StateDetail, "config.yaml: no such file")
	require.Empty(t, s.sweep().Findings)
}

func sweepHostLost(t *testing.T, s *sweepSite) {
	v := s.create(1)[0]
	s.exit(v, fleet.Exit{Reason: fleet.ReasonHostLost, Code: -1})
	s.restarted(v.ID)
	require.Equal(t, fleet.PowerOn, s.power(v.Instance.ID))
}

func sweepBrokenObserver(t *testing.T, s *sweepSite) {
	views := s.create(20)
	broken := s.cluster
	broken.Settings = map[string]string{"fault.partial_list": "1"} // half of it, and it does not say so
	require.NoError(t, s.sim.Configure(broken))
	s.clock.advance(time.Minute)
	r := s.sweep()
	require.Contains(t, r.Brake, "10 of 20 machines that should be on look broken, more than 4")
	require.Equal(t, 10, r.Count(installation.ActionHeld))
	s.clock.advance(2 * time.Minute)
	r = s.sweep()
	require.Zero(t, r.Count(installation.ActionRestart), "the second look finds them on")
	require.NoError(t, s.sim.Configure(s.cluster))
	s.clock.advance(2 * time.Minute)
	require.Empty(t, s.sweep().Findings)
	for _, v := range views {
		got, err := s.store.Installation(t.Context(), "", string(v.ID))
		require.NoError(t, err)
		require.Equal(t, v.Version, got.Version, "nothing was done to it")
	}
}

func sweepManyLost(t *testing.T, s *sweepSite) {
	views := s.create(6)
	for _, v := range views[:5] {
		s.lose(v.Instance.ID)
	}
	s.clock.advance(time.Minute)
	require.Contains(t, s.sweep().Brake, "5 of 6")
	s.clock.advance(2 * time.Minute)
	require.Equal(t, 3, s.sweep().Count(installation.ActionRestart))
	require.Eventually(t, func() bool {
		s.clock.advance(2 * time.Minute)
		return len(s.sweep().Findings) == 0
	}, time.Minute, 50*time.Millisecond)
	for _, v := range views {
		s.await(v.ID, fleet.StateStable)
		require.Equal(t, fleet.PowerOn, s.power(v.Instance.ID))
	}
}

func sweepDouble(t *testing.T, s *sweepSite) {
	v := s.create(1)[0]
	_, err := s.sim.Ensure(t.Context(), fleet.InstanceSpec{ID: "double", InstallationID: v.ID, ClusterID: s.cluster.ID, Epoch: s.epoch(), MemoryMiB: 64})
	require.NoError(t, err)
	s.clock.advance(time.Minute)
	require.Equal(t, []installation.Action{installation.ActionStopped}, sweepActions(s.sweep()))
	require.Equal(t, fleet.PowerOff, s.power("double"))
	require.Equal(t, fleet.PowerOn, s.power(v.Instance.ID))
}
