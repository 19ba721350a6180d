package simulate

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/cluster"
	"dormouse/internal/supervisor/engine"
	"dormouse/internal/supervisor/installation"
)

// process is a provisioner but for its HTTP, joined as cmd/provisioner joins it.
type process struct {
	s      *simulation
	slot   int
	name   string
	worker fleet.WorkerID
	ctx    context.Context
	cancel context.CancelFunc

	engine  *engine.Engine
	watcher *installation.Watcher
	sweeper *installation.Sweeper
	// sweeping: a pass is under way.
	sweeping bool

	// dead and ended are guarded by the simulation's lock: it was killed; its
	// engine gave up by itself.
	dead, ended bool
	pausedUntil time.Time
	// offset is how wrong its clock is.
	offset time.Duration
}

// clock is the time as a process sees it.
type clock struct{ p *process }

func (c clock) Now() time.Time { return time.Now().Add(c.p.offset) }

func (c clock) AfterFunc(d time.Duration, f func()) func() {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}

// start begins a process in a slot.
func (s *simulation) start(slot int, worker fleet.WorkerID) {
	s.lives++
	p := &process{s: s, slot: slot, name: fmt.Sprintf("p%d.%d", slot, s.lives), worker: worker}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.SetLevel(logrus.PanicLevel)
	if *verbose {
		log.SetOutput(s.logTo)
		log.SetLevel(logrus.DebugLevel)
	}
	places := map[fleet.ProviderKind]installation.Place{fleet.ProviderSim: {Provider: gatedProvider{p}, Images: images{}}}
	flows := installation.Workflows(installation.Options{Places: places, Secrets: opener{}, HealthDeadline: s.draw.healthDeadline})
	flows = append(flows, cluster.Workflows(map[fleet.ProviderKind]cluster.Provider{fleet.ProviderSim: gatedProvider{p}})...)
	flows = append(flows, cluster.Drain(cluster.DrainOptions{Store: gatedStore{p}}))
	flows = append(flows, p.rolloutWorkflow(log))
	var err error
	p.engine, err = engine.New(engine.Options{
		Store: gatedStore{p}, Workflows: named(flows), Worker: worker, Slots: s.draw.slots, Gather: -1, Clock: clock{p},
		Log: log.WithField("process", p.name), Unsolicited: func(key string) { p.watcher.Notify(key) },
		Rand: func() float64 { return s.hash("jitter", p.name, fmt.Sprint(time.Now().UnixNano())) },
		Yield: func(point string, id fleet.OperationID) {
			_ = p.park(&parked{what: strings.TrimSpace(point + " " + short(id)), step: s.stepOf(id)})
		},
	})
	if err != nil {
		s.fail("making an engine: %v", err)
		return
	}
	endings := installation.NewEndings(gatedStore{p}, gatedStore{p}, p.engine.Wake, clock{p}, log)
	p.watcher = installation.NewWatcher(installation.WatcherOptions{Store: gatedStore{p}, Endings: endings, Places: places, Clock: clock{p}, Log: log})
	p.sweeper = installation.NewSweeper(installation.SweeperOptions{Store: gatedStore{p}, Endings: endings, Places: places, Clock: clock{p}, Log: log,
		Interval: sweepEvery})
	s.mu.Lock()
	s.processes[slot] = p
	s.mu.Unlock()
	s.note("%s starts as %s", p.name, worker)
	s.running.Go(func() {
		if err := p.engine.Run(p.ctx); err != nil {
			s.mu.Lock()
			p.ended = true // a provisioner whose engine fails ends, and is started again
			s.mu.Unlock()
		}
	})
	s.running.Go(func() { _ = p.watcher.Run(within(p.ctx, place{step: "watch"})) })
}

// named has each step say in its context which one it is.
func named(flows []*engine.Workflow) []*engine.Workflow {
	for _, f := range flows {
		f.Steps, f.Rollback = slices.Clone(f.Steps), slices.Clone(f.Rollback) // workflows share some
		for _, steps := range [][]engine.Step{f.Steps, f.Rollback} {
			for i := range steps {
				run, name := steps[i].Run, stepName(f.Kind, steps[i].Name)
				steps[i].Run = func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
					return run(within(ctx, place{step: name, op: s.Operation.ID, epoch: s.Operation.Epoch}), s)
				}
			}
		}
	}
	return flows
}

const sweepEvery = 30 * time.Second

// sweep makes a round of the sweep, as the process that leads does.
func (s *simulation) sweep(p *process) {
	p.sweeping = true
	s.note("%s sweeps", p.name)
	s.running.Go(func() {
		_ = p.sweeper.Round(within(p.ctx, place{step: "sweep"}))
		s.mu.Lock()
		p.sweeping = false
		s.mu.Unlock()
	})
}

// signal is the provider's OnChange: it reaches some of the processes.
func (s *simulation) signal(id fleet.InstanceID) {
	s.mu.Lock()
	processes := slices.Clone(s.processes)
	s.mu.Unlock()
	for _, p := range processes {
		if p != nil && p.engine != nil && s.hash("signal", string(id), p.name, fmt.Sprint(time.Now().UnixNano())) < s.draw.signals {
			p.engine.Signal(string(id))
		}
	}
}

type opener struct{}

func (opener) Open(sealed, _ string) (string, error) { return sealed, nil }

type images struct{}

func (images) Ensure(_ context.Context, p fleet.Package) (fleet.ImageID, error) {
	return fleet.ImageID(fleet.DeriveID("image", string(p.ID))), nil
}
