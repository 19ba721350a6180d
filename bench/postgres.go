package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"

	_ "github.com/lib/pq" // the driver

	"dormouse/internal/devpg"
)

// observer is the role as which the bench looks; its statements are not counted.
const observer = "bench_observer"

// postgres is the bench's own server.
type postgres struct {
	server *devpg.Server
	// stats is the observer's connection to a database where nothing is measured.
	stats *sql.DB
	bins  string
}

func (b *bench) startPostgres(ctx context.Context) (*postgres, error) {
	b.say("starting Postgres, with fsync and synchronous_commit on")
	server, err := devpg.Start(ctx, devpg.Options{Dir: filepath.Join(b.dir, "postgres"), Settings: map[string]string{
		"fsync": "on", "synchronous_commit": "on", "shared_preload_libraries": "pg_stat_statements",
		"pg_stat_statements.track": "all", "pg_stat_statements.max": "10000", "max_connections": "300",
	}})
	if err != nil {
		return nil, err
	}
	b.onClose(func() error { return server.Stop(context.Background()) })
	found, err := devpg.Find(ctx)
	if err != nil {
		return nil, err
	}
	p := &postgres{server: server, bins: found[0].BinDir}
	setup, err := sql.Open("postgres", server.DatabaseURL("postgres"))
	if err != nil {
		return nil, err
	}
	defer setup.Close()
	for _, statement := range []string{"CREATE ROLE " + observer + " SUPERUSER LOGIN", "CREATE EXTENSION pg_stat_statements"} {
		if _, err := setup.ExecContext(ctx, statement); err != nil {
			return nil, fmt.Errorf("preparing Postgres: %w", err)
		}
	}
	if p.stats, err = p.observe("postgres"); err != nil {
		return nil, err
	}
	b.onClose(p.stats.Close)
	return p, nil
}

// observe connects to a database as the observer.
func (p *postgres) observe(name string) (*sql.DB, error) {
	u, err := url.Parse(p.server.DatabaseURL(name))
	if err != nil {
		return nil, err
	}
	u.User = url.User(observer)
	db, err := sql.Open("postgres", u.String())
	if err == nil {
		db.SetMaxOpenConns(2)
	}
	return db, err
}

// database is one that is measured.
type database struct {
	p    *postgres
	name string
	url  string
	// look is the observer's connection to it.
	look *sql.DB
}

// newDatabase makes a database with the schema of the provisioner.
func (b *bench) newDatabase(ctx context.Context, name string) (*database, error) {
	d, err := b.emptyDatabase(ctx, name)
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(b.bin, "provisioner"), "migrate", "--database", d.url).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("migrating: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return d, nil
}

func (b *bench) emptyDatabase(ctx context.Context, name string) (*database, error) {
	owner, err := sql.Open("postgres", b.pg.server.DatabaseURL("postgres"))
	if err != nil {
		return nil, err
	}
	defer owner.Close()
	if _, err := owner.ExecContext(ctx, `CREATE DATABASE "`+name+`"`); err != nil {
		return nil, fmt.Errorf("making database %s: %w", name, err)
	}
	d := &database{p: b.pg, name: name, url: b.pg.server.DatabaseURL(name)}
	if d.look, err = b.pg.observe(name); err != nil {
		return nil, err
	}
	b.onClose(d.look.Close)
	return d, nil
}

// count reads one number.
func (d *database) count(ctx context.Context, query string, args ...any) (int64, error) {
	var n int64
	if err := d.look.QueryRowContext(ctx, query, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("looking into the database: %w", err)
	}
	return n, nil
}

// open counts the operations that are not finished.
func (d *database) open(ctx context.Context) (int64, error) {
	return d.count(ctx, `SELECT count(*) FROM operation WHERE state IN ('active', 'queued')`)
}

// settled brings the statistics of the planner up to date after many rows were
// written, as autovacuum would in its time.
func (d *database) settled(ctx context.Context) error {
	_, err := d.look.ExecContext(ctx, "VACUUM ANALYZE")
	return err
}

// ignoreNoRows makes no error of a query that finds nothing yet.
func ignoreNoRows(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}
