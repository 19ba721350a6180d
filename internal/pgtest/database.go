package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"
)

// Zone is the time zone of every database: 5 hours and 45 minutes from UTC.
const Zone = "Asia/Kathmandu"

// databaseTimeout bounds what is done to a database.
const databaseTimeout = time.Minute

// New returns the postgres:// URL of an empty database of this test's own,
// which is dropped when the test has ended. Where there is no server, the test fails.
func New(t testing.TB) string {
	t.Helper()
	s := get(t)
	return s.database(t, "")
}

// NewMigrated is New with the schema that migrate makes. On our own server
// migrate is called once in a process and its result copied for each test; on
// another it is called for each. It must leave no connection, and do the same
// whenever it is called; two closures of one function literal count as one.
func NewMigrated(t testing.TB, migrate func(ctx context.Context, url string) error) string {
	t.Helper()
	s := get(t)
	if s.own {
		template, err := s.template(migrate)
		if err != nil {
			t.Fatal(err)
		}
		return s.database(t, template)
	}
	at := s.database(t, "")
	ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
	defer cancel()
	if err := migrate(ctx, at); err != nil {
		t.Fatal("migrating the test's database:", err)
	}
	return at
}

func get(t testing.TB) *server {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatal("this test needs a Postgres server:", err)
	}
	return s
}

// database makes a copy of a template, or an empty database, for a test.
func (s *server) database(t testing.TB, template string) string {
	t.Helper()
	name := newName()
	ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
	defer cancel()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
		defer cancel()
		if err := s.exec(ctx, "DROP DATABASE IF EXISTS "+pq.QuoteIdentifier(name)+" WITH (FORCE)"); err != nil {
			t.Error("dropping the test's database:", err)
		}
	})
	if err := s.create(ctx, name, template); err != nil {
		t.Fatal("making the test's database:", err)
	}
	return s.at(name)
}

func (s *server) create(ctx context.Context, name, template string) error {
	quoted, from := pq.QuoteIdentifier(name), "template0"
	if template != "" {
		from = pq.QuoteIdentifier(template)
	}
	if err := s.exec(ctx, "CREATE DATABASE "+quoted+" TEMPLATE "+from); err != nil {
		return err
	}
	// A database's own settings are not copied with it.
	return s.exec(ctx, "ALTER DATABASE "+quoted+" SET timezone = "+pq.QuoteLiteral(Zone))
}

func (s *server) exec(ctx context.Context, query string) error {
	_, err := s.admin.ExecContext(ctx, query)
	return err
}

// at returns the URL of a database of this server.
func (s *server) at(name string) string {
	u := *s.url
	u.Path = "/" + name
	return u.String()
}

// template returns the database that migrate has made; the first caller makes it.
func (s *server) template(migrate func(context.Context, string) error) (string, error) {
	key := reflect.ValueOf(migrate).Pointer()
	s.mu.Lock()
	once, ok := s.templates[key]
	if !ok {
		once = sync.OnceValues(func() (string, error) { return s.newTemplate(migrate) })
		s.templates[key] = once
	}
	s.mu.Unlock()
	return once()
}

func (s *server) newTemplate(migrate func(context.Context, string) error) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
	defer cancel()
	name := newName()
	if err := s.create(ctx, name, ""); err != nil {
		return "", fmt.Errorf("making the template of the tests' databases: %w", err)
	}
	if err := migrate(ctx, s.at(name)); err != nil {
		return "", fmt.Errorf("migrating the template of the tests' databases: %w", err)
	}
	// Nobody can be copied from while connected to.
	if err := s.exec(ctx, "ALTER DATABASE "+pq.QuoteIdentifier(name)+" ALLOW_CONNECTIONS false"); err != nil {
		return "", fmt.Errorf("closing the template of the tests' databases: %w", err)
	}
	return name, nil
}

// newName returns a name that is unique on a server which many processes share.
func newName() string { return "dormouse_test_" + strings.ToLower(rand.Text()) }
