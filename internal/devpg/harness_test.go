package devpg

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// memoryDir is where the tests' servers lie where it has room: fsync is on.
const memoryDir = "/dev/shm"

// newDir returns the path of a server's directory that is yet to be made, where
// the server's account may come. Whatever runs there is ended with the test.
func newDir(t testing.TB) string {
	t.Helper()
	base := os.TempDir()
	var fs unix.Statfs_t
	if unix.Statfs(memoryDir, &fs) == nil && fs.Type == unix.TMPFS_MAGIC && uint64(fs.Bsize)*fs.Bavail > 2<<30 {
		base = memoryDir
	}
	top, err := os.MkdirTemp(base, "devpg-test-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(top, 0o755))
	dir := filepath.Join(top, "postgres")
	t.Cleanup(func() {
		// Everything of a test that failed half-way too.
		require.NoError(t, endAll(context.Background(), filepath.Join(dir, "data"), unix.SIGQUIT))
		require.NoError(t, os.RemoveAll(top))
	})
	return dir
}

// begin is Start, with what it logs.
func begin(t testing.TB, o Options) (*Server, *test.Hook) {
	t.Helper()
	log, hook := test.NewNullLogger()
	o.Log = log
	if o.Settings == nil {
		// In the data directory: a server that a test kills leaves nothing in /dev/shm.
		o.Settings = map[string]string{"dynamic_shared_memory_type": "mmap"}
	}
	s, err := Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s, hook
}

func open(t testing.TB, s *Server) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", s.URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func query(t testing.TB, db *sql.DB, q string, args ...any) string {
	t.Helper()
	var v string
	require.NoError(t, db.QueryRow(q, args...).Scan(&v))
	return v
}

func exec1(t testing.TB, db *sql.DB, q string) {
	t.Helper()
	_, err := db.Exec(q)
	require.NoError(t, err)
}

func mainPID(t testing.TB, s *Server) int {
	t.Helper()
	f, ok := postmaster(s.dataDir)
	require.True(t, ok, "no postmaster runs")
	return f.pid
}

func kill(t testing.TB, pid int, sig unix.Signal) {
	t.Helper()
	require.NoError(t, unix.Kill(pid, sig))
}

func requireNothingRuns(t testing.TB, s *Server) {
	t.Helper()
	require.Empty(t, processes(s.dataDir))
	require.NoDirExists(t, s.socket)
	require.NoFileExists(t, filepath.Join(s.dataDir, "postmaster.pid"))
}

// endWell ends a test that killed the server: only the next start takes the
// System V shared memory away that the kernel keeps of the killed one.
func endWell(t testing.TB, dir string) {
	t.Helper()
	s, _ := begin(t, Options{Dir: dir})
	require.NoError(t, s.Stop(t.Context()))
	requireNothingRuns(t, s)
}

// bystander is a live process of the server's account that is no Postgres.
func bystander(t testing.TB, dir string) int {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	require.NoError(t, AsServerAccount(cmd, filepath.Dir(dir)))
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// write makes a file as the owner of its directory.
func write(t testing.TB, path, text string) {
	t.Helper()
	uid, gid, err := ownerOf(filepath.Dir(path))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(t, os.Chown(path, uid, gid))
}

func lockText(pid int, s *Server) string {
	return strconv.Itoa(pid) + "\n" + s.dataDir + "\n1700000000\n" + port + "\n" + s.socket + "\n\n  5432001    98765\nready   \n"
}

// names lists a directory.
func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	require.NoError(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

const patience = time.Minute
