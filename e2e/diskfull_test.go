package e2e

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// TestDiskFull: on a full disk everything says so, nothing is lost, nothing is
// left behind, and all goes on when there is room again.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	e := suite.Own(t, harness.Options{Filesystem: 1000 << 20})
	require.NoError(t, e.Start(t.Context()))
	require.NoError(t, e.CreateCluster(t.Context()))
	pkg := upload(t, e, suite.Workspace(t, "1.0.0"))
	in := installation(t, e, "create", "early", "--owner", "ivan", "--package", pkg, "--disk", "16MiB", "--wait", "--timeout", "10m")
	addNote(t, e, "early", "safe")

	// More than there is, by the count: it waits, or is refused.
	big := e.Cloudctl(t.Context(), "installation", "create", "big", "--owner", "ivan", "--package", pkg, "--disk", "4GiB", "--if-full", "refuse", "--wait")
	require.Equal(t, 7, big.Code, "%s", big)

	// Really full, to the last block, by something that is not ours.
	filler := filepath.Join(e.DataDir, "filler")
	fill(t, filler)
	full := e.Cloudctl(t.Context(), "package", "create", suite.Workspace(t, "1.1.0"))
	require.NotZero(t, full.Code, "%s", full)
	require.Contains(t, full.Stderr, "full", "%s", full)
	var name string
	r := e.Cloudctl(t.Context(), "-o", "json", "installation", "create", "late", "--owner", "ivan", "--package", pkg, "--disk", "16MiB")
	if r.Code == 0 {
		name = "late" // Postgres had room in its files for the request itself
		require.Eventually(t, func() bool {
			x, err := e.Client.Installations.Explain(t.Context(), name)
			return err != nil || x.LastError != "" || x.WaitingFor != ""
		}, soon, tick, "it says what it waits for")
	}
	require.NoError(t, e.AwaitAnswer(t.Context(), "early", "/api/info", nil))

	require.NoError(t, os.Remove(filler))
	require.NoError(t, e.AwaitReady(t.Context()))
	if name == "" {
		ctl(t, e, "installation", "create", "late", "--owner", "ivan", "--package", pkg, "--disk", "16MiB")
	}
	var after client.Installation
	require.Eventually(t, func() bool {
		var err error
		after, err = e.Client.Installations.Get(t.Context(), "late")
		return err == nil && after.State == "stable"
	}, late, tick, "it goes on when there is room: %+v", &after)
	upload(t, e, suite.Workspace(t, "1.1.0"))
	requireNote(t, e, "early", "safe")
	addNote(t, e, "early", "again")
	require.Empty(t, e.Files("tmp"), "half-made things")
	deleteAndLook(t, e, after)
	deleteAndLook(t, e, in)
}

// TestSmallDisk: a disk that no installation would fit on is found by the
// cluster's check, with what mends it.
func TestSmallDisk(t *testing.T) {
	t.Parallel()
	e := suite.Own(t, harness.Options{Filesystem: 300 << 20})
	require.NoError(t, e.Start(t.Context()))
	r := e.Cloudctl(t.Context(), "cluster", "create", harness.Cluster, "--provider", "kvm", "--wait")
	require.Equal(t, 1, r.Code, "%s", r)
	require.Contains(t, r.Stdout, "creation-failed (check-failed: disk")
	require.Contains(t, r.Stdout, "free some space in "+e.DataDir)
	ctl(t, e, "cluster", "delete", harness.Cluster, "--wait")
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	block := make([]byte, 1<<20)
	for err == nil {
		if _, err = f.Write(block); err != nil && len(block) > 1 {
			block, err = block[:len(block)/2], nil
		}
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
}
