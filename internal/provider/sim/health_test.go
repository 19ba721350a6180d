package sim_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// seen is what Observe says, after checking that List says the same of a
// simulator whose health checks are right.
func seen(t *testing.T, p *sim.Provider, spec fleet.InstanceSpec) fleet.InstanceStatus {
	t.Helper()
	st, err := p.Observe(t.Context(), refOf(spec))
	require.NoError(t, err)
	require.Equal(t, st, all(t, p, spec.ClusterID)[spec.ID])
	return st
}

func TestFaultsOfHealthChecks(t *testing.T) {
	t.Parallel()
	for fault, want := range map[sim.Fault]fleet.HealthState{
		sim.FaultWrongHealth: fleet.HealthUnhealthy, sim.FaultUnknownHealth: fleet.HealthUnknown, sim.FaultObserverOutage: fleet.HealthUnknown,
	} {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			p, cluster := start(t, sim.Options{}, map[string]string{"fault." + string(fault): "1"})
			spec := newSpec(cluster.ID, "a")
			st, err := p.Ensure(t.Context(), spec)
			require.NoError(t, err)
			require.Equal(t, fleet.HealthHealthy, st.Health)
			st = seen(t, p, spec)
			require.Equal(t, want, st.Health)
			require.Equal(t, fleet.PowerOn, st.Power)
			require.NotEmpty(t, st.HealthDetail)
			for _, call := range []sim.Call{sim.CallObserve, sim.CallList} {
				require.Equal(t, uint64(1), p.Totals().ByCall[call].Faults[fault])
			}
			_, err = p.Power(t.Context(), refOf(spec), fleet.PowerOff)
			require.NoError(t, err)
			require.Empty(t, seen(t, p, spec).HealthDetail, "what is off is not looked at")
		})
	}
}

// TestHealthChecksGoWrongAsOftenAsAsked: by List as by Observe.
func TestHealthChecksGoWrongAsOftenAsAsked(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{}, map[string]string{"fault.wrong_health": "0.1", "fault.unknown_health": "0.2"})
	spec := numbered(cluster.ID, 1)
	_, err := p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	const looks = 10_000
	for name, look := range map[string]func() fleet.InstanceStatus{
		"Observe": func() fleet.InstanceStatus {
			st, err := p.Observe(t.Context(), refOf(spec))
			require.NoError(t, err)
			return st
		},
		"List": func() fleet.InstanceStatus { return all(t, p, cluster.ID)[spec.ID] },
	} {
		got := map[fleet.HealthState]float64{}
		for range looks {
			got[look().Health]++
		}
		require.InDelta(t, 0.2, got[fleet.HealthUnknown]/looks, 0.02, name)
		require.InDelta(t, 0.8*0.1, got[fleet.HealthUnhealthy]/looks, 0.015, name)
	}
}

// numbered returns a spec whose IDs are always the same.
func numbered(cluster fleet.ClusterID, n int) fleet.InstanceSpec {
	spec := newSpec(cluster, fmt.Sprint("a-", n))
	spec.ID = fleet.InstanceID(fleet.DeriveID("instance", fmt.Sprint(n)))
	spec.InstallationID = fleet.InstallationID(fleet.DeriveID("installation", fmt.Sprint(n)))
	return spec
}

// TestObserverOutage: it is for all at once, for a minute, and about as often as asked.
func TestObserverOutage(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	p, cluster := start(t, sim.Options{Clock: clock}, nil)
	cluster.ID = "always-the-same"
	cluster.Settings = map[string]string{"fault.observer_outage": "0.2"}
	require.NoError(t, p.Configure(cluster))
	for n := range 3 {
		spec := numbered(cluster.ID, n)
		spec.HostID = ""
		_, err := p.Ensure(t.Context(), spec)
		require.NoError(t, err)
	}
	out := 0
	const minutes = 600
	for range minutes {
		var first fleet.HealthState
		for range 2 {
			for _, st := range all(t, p, cluster.ID) {
				if first == "" {
					first = st.Health
				}
				require.Equal(t, first, st.Health)
			}
			clock.advance(20 * time.Second) // not across the minute's end
		}
		if first == fleet.HealthUnknown {
			out++
		}
		clock.advance(20 * time.Second)
	}
	require.InDelta(t, 0.2, float64(out)/minutes, 0.05)
}

// TestFaultBackground: each installation is ill once an hour here, for the time
// that is set, whatever it runs, and both ends are told.
func TestFaultBackground(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	var told []fleet.InstanceID
	options := sim.Options{Dir: t.TempDir(), Clock: clock, OnChange: func(id fleet.InstanceID) { told = append(told, id) }}
	p, cluster := start(t, options, map[string]string{"fault.background": "1", "background_time": "7m"})
	spec := numbered(cluster.ID, 1)
	_, err := p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	const step = 10 * time.Second
	ill, changes := time.Duration(0), 0
	was := seen(t, p, spec).Health
	for range int(24 * time.Hour / step) {
		clock.advance(step)
		st := seen(t, p, spec)
		if st.Health != was {
			changes++
			require.Len(t, told, changes, "each change is told, once")
		}
		if was = st.Health; was == fleet.HealthUnhealthy {
			require.Contains(t, st.HealthDetail, "background")
			ill += step
		}
	}
	require.InDelta(t, 24*7, ill.Minutes(), 14, "24 times 7 minutes, less what overlaps")
	require.InDelta(t, 48, changes, 4)

	// Another instance of the same installation is ill at the same time, and so
	// is the same one after a restart of the simulator; another installation is not.
	other := numbered(cluster.ID, 2)
	_, err = p.Ensure(t.Context(), other)
	require.NoError(t, err)
	_, err = p.Power(t.Context(), refOf(spec), fleet.PowerOff)
	require.NoError(t, err)
	successor := newSpec(cluster.ID, "successor")
	successor.InstallationID = spec.InstallationID
	_, err = p.Ensure(t.Context(), successor)
	require.NoError(t, err)
	for n := 0; seen(t, p, successor).Health == fleet.HealthHealthy || seen(t, p, other).Health != fleet.HealthHealthy; n++ {
		require.Less(t, n, 2000)
		clock.advance(step)
	}
	_, err = p.Power(t.Context(), refOf(successor), fleet.PowerOff)
	require.NoError(t, err)
	_, err = p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, fleet.HealthUnhealthy, seen(t, p, spec).Health)
	p = reopen(t, p, options, cluster)
	require.Equal(t, fleet.HealthUnhealthy, seen(t, p, spec).Health)
	told = nil
	clock.advance(seen(t, p, spec).Again)
	require.Equal(t, fleet.HealthHealthy, seen(t, p, spec).Health)
	require.Contains(t, told, spec.ID)

	// It can be switched on and off while instances run.
	quiet(t, p, cluster)
	require.Zero(t, clock.pending())
	require.NoError(t, p.Configure(cluster))
	require.NotZero(t, clock.pending())
}

func TestFaultBackgroundRate(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	p, cluster := start(t, sim.Options{Clock: clock}, map[string]string{"fault.background": "0.1", "background_time": "1h"})
	const instances, hours = 400, 10
	for n := range instances {
		_, err := p.Ensure(t.Context(), numbered(cluster.ID, n))
		require.NoError(t, err)
	}
	ill := 0
	for range hours {
		for _, st := range all(t, p, cluster.ID) {
			if st.Health == fleet.HealthUnhealthy {
				ill++
			}
		}
		clock.advance(time.Hour)
	}
	require.InDelta(t, 0.1, float64(ill)/(instances*hours), 0.02)
}
