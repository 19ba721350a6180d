// Package cluster holds the workflows of clusters and of their hosts: the
// provider's own check before a cluster takes installations, its deletion once it
// has none, and the drain of a host.
package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// Provider is what the cluster supervisor needs of a provider.
type Provider interface {
	// Check looks at the place where the cluster is to run. What is missing is
	// said in the report; an error means that looking itself did not work.
	Check(ctx context.Context, c fleet.Cluster) (fleet.CheckReport, error)
}

// Workflows returns the tables of steps of all operations on clusters.
func Workflows(providers map[fleet.ProviderKind]Provider) []*engine.Workflow {
	w := &workflows{providers}
	return []*engine.Workflow{
		{Kind: fleet.OperationCreateCluster, Steps: []engine.Step{{Name: "check", Run: w.check, Timeout: 2 * time.Minute}}},
		{Kind: fleet.OperationDeleteCluster, Steps: []engine.Step{{Name: "confirm-empty", Run: w.confirmEmpty}}},
	}
}

type workflows struct {
	providers map[fleet.ProviderKind]Provider
}

func (w *workflows) check(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	p, ok := w.providers[s.Cluster.Provider]
	if !ok {
		return fleet.Fail(fleet.ReasonCheckFailed, fmt.Sprintf("this process has no provider %q", s.Cluster.Provider)), nil
	}
	report, err := p.Check(ctx, *s.Cluster)
	if err != nil {
		return fleet.Outcome{}, err
	}
	if missing := report.Missing(); len(missing) > 0 {
		words := make([]string, len(missing))
		for i, m := range missing {
			words[i] = m.Name + ": " + m.Detail
			if m.Mend != "" {
				words[i] += " (" + m.Mend + ")"
			}
		}
		out := fleet.Fail(fleet.ReasonCheckFailed, strings.Join(words, "; "))
		out.Changes.Check = &fleet.CheckReport{Items: report.Items}
		return out, nil
	}
	return fleet.Advance(fleet.Changes{Check: &report}), nil
}

// confirmEmpty has nothing to undo yet: no provider keeps anything for an empty cluster.
func (w *workflows) confirmEmpty(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
	return fleet.Advance(fleet.Changes{}), nil
}
