package pgtest

import (
	"context"
	"database/sql"
	"testing"
)

// Pair is a primary and a standby that follows it, for tests of failovers. They
// take a second or two to make.
type Pair struct {
	t                testing.TB
	primary, standby *server
	name             string
}

// NewPair makes one, with a database that migrate has filled. Both end with the test.
func NewPair(t testing.TB, migrate func(ctx context.Context, url string) error) *Pair {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	p := &Pair{t: t, name: newName()}
	run := func(primary string) *server {
		s, err := launch(ctx, baseDir(), primary, "wal_level = replica", "max_wal_senders = 4")
		if err != nil {
			t.Fatal("this test needs a pair of Postgres servers:", err)
		}
		t.Cleanup(func() { _ = s.admin.Close(); _ = s.alive.Close() })
		return s
	}
	p.primary = run("")
	if err := p.primary.create(ctx, p.name, ""); err != nil {
		t.Fatal("making the test's database:", err)
	}
	if err := migrate(ctx, p.Primary()); err != nil {
		t.Fatal("migrating the test's database:", err)
	}
	p.standby = run(p.primary.dir)
	return p
}

// Primary is the URL of the database on the server that began as the primary.
func (p *Pair) Primary() string { return p.primary.at(p.name) }

// Standby is the URL of the same database on the server that began as the standby.
func (p *Pair) Standby() string { return p.standby.at(p.name) }

// Follow waits until the standby has all that the primary has.
func (p *Pair) Follow() {
	p.t.Helper()
	var at string
	p.one(p.primary, &at, "SELECT pg_current_wal_lsn()")
	for behind := true; behind; {
		p.one(p.standby, &behind, "SELECT coalesce(pg_last_wal_replay_lsn() < $1::pg_lsn, true) OR pg_sleep(0.01) IS NULL", at)
	}
}

// Promote makes the standby a primary, and returns when it is.
func (p *Pair) Promote() {
	p.t.Helper()
	var done bool
	p.one(p.standby, &done, "SELECT pg_promote()")
	if !done {
		p.t.Fatal("the standby is not promoted")
	}
}

func (p *Pair) one(s *server, into any, query string, args ...any) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
	defer cancel()
	db, err := sql.Open("postgres", s.at(p.name))
	if err == nil {
		err = db.QueryRowContext(ctx, query, args...).Scan(into)
		_ = db.Close()
	}
	if err != nil {
		p.t.Fatal(query, err)
	}
}
