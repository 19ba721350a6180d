package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

// TestCapacity: what does not fit waits with a reason, or is refused as asked,
// and memory is never promised twice.
func TestCapacity(t *testing.T) {
	t.Parallel()
	e := suite.Shared(t)
	pkg := upload(t, e, suite.Workspace(t, "1.0.0"))
	simulate(t, e, "small", "memory_mib=300")
	create := func(name string, more ...string) []string {
		return append([]string{"-o", "json", "installation", "create", name, "--owner", "erin", "--package", pkg, "--cluster", "small", "--memory", "128MiB"}, more...)
	}
	ctl(t, e, create("fits-1", "--wait")...)
	ctl(t, e, create("fits-2", "--wait")...)
	ctl(t, e, create("waits")...)
	var explained client.Explanation
	require.Eventually(t, func() bool {
		var err error
		explained, err = e.Client.Installations.Explain(t.Context(), "waits")
		return err == nil && explained.WaitingFor == "waiting-for-capacity"
	}, soon, tick)
	require.Contains(t, explained.Detail, "128 MiB")
	require.NotEmpty(t, explained.Next)
	require.False(t, explained.NextAt.IsZero())

	refused := e.Cloudctl(t.Context(), create("refused", "--if-full", "refuse", "--wait")...)
	require.Equal(t, 7, refused.Code, "%s", refused)
	nothing := e.Cloudctl(t.Context(), "installation", "get", "refused")
	require.Equal(t, 3, nothing.Code, "what is refused at once leaves no row: %s", nothing)
	tooLate := e.Cloudctl(t.Context(), "installation", "create", "hurried", "--owner", "erin", "--package", pkg, "--cluster", "small", "--wait", "--timeout", "1s")
	require.Equal(t, 5, tooLate.Code, "%s", tooLate)
	ctl(t, e, "installation", "delete", "hurried", "--yes", "--wait")

	cluster := decoded[client.Cluster](t, ctl(t, e, "-o", "json", "cluster", "get", "small").Stdout)
	require.Len(t, cluster.Hosts, 1)
	require.Equal(t, int64(256), cluster.Hosts[0].MemoryHeldMiB)
	busy := e.Cloudctl(t.Context(), "cluster", "delete", "small")
	require.Equal(t, 4, busy.Code, "%s", busy)

	// Room is made by a deletion, and by a hibernation.
	ctl(t, e, "installation", "delete", "fits-1", "--yes", "--wait")
	require.Eventually(t, func() bool {
		in, err := e.Client.Installations.Get(t.Context(), "waits")
		return err == nil && in.State == "stable"
	}, soon, tick, "it goes on when there is room")
	ctl(t, e, create("waits-too")...)
	ctl(t, e, "installation", "hibernate", "fits-2", "--wait")
	require.Eventually(t, func() bool {
		in, err := e.Client.Installations.Get(t.Context(), "waits-too")
		return err == nil && in.State == "stable"
	}, soon, tick, "a sleeper holds no memory")

	for _, name := range []string{"fits-2", "waits", "waits-too"} {
		ctl(t, e, "installation", "delete", name, "--yes", "--wait")
	}
	ctl(t, e, "cluster", "delete", "small", "--wait")
	rows, err := e.Query(t.Context(), "SELECT coalesce(sum(memory_held_mib), 0), coalesce(sum(disk_held_mib), 0) FROM host WHERE cluster_id = '"+cluster.ID+"'")
	require.NoError(t, err)
	require.Equal(t, [][]string{{"0", "0"}}, rows)
}
