package main

import (
	"context"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
	"dormouse/internal/supervisor/rollout/steps"
)

func (s *server) rolloutWorkflow(ctx context.Context) *engine.Workflow {
	o := steps.Options{Store: s.stores.singletons, Query: steps.Query, Log: s.log}
	if len(s.places.installation()) > 0 {
		o.Health = steps.NewObserver(s.health, func(f func(context.Context)) { s.background.Go(func() { f(ctx) }) }).Health
	}
	return steps.Workflow(o)
}

// health lists what the provider of a cluster says of the installations there.
// Of several machines of one installation, the one that is on counts; clones don't.
func (s *server) health(ctx context.Context, id fleet.ClusterID) (map[fleet.InstallationID]fleet.HealthState, error) {
	c, err := s.stores.singletons.Cluster(ctx, string(id))
	if err != nil {
		return nil, err
	}
	place, ok := s.places.installation()[c.Provider]
	if !ok {
		return nil, fleet.Errorf(fleet.KindUnavailable, "this process has no provider %q", c.Provider)
	}
	health := map[fleet.InstallationID]fleet.HealthState{}
	for after := ""; ; {
		page, next, err := place.Provider.List(ctx, id, after)
		if err != nil {
			return health, err // what is known is something
		}
		for _, st := range page {
			if st.Power == fleet.PowerOn && !st.Clone {
				health[st.InstallationID] = st.Health
			}
		}
		if next == "" || next == after {
			return health, nil
		}
		after = next
	}
}
