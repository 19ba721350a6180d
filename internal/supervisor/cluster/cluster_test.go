package cluster

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// shown is a provider that shows what it is told to, and remembers with what settings it was asked.
type shown struct {
	report   fleet.CheckReport
	settings map[string]string
}

func (p *shown) Check(_ context.Context, c fleet.Cluster) (fleet.CheckReport, error) {
	p.settings = c.Settings
	return p.report, nil
}

// checking is the step of an operation of that kind on a cluster of that provider.
func checking(t *testing.T, kind fleet.OperationKind, provider fleet.ProviderKind, p Provider, observed map[string]string) (*fleet.Snapshot, engine.Step) {
	t.Helper()
	for _, w := range Workflows(map[fleet.ProviderKind]Provider{provider: p}) {
		if w.Kind == kind {
			require.Len(t, w.Steps, 1)
			return &fleet.Snapshot{Operation: fleet.Operation{Kind: kind, Observed: observed},
				Cluster: &fleet.Cluster{ID: "c", Name: "c", Provider: provider, State: fleet.ClusterStable, Settings: map[string]string{"hosts": "2"}}}, w.Steps[0]
		}
	}
	require.Fail(t, "there is no workflow")
	return nil, engine.Step{}
}

func TestSettingsAreTakenWithAPassedCheckOnly(t *testing.T) {
	t.Parallel()
	bad := fleet.CheckReport{Items: []fleet.CheckItem{{Name: "hosts", Detail: "no number"}}}
	good := fleet.CheckReport{Items: []fleet.CheckItem{{Name: "settings", OK: true}}, Hosts: []fleet.Host{{ID: "h"}}}
	anew := map[string]string{fleet.ObservedSettings: `{"hosts":"5"}`}
	for name, c := range map[string]struct {
		kind     fleet.OperationKind
		report   fleet.CheckReport
		observed map[string]string
		asked    string // the hosts that the provider was asked for
		verdict  fleet.Verdict
		stored   *fleet.CheckReport
		settings map[string]string
	}{
		"Again":             {fleet.OperationCheckCluster, good, nil, "2", fleet.VerdictAdvance, &good, nil},
		"NewSettings":       {fleet.OperationCheckCluster, good, anew, "5", fleet.VerdictAdvance, &good, map[string]string{"hosts": "5"}},
		"NewSettingsFailed": {fleet.OperationCheckCluster, bad, anew, "5", fleet.VerdictFail, nil, nil},
		"AgainFailed":       {fleet.OperationCheckCluster, bad, nil, "2", fleet.VerdictFail, &bad, nil},
		"CreatedAgain":      {fleet.OperationCreateCluster, bad, anew, "5", fleet.VerdictFail, &bad, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &shown{report: c.report}
			s, step := checking(t, c.kind, fleet.ProviderSim, p, c.observed)
			out, err := step.Run(t.Context(), s)
			require.NoError(t, err)
			require.Equal(t, c.verdict, out.Verdict)
			require.Equal(t, c.asked, p.settings["hosts"])
			require.Equal(t, c.stored, out.Changes.Check)
			require.Equal(t, c.settings, out.Changes.Settings)
			require.Equal(t, "2", s.Cluster.Settings["hosts"])
		})
	}
	s, step := checking(t, fleet.OperationCheckCluster, fleet.ProviderSim, &shown{}, map[string]string{fleet.ObservedSettings: "["})
	_, err := step.Run(t.Context(), s)
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
}

// The addresses that guests have are of the pool that their host had.
func TestAPoolThatHasMovedFailsTheCheck(t *testing.T) {
	t.Parallel()
	p := &shown{report: fleet.CheckReport{Items: []fleet.CheckItem{{Name: "settings", OK: true}}, Hosts: []fleet.Host{{ID: "h", AddressPool: "10.88.0.0/24"}}}}
	s, step := checking(t, fleet.OperationCheckCluster, fleet.ProviderSim, p, nil)
	s.Hosts = []fleet.Host{{ID: "h", Name: "h1", AddressPool: "10.77.0.0/24"}}
	out, err := step.Run(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, fleet.VerdictFail, out.Verdict)
	require.Contains(t, out.Detail, "--address-pool 10.77.0.0/24")
	require.Nil(t, out.Changes.Check)
	s.Hosts[0].AddressPool = "10.88.0.0/24"
	out, err = step.Run(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, fleet.VerdictAdvance, out.Verdict)
}

// Another process would show its own machine, and the cluster's would be down.
func TestOnlyItsHostChecksAgain(t *testing.T) {
	t.Parallel()
	observed := map[string]string{fleet.ObservedHost: "h"}
	s, step := checking(t, fleet.OperationCheckCluster, fleet.ProviderKVM, &shown{}, observed)
	require.Equal(t, fleet.HostID("h"), step.Executor(s))
	s, step = checking(t, fleet.OperationCheckCluster, fleet.ProviderSim, &shown{}, observed)
	require.Empty(t, step.Executor(s))
	s, step = checking(t, fleet.OperationCreateCluster, fleet.ProviderKVM, &shown{}, nil)
	require.Empty(t, step.Executor(s))
	require.Empty(t, step.Executor(&fleet.Snapshot{}), "a row that can't be read")
}
