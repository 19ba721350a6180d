package main

import (
	"context"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/cluster"
	"dormouse/internal/supervisor/engine"
	"dormouse/internal/supervisor/installation"
)

// workChannel is what processes without an engine call the others on.
const workChannel = "dormouse_work"

func (s *server) openPlaces(ctx context.Context) (err error) {
	s.places, err = openPlaces(ctx, s.c, s.dir, s.apiStore, s.log, func(id fleet.InstanceID) {
		if e := s.engine; e != nil {
			e.Signal(string(id))
		}
	})
	if err != nil {
		return err
	}
	return s.places.configure(ctx)
}

func (s *server) startEngine(ctx context.Context) (err error) {
	if !s.c.has(roleSupervisor) {
		return nil
	}
	workflows := installation.Workflows(installation.Options{Places: s.places.installation(), Secrets: s.box})
	workflows = append(workflows, cluster.Workflows(s.places.cluster())...)
	var hosts []fleet.HostID
	if s.c.has(roleHost) {
		hosts = append(hosts, s.dir.host)
	}
	s.engine, err = engine.New(engine.Options{
		Store: s.store, Workflows: workflows, Worker: s.dir.worker, Hosts: hosts, Clock: wallClock{}, Log: s.log,
		OnCommit: s.hub.committed,
	})
	if err != nil {
		return err
	}
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
}

// accepted is called after each accepted request.
func (s *server) accepted() {
	if s.engine != nil {
		s.engine.Wake()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = ctx
}

// startSupervision begins what only one process of all does at a time.
func (s *server) startSupervision(context.Context) error { return nil }
