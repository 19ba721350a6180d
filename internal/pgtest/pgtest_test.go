package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func connectTo(t testing.TB, at string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", at)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func text(t testing.TB, db *sql.DB, query string, args ...any) string {
	t.Helper()
	var v string
	require.NoError(t, db.QueryRow(query, args...).Scan(&v))
	return v
}

func nameOf(t testing.TB, at string) string {
	t.Helper()
	u, err := url.Parse(at)
	require.NoError(t, err)
	return strings.TrimPrefix(u.Path, "/")
}

func TestNewIsEmptyInAnOddZoneAndDropped(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("a test", func(t *testing.T) {
		at := New(t)
		name = nameOf(t, at)
		db, err := sql.Open("postgres", at)
		require.NoError(t, err)
		// Not closed: a test that leaves its connections does not keep the database.
		require.Equal(t, Zone, text(t, db, "SHOW timezone"))
		require.Equal(t, "0", text(t, db, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"))
	})
	require.Equal(t, "0", text(t, connectTo(t, New(t)), "SELECT count(*) FROM pg_database WHERE datname = $1", name))
}

func TestSettings(t *testing.T) {
	t.Parallel()
	s := get(t)
	if !s.own {
		t.Skip("skipped: " + EnvServer + " names another server, whose settings are its own")
	}
	db := connectTo(t, New(t))
	for name, want := range map[string]string{"fsync": "off", "max_connections": "300", "listen_addresses": "",
		"dynamic_shared_memory_type": "mmap", "unix_socket_directories": s.dir} {
		require.Equal(t, want, text(t, db, "SHOW "+name), name)
	}
	if text(t, db, "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'") == "1" {
		require.Equal(t, "all", text(t, db, "SHOW pg_stat_statements.track"))
	}
}

func TestNewMigratedMigratesOnceAndCopies(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	migrate := func(ctx context.Context, at string) error {
		calls.Add(1)
		db, err := sql.Open("postgres", at)
		if err != nil {
			return err
		}
		_, err = db.ExecContext(ctx, "CREATE TABLE t (n int)")
		return errors.Join(err, db.Close())
	}
	t.Run("tests", func(t *testing.T) {
		for range 8 {
			t.Run("one", func(t *testing.T) {
				t.Parallel()
				db := connectTo(t, NewMigrated(t, migrate))
				require.Equal(t, "0", text(t, db, "SELECT count(*) FROM t"))
				require.Equal(t, Zone, text(t, db, "SHOW timezone"))
				_, err := db.Exec("INSERT INTO t VALUES (1)")
				require.NoError(t, err)
			})
		}
	})
	if get(t).own {
		require.EqualValues(t, 1, calls.Load())
	}
}

// A server that is not ours: databases are migrated one by one, and nothing stays.
func TestAnotherServer(t *testing.T) {
	t.Parallel()
	other, err := connect(t.Context(), New(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.admin.Close()) })
	require.False(t, other.own)
	var name string
	t.Run("a test", func(t *testing.T) {
		at := other.database(t, "")
		name = nameOf(t, at)
		require.Equal(t, Zone, text(t, connectTo(t, at), "SHOW timezone"))
	})
	require.Equal(t, "0", text(t, other.admin, "SELECT count(*) FROM pg_database WHERE datname = $1", name))
	for _, bad := range []string{"host=/tmp", "http://127.0.0.1/", "postgres://nobody@/x?host=" + url.QueryEscape(t.TempDir())} {
		_, err := connect(t.Context(), bad)
		require.Error(t, err, bad)
	}
}

// A start that fails says what was wrong, and leaves nothing.
func TestStartThatFails(t *testing.T) {
	t.Parallel()
	base := openDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := start(ctx, base)
	require.ErrorIs(t, err, context.Canceled)

	require.NoError(t, os.Chmod(base, 0o555))
	_, err = start(t.Context(), base)
	require.ErrorContains(t, err, "ermission denied")
	require.Eventually(t, empty(t, base), time.Minute, 20*time.Millisecond)
}

// openDir is a directory that the server's account may write to.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(baseDir(), "pgtest-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o777|os.ModeSticky))
	return dir
}

func empty(t testing.TB, dir string) func() bool {
	return func() bool {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		return len(entries) == 0
	}
}
