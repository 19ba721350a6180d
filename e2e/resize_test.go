package e2e

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/e2e/harness"
)

// TestResizeAndSecrets asks the guest itself what it has.
func TestResizeAndSecrets(t *testing.T) {
	t.Parallel()
	e := suite.Shared(t)
	pkg := upload(t, e, suite.Program(t, "e2e/guestprobe"))
	type report struct {
		MemoryMiB int64             `json:"memory_mib"`
		DiskMiB   int64             `json:"disk_mib"`
		Env       map[string]string `json:"env"`
	}
	const first, second = "s3cret-before-7c1f", "s3cret-after-9e2d"
	in := installation(t, e, "create", "probe", "--owner", "alice", "--cluster", harness.Cluster, "--package", pkg, "--memory", "128MiB", "--disk", "64MiB",
		"--env", "PLAIN=visible", "--secret", "PASSWORD="+first, "--wait", "--timeout", "10m")
	require.Equal(t, []string{"PASSWORD"}, in.SecretNames)
	was := visit[report](t, e, "probe", "/")
	require.Equal(t, map[string]string{"PLAIN": "visible", "PASSWORD": first}, was.Env)

	in = installation(t, e, "update", "probe", "--memory", "192MiB", "--disk", "128MiB", "--secret", "PASSWORD="+second, "--wait", "--timeout", "10m")
	require.Equal(t, 192, in.MemoryMiB)
	require.Equal(t, 128, in.DiskMiB)
	now := visit[report](t, e, "probe", "/")
	require.Greater(t, now.MemoryMiB, was.MemoryMiB+50, "the guest's memory")
	require.Greater(t, now.DiskMiB, was.DiskMiB+50, "the guest's volume")
	require.Equal(t, second, now.Env["PASSWORD"])
	shrink := e.Cloudctl(t.Context(), "installation", "update", "probe", "--disk", "64MiB")
	require.Equal(t, 2, shrink.Code, "%s", shrink)

	// What is secret is seen by the guest and by nobody else.
	shown := ctl(t, e, "installation", "get", "probe").Stdout + ctl(t, e, "-o", "json", "installation", "get", "probe").Stdout +
		ctl(t, e, "-o", "yaml", "operation", "list").Stdout + ctl(t, e, "installation", "explain", "probe").Stdout +
		ctl(t, e, "installation", "logs", "probe").Stdout
	for _, path := range []string{"/api/v1/installations/probe", "/api/v1/installations", "/api/v1/operations", "/metrics"} {
		a, err := e.Call(t.Context(), "GET", path, "")
		require.NoError(t, err)
		shown += a.Body
	}
	log, err := os.ReadFile(e.LogPath())
	require.NoError(t, err)
	for _, table := range []string{"installation", "instance", "operation", "event", "idempotency_key"} {
		rows, err := e.Query(t.Context(), "SELECT row_to_json(x) FROM "+table+" x")
		require.NoError(t, err)
		for _, row := range rows {
			shown += row[0]
		}
	}
	for _, m := range e.Machines() {
		cmdline, err := os.ReadFile("/proc/" + itoa(m.PID) + "/cmdline")
		if err == nil { // another test may end its own machine
			shown += string(cmdline)
		}
	}
	shown += string(log)
	require.NotContains(t, shown, first)
	require.NotContains(t, shown, second)

	ctl(t, e, "installation", "delete", "probe", "--yes", "--wait")
	requireGone(t, e, in)
}
