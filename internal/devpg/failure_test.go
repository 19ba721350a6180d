package devpg

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// needRoot says why a test can't run.
func needRoot(t *testing.T, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: " + why + " takes root")
	}
}

func TestOtherMajorVersion(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	data := filepath.Join(dir, "data")
	require.NoError(t, os.MkdirAll(data, 0o700))
	write(t, filepath.Join(data, "PG_VERSION"), "11\n")
	_, err := Start(t.Context(), Options{Dir: dir})
	require.ErrorContains(t, err, "was made by Postgres 11")
	require.ErrorContains(t, err, "postgresql-11")
	require.Equal(t, []string{"PG_VERSION"}, names(t, data))

	write(t, filepath.Join(data, "PG_VERSION"), "eleven\n")
	_, err = Start(t.Context(), Options{Dir: dir})
	require.ErrorContains(t, err, "which is no version")
	require.NoError(t, os.Remove(filepath.Join(data, "PG_VERSION")))
	_, err = Start(t.Context(), Options{Dir: dir})
	require.ErrorContains(t, err, "not a Postgres data directory")
}

func TestDirectoryThatTheAccountMayNotEnter(t *testing.T) {
	t.Parallel()
	needRoot(t, "running as another account")
	dir := newDir(t)
	closed := filepath.Dir(dir)
	require.NoError(t, os.Chmod(closed, 0o700))
	_, err := Start(t.Context(), Options{Dir: dir})
	require.ErrorContains(t, err, "chmod o+x "+closed)
	require.Equal(t, []string{"lock"}, names(t, dir))

	require.NoError(t, os.Chmod(closed, 0o711))
	s, _ := begin(t, Options{Dir: dir})
	require.NoError(t, s.Stop(t.Context()))
}

// A data directory of root's is not run, one of another account by that account.
func TestAccountOfADataDirectory(t *testing.T) {
	t.Parallel()
	needRoot(t, "giving a directory to another account")
	dir := newDir(t)
	data := filepath.Join(dir, "data")
	require.NoError(t, os.MkdirAll(data, 0o700))
	_, err := chooseAccount(data)
	require.ErrorContains(t, err, "chown -R postgres "+data)
	require.NoError(t, os.Chown(data, 65534, 65534))
	who, err := chooseAccount(data)
	require.NoError(t, err)
	require.Equal(t, 65534, who.uid)
	require.True(t, who.switched)
}

// mountSmall mounts a file system of so many bytes.
func mountSmall(t *testing.T, at, size string) {
	t.Helper()
	needRoot(t, "mounting a small file system")
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, "mode=755,size="+size); err != nil {
		t.Skip("skipped: mounting a small file system: " + err.Error())
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	top := filepath.Dir(dir)
	mountSmall(t, top, "200m")
	t.Cleanup(func() { // before the directory is removed
		require.NoError(t, endAll(t.Context(), filepath.Join(dir, "data"), syscall.SIGQUIT))
		require.NoError(t, unix.Unmount(top, unix.MNT_DETACH))
	})
	ballast := filepath.Join(top, "ballast")
	fill := func(leave int) {
		var fs unix.Statfs_t
		require.NoError(t, unix.Statfs(top, &fs))
		free := int(fs.Bavail) * int(fs.Bsize)
		require.NoError(t, os.WriteFile(ballast, bytes.Repeat([]byte{1}, free-leave), 0o600))
	}
	// While initdb runs: early and late.
	for _, leave := range []int{1 << 20, 20 << 20} {
		fill(leave)
		_, err := Start(t.Context(), Options{Dir: dir})
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.ErrorContains(t, err, "the disk is full: free at least 100 MB in "+dir)
		require.Equal(t, []string{"lock"}, names(t, dir))
		require.NoError(t, os.Remove(ballast))
	}
	s, _ := begin(t, Options{Dir: dir})
	db := open(t, s)
	exec1(t, db, "CREATE TABLE kept AS SELECT 1")

	// After a crash, when it starts again.
	kill(t, mainPID(t, s), unix.SIGKILL)
	require.NoError(t, s.Stop(t.Context()))
	fill(0)
	_, err := Start(t.Context(), Options{Dir: dir})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, "the disk is full")
	require.Empty(t, processes(s.dataDir))
	require.NoError(t, os.Remove(ballast))
	again, _ := begin(t, Options{Dir: dir})
	require.Equal(t, "1", query(t, open(t, again), "SELECT count(*) FROM kept"))
	require.NoError(t, again.Stop(t.Context()))
}

func TestServerThatDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	_, err := Start(t.Context(), Options{Dir: dir, Settings: map[string]string{"max_connections": "none"}})
	require.ErrorContains(t, err, "max_connections", "the error holds what the server said")
	require.ErrorContains(t, err, filepath.Join(dir, "postgres.log"))
	require.Empty(t, processes(filepath.Join(dir, "data")))
	require.NoDirExists(t, filepath.Join(dir, "socket"))
}

func TestBoundLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	require.NoError(t, boundLog(path), "there is none yet")
	writer, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	require.NoError(t, err)
	defer writer.Close()
	line := strings.Repeat("x", 1023) + "\n"
	_, err = writer.WriteString(strings.Repeat(line, maxLogBytes>>10))
	require.NoError(t, err)
	require.NoError(t, boundLog(path))
	require.NoFileExists(t, path+".1", "it is not too long yet")

	for range 2 {
		_, err = writer.WriteString(strings.Repeat(line, maxLogBytes>>10) + "last\n")
		require.NoError(t, err)
		require.NoError(t, boundLog(path))
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Zero(t, info.Size())
		kept, err := os.ReadFile(path + ".1")
		require.NoError(t, err)
		require.Len(t, kept, maxLogBytes)
		require.True(t, bytes.HasSuffix(kept, []byte("\nlast\n")))
	}
	// The writer goes on at the start, and no hole is left before it.
	_, err = writer.WriteString("next\n")
	require.NoError(t, err)
	now, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "next\n", string(now))
}
