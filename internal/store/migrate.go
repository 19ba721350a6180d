package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database/postgres"
	"github.com/golang-migrate/migrate/v4/source/iofs"

	"dormouse/internal/fleet"
	"dormouse/migrations"
)

// Migrate brings the schema of the database at url up to the newest version.
// Two at once are safe: one waits for the other (an advisory lock). It returns
// the version before and after.
func Migrate(ctx context.Context, url string) (before, after uint, err error) {
	db, err := sql.Open("postgres", url)
	if err != nil {
		return 0, 0, fleet.Errorf(fleet.KindInvalid, "reading the database URL: %w", err)
	}
	defer db.Close()
	if err := db.PingContext(ctx); err != nil {
		return 0, 0, translate("connecting to the database", err)
	}
	src, err := iofs.New(migrations.Files, ".")
	if err != nil {
		return 0, 0, fmt.Errorf("reading the embedded migrations: %w", err)
	}
	drv, err := postgres.WithInstance(db, &postgres.Config{})
	if err != nil {
		return 0, 0, fmt.Errorf("preparing to migrate: %w", err)
	}
	m, err := migrate.NewWithInstance("iofs", src, "postgres", drv)
	if err != nil {
		return 0, 0, fmt.Errorf("preparing to migrate: %w", err)
	}
	before, dirty, err := m.Version()
	if err != nil && !errors.Is(err, migrate.ErrNilVersion) {
		return 0, 0, fmt.Errorf("reading the schema's version: %w", err)
	}
	if dirty {
		return before, before, fleet.Errorf(fleet.KindPermanent,
			"migration %d stopped halfway: restore the backup taken before it, or mend the schema and set schema_migrations.dirty to false", before)
	}
	if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return before, before, fmt.Errorf("migrating: %w", err)
	}
	after, _, err = m.Version()
	return before, after, err
}
