package main

import (
	"context"
	"time"
)

// benchWait measures what installations cost that wait for their provider.
func benchWait(ctx context.Context, b *bench) error {
	d, err := b.newDatabase(ctx, "wait")
	if err != nil {
		return err
	}
	p, err := b.startProvisioner(ctx, start{name: "wait", database: d.url})
	if err != nil {
		return err
	}
	defer p.stop()
	if err := b.furnish(ctx, p, map[string]string{"boot_time": "1h"}); err != nil {
		return err
	}
	n := pick(b, 1_000, 200)
	if _, err := fill(ctx, p, "wait", n); err != nil {
		return err
	}
	if err := until(ctx, 50*time.Millisecond, 2*time.Minute, "all wait for their instance", func() (bool, error) {
		waiting, err := d.count(ctx, `SELECT count(*) FROM operation WHERE state = 'active' AND wait_reason <> ''`)
		return int(waiting) == n, err
	}); err != nil {
		return err
	}
	// The first waits are all due at once; what counts is how it goes on.
	if err := pause(ctx, pick(b, 20*time.Second, 5*time.Second)); err != nil {
		return err
	}
	length := pick(b, time.Minute, 30*time.Second)
	var cpu time.Duration
	made, err := d.measure(ctx, func() error {
		before, err := p.cpu()
		if err != nil {
			return err
		}
		if err := pause(ctx, length); err != nil {
			return err
		}
		after, err := p.cpu()
		cpu = after - before
		return err
	})
	if err != nil {
		return err
	}
	per := length.Seconds() / 30
	b.explain(made, per, "30 s")
	b.print("wait1000.installations", float64(n), "installations")
	b.print("wait1000.statements_per_30s", float64(made.statements)/per, "statements")
	b.print("wait1000.db_ms_per_30s", made.ms/per, "ms")
	b.print("wait1000.cpu_ms_per_30s", ms(cpu)/per, "ms")
	b.print("wait.statements_per_100", float64(made.statements)/per/float64(n)*100, "statements")
	return noticed(ctx, b, n)
}

// noticed measures how long after an instance is up its operation has succeeded:
// from when the step that started it was due, so that this is the most it can have been.
func noticed(ctx context.Context, b *bench, n int) error {
	const boot = 20 * time.Second
	d, err := b.newDatabase(ctx, "noticed")
	if err != nil {
		return err
	}
	p, err := b.startProvisioner(ctx, start{name: "noticed", database: d.url})
	if err != nil {
		return err
	}
	defer p.stop()
	if err := b.furnish(ctx, p, map[string]string{"boot_time": boot.String()}); err != nil {
		return err
	}
	if _, err := fill(ctx, p, "noticed", n); err != nil {
		return err
	}
	if err := worked(ctx, d, 2*time.Minute); err != nil {
		return err
	}
	var p50, p99 float64
	if err := d.look.QueryRowContext(ctx, `SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY late), percentile_cont(0.99) WITHIN GROUP (ORDER BY late)
		FROM (SELECT extract(epoch FROM finished_at - (s ->> 'started_at')::timestamptz) - $1 AS late
			FROM operation, jsonb_array_elements(steps) s WHERE kind = 'create' AND state = 'succeeded' AND s ->> 'name' = 'start-instance') l`,
		boot.Seconds()).Scan(&p50, &p99); err != nil {
		return err
	}
	b.print("wait.noticed_p50_ms", p50*1000, "ms")
	b.print("wait.noticed_p99_ms", p99*1000, "ms")
	return nil
}
