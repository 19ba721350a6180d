package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database/postgres"
	"github.com/golang-migrate/migrate/v4/source"
	"github.com/golang-migrate/migrate/v4/source/iofs"

	"dormouse/internal/fleet"
	"dormouse/migrations"
)

// migrateLockSQL makes one process wait for another that migrates. The library's
// own lock begins too late: a schema halfway through looks damaged to it.
const migrateLockSQL = `SELECT pg_advisory_lock(hashtextextended('dormouse/migrate', 0))`

// Migrate brings the schema of the database at url up to the newest version.
// Two at once are safe: one waits for the other. It returns the version before
// and after. A schema newer than this binary, or one that a migration left
// damaged, is KindPermanent, and is not touched.
func Migrate(ctx context.Context, url string) (before, after uint, err error) {
	db, err := sql.Open("postgres", url)
	if err != nil {
		return 0, 0, fleet.Errorf(fleet.KindInvalid, "reading the database URL: %w", err)
	}
	defer db.Close()
	if err := db.PingContext(ctx); err != nil {
		return 0, 0, translate("connecting to the database", err)
	}
	lock, err := db.Conn(ctx)
	if err != nil {
		return 0, 0, translate("connecting to the database", err)
	}
	defer lock.Close() // before db, which gives the lock back
	if _, err := lock.ExecContext(ctx, migrateLockSQL); err != nil {
		return 0, 0, translate("waiting for another process that migrates", err)
	}
	src, err := iofs.New(migrations.Files, ".")
	if err != nil {
		return 0, 0, fmt.Errorf("reading the embedded migrations: %w", err)
	}
	newest, err := newestVersion(src)
	if err != nil {
		return 0, 0, fmt.Errorf("reading the embedded migrations: %w", err)
	}
	drv, err := postgres.WithInstance(db, &postgres.Config{})
	if err != nil {
		return 0, 0, translate("preparing to migrate", err)
	}
	m, err := migrate.NewWithInstance("iofs", src, "postgres", drv)
	if err != nil {
		return 0, 0, fmt.Errorf("preparing to migrate: %w", err)
	}
	defer m.Close() // its connection stays open else: closing db leaves those in use
	before, dirty, err := m.Version()
	if err != nil && !errors.Is(err, migrate.ErrNilVersion) {
		return 0, 0, fmt.Errorf("reading the schema's version: %w", err)
	}
	if dirty {
		return before, before, fleet.Errorf(fleet.KindPermanent,
			"migration %d stopped halfway: restore the backup taken before it, or mend the schema and set schema_migrations.dirty to false", before)
	}
	if before > newest {
		return before, before, fleet.Errorf(fleet.KindPermanent,
			"the database has schema version %d and this binary knows %d at most: start the newer binary, or restore the backup taken before it ran", before, newest)
	}
	if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return before, before, translate("migrating", err)
	}
	after, _, err = m.Version()
	return before, after, err
}

// newestVersion returns the version of the last of the migrations.
func newestVersion(src source.Driver) (uint, error) {
	newest, err := src.First()
	for err == nil {
		var next uint
		if next, err = src.Next(newest); err == nil {
			newest = next
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return newest, nil
	}
	return newest, err
}
