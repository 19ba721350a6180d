package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// Whoever was killed while it started a program leaves that one the lock for a
// moment; whoever lives keeps it.
func TestDataDirectoryIsLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	held, err := os.OpenFile(filepath.Join(dir, "provisioner.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	require.NoError(t, unix.Flock(int(held.Fd()), unix.LOCK_EX))

	_, err = openDataDir(dir)
	require.Equal(t, fleet.KindConflict, fleet.KindOf(err), "%v", err)

	opened := make(chan error)
	go func() {
		d, err := openDataDir(dir)
		if err == nil {
			d.close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		require.Fail(t, "it did not wait", "%v", err)
	case <-time.After(lockPatience / 10):
	}
	require.NoError(t, held.Close())
	require.NoError(t, <-opened)
}
