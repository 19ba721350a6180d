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
	return nil
}
