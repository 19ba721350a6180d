package devpg

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"time"

	"github.com/lib/pq"
)

// pollEvery is how often a condition is looked at that gives no signal.
const pollEvery = 20 * time.Millisecond

// poll calls done until it says so, fails, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// awaitAnswer waits until the server answers, alive fails, or ctx ends. While a
// server recovers from a crash it refuses connections, which is no failure.
func (s *Server) awaitAnswer(ctx context.Context, alive func() error) error {
	var last error
	err := poll(ctx, func() (bool, error) {
		if last = s.answers(ctx); last == nil {
			return true, nil
		}
		return false, alive()
	})
	if err != nil && ctx.Err() != nil && last != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	return err
}

// dataDirectorySQL tells whose socket this is.
const dataDirectorySQL = `SELECT current_setting('data_directory')`

// answers returns nil if the server of our data directory answers on our socket.
func (s *Server) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.withDB("postgres", func(db *sql.DB) error {
		var dir string
		if err := db.QueryRowContext(ctx, dataDirectorySQL).Scan(&dir); err != nil {
			return err
		}
		theirs, err := os.Stat(dir)
		if err != nil {
			return err
		}
		ours, err := os.Stat(s.dataDir)
		if err != nil {
			return err
		}
		if !os.SameFile(theirs, ours) {
			return fmt.Errorf("the server in %s belongs to %s", s.socket, dir)
		}
		return nil
	})
}

const (
	haveDatabaseSQL = `SELECT count(*) FROM pg_database WHERE datname = $1`
	// Identifiers can't be parameters; these are constants of ours.
	makeDatabaseSQL = `CREATE DATABASE ` + Database
	// For the statement budgets of bench and for whoever looks for a slow query.
	makeExtensionSQL = `CREATE EXTENSION IF NOT EXISTS pg_stat_statements`
	haveLibrarySQL   = `SELECT count(*) FROM pg_settings WHERE name = 'pg_stat_statements.track'`
)

// ensureDatabase makes Database where it is missing: after initdb, or after a
// crash between the two.
func ensureDatabase(ctx context.Context, s *Server) error {
	fresh := false
	err := s.withDB("postgres", func(db *sql.DB) error {
		var n int
		if err := db.QueryRowContext(ctx, haveDatabaseSQL, Database).Scan(&n); err != nil || n > 0 {
			return err
		}
		fresh = true
		_, err := db.ExecContext(ctx, makeDatabaseSQL)
		return err
	})
	if err != nil {
		return fmt.Errorf("making the database %s: %w", Database, fullDisk(s.dataDir, err.Error(), err))
	}
	if !fresh {
		return nil
	}
	return s.withDB(Database, func(db *sql.DB) error {
		var n int
		if err := db.QueryRowContext(ctx, haveLibrarySQL).Scan(&n); err != nil || n == 0 {
			return err
		}
		if _, err := db.ExecContext(ctx, makeExtensionSQL); err != nil {
			// Statistics are a convenience: the library may be there without its SQL files.
			s.log.WithError(err).Info("no statement statistics")
		}
		return nil
	})
}

func (s *Server) withDB(name string, f func(*sql.DB) error) error {
	connector, err := pq.NewConnector(s.DatabaseURL(name))
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	return f(db)
}
