package devpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// superuser owns everything; the socket's directory says who may be it.
	superuser = "dormouse"
	// Database is the database that Start makes.
	Database = "dormouse"
	// startTimeout bounds a start whose context has no deadline. Crash recovery
	// reads at most max_wal_size.
	startTimeout = 2 * time.Minute
	// fastTimeout is how long Stop waits for a fast shutdown (which writes a
	// checkpoint) before an immediate one, and killTimeout how long for that.
	fastTimeout = 30 * time.Second
	killTimeout = 10 * time.Second
	// orphanTimeout is how long processes may take to notice that their postmaster is dead.
	orphanTimeout = 5 * time.Second
	// logEvery is how often the size of the log is looked at.
	logEvery = time.Minute
)

// Options say where and how to run the server.
type Options struct {
	// Dir is the server's own directory, <data-dir>/postgres. It is made where
	// it is missing.
	Dir string
	// Log gets what was done and why; nil discards.
	Log logrus.FieldLogger
	// Settings are server settings beside, or instead of, our own, such as
	// fsync=off in tests. They do not reach a server that runs already.
	Settings map[string]string
}

// Server is a running Postgres. Its methods may be called from several goroutines.
type Server struct {
	dir, dataDir, socket string
	settings             map[string]string
	adopted              bool
	log                  logrus.FieldLogger
	// done is closed when this process has no more part in the server.
	done    chan struct{}
	release func()
}

// Start makes the data directory of o.Dir where there is none, starts Postgres
// there or adopts the one that runs, waits until it answers, and sees that
// Database exists.
//
// The server has a session of its own and outlives this process. Call Stop to
// end it, or Close to leave it running. Errors say what to do.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		o.Log = l
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startTimeout)
		defer cancel()
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("starting Postgres in %s: %w", o.Dir, err)
	}
	if err := makeDirs(dir); err != nil {
		return nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("starting Postgres: %w", err)
	}
	unlock, err := lockDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()

	s := &Server{dir: dir, dataDir: filepath.Join(dir, "data"), settings: o.Settings,
		log: o.Log.WithField("postgres", dir), done: make(chan struct{})}
	s.release = sync.OnceFunc(func() { close(s.done) })
	if s.adopted, err = s.adopt(ctx); err != nil {
		return nil, err
	}
	if !s.adopted {
		s.socket = "" // of what ended while it was to be adopted
		if err := s.start(ctx); err != nil {
			return nil, err
		}
	}
	if err := ensureDatabase(ctx, s); err != nil {
		if !s.adopted {
			err = errors.Join(err, stop(context.WithoutCancel(ctx), s.dataDir), removeSocket(s.socket))
		}
		return nil, err
	}
	go s.boundLogs()
	return s, nil
}

// boundLogs keeps the log small while this process lives. While no provisioner
// lives nobody uses the server, so that it has nothing to say.
func (s *Server) boundLogs() {
	tick := time.NewTicker(logEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
			if err := boundLog(s.LogPath()); err != nil {
				s.log.WithError(err).Warn("keeping the log of Postgres small")
			}
		}
	}
}

// URL returns the address of Database, for lib/pq, libpq and golang-migrate.
// It stays the same when Watch starts the server again.
func (s *Server) URL() string { return s.DatabaseURL(Database) }

// DatabaseURL returns the address of a database of this server.
func (s *Server) DatabaseURL(name string) string {
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + name,
		RawQuery: url.Values{"host": {s.socket}, "port": {port}, "sslmode": {"disable"}}.Encode()}
	return u.String()
}

// LogPath returns the file that the server writes its log to.
func (s *Server) LogPath() string { return filepath.Join(s.dir, "postgres.log") }

// Adopted tells whether the server ran before Start.
func (s *Server) Adopted() bool { return s.adopted }

// Close leaves the server running and gives up this process's part in it: Watch
// ends. It may be called more than once, also after Stop.
func (s *Server) Close() { s.release() }
