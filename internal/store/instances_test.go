package store

import (
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"a", "b", "c"} {
		w.running(name)
	}
	list := func(q fleet.InstanceQuery) []fleet.InstanceView {
		t.Helper()
		if q.Limit == 0 {
			q.Limit = 100
		}
		views, err := w.ListInstances(t.Context(), q)
		require.NoError(t, err)
		return views
	}
	all := list(fleet.InstanceQuery{})
	require.Len(t, all, 3)
	one := w.installation("b")
	for _, q := range []fleet.InstanceQuery{{Installation: "b"}, {Installation: string(one.ID)}, {Installation: "b", Cluster: w.cluster.Name}, {Cluster: string(w.cluster.ID), Installation: "b"}} {
		views := list(q)
		require.Len(t, views, 1)
		v := views[0]
		require.Equal(t, one.Instance.ID, v.ID)
		require.Equal(t, []string{"b", one.Owner, w.cluster.Name, "h1"}, []string{v.InstallationName, v.Owner, v.ClusterName, v.HostName})
		require.NotEmpty(t, v.Address)
		require.NotEmpty(t, v.MAC)
		require.Equal(t, one.Instance.Endpoints, v.Endpoints)
		again, err := w.Instance(t.Context(), v.ID)
		require.NoError(t, err)
		require.Equal(t, v, again)
	}
	require.Empty(t, list(fleet.InstanceQuery{Installation: "none"}))
	require.Empty(t, list(fleet.InstanceQuery{Cluster: "none"}))
	first := list(fleet.InstanceQuery{Page: fleet.Page{Limit: 2}})
	require.Equal(t, all[:2], first)
	require.Equal(t, all[2:], list(fleet.InstanceQuery{Page: fleet.Page{Limit: 2, After: string(first[1].ID)}}))
	_, err := w.Instance(t.Context(), "none")
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
}
