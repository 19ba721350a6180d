package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// pgbenchDatabase is where pgbench inserts.
const pgbenchDatabase = "bench_insert"

func (b *bench) preparePgbench(ctx context.Context) error {
	d, err := b.emptyDatabase(ctx, pgbenchDatabase)
	if err != nil {
		return err
	}
	if _, err := d.look.ExecContext(ctx, "CREATE TABLE line (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), says text NOT NULL)"); err != nil {
		return err
	}
	return os.WriteFile(b.pgbenchScript(), []byte("INSERT INTO line (says) VALUES ('one row as long as an event of ours would be, more or less');\n"), 0o644)
}

func (b *bench) pgbenchScript() string { return filepath.Join(b.dir, "insert.sql") }

// pgbench returns how many one-insert commits a second the same server does,
// over the same kind of connection.
func (b *bench) pgbench(ctx context.Context, clients int, d time.Duration) (float64, error) {
	seconds := max(1, int(d.Seconds()))
	out, err := exec.CommandContext(ctx, filepath.Join(b.pg.bins, "pgbench"), "-n", "-M", "prepared", "-f", b.pgbenchScript(),
		"-c", strconv.Itoa(clients), "-j", strconv.Itoa(min(clients, 2)), "-T", strconv.Itoa(seconds),
		b.pg.server.DatabaseURL(pgbenchDatabase)).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("running pgbench: %w: %s", err, strings.TrimSpace(string(out)))
	}
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, "tps = "); ok {
			value, _, _ := strings.Cut(rest, " ")
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("pgbench did not say its rate: %s", out)
}
