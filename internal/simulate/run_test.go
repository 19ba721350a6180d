package simulate

import (
	"context"
	"crypto/sha256"
	"io"
	"maps"
	"math/rand/v2"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/invariants"
	"dormouse/internal/provider/sim"
	"dormouse/internal/store"
)

const clusterName = "local"

var packageRefs = []string{"web@1", "web@2", "plain@1"}

// outcome is what a seed came to.
type outcome struct {
	seed                       uint64
	digest                     string
	violations                 []invariants.Violation
	operations, crashes, turns int
	simulated                  time.Duration
	coverage                   coverage
	lines                      []string
}

// options are how a seed is run.
type options struct {
	size size
	bug  *bug
	keep bool
	// print is given every line of the trace; log the product's log. Both may be nil.
	print func(string)
	log   io.Writer
}

// runSeed plays one history. The database is emptied before.
func runSeed(t *testing.T, db *database, seed uint64, o options) outcome {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	db.reset(t)
	var out outcome
	synctest.Test(t, func(t *testing.T) {
		s := &simulation{t: t, seed: seed, size: o.size, rng: rand.New(rand.NewPCG(seed, 0)), db: db, bug: o.bug, arrived: make(chan struct{}, 1), nextTend: 20,
			steps: map[fleet.OperationID]string{}, coverage: coverage{}, logTo: o.log, trace: trace{sum: sha256.New(), keep: o.keep, print: o.print}}
		s.world = newWorld(s)
		began := time.Now()
		s.play()
		out = outcome{seed: seed, digest: s.trace.digest(), violations: s.world.violations, operations: s.world.operations(), crashes: s.crashes,
			turns: s.turns, simulated: time.Since(began), coverage: s.coverage, lines: s.trace.lines}
		s.end()
	})
	return out
}

// play sets up, lets it all happen, and judges the end.
func (s *simulation) play() {
	s.draw = newDraw(s.rng)
	if !s.setUp() {
		return
	}
	s.plan()
	s.startClients()
	for !s.enough() {
		if s.turn(); s.gone() {
			return
		}
	}
	s.clients.stop()
	for {
		if _, running := s.clients.state(); running == 0 {
			break
		}
		if s.turn(); s.gone() {
			return
		}
	}
	crashes := s.crashes
	s.calmDown()
	if s.settleDown() {
		s.world.judge()
	}
	s.crashes = crashes
}

// maxTurns is far more than a seed takes.
const maxTurns = 400_000

// gone tells that it makes no sense to go on.
func (s *simulation) gone() bool {
	if s.turns > maxTurns {
		s.world.broken("Quiescence", "%d turns were not enough", s.turns)
	}
	return s.world.isBroken()
}

func (s *simulation) enough() bool {
	return s.world.operations() >= s.size.operations && s.crashes >= s.size.crashes
}

// setUp makes the cluster and the packages, and starts the processes.
func (s *simulation) setUp() bool {
	var err error
	s.sim, err = sim.New(sim.Options{OnChange: func(id fleet.InstanceID) { s.world.dirty.Store(true); s.signal(id) }, LedgerSize: -1, OnCall: s.world.onCall})
	if err != nil {
		s.fail("making a simulator: %v", err)
		return false
	}
	s.provider = s.sim
	if s.bug != nil && s.bug.provider != nil {
		s.provider = s.bug.provider(s, s.sim)
	}
	s.world.cluster = fleet.ClusterID(fleet.NewID())
	in := fleet.NewCluster{ID: s.world.cluster, OperationID: fleet.OperationID(fleet.NewID()), Name: clusterName, Provider: fleet.ProviderSim, Settings: s.draw.settings}
	manifest := fleet.Manifest{Program: "/app", Ports: []fleet.Port{{Number: 80, Protocol: fleet.ProtocolHTTP}}}
	var packages []fleet.Package
	for n, ref := range packageRefs {
		name, version := ref[:len(ref)-2], ref[len(ref)-1:]
		m := manifest
		if name == "web" {
			m.Persist = []string{"/data"}
		}
		packages = append(packages, fleet.Package{ID: fleet.PackageID(fleet.NewID()), Name: name, Version: version, Digest: string(rune('a' + n)), Kernel: fleet.KernelLinux, Manifest: m})
	}
	err = s.directly(func(ctx context.Context, st *store.Store) error {
		for _, p := range packages {
			if _, err := st.CreatePackage(ctx, p); err != nil {
				return err
			}
		}
		if _, err := st.CreateCluster(ctx, in); err != nil {
			return err
		}
		return createGroups(ctx, st)
	})
	if err != nil {
		s.fail("setting up: %v", err)
		return false
	}
	s.processes = make([]*process, s.draw.processes)
	for slot := range s.draw.processes {
		s.start(slot, fleet.WorkerID(fleet.NewID()))
	}
	s.nextSweep = time.Now().Add(sweepEvery)
	return true
}

// directly calls the store without a gate.
func (s *simulation) directly(f func(context.Context, *store.Store) error) error {
	s.db.now.Store(time.Now().Add(s.databaseOffset).UnixMicro())
	l := s.freeLane()
	if l == nil {
		return fleet.Errorf(fleet.KindUnavailable, "all lanes are taken")
	}
	l.step.Store(false)
	var err error
	l.jobs <- func() { err = f(context.Background(), l.store) }
	if said := l.await(time.Second); said.err != nil || said.blocked || said.wire != nil {
		s.fail("a direct call of the store did not end: %+v", said)
	}
	return err
}

// calmDown ends all faults.
func (s *simulation) calmDown() {
	s.note("the faults are over")
	s.faultsOver = true
	s.db.down.Store(false)
	for _, p := range s.alive() {
		p.pausedUntil = time.Time{}
	}
	settings := maps.Clone(s.draw.settings)
	for _, f := range sim.Faults() {
		delete(settings, "fault."+string(f))
	}
	if err := s.sim.Configure(fleet.Cluster{ID: s.world.cluster, Settings: settings}); err != nil {
		s.fail("ending the simulator's faults: %v", err)
	}
}

// end lets everything go that is in the bubble.
func (s *simulation) end() {
	s.clients.stop()
	s.clients.mu.Lock()
	s.clients.over = true
	s.clients.mu.Unlock()
	s.faultsOver = true
	for _, p := range s.alive() {
		s.kill(p, false)
	}
	_ = s.sim.Close()
	s.clients.wg.Wait()
	s.running.Wait()
}
