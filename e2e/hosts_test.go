package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

// TestHosts takes the machines of a cluster out of use one after the other, with
// cloudctl alone. It runs on the simulator: nothing boots.
func TestHosts(t *testing.T) {
	t.Parallel()
	e := suite.Shared(t)
	pkg := upload(t, e, suite.Workspace(t, "1.0.0"))
	simulate(t, e, "machines", "hosts=3")
	names := []string{"lodger0", "lodger1", "lodger2", "lodger3"}
	for _, name := range names {
		installation(t, e, "create", name, "--owner", "erin", "--cluster", "machines", "--package", pkg, "--wait")
	}
	installation(t, e, "hibernate", "lodger3", "--wait")
	host := func(args ...string) client.Host {
		t.Helper()
		return decoded[client.Host](t, ctl(t, e, append([]string{"-o", "json", "host"}, append(args, "--cluster", "machines")...)...).Stdout)
	}
	require.Equal(t, "cordoned", host("cordon", "sim-2").State)
	require.Equal(t, "up", host("uncordon", "sim-2").State)
	for _, name := range []string{"sim-1", "sim-2"} {
		h := host("drain", name, "--at-once", "3", "--wait", "--timeout", late.String())
		require.Equal(t, "cordoned", h.State)
		require.Zero(t, *h.Installations)
		require.Equal(t, h.Drain.Total, h.Drain.Done)
		require.Equal(t, "succeeded", h.Drain.Operation.State)
		ctl(t, e, "host", "remove", name, "--cluster", "machines")
	}
	require.Equal(t, 4, *host("get", "sim-3").Installations, "the one that is left has everybody")
	for i, name := range names {
		in := decoded[client.Installation](t, ctl(t, e, "-o", "json", "installation", "get", name).Stdout)
		require.Equal(t, i == 3, in.State == "hibernating", "who sleeps sleeps on, and who serves serves: %s", in.State)
	}
	installation(t, e, "wake", "lodger3", "--wait")

	// With nowhere to go, a drain waits, and is taken back.
	require.Equal(t, "draining", host("drain", "sim-3").State)
	busy := e.Cloudctl(t.Context(), "host", "remove", "sim-3", "--cluster", "machines")
	require.Equal(t, 4, busy.Code, "%s", busy)
	require.Eventually(t, func() bool {
		return host("get", "sim-3").Drain.Operation.WaitReason == "waiting-for-capacity"
	}, soon, tick)
	require.Equal(t, "up", host("uncordon", "sim-3").State)

	// Machines that were removed join again with the next check, and new ones with them.
	c := decoded[client.Cluster](t, ctl(t, e, "-o", "json", "cluster", "check", "machines", "--set", "hosts=4", "--wait").Stdout)
	require.Equal(t, "stable", c.State)
	require.Len(t, c.Hosts, 4)
	require.Equal(t, "4", c.Settings["hosts"])
	refused := e.Cloudctl(t.Context(), "cluster", "check", "machines", "--set", "hosts=none", "--wait")
	require.Equal(t, 1, refused.Code, "%s", refused)
	require.Equal(t, 4, *host("get", "sim-3").Installations)
	for _, name := range names {
		ctl(t, e, "installation", "delete", name, "--wait")
	}
	ctl(t, e, "cluster", "delete", "machines", "--wait")
}
