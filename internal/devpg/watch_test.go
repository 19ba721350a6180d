package devpg

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// watch runs s.Watch and returns what is closed when it returns.
func watch(t testing.TB, ctx context.Context, s *Server) <-chan struct{} {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Watch(ctx)
	}()
	return ended
}

func requireClosed(t testing.TB, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		require.Fail(t, "Watch does not end")
	}
}

// awaitSaid waits until a message was logged so often.
func awaitSaid(t testing.TB, hook *test.Hook, message string, times int) {
	t.Helper()
	require.Eventually(t, func() bool {
		said := 0
		for _, e := range hook.AllEntries() {
			if e.Message == message {
				said++
			}
		}
		return said >= times
	}, patience, pollEvery, message)
}

func TestWatchStartsAgain(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	s, hook := begin(t, Options{Dir: dir})
	awaitSaid(t, hook, "started Postgres", 1)
	db := open(t, s) // as the store holds it: the pool reconnects by itself
	exec1(t, db, "CREATE TABLE kept AS SELECT 1")
	ended := watch(t, t.Context(), s)

	// Killed, shut down by somebody else, and killed once more at once.
	for i, sig := range []unix.Signal{unix.SIGKILL, unix.SIGINT, unix.SIGKILL} {
		pid := mainPID(t, s)
		kill(t, pid, sig)
		require.Eventually(t, func() bool {
			f, ok := postmaster(s.dataDir)
			return ok && f.pid != pid && db.Ping() == nil
		}, patience, pollEvery, sig)
		require.Equal(t, "1", query(t, db, "SELECT count(*) FROM kept"))
		awaitSaid(t, hook, "Postgres has ended and nobody stopped it: starting it again", i+1)
		awaitSaid(t, hook, "started Postgres", i+2)
	}
	// Stop is no end that is to be mended.
	require.NoError(t, s.Stop(t.Context()))
	requireClosed(t, ended)
	requireNothingRuns(t, s)
}

// Dead before Watch begins, and adopted: both are watched.
func TestWatchOfWhatHasEnded(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	first, _ := begin(t, Options{Dir: dir})
	first.Close()
	s, hook := begin(t, Options{Dir: dir})
	require.True(t, s.Adopted())
	pid := mainPID(t, s)
	kill(t, pid, unix.SIGKILL)
	require.Eventually(t, func() bool { return !runs(pid, s.dataDir) }, patience, pollEvery)
	ctx, cancel := context.WithCancel(t.Context())
	ended := watch(t, ctx, s)
	db := open(t, s)
	require.Eventually(t, func() bool { return db.Ping() == nil }, patience, pollEvery)
	awaitSaid(t, hook, "started Postgres", 1)

	// Neither the end of ctx nor Close ends the server.
	cancel()
	requireClosed(t, ended)
	pid = mainPID(t, s)
	ended = watch(t, t.Context(), s)
	s.Close()
	requireClosed(t, ended)
	require.Equal(t, pid, mainPID(t, s))
	require.NoError(t, s.Stop(t.Context()))
}

// A directory that is gone is not replaced by an empty database.
func TestWatchDoesNotBeginAnew(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	s, hook := begin(t, Options{Dir: dir})
	db := open(t, s)
	exec1(t, db, "CREATE TABLE kept AS SELECT 1")
	pid := mainPID(t, s)
	aside := s.dataDir + ".aside"
	require.NoError(t, os.Rename(s.dataDir, aside))
	kill(t, pid, unix.SIGKILL)
	ended := watch(t, t.Context(), s)
	awaitSaid(t, hook, "starting Postgres again", 1)
	require.NoDirExists(t, s.dataDir)
	// The orphans notice by themselves that their postmaster is dead.
	require.Eventually(t, func() bool { return len(processes(aside)) == 0 }, patience, pollEvery)
	require.NoError(t, os.Rename(aside, s.dataDir))
	require.Eventually(t, func() bool { return db.Ping() == nil }, patience, pollEvery)
	require.Equal(t, "1", query(t, db, "SELECT count(*) FROM kept"))
	require.NoError(t, s.Stop(t.Context()))
	requireClosed(t, ended)
}

func TestBackOff(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]time.Duration{0: 0, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second,
		6: longestBackOff, 1000: longestBackOff} {
		require.Equal(t, want, backOff(failures), failures)
	}
}
