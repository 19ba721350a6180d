package e2e

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// TestWorkspace is a tenant's whole life, as an operator drives it.
func TestWorkspace(t *testing.T) {
	t.Parallel()
	e := suite.Shared(t)
	v1 := upload(t, e, suite.Workspace(t, "1.0.0"))
	v2 := upload(t, e, suite.Workspace(t, "1.1.0"))

	in := installation(t, e, "create", "acme", "--owner", "alice", "--cluster", harness.Cluster, "--package", v1, "--wait", "--timeout", "10m")
	require.Equal(t, "stable", in.State)
	require.Equal(t, "alice", in.Owner)
	require.Equal(t, v1, in.RunningPackage)
	require.Equal(t, v1, in.VerifiedPackage)
	require.Len(t, in.Endpoints, 1)
	require.Equal(t, 8080, in.Endpoints[0].Port)
	require.True(t, strings.HasPrefix(in.URL, "http://acme.localhost:"), in.URL)
	require.Len(t, e.MachinesOf(in.Instance.ID), 1)
	page, err := e.Visit(t.Context(), "acme", "GET", "/", "")
	require.NoError(t, err)
	require.Equal(t, 200, page.Status)
	require.Equal(t, "acme", visit[info](t, e, "acme", "/api/info").Hostname)
	addNote(t, e, "acme", "remember me")
	held := heldMiB(t, in.ID)
	booted := visit[info](t, e, "acme", "/api/info").BootedAt

	// Asleep: no machine, no memory held, the note on the volume. A request wakes it,
	// and its program goes on where it was.
	in = installation(t, e, "hibernate", "acme", "--wait")
	require.Equal(t, "hibernating", in.State)
	require.Empty(t, e.MachinesOf(in.Instance.ID))
	require.Equal(t, int64(128), held)
	require.Zero(t, heldMiB(t, in.ID))
	requireNote(t, e, "acme", "remember me")
	require.Equal(t, booted, visit[info](t, e, "acme", "/api/info").BootedAt)
	require.Eventually(t, func() bool {
		return installation(t, e, "get", "acme").State == "stable"
	}, time.Minute, 100*time.Millisecond, "the control plane hears of a wake by a visit")

	// And cold, when somebody asks for it.
	in = installation(t, e, "hibernate", "acme", "--cold", "--wait")
	require.Equal(t, "hibernating", in.State)
	require.Empty(t, e.MachinesOf(in.Instance.ID))
	address := in.Endpoints

	in = installation(t, e, "wake", "acme", "--wait", "--timeout", "10m")
	require.Equal(t, "stable", in.State)
	require.True(t, visit[info](t, e, "acme", "/api/info").BootedAt.After(booted))
	require.NotEqual(t, address, in.Endpoints, "a sleeper has no endpoints, and one that woke has")
	requireNote(t, e, "acme", "remember me")
	require.Len(t, e.MachinesOf(in.Instance.ID), 1)

	// A new release and a new configuration, both at once.
	before := in.Instance.ID
	in = installation(t, e, "update", "acme", "--package", v2, "--env", "GREETING=good morning", "--wait", "--timeout", "10m")
	require.Equal(t, "stable", in.State)
	require.Equal(t, v2, in.RunningPackage)
	require.Equal(t, v2, in.VerifiedPackage)
	now := visit[info](t, e, "acme", "/api/info")
	require.Equal(t, "1.1.0", now.Version)
	require.Equal(t, "good morning", now.Greeting)
	requireNote(t, e, "acme", "remember me")
	require.NotEqual(t, before, in.Instance.ID)
	require.Empty(t, e.MachinesOf(before), "the predecessor's machine")

	logs := ctl(t, e, "installation", "logs", "acme")
	require.Contains(t, logs.Stdout, "workspace: version 1.1.0 serves")
	following(t, in)
	explained := decoded[client.Explanation](t, ctl(t, e, "-o", "json", "installation", "explain", "acme").Stdout)
	require.Equal(t, "stable", explained.State)
	require.Contains(t, explained.Accepts, "hibernate")

	r := ctl(t, e, "installation", "delete", "acme", "--yes", "--wait", "-o", "json")
	require.Equal(t, "deleted", decoded[client.Installation](t, r.Stdout).State)
	requireGone(t, e, in)
	missing := e.Cloudctl(t.Context(), "installation", "get", "acme")
	require.Equal(t, 3, missing.Code, "%s", missing)
	again := e.Cloudctl(t.Context(), "installation", "delete", "acme", "--yes")
	require.Equal(t, 3, again.Code, "%s", again)
}

// heldMiB is the memory that a host holds for an installation.
func heldMiB(t *testing.T, id string) int64 {
	t.Helper()
	rows, err := suite.Shared(t).Query(t.Context(), "SELECT held_memory_mib FROM installation WHERE id = '"+id+"'")
	require.NoError(t, err)
	require.Len(t, rows, 1)
	return decoded[int64](t, rows[0][0])
}

// following sees with logs -f what a restart writes, and that it is a restart.
func following(t *testing.T, in client.Installation) {
	t.Helper()
	e := suite.Shared(t)
	cmd := e.CloudctlCommand(t.Context(), "installation", "logs", in.Name, "-f", "--tail", "1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	before := visit[info](t, e, in.Name, "/api/info").BootedAt
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "logs -f begins with what there is")
	after := installation(t, e, "restart", in.Name, "--wait", "--timeout", "10m")
	require.Equal(t, in.Instance.ID, after.Instance.ID)
	require.True(t, visit[info](t, e, in.Name, "/api/info").BootedAt.After(before))
	var seen strings.Builder
	for !strings.Contains(seen.String(), "serves") && lines.Scan() {
		seen.WriteString(lines.Text() + "\n")
	}
	require.Contains(t, seen.String(), "workspace: stopping", stderr.String())
	require.Contains(t, seen.String(), "serves", "the log goes on over a restart: %s", stderr.String())
}
