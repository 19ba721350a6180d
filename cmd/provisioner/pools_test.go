package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/pgtest"
)

// However few or many, the shares add up to what was allowed.
func TestConnectionsAreSplit(t *testing.T) {
	t.Parallel()
	all := []string{roleAPI, roleSupervisor, roleGateway, roleHost}
	for _, c := range []struct {
		conns     int
		roles     []string
		simulator string
		want      split
	}{
		{32, all, "", split{api: 19, engine: 6, singletons: 4, sessions: 3}},
		{32, all, "unix:/s", split{api: 18, engine: 6, singletons: 4, sessions: 4}},
		{9, all, "", split{api: 2, engine: 2, singletons: 2, sessions: 3}},
		{400, all, "", split{api: 385, engine: 6, singletons: 6, sessions: 3}},
		{8, []string{roleAPI}, "", split{api: 8}},
		{16, []string{roleSupervisor}, "unix:/s", split{engine: 4, singletons: 2, sessions: 3}},
	} {
		t.Run(fmt.Sprint(c.conns, c.roles, c.simulator), func(t *testing.T) {
			t.Parallel()
			got, err := (&config{databaseConns: c.conns, roles: c.roles, simulator: c.simulator}).connections()
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			require.LessOrEqual(t, got.api+got.engine+got.singletons+got.sessions, c.conns)
		})
	}
	_, err := (&config{databaseConns: 8, roles: all}).connections()
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	require.ErrorContains(t, err, "it takes 9 at least")
}

func TestPoolsAreShown(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	s, err := openStores(t.Context(), pgtest.New(t), split{api: 5, engine: 3, singletons: 2}, reg)
	require.NoError(t, err)
	t.Cleanup(s.close)
	families, err := reg.Gather()
	require.NoError(t, err)
	shown := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			shown[strings.TrimPrefix(name, "dormouse_database_")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for pool, most := range map[string]float64{"api": 5, "engine": 3, "singletons": 2} {
		require.Equal(t, most, shown["connections_max "+pool])
		for _, name := range []string{"connections " + pool + " in-use", "waiting " + pool, "waits_total " + pool, "wait_timeouts_total " + pool} {
			got, ok := shown[name]
			require.True(t, ok, "%s is not among %v", name, shown)
			require.Zero(t, got, name)
		}
	}
}
