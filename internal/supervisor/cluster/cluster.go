// Package cluster holds the workflows of clusters and of their hosts: the
// provider's own check before a cluster takes installations and whenever it is asked
// for, its deletion once it has none, and the drain of a host.
package cluster

import (
	"context"
	"encoding/json"
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
	check := []engine.Step{{Name: "check", Run: w.check, Executor: checker, Timeout: 2 * time.Minute}}
	return []*engine.Workflow{
		{Kind: fleet.OperationCreateCluster, Steps: check},
		{Kind: fleet.OperationCheckCluster, Steps: check},
		{Kind: fleet.OperationDeleteCluster, Steps: []engine.Step{{Name: "confirm-empty", Run: w.confirmEmpty}}},
	}
}

type workflows struct {
	providers map[fleet.ProviderKind]Provider
}

// checker is who may look at a cluster. A process sees its own machine only: with
// KVM, any other would not find the host on which everything runs.
func checker(s *fleet.Snapshot) fleet.HostID {
	if s.Cluster == nil || s.Cluster.Provider != fleet.ProviderKVM {
		return ""
	}
	return fleet.HostID(s.Operation.Observed[fleet.ObservedHost]) // none before its first check
}

// check has the provider look at the cluster. What is missing fails the operation;
// hosts, and what runs on them, stay as they are then. Settings that are new take effect
// with a check that they pass.
func (w *workflows) check(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	c := *s.Cluster
	var settings map[string]string
	if text, ok := s.Operation.Observed[fleet.ObservedSettings]; ok {
		if err := json.Unmarshal([]byte(text), &settings); err != nil {
			return fleet.Outcome{}, fleet.Errorf(fleet.KindPermanent, "reading the new settings of cluster %s: %w", c.Name, err)
		}
		c.Settings = settings
	}
	p, ok := w.providers[c.Provider]
	if !ok {
		return fleet.Fail(fleet.ReasonCheckFailed, fmt.Sprintf("this process has no provider %q", c.Provider)), nil
	}
	report, err := p.Check(ctx, c)
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
		if settings == nil || s.Operation.Kind == fleet.OperationCreateCluster { // else it is the new settings' report, and they are not taken
			out.Changes.Check = &fleet.CheckReport{Items: report.Items}
		}
		return out, nil
	}
	if text := movedPool(s.Hosts, report.Hosts); text != "" {
		return fleet.Fail(fleet.ReasonCheckFailed, text), nil
	}
	return fleet.Advance(fleet.Changes{Check: &report, Settings: settings}), nil
}

// movedPool tells of a known host whose addresses would be others now: they are
// leased from the pool that it had, and its guests would have them in the wrong network.
func movedPool(known, found []fleet.Host) string {
	for _, h := range found {
		for _, k := range known {
			if h.ID == k.ID && k.AddressPool != "" && h.AddressPool != k.AddressPool {
				return fmt.Sprintf("host %s has the address pool %q, and its addresses were leased from %s: start its provisioner with --address-pool %s, or drain and remove the host first",
					k.Name, h.AddressPool, k.AddressPool, k.AddressPool)
			}
		}
	}
	return ""
}

// confirmEmpty has nothing to undo yet: no provider keeps anything for an empty cluster.
func (w *workflows) confirmEmpty(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
	return fleet.Advance(fleet.Changes{}), nil
}
