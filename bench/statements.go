package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// statement is what pg_stat_statements knows of one.
type statement struct {
	query string
	calls int64
	ms    float64
}

// counts is what was executed in one database by others than the bench.
type counts struct {
	statements, commits, rollbacks int64
	// ms is the time that the statements took within the server.
	ms  float64
	all map[int64]statement
}

const countsSQL = `SELECT s.queryid, s.query, sum(s.calls), sum(s.total_exec_time) FROM pg_stat_statements s
JOIN pg_database d ON d.oid = s.dbid JOIN pg_roles r ON r.oid = s.userid
WHERE d.datname = $1 AND r.rolname <> $2 GROUP BY 1, 2`

// counts reads the counters as they are now.
func (d *database) counts(ctx context.Context) (counts, error) {
	c := counts{all: map[int64]statement{}}
	rows, err := d.p.stats.QueryContext(ctx, countsSQL, d.name, observer)
	if err != nil {
		return c, fmt.Errorf("reading pg_stat_statements: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var s statement
		if err := rows.Scan(&id, &s.query, &s.calls, &s.ms); err != nil {
			return c, err
		}
		switch verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(s.query)), " "); strings.TrimRight(verb, ";") {
		case "BEGIN", "START", "SAVEPOINT", "RELEASE", "SET":
		case "COMMIT", "END":
			c.commits += s.calls
		case "ROLLBACK", "ABORT":
			c.rollbacks += s.calls
		default:
			c.statements, c.ms = c.statements+s.calls, c.ms+s.ms
			c.all[id] = s
		}
	}
	return c, rows.Err()
}

// since returns what was executed after before was read.
func (c counts) since(before counts) counts {
	out := counts{statements: c.statements - before.statements, commits: c.commits - before.commits,
		rollbacks: c.rollbacks - before.rollbacks, ms: c.ms - before.ms, all: map[int64]statement{}}
	for id, s := range c.all {
		if was := before.all[id]; s.calls > was.calls {
			out.all[id] = statement{query: s.query, calls: s.calls - was.calls, ms: s.ms - was.ms}
		}
	}
	return out
}

// measure returns what f had executed.
func (d *database) measure(ctx context.Context, f func() error) (counts, error) {
	before, err := d.counts(ctx)
	if err != nil {
		return counts{}, err
	}
	if err := f(); err != nil {
		return counts{}, err
	}
	after, err := d.counts(ctx)
	return after.since(before), err
}

// explain tells on standard error which statements it were, per unit.
func (b *bench) explain(c counts, per float64, unit string) {
	all := make([]statement, 0, len(c.all))
	for _, s := range c.all {
		all = append(all, s)
	}
	slices.SortFunc(all, func(x, y statement) int { return cmp.Compare(y.ms, x.ms) })
	for _, s := range all[:min(len(all), 12)] {
		b.say("  %8.3f calls and %8.3f ms per %s: %s", float64(s.calls)/per, s.ms/per, unit, firstLine(s.query, 100))
	}
}
