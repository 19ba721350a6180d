package main

import (
	"context"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/cluster"
	"dormouse/internal/supervisor/engine"
	"dormouse/internal/supervisor/idle"
	"dormouse/internal/supervisor/installation"
)

// workChannel is what processes without an engine call the others on.
const workChannel = "dormouse_work"

func (s *server) openPlaces(ctx context.Context) (err error) {
	spoke := func(id fleet.InstanceID) {
		if s.signals.Load() != nil && ctx.Err() == nil { // else the end of all is being waited for
			s.background.Go(func() { s.places.take(ctx, id) })
		}
	}
	s.places, err = openPlaces(ctx, s.c, s.dir, s.log, func(id fleet.InstanceID) {
		if v := s.visitors.Load(); v != nil {
			v.changed(id)
		}
		if e := s.signals.Load(); e != nil {
			e.Signal(string(id))
			spoke(id)
		}
	}, spoke)
	if err == nil && s.places.kvm != nil {
		s.visits = newVisits(s.c, s.places.kvm, s.dir.host, s.accepted, s.log)
		s.places.visits = s.visits
		s.visitors.Store(s.visits)
	}
	return err
}

// joinPlaces gives the places what they need of the control plane.
func (s *server) joinPlaces(ctx context.Context) error {
	s.places.store = s.stores.background()
	if err := s.places.configure(ctx); err != nil {
		return err
	}
	if s.visits != nil {
		s.visits.attach(s.stores.background())
		s.background.Go(func() { s.visits.keepTelling(ctx) })
	}
	return nil
}

func (s *server) startEngine(ctx context.Context) (err error) {
	if !s.c.has(roleSupervisor) {
		return nil
	}
	workflows := installation.Workflows(installation.Options{Places: s.places.installation(), Secrets: s.box, HealthDeadline: s.c.healthDeadline})
	workflows = append(workflows, cluster.Workflows(s.places.cluster())...)
	workflows = append(workflows, s.rolloutWorkflow(ctx), cluster.Drain(cluster.DrainOptions{Store: s.stores.singletons}))
	var hosts []fleet.HostID
	if s.c.has(roleHost) {
		hosts = append(hosts, s.dir.host)
	}
	s.engine, err = engine.New(engine.Options{
		Store: s.stores.engine, Workflows: workflows, Worker: s.dir.worker, Hosts: hosts, Slots: s.c.slots, Clock: wallClock{}, Log: s.log,
		OnCommit: s.committed, Unsolicited: s.unsolicited,
	})
	if err != nil {
		return err
	}
	s.signals.Store(s.engine)
	s.background.Go(func() {
		if err := s.engine.Run(ctx); err != nil && ctx.Err() == nil {
			s.failed <- err
		}
	})
	s.background.Go(func() { s.listenForWork(ctx) })
	return nil
}

// listenForWork wakes the engine when another process has accepted work.
// Nothing depends on it: the engine polls too.
func (s *server) listenForWork(ctx context.Context) {
	if err := s.stores.singletons.Listen(ctx, workChannel, s.engine.Wake); err != nil && ctx.Err() == nil {
		s.log.WithError(err).Warn("not listening for work accepted by other processes; it is found by polling")
	}
}

// committed is called after each commit of an operation's step.
func (s *server) committed(operation fleet.OperationID, installation fleet.InstallationID) {
	s.hub.committed(operation)
	if s.visits != nil {
		s.visits.committed(installation)
	}
}

// accepted is called after each accepted request.
func (s *server) accepted() {
	if s.engine != nil {
		s.engine.Wake()
		return
	}
	s.calls.do(s.notifySupervisors)
}

func (s *server) notifySupervisors() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.stores.api.Notify(ctx, workChannel); err != nil {
		s.log.WithError(err).Debug("notifying the supervisors; they will find the work by polling")
	}
}

// Retention: what is finished is kept this long, and removed in small portions.
const (
	retention  = 30 * 24 * time.Hour
	pruneEvery = time.Hour
	pruneSoon  = time.Minute // where there is more than one run removes
	pruneLimit = 50_000
)

// startSupervision begins what goes on besides the operations: the watcher of
// programs that end by themselves, the sweep of the places that this process
// has or shares, and, in one process of all, the removal of what is old.
func (s *server) startSupervision(ctx context.Context) error {
	if !s.c.has(roleSupervisor) {
		return nil
	}
	if err := s.startHousekeeping(ctx); err != nil {
		return err
	}
	s.collectImages(ctx)
	places := s.places.installation()
	if len(places) == 0 {
		return nil
	}
	endings := installation.NewEndings(s.stores.singletons, s.stores.singletons, s.engine.Wake, wallClock{}, s.log)
	watcher := installation.NewWatcher(installation.WatcherOptions{
		Store: s.stores.singletons, Endings: endings, Places: places, Clock: wallClock{}, Log: s.log,
	})
	s.watcher.Store(watcher)
	s.background.Go(func() {
		if err := watcher.Run(ctx); err != nil && ctx.Err() == nil {
			s.failed <- err
		}
	})
	own := maps.Clone(places)
	if s.c.simulator != "" {
		delete(own, fleet.ProviderSim)
		s.sweep(ctx, "sweep simulator", endings, map[fleet.ProviderKind]installation.Place{fleet.ProviderSim: places[fleet.ProviderSim]})
	}
	if len(own) > 0 {
		// The lock keeps a former process of the same data directory out.
		s.sweep(ctx, "sweep "+string(s.dir.host), endings, own)
	}
	return nil
}

// sweep begins the sweep of some places: by the process that has them, or by
// one of those that share them.
func (s *server) sweep(ctx context.Context, name string, endings *installation.Endings, places map[fleet.ProviderKind]installation.Place) {
	sweeper := installation.NewSweeper(installation.SweeperOptions{
		Store: s.stores.singletons, Endings: endings, Places: places, Hosts: []fleet.HostID{s.dir.host}, Clock: wallClock{}, Log: s.log,
	})
	s.background.Go(func() { s.lead(ctx, name, sweeper.Run) })
}

// lead runs f in one process at a time, and again where the lead was lost.
func (s *server) lead(ctx context.Context, name string, f func(context.Context) error) {
	for ctx.Err() == nil {
		err := s.stores.singletons.Lead(ctx, name, f)
		if ctx.Err() != nil {
			return
		}
		s.log.WithError(err).WithField("task", name).Warn("lost the lead; asking for it again")
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
	}
}

// startHousekeeping begins what one process does for all, under one lead: the removal of
// what is old, what idle policies ask for, and the watch over pools.
func (s *server) startHousekeeping(ctx context.Context) error {
	if err := s.offerPorts(ctx); err != nil {
		return err
	}
	low, err := s.lowPools()
	if err != nil {
		return err
	}
	sleepers := idle.New(idle.Options{Store: acceptingStore{s.stores.singletons, s.accepted}, Clock: wallClock{}, Log: s.log})
	s.background.Go(func() {
		s.lead(ctx, "prune", func(ctx context.Context) error {
			all, ctx := errgroup.WithContext(ctx)
			all.Go(func() error { return s.prune(ctx) })
			all.Go(func() error { return sleepers.Run(ctx) })
			all.Go(func() error { return s.watchPools(ctx, low) })
			return all.Wait()
		})
	})
	return nil
}

func (s *server) prune(ctx context.Context) error {
	return repeat(ctx, wallClock{}, func(ctx context.Context) (time.Duration, error) {
		n, err := s.stores.singletons.Prune(ctx, retention, pruneLimit)
		if n > 0 {
			s.log.WithField("rows", n).Info("removed what is older than the retention")
		}
		if n >= pruneLimit {
			return pruneSoon, err
		}
		return pruneEvery, err
	})
}

// repeat runs f at once, and again as long after its end as it says, until it
// fails or ctx ends. So what was missed while the process was down, or stopped, is
// made up for by one run, and not by one for each that was missed.
func repeat(ctx context.Context, clock engine.Clock, f func(context.Context) (time.Duration, error)) error {
	for {
		wait, err := f(ctx)
		if err != nil {
			return err
		}
		tick := make(chan struct{})
		stop := clock.AfterFunc(wait, func() { close(tick) })
		select {
		case <-ctx.Done():
			stop()
			return nil
		case <-tick:
		}
	}
}

// unsolicited is told of changes that no operation waits for.
func (s *server) unsolicited(key string) {
	if w := s.watcher.Load(); w != nil {
		w.Notify(key)
	}
}
