package pgtest

import (
	"bufio"
	"context"
	"database/sql"
	_ "embed" // watchdog.sh
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lib/pq"
	"golang.org/x/sys/unix"

	"dormouse/internal/devpg"
)

// EnvServer names the environment variable with the URL of a server to use
// instead of one of our own.
const EnvServer = "DORMOUSE_TEST_POSTGRES"

const (
	startTimeout = 2 * time.Minute
	memoryDir    = "/dev/shm"
	// roomBytes is what must be free in memory: the log of Postgres and some
	// hundred small databases. A container's 64 MiB are not enough.
	roomBytes = 2 << 30
	// maxSocketPath is what fits into sockaddr_un.sun_path with its final zero byte (unix(7)).
	maxSocketPath = 107
)

//go:embed watchdog.sh
var watchdog string

// server is where databases are made.
type server struct {
	url   *url.URL
	admin *sql.DB
	// own: it is ours, and ends with alive.
	own bool
	dir string
	// alive is the pipe to the watchdog. It is never written to; that it is
	// referenced here keeps it open as long as this process lives.
	alive io.Closer

	mu        sync.Mutex
	templates map[uintptr]func() (string, error)
}

// shared is the server of this process, started by the first test that asks.
var shared = sync.OnceValues(func() (*server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if at := os.Getenv(EnvServer); at != "" {
		return connect(ctx, at)
	}
	return start(ctx, baseDir())
})

// baseDir is where servers keep their data: in memory where there is room.
func baseDir() string {
	var fs unix.Statfs_t
	if err := unix.Statfs(memoryDir, &fs); err == nil && fs.Type == unix.TMPFS_MAGIC && uint64(fs.Bsize)*fs.Bavail >= roomBytes {
		return memoryDir
	}
	if len(filepath.Join(os.TempDir(), "dormouse-pgtest-XXXXXX", ".s.PGSQL.5432.lock")) <= maxSocketPath {
		return os.TempDir()
	}
	return "/tmp"
}

// connect returns a server that somebody else runs.
func connect(ctx context.Context, at string) (*server, error) {
	u, err := url.Parse(at)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", EnvServer, err)
	}
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, fmt.Errorf("reading %s: it is not a postgres:// URL", EnvServer)
	}
	s := &server{url: u, templates: map[uintptr]func() (string, error){}}
	connector, err := pq.NewConnector(at)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", EnvServer, err)
	}
	s.admin = sql.OpenDB(connector)
	s.admin.SetMaxOpenConns(4)
	if err := s.admin.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to the tests' Postgres: %w", err), s.admin.Close())
	}
	return s, nil
}

// start runs a server of our own in a new directory under base.
func start(ctx context.Context, base string) (*server, error) { return launch(ctx, base, "") }

// launch is start, with more settings, as a standby of the server with that
// socket directory where one is named.
func launch(ctx context.Context, base, primary string, more ...string) (*server, error) {
	found, err := devpg.Find(ctx)
	if err != nil {
		return nil, err
	}
	arguments := slices.Concat([]string{"-c", watchdog, "watchdog.sh", base, found[0].BinDir, primary}, settings(found[0]), more)
	cmd := exec.Command("/bin/sh", arguments...)
	// Of a session of its own: Ctrl-C and a kill of our process group are not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := devpg.AsServerAccount(cmd, base); err != nil {
		return nil, err
	}
	alive, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the tests' Postgres: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the tests' Postgres: %w", err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the tests' Postgres: %w", err)
	}
	give := context.AfterFunc(ctx, func() { _ = alive.Close() })
	dir, err := ready(out)
	go func() { _ = cmd.Wait() }() // reaps it
	if !give() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the tests' Postgres in %s: %w", base, err), alive.Close())
	}
	at := url.URL{Scheme: "postgres", User: url.User("dormouse"), Path: "/postgres",
		RawQuery: url.Values{"host": {dir}, "sslmode": {"disable"}}.Encode()}
	s, err := connect(ctx, at.String())
	if err != nil {
		return nil, errors.Join(err, alive.Close())
	}
	s.own, s.dir, s.alive = true, dir, alive
	return s, nil
}

// ready reads what the watchdog says until the server takes connections, and
// returns its directory.
func ready(out io.Reader) (string, error) {
	var said []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if dir, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			return dir, nil
		}
		said = append(said, lines.Text())
	}
	return "", fmt.Errorf("it ended: %s", strings.Join(said, "; "))
}

func settings(bin devpg.Installed) []string {
	set := []string{
		"listen_addresses = ''", "max_connections = 300", "shared_buffers = 64MB",
		"fsync = off", "synchronous_commit = off", "full_page_writes = off",
		// Less log, and its segments are used again: it lies in memory.
		"wal_level = minimal", "max_wal_senders = 0", "min_wal_size = 32MB", "max_wal_size = 128MB",
		// In the data directory and not beside it, so that nothing is left in /dev/shm.
		"dynamic_shared_memory_type = mmap",
		// What the server does by itself would make plans and timings differ from run to run.
		"autovacuum = off", "jit = off", "deadlock_timeout = 50ms",
		"timezone = '" + Zone + "'", "log_timezone = 'UTC'",
	}
	if bin.Library("pg_stat_statements") {
		set = append(set, "shared_preload_libraries = 'pg_stat_statements'", "pg_stat_statements.track = 'all'")
	}
	return set
}
