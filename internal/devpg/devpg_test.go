package devpg

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestStartAdoptStop(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	first, _ := begin(t, Options{Dir: dir})
	require.False(t, first.Adopted())
	pid := mainPID(t, first)
	db := open(t, first)
	exec1(t, db, "CREATE TABLE kept AS SELECT 1")

	// What must not be lost is durable, and nobody else gets in.
	for name, want := range map[string]string{"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
		"listen_addresses": "", "timezone": "UTC", "server_encoding": "UTF8"} {
		require.Equal(t, want, query(t, db, "SHOW "+name), name)
	}
	for path, mode := range map[string]os.FileMode{first.socket: 0o700, first.dataDir: 0o700, first.LogPath(): 0o600} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}
	if query(t, db, "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'") == "1" {
		require.Equal(t, "all", query(t, db, "SHOW pg_stat_statements.track"))
		require.NotEqual(t, "0", query(t, db, "SELECT count(*) FROM pg_stat_statements"))
	}
	sid, err := unix.Getsid(pid)
	require.NoError(t, err)
	require.Equal(t, pid, sid, "Ctrl-C must not reach the server")

	// Close leaves it running, and the next Start adopts it, its session alive.
	first.Close()
	first.Close()
	second, _ := begin(t, Options{Dir: dir})
	require.True(t, second.Adopted())
	require.Equal(t, pid, mainPID(t, second))
	require.Equal(t, first.URL(), second.URL())
	require.Equal(t, "1", query(t, db, "SELECT count(*) FROM kept"))

	require.NoError(t, second.Stop(t.Context()))
	requireNothingRuns(t, second)
	require.NoError(t, second.Stop(t.Context()), "stopping what has ended is no error")
	second.Close()

	third, _ := begin(t, Options{Dir: dir})
	require.False(t, third.Adopted())
	require.Equal(t, "1", query(t, open(t, third), "SELECT count(*) FROM kept"))
	// A Stop whose caller has no time left ends it all the same.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, third.Stop(gone))
	requireNothingRuns(t, third)
}

// The postmaster is killed while a backend does not notice: it is ended, and
// what was committed is there after the recovery.
func TestStartAfterKill(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	s, _ := begin(t, Options{Dir: dir})
	db := open(t, s)
	exec1(t, db, "CREATE TABLE kept AS SELECT 1")
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	var backend int
	require.NoError(t, conn.QueryRowContext(t.Context(), "SELECT pg_backend_pid()").Scan(&backend))
	kill(t, backend, unix.SIGSTOP)
	kill(t, mainPID(t, s), unix.SIGKILL)
	require.Eventually(t, func() bool { _, ok := postmaster(s.dataDir); return !ok }, patience, pollEvery)
	require.Contains(t, processes(s.dataDir), backend)
	s.Close()

	again, _ := begin(t, Options{Dir: dir})
	require.False(t, again.Adopted())
	require.NotContains(t, processes(s.dataDir), backend)
	require.Equal(t, "1", query(t, open(t, again), "SELECT count(*) FROM kept"))

	// Stop with orphans only.
	kill(t, mainPID(t, again), unix.SIGKILL)
	require.NoError(t, again.Stop(t.Context()))
	require.Empty(t, processes(again.dataDir))
	require.NoDirExists(t, again.socket)
	endWell(t, dir)
}

// Lock files of a crash: a number that is another process's by now, and files
// that were never written through.
func TestStartWithStaleLockFiles(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	s, _ := begin(t, Options{Dir: dir})
	stranger := bystander(t, dir)
	for name, text := range map[string]string{"foreign process": lockText(stranger, s), "this process": lockText(os.Getpid(), s),
		"no process": lockText(1<<22-1, s), "empty": "", "garbage": "\x00\x00\x00"} {
		require.NoError(t, s.Stop(t.Context()))
		write(t, filepath.Join(s.dataDir, "postmaster.pid"), text)
		require.NoError(t, os.Mkdir(s.socket, 0o700))
		write(t, filepath.Join(s.socket, socketName+".lock"), text)
		write(t, filepath.Join(s.socket, socketName), "")
		var err error
		s, err = Start(t.Context(), Options{Dir: dir})
		require.NoError(t, err, name)
		require.False(t, s.Adopted(), name)
		require.Equal(t, "1", query(t, open(t, s), "SELECT 1"), name)
	}
	require.NoError(t, unix.Kill(stranger, 0), "the foreign process was harmed")
	require.NoError(t, s.Stop(t.Context()))
	require.NoError(t, unix.Kill(stranger, 0), "the foreign process was harmed")
}

func TestStartsAtOnce(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	var wg sync.WaitGroup
	servers := make([]*Server, 4)
	errs := make([]error, len(servers))
	for i := range servers {
		wg.Go(func() { servers[i], errs[i] = Start(t.Context(), Options{Dir: dir}) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	started := 0
	for _, s := range servers {
		if !s.Adopted() {
			started++
		}
		require.Equal(t, servers[0].URL(), s.URL())
		s.Close()
	}
	require.Equal(t, 1, started)
	require.Equal(t, "1", query(t, open(t, servers[0]), "SELECT 1"))
	require.NoError(t, servers[0].Stop(t.Context()))
	requireNothingRuns(t, servers[0])
}

// A Start that is cut at any time leaves nothing that hinders the next one.
func TestStartThatIsCut(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	for _, after := range []string{"lock", newPrefix + "*", "data", "postgres.log", "data/postmaster.pid"} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			s, err := Start(ctx, Options{Dir: dir})
			if err == nil {
				err = errors.Join(errors.New("it was not cut"), s.Stop(context.Background()))
			}
			ended <- err
		}()
		require.Eventually(t, func() bool {
			found, err := filepath.Glob(filepath.Join(dir, after))
			return err == nil && len(found) > 0
		}, patience, time.Millisecond, after)
		cancel()
		if err := <-ended; err != nil && err.Error() != "it was not cut" {
			require.ErrorIs(t, err, context.Canceled, after)
		}
		require.Empty(t, processes(filepath.Join(dir, "data")), after)
		left, err := filepath.Glob(filepath.Join(dir, newPrefix+"*"))
		require.NoError(t, err)
		require.Empty(t, left, after)
	}
	s, _ := begin(t, Options{Dir: dir})
	require.Equal(t, "1", query(t, open(t, s), "SELECT 1"))
	require.NoError(t, s.Stop(t.Context()))
}

// A running server whose socket is gone can't be reached by anybody.
func TestStartAfterLossOfTheSocket(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	s, _ := begin(t, Options{Dir: dir})
	pid := mainPID(t, s)
	require.NoError(t, removeSocket(s.socket))
	again, _ := begin(t, Options{Dir: dir})
	require.False(t, again.Adopted())
	require.NotEqual(t, pid, mainPID(t, again))
	require.Equal(t, "1", query(t, open(t, again), "SELECT 1"))
	require.NoError(t, again.Stop(t.Context()))
}

// A path that is too long for a socket's address.
func TestLongPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(newDir(t), "a-rather-long-name-of-a-directory-which-holds-the-data-of-the-provisioner-of-this-test-and-nothing-else", "postgres")
	s, _ := begin(t, Options{Dir: dir})
	t.Cleanup(func() { require.NoError(t, s.Stop(context.Background())) })
	require.NotEqual(t, dir, filepath.Dir(s.socket))
	require.Equal(t, "1", query(t, open(t, s), "SELECT 1"))
	// Also what an immediate shutdown leaves there goes.
	kill(t, mainPID(t, s), unix.SIGKILL)
	require.NoError(t, s.Stop(t.Context()))
	require.NoDirExists(t, s.socket)
	endWell(t, dir)
}
