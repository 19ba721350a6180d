package main

import (
	"context"
	"fmt"
	"time"
)

// patchBody changes the environment: a full update, which replaces the instance.
func patchBody(value string) string { return fmt.Sprintf(`{"env":{"GREETING":%q}}`, value) }

// benchUpdate measures full updates: from the accepted PATCH until the
// operation has succeeded, with every step committed.
func benchUpdate(ctx context.Context, b *bench) error {
	f, err := b.shared(ctx)
	if err != nil {
		return err
	}
	if err := updateStatements(ctx, b, f); err != nil {
		return err
	}
	n := min(len(f.ids), pick(b, 2_000, 300))
	var rates []float64
	for round := range pick(b, 3, 1) {
		rate, err := updateRate(ctx, b, f, n, fmt.Sprint("rate-", round))
		if err != nil {
			return err
		}
		b.say("round %d: %.0f updates/s", round+1, rate)
		rates = append(rates, rate)
	}
	b.print("update.rate", median(rates), "1/s")
	return updateRateEngine(ctx, b, f, n)
}

// updateStatements updates one installation after the other and counts for
// each. The bench waits by looking into the database as its own role.
func updateStatements(ctx context.Context, b *bench, f *crowd) error {
	c, err := dial(f.proc.api)
	if err != nil {
		return err
	}
	defer c.close()
	var statements, commits, steps, took []float64
	var last counts
	for i := range pick(b, 30, 5) {
		id := f.ids[i]
		var begin time.Time
		made, err := f.db.measure(ctx, func() error {
			begin = time.Now()
			if _, err := c.want(202, "PATCH", installationsPath+"/"+id, "", patchBody(fmt.Sprint("one-", b.began.UnixNano(), i))); err != nil {
				return err
			}
			return until(ctx, 2*time.Millisecond, time.Minute, "the update has succeeded", func() (bool, error) {
				open, err := f.db.count(ctx, `SELECT count(*) FROM operation WHERE resource_id = $1 AND state IN ('active', 'queued')`, id)
				return open == 0, err
			})
		})
		if err != nil {
			return err
		}
		took = append(took, ms(time.Since(begin)))
		done, err := f.db.count(ctx, `SELECT jsonb_array_length(steps) FROM operation
			WHERE resource_id = $1 AND kind = 'update' AND state = 'succeeded' ORDER BY generation DESC LIMIT 1`, id)
		if err != nil {
			return err
		}
		statements, commits = append(statements, float64(made.statements)), append(commits, float64(made.commits))
		steps, last = append(steps, float64(done)), made
		// What follows an update (a last claim that finds nothing) belongs to it.
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	b.explain(last, 1, "update")
	b.say("statements of each update: %.0f", statements)
	b.print("update.statements", median(statements), "statements")
	b.print("update.commits", median(commits), "commits")
	b.print("update.steps", median(steps), "steps")
	b.print("update.p50_ms", median(took), "ms")
	return nil
}

// updateRate has 16 clients ask for n updates, and counts until the last is done.
func updateRate(ctx context.Context, b *bench, f *crowd, n int, value string) (float64, error) {
	begin := time.Now()
	made, err := f.db.measure(ctx, func() error {
		if err := patchAll(ctx, f, n, value); err != nil {
			return err
		}
		return worked(ctx, f.db, 5*time.Minute)
	})
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	b.explain(made, float64(n), "update")
	return float64(n) / took.Seconds(), nil
}

func patchAll(ctx context.Context, f *crowd, n int, value string) error {
	_, err := spread(ctx, f.proc.api, 16, n, func(c *conn, i int) error {
		_, err := c.want(202, "PATCH", installationsPath+"/"+f.ids[i], "", patchBody(value))
		return err
	})
	return err
}

// updateRateEngine has updates accepted by a process that has only the API, and
// then counts how fast a process of all roles works them off: from its first
// claim to its last commit, by the database's clock.
func updateRateEngine(ctx context.Context, b *bench, f *crowd, n int) error {
	var rates []float64
	for round := range pick(b, 3, 1) {
		err := f.restart(ctx, b, "api")
		if err == nil {
			err = patchAll(ctx, f, n, fmt.Sprint("engine-", round))
		}
		if err == nil {
			err = f.restart(ctx, b, allRoles)
		}
		if err != nil {
			return err
		}
		made, err := f.db.measure(ctx, func() error { return worked(ctx, f.db, 5*time.Minute) })
		if err != nil {
			return err
		}
		var seconds float64
		if err := f.db.look.QueryRowContext(ctx, `SELECT extract(epoch FROM max(finished_at) - min(started_at))
			FROM (SELECT * FROM operation WHERE kind = 'update' ORDER BY id DESC LIMIT $1) o`, n).Scan(&seconds); err != nil {
			return err
		}
		b.say("round %d: %d updates in %.2f s", round+1, n, seconds)
		b.explain(made, float64(n), "update")
		rates = append(rates, float64(n)/seconds)
	}
	b.print("update.rate.engine", median(rates), "1/s")
	return nil
}

// restart ends the crowd's process and starts one with these roles.
func (f *crowd) restart(ctx context.Context, b *bench, roles string) error {
	if err := f.proc.stop(); err != nil {
		return err
	}
	var err error
	f.proc, err = b.startProvisioner(ctx, start{name: "fleet", database: f.db.url, roles: roles})
	return err
}
