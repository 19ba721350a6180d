package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// TestBadRelease: a release that does not become healthy gives way to the one
// before it, with its data.
func TestBadRelease(t *testing.T) {
	t.Parallel()
	for name, env := range map[string]struct{ env, reason string }{
		"unhealthy": {"FAIL_HEALTH=1", "not-healthy-in-time"},
		"exits":     {"EXIT_CODE=3", "crash-loop"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := suite.Shared(t)
			v1, v2 := upload(t, e, suite.Workspace(t, "1.0.0")), upload(t, e, suite.Workspace(t, "1.1.0"))
			in := installation(t, e, "create", name, "--owner", "bob", "--cluster", harness.Cluster, "--package", v1, "--disk", "64MiB", "--wait", "--timeout", "10m")
			addNote(t, e, name, "kept")
			r := e.Cloudctl(t.Context(), "-o", "json", "installation", "update", name, "--package", v2, "--env", env.env, "--wait", "--timeout", "10m")
			require.Equal(t, 1, r.Code, "%s", r)
			failed := decoded[client.Installation](t, r.Stdout)
			require.Equal(t, "update-failed", failed.State)
			require.Equal(t, env.reason, failed.StateReason)
			require.NotEmpty(t, failed.StateDetail)
			require.Equal(t, v1, failed.RunningPackage)
			require.Equal(t, v1, failed.VerifiedPackage)
			require.Equal(t, v2, failed.Package, "what was asked for stands")
			require.Equal(t, in.Instance.ID, failed.Instance.ID, "the old instance serves again")
			require.Equal(t, "1.0.0", visit[info](t, e, name, "/api/info").Version)
			requireNote(t, e, name, "kept")
			explained := ctl(t, e, "installation", "explain", name).Stdout
			require.Contains(t, explained, "retry")
			deleteAndLook(t, e, failed)
		})
	}
}

// TestCrashLoop: a program that keeps ending is a state with a reason, and no
// machine spins.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	e := suite.Shared(t)
	pkg := upload(t, e, suite.Workspace(t, "1.0.0"))
	// Ends long after it was healthy, so that the create succeeds first.
	in := installation(t, e, "create", "crashing", "--owner", "bob", "--cluster", harness.Cluster, "--package", pkg, "--disk", "64MiB", "--env", "CRASH_AFTER=2s")
	var now client.Installation
	require.Eventually(t, func() bool {
		var err error
		now, err = e.Client.Installations.Get(t.Context(), in.Name)
		return err == nil && (now.State == "crash-looping" || now.State == "creation-failed")
	}, late, tick, "the state of a program that keeps ending")
	require.Equal(t, "crash-loop", now.StateReason)
	require.NotNil(t, now.Instance)
	require.NotNil(t, now.Instance.Exit)
	require.Equal(t, 2, now.Instance.Exit.Code)
	require.NotEmpty(t, now.Instance.Exit.LastLines)
	require.Contains(t, strings.Join(now.Instance.Exit.LastLines, "\n"), "crashing, as CRASH_AFTER asks")
	require.NotContains(t, now.StateDetail, "reboot", "the last line that says something")
	require.Equal(t, "off", now.Instance.Power)
	require.Empty(t, e.MachinesOf(now.Instance.ID))
	require.Contains(t, ctl(t, e, "installation", "explain", in.Name).Stdout, "exit code 2")
	require.Contains(t, ctl(t, e, "installation", "logs", in.Name).Stdout, "crashing, as CRASH_AFTER asks")

	// Mended by configuration.
	mended := installation(t, e, "update", in.Name, "--unset-env", "CRASH_AFTER", "--wait", "--timeout", "10m")
	require.Equal(t, "stable", mended.State)
	require.Empty(t, mended.StateReason)
	deleteAndLook(t, e, mended)
}

func deleteAndLook(t *testing.T, e *harness.Environment, in client.Installation) {
	t.Helper()
	ctl(t, e, "installation", "delete", in.Name, "--yes", "--wait")
	requireGone(t, e, in)
}
