package main

import (
	"context"
	"time"
)

// benchIdle measures what a fleet costs for which nobody asks anything.
func benchIdle(ctx context.Context, b *bench) error {
	f, err := b.shared(ctx)
	if err != nil {
		return err
	}
	settle, length := pick(b, 30*time.Second, 5*time.Second), pick(b, 3*time.Minute, 30*time.Second)
	b.say("settling for %s, then %s without a request", settle, length)
	if err := pause(ctx, settle); err != nil {
		return err
	}
	var cpu time.Duration
	made, err := f.db.measure(ctx, func() error {
		before, err := f.proc.cpu()
		if err != nil {
			return err
		}
		if err := pause(ctx, length); err != nil {
			return err
		}
		after, err := f.proc.cpu()
		cpu = after - before
		return err
	})
	if err != nil {
		return err
	}
	b.explain(made, length.Minutes(), "minute")
	b.print("idle.installations", float64(len(f.ids)), "installations")
	b.print("idle.statements_per_minute", float64(made.statements)/length.Minutes(), "statements")
	b.print("idle.commits_per_minute", float64(made.commits)/length.Minutes(), "commits")
	b.print("idle.db_ms_per_minute", made.ms/length.Minutes(), "ms")
	b.print("idle.cpu_ms_per_minute", ms(cpu)/length.Minutes(), "ms")
	return nil
}
