package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/e2e/harness"
)

// TestProvisionerEnds: machines outlive the provisioner however it ends, but
// for Ctrl-C, and the next start goes on with what there is.
func TestProvisionerEnds(t *testing.T) {
	t.Parallel()
	e := suite.Own(t, harness.Options{})
	require.NoError(t, e.Start(t.Context()))
	require.NoError(t, e.CreateCluster(t.Context()))
	pkg := upload(t, e, suite.Workspace(t, "1.0.0"))
	in := installation(t, e, "create", "steady", "--owner", "frank", "--package", pkg, "--disk", "64MiB", "--wait", "--timeout", "10m")
	addNote(t, e, "steady", "before")
	booted := visit[info](t, e, "steady", "/api/info").BootedAt
	machines := e.Machines()
	require.Len(t, machines, 1)

	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		require.NoError(t, e.End(sig))
		require.Len(t, e.MachinesOf(in.Instance.ID), 1, "the machine after %s", sig)
		require.NoError(t, e.Start(t.Context()))
		require.NoError(t, e.AwaitAnswer(t.Context(), "steady", "/api/info", nil))
		require.Equal(t, booted, visit[info](t, e, "steady", "/api/info").BootedAt, "the boot after %s", sig)
		require.Equal(t, machines[0].PID, e.Machines()[0].PID, "adopted after %s", sig)
	}
	// An adopted machine can be worked on.
	ctl(t, e, "installation", "restart", "steady", "--wait", "--timeout", "10m")

	require.NoError(t, e.End(syscall.SIGINT))
	require.Empty(t, e.Leftovers(), "after Ctrl-C")
	require.NoError(t, e.Start(t.Context()))
	require.NoError(t, e.AwaitAnswer(t.Context(), "steady", "/api/info", nil))
	require.Equal(t, "stable", installation(t, e, "get", "steady").State)
	requireNote(t, e, "steady", "before")
	require.True(t, visit[info](t, e, "steady", "/api/info").BootedAt.After(booted))
	require.Len(t, e.Machines(), 1)

	// Two provisioners on one data directory: the second says so and ends.
	second, err := e.Second()
	require.NoError(t, err)
	require.Contains(t, second, "another provisioner")
	deleteAndLook(t, e, in)
	require.Empty(t, e.Machines())
	requireTaps(t, e)
}

// TestPostgresGone: while the database is away nothing is lost and the
// provisioner says so; when it is back, all goes on.
func TestPostgresGone(t *testing.T) {
	t.Parallel()
	e := suite.Own(t, harness.Options{})
	require.NoError(t, e.Start(t.Context()))
	pkg := upload(t, e, suite.Workspace(t, "1.0.0"))
	simulate(t, e, "pretend", "boot_time=2s")
	create := func(name string) {
		ctl(t, e, "installation", "create", name, "--owner", "grace", "--package", pkg, "--cluster", "pretend")
	}
	unready := func() bool {
		a, err := e.Call(t.Context(), "GET", "/readyz", "")
		return err == nil && a.Status == 503 && strings.Contains(a.Body, "unavailable")
	}
	healthy := func(why string) {
		a, err := e.Call(t.Context(), "GET", "/healthz", "")
		require.NoError(t, err)
		require.Equal(t, 200, a.Status, why)
	}
	settled := func(name string) {
		t.Helper()
		require.NoError(t, e.AwaitReady(t.Context()))
		require.Eventually(t, func() bool {
			in, err := e.Client.Installations.Get(t.Context(), name)
			return err == nil && in.State == "stable"
		}, 2*time.Minute, tick, "what was accepted before is done after")
	}

	// It hangs in the middle of an operation.
	create("hung")
	pid, err := e.Postmaster()
	require.NoError(t, err)
	stopped := append([]int{pid}, e.Children(pid)...)
	for _, p := range stopped {
		require.NoError(t, syscall.Kill(p, syscall.SIGSTOP))
	}
	resume := func() {
		for _, p := range stopped {
			_ = syscall.Kill(p, syscall.SIGCONT)
		}
	}
	defer resume()
	require.Eventually(t, unready, 2*time.Minute, tick, "/readyz while the database hangs")
	healthy("the provisioner itself lives on")
	p := problem(t, e, 503, "GET", "/api/v1/installations/hung", "")
	require.Equal(t, "unavailable", p.Kind)
	resume()
	settled("hung")

	// It is killed, and comes back without anybody doing anything.
	create("killed")
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.Eventually(t, func() bool { return unready() || e.PostmasterChanged(pid) }, soon, tick, "/readyz while there is no database")
	healthy("the provisioner itself lives on")
	require.Eventually(t, func() bool { return e.PostmasterChanged(pid) }, 2*time.Minute, tick, "the private Postgres is started again")
	settled("killed")
	create("after")
	settled("after")
}
