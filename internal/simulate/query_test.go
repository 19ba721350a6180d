package simulate

import (
	"context"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"dormouse/internal/invariants"
)

func array(values []string) any { return pq.Array(values) }

// strings returns the first column of a query, asked past all lanes.
func (s *simulation) strings(query string, args ...any) []string {
	var out []string
	var err error
	s.db.outside(func() { out, err = s.db.strings(query, args...) })
	if err != nil {
		s.fail("asking: %v: %s", err, query)
	}
	return out
}

func (d *database) strings(query string, args ...any) ([]string, error) {
	rows, err := d.admin.Query(query, args...)
	if err != nil {
		return nil, err
	}
	return invariants.Texts(rows)
}

const resetSQL = `DO $$ DECLARE tables text; BEGIN
	SELECT string_agg(quote_ident(tablename), ', ') INTO tables FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations';
	EXECUTE 'TRUNCATE ' || tables || ' RESTART IDENTITY';
	ALTER SEQUENCE operation_epoch RESTART;
END $$`

// reset empties the database, and opens the lanes.
func (d *database) reset(t *testing.T) {
	t.Helper()
	d.down.Store(false)
	d.now.Store(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := d.admin.ExecContext(ctx, resetSQL)
	require.NoError(t, err, "emptying the database")
	for _, l := range d.lanes {
		l.step.Store(false)
		require.NoError(t, l.open())
	}
}

const tendSQL = `VACUUM (TRUNCATE false) installation, operation, instance, volume, event, address_lease, idempotency_key, host, cluster, package`

// tend does what autovacuum does, at points of the history: it begins with empty
// tables, and plans that were made for these are slow when there are a thousand rows. It
// gathers no statistics, which would outlive the seed.
func (s *simulation) tend() {
	if s.world.operations() < s.nextTend {
		return
	}
	s.nextTend *= 4
	var err error
	s.db.outside(func() { _, err = s.db.admin.Exec(tendSQL) })
	if err != nil {
		s.fail("tending the tables: %v", err)
	}
}
