package store

import (
	"context"
	"testing"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database/postgres"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/pgtest"
	"dormouse/migrations"
)

// leftSQL names what is in the schema beside the migrations' own table.
const leftSQL = `SELECT coalesce(string_agg(name, ' ' ORDER BY name), '') FROM (
	SELECT relname::text AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'schema_migrations%'
	UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
	UNION ALL SELECT typname::text FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typname NOT LIKE '%schema_migrations') x`

func connect(t testing.TB, url string) *sqlx.DB {
	t.Helper()
	db, err := sqlx.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestMigrateUpDownUp(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	ctx := context.Background()
	db := connect(t, url)
	left := func() (names string) {
		require.NoError(t, db.Get(&names, leftSQL))
		return names
	}
	before, after, err := Migrate(ctx, url)
	require.NoError(t, err)
	require.Zero(t, before)
	require.Positive(t, after)
	schema := left()
	require.Contains(t, schema, "installation_name")

	src, err := iofs.New(migrations.Files, ".")
	require.NoError(t, err)
	drv, err := postgres.WithInstance(connect(t, url).DB, &postgres.Config{})
	require.NoError(t, err)
	m, err := migrate.NewWithInstance("iofs", src, "postgres", drv)
	require.NoError(t, err)
	require.NoError(t, m.Down())
	require.Empty(t, left(), "the way down leaves something")
	_, _ = m.Close()

	_, again, err := Migrate(ctx, url)
	require.NoError(t, err)
	require.Equal(t, after, again)
	require.Equal(t, schema, left())
	before, again, err = Migrate(ctx, url)
	require.NoError(t, err)
	require.Equal(t, []uint{after, after}, []uint{before, again}, "nothing to do is no error")
}

func TestMigrateRefuses(t *testing.T) {
	t.Parallel()
	url := pgtest.NewMigrated(t, migrateUp)
	db := connect(t, url)
	for name, c := range map[string]struct{ change, want string }{
		"ANewerSchema":   {"UPDATE schema_migrations SET version = 9999, dirty = false", "start the newer binary"},
		"ADamagedSchema": {"UPDATE schema_migrations SET version = 1, dirty = true", "stopped halfway"},
	} {
		_, err := db.Exec(c.change)
		require.NoError(t, err)
		_, _, err = Migrate(context.Background(), url)
		require.Equal(t, fleet.KindPermanent, fleet.KindOf(err), name)
		require.Contains(t, err.Error(), c.want)
	}
	_, _, err := Migrate(context.Background(), "postgres://nobody@127.0.0.1:1/none?sslmode=disable")
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
}

// The second used to find the schema halfway through and call it damaged.
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	for _, err := range together(6, func(int) error { return migrateUp(context.Background(), url) }) {
		require.NoError(t, err)
	}
	require.Positive(t, open(t, url).count(t, "SELECT count(*) FROM pg_class WHERE relname = 'installation'"))
}
