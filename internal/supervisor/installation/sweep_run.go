package installation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"dormouse/internal/fleet"
)

// clusterPage is how many clusters one statement of a round reads.
const clusterPage = 1000

// Run sweeps every stable cluster whose provider this process has, round after
// round, until ctx ends, and returns nil then. An error of one cluster does not
// stop the others. The caller makes sure that only one process does it.
func (s *Sweeper) Run(ctx context.Context) error {
	wait := s.o.First
	for {
		tick := make(chan struct{})
		stop := s.o.Clock.AfterFunc(jitter(wait), func() { close(tick) })
		select {
		case <-ctx.Done():
			stop()
			return nil
		case <-tick:
		}
		if err := s.Round(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.WithError(err).Warn("sweeping; the next round tries again")
		}
		wait = s.o.Interval
	}
}

// jitter keeps many from doing the same at the same time.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// Round makes one pass over each stable cluster whose provider this process
// has. Its error joins those of the clusters.
func (s *Sweeper) Round(ctx context.Context) error {
	var errs []error
	for after := ""; ; {
		clusters, err := s.o.Store.ListClusters(ctx, fleet.Page{After: after, Limit: clusterPage})
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("listing the clusters to sweep: %w", err))...)
		}
		for _, c := range clusters {
			after = string(c.ID)
			if _, ok := s.o.Places[c.Provider]; !ok || c.State != fleet.ClusterStable || ctx.Err() != nil {
				continue
			}
			if _, err := s.Sweep(ctx, c.Cluster); err != nil {
				errs = append(errs, err)
			}
		}
		if len(clusters) < clusterPage || ctx.Err() != nil {
			return errors.Join(errs...)
		}
	}
}
