package installation

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// sweepClock stands still until it is told to go on.
type sweepClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[int]sweepTimer
	next   int
}

type sweepTimer struct {
	at time.Time
	f  func()
}

func newSweepClock() *sweepClock {
	return &sweepClock{now: time.Date(2026, 3, 29, 0, 30, 0, 0, time.FixedZone("odd", 38100)), timers: map[int]sweepTimer{}}
}

func (c *sweepClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *sweepClock) AfterFunc(d time.Duration, f func()) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.next
	c.next++
	c.timers[id] = sweepTimer{c.now.Add(d), f}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, id)
	}
}

func (c *sweepClock) advance(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	var due []func()
	for id, t := range c.timers {
		if !t.at.After(c.now) {
			due = append(due, t.f)
			delete(c.timers, id)
		}
	}
	c.mu.Unlock()
	for _, f := range due {
		f()
	}
}

func (c *sweepClock) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.timers)
}

// sweepWorld is a store, a provider and the two things under test between them.
type sweepWorld struct {
	t       *testing.T
	clock   *sweepClock
	cluster fleet.Cluster
	store   *sweepFakeStore
	place   *sweepFakePlace
	logs    *test.Hook
	endings *Endings
	sweeper *Sweeper
	wakes   int
}

func newSweepWorld(t *testing.T, change ...func(*SweeperOptions)) *sweepWorld {
	w := &sweepWorld{t: t, clock: newSweepClock(), cluster: fleet.Cluster{ID: "c1", Name: "local", Provider: fleet.ProviderSim, State: fleet.ClusterStable}}
	w.store = &sweepFakeStore{w: w, rows: map[fleet.InstanceID]fleet.ExpectedInstance{}, policy: map[fleet.InstanceID]fleet.RestartPolicy{},
		deleted: map[fleet.VolumeID]bool{}, exits: map[fleet.InstanceID]sweepExit{}, calls: map[string]int{},
		clusters: []fleet.ClusterView{{Cluster: w.cluster}}}
	w.place = &sweepFakePlace{w: w, machines: map[fleet.InstanceID]fleet.InstanceStatus{}, volumes: map[fleet.VolumeID]fleet.VolumeStatus{},
		pageSize: 2, fail: map[string]error{}}
	log, hook := test.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	w.logs = hook
	w.endings = NewEndings(w.store, w.store, func() { w.wakes++ }, w.clock, log)
	o := SweeperOptions{Store: w.store, Endings: w.endings, Places: map[fleet.ProviderKind]Place{fleet.ProviderSim: {Provider: w.place}},
		Clock: w.clock, Log: log}
	for _, f := range change {
		f(&o)
	}
	w.sweeper = NewSweeper(o)
	return w
}

// serve adds a stable installation with its machine on.
func (w *sweepWorld) serve(name string) fleet.InstanceID {
	row := fleet.ExpectedInstance{ID: fleet.InstanceID("x-" + name), InstallationID: fleet.InstallationID("i-" + name), InstallationName: name,
		HostID: "h1", Power: fleet.PowerOn, Serving: true, State: fleet.StateStable, Rested: time.Hour}
	w.store.rows[row.ID] = row
	w.machine(row.ID, row.InstallationID, fleet.PowerOn, time.Hour)
	return row.ID
}

func (w *sweepWorld) machine(id fleet.InstanceID, of fleet.InstallationID, power fleet.Power, age time.Duration) {
	w.place.machines[id] = fleet.InstanceStatus{ID: id, InstallationID: of, Power: power, CreatedAt: w.clock.Now().Add(-age), ProviderRef: "ref-" + string(id)}
}

// end switches a machine off with that exit.
func (w *sweepWorld) end(id fleet.InstanceID, exit *fleet.Exit) {
	m := w.place.machines[id]
	m.Power, m.Exit = fleet.PowerOff, exit
	w.place.machines[id] = m
}

func (w *sweepWorld) sweep() Report {
	w.t.Helper()
	r, err := w.sweeper.Sweep(context.Background(), w.cluster)
	require.NoError(w.t, err)
	return r
}

// only returns the one finding of a report.
func (w *sweepWorld) only(r Report) Finding {
	w.t.Helper()
	require.Len(w.t, r.Findings, 1)
	return r.Findings[0]
}

type sweepExit struct {
	exit fleet.Exit
	to   fleet.State
}

// sweepFakeStore is a database of installations with one instance each.
type sweepFakeStore struct {
	w        *sweepWorld
	mu       sync.Mutex
	rows     map[fleet.InstanceID]fleet.ExpectedInstance
	policy   map[fleet.InstanceID]fleet.RestartPolicy
	volumes  []fleet.ExpectedVolume
	deleted  map[fleet.VolumeID]bool
	clusters []fleet.ClusterView
	exits    map[fleet.InstanceID]sweepExit
	changes  []fleet.Change
	epoch    fleet.Epoch
	calls    map[string]int
	// fail is the error of the next calls, for as many as failures says.
	fail     error
	failures int
}

func (s *sweepFakeStore) called(name string) error {
	s.calls[name]++
	if s.failures > 0 {
		s.failures--
		return s.fail
	}
	return nil
}

// statements is how many calls there were in all.
func (s *sweepFakeStore) statements() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		n += c
	}
	return n
}

func (s *sweepFakeStore) ExpectedInstances(context.Context, fleet.ClusterID) ([]fleet.ExpectedInstance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.rows), func(a, b fleet.ExpectedInstance) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	}), s.called("instances")
}

func (s *sweepFakeStore) ExpectedVolumes(context.Context, fleet.ClusterID) ([]fleet.ExpectedVolume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.volumes, s.called("volumes")
}

func (s *sweepFakeStore) DeletedVolumes(_ context.Context, ids []fleet.VolumeID) (map[fleet.VolumeID]bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deleted, s.called("deleted")
}

func (s *sweepFakeStore) NextEpoch(context.Context) (fleet.Epoch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	return 1000 + s.epoch, s.called("epoch")
}

func (s *sweepFakeStore) ListClusters(_ context.Context, page fleet.Page) ([]fleet.ClusterView, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if page.After != "" {
		return nil, s.called("clusters")
	}
	return s.clusters, s.called("clusters")
}

func (s *sweepFakeStore) InstancePlace(_ context.Context, id fleet.InstanceID) (fleet.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.called("place"); err != nil {
		return fleet.Snapshot{}, err
	}
	row, ok := s.rows[id]
	if !ok {
		return fleet.Snapshot{}, fleet.Errorf(fleet.KindNotFound, "no instance %s", id)
	}
	cluster := s.w.cluster
	snap := fleet.Snapshot{
		Installation: &fleet.Installation{ID: row.InstallationID, Name: row.InstallationName, State: row.State, Version: 7},
		Cluster:      &cluster,
		Instances: []fleet.Instance{{ID: id, InstallationID: row.InstallationID, ClusterID: cluster.ID, HostID: row.HostID, Power: row.Power,
			Serving: row.Serving, Spec: fleet.InstanceConfig{Manifest: fleet.Manifest{Restart: s.policy[id]}}}},
	}
	if row.OperationActive {
		snap.Operation.ID = "busy"
	}
	return snap, nil
}

func (s *sweepFakeStore) ObserveExit(_ context.Context, id fleet.InstanceID, exit fleet.Exit, to fleet.State) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.called("exit"); err != nil {
		return false, err
	}
	row := s.rows[id]
	if row.State != fleet.StateStable || row.OperationActive {
		return false, nil
	}
	row.State, row.Power = to, fleet.PowerOff
	s.rows[id], s.exits[id] = row, sweepExit{exit, to}
	return true, nil
}

func (s *sweepFakeStore) ChangeInstallation(_ context.Context, in fleet.Change) (fleet.Accepted, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.called("change"); err != nil {
		return fleet.Accepted{}, err
	}
	s.changes = append(s.changes, in)
	return fleet.Accepted{Operation: fleet.Operation{ID: in.OperationID}}, nil
}

// sweepFakePlace is a provider of machines and volumes.
type sweepFakePlace struct {
	w        *sweepWorld
	mu       sync.Mutex
	machines map[fleet.InstanceID]fleet.InstanceStatus
	volumes  map[fleet.VolumeID]fleet.VolumeStatus
	// hidden machines are missing in the list, and shown by a look.
	hidden   map[fleet.InstanceID]bool
	pageSize int
	// fail is the error of a call, by its name; "list-2" is that of the second page.
	fail     map[string]error
	observed int
	deleted  []string
	stopped  []string
	epochs   []fleet.Epoch
	boom     bool
}

func (p *sweepFakePlace) Ensure(context.Context, fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	panic("a sweep makes nothing")
}

func (p *sweepFakePlace) Observe(_ context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.observed++
	if p.boom {
		panic("boom")
	}
	if err := p.fail["observe"]; err != nil {
		return fleet.InstanceStatus{}, err
	}
	st, ok := p.machines[ref.ID]
	if !ok {
		return st, fleet.Errorf(fleet.KindNotFound, "no machine %s", ref.ID)
	}
	return st, nil
}

func (p *sweepFakePlace) Power(_ context.Context, ref fleet.InstanceRef, want fleet.Power) (fleet.InstanceStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fail["power"]; err != nil {
		return fleet.InstanceStatus{}, err
	}
	st := p.machines[ref.ID]
	st.Power = want
	p.machines[ref.ID] = st
	p.stopped, p.epochs = append(p.stopped, string(ref.ID)), append(p.epochs, ref.Epoch)
	return st, nil
}

func (p *sweepFakePlace) Delete(_ context.Context, ref fleet.InstanceRef) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fail["delete"]; err != nil {
		return err
	}
	delete(p.machines, ref.ID)
	p.deleted, p.epochs = append(p.deleted, string(ref.ID)), append(p.epochs, ref.Epoch)
	return nil
}

func (p *sweepFakePlace) List(_ context.Context, _ fleet.ClusterID, after string) ([]fleet.InstanceStatus, string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := "list"
	if after != "" {
		name = "list-2"
	}
	if err := p.fail[name]; err != nil {
		return nil, "", err
	}
	var page []fleet.InstanceStatus
	for _, id := range slices.Sorted(maps.Keys(p.machines)) {
		if string(id) <= after || p.hidden[id] {
			continue
		}
		if len(page) == p.pageSize {
			return page, string(page[len(page)-1].ID), nil
		}
		page = append(page, p.machines[id])
	}
	return page, "", nil
}

func (p *sweepFakePlace) EnsureVolume(context.Context, fleet.VolumeSpec) (fleet.VolumeStatus, error) {
	panic("a sweep makes nothing")
}

func (p *sweepFakePlace) DeleteVolume(_ context.Context, ref fleet.VolumeRef) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fail["delete-volume"]; err != nil {
		return err
	}
	delete(p.volumes, ref.ID)
	p.deleted, p.epochs = append(p.deleted, string(ref.ID)), append(p.epochs, ref.Epoch)
	return nil
}

func (p *sweepFakePlace) ListVolumes(context.Context, fleet.ClusterID) ([]fleet.VolumeStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fail["list-volumes"]; err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(p.volumes), func(a, b fleet.VolumeStatus) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	}), nil
}
