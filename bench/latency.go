package main

import (
	"context"
	"time"
)

// benchLatency creates installations on a provider that needs 100 ms for each
// call, which is once per create: from the first request until the last is stable.
func benchLatency(ctx context.Context, b *bench) error {
	d, err := b.newDatabase(ctx, "latency")
	if err != nil {
		return err
	}
	p, err := b.startProvisioner(ctx, start{name: "latency", database: d.url})
	if err != nil {
		return err
	}
	defer p.stop()
	if err := b.furnish(ctx, p, map[string]string{"latency": "100ms"}); err != nil {
		return err
	}
	const n = 100
	var create, update []float64
	for round := range pick(b, 5, 1) {
		begin := time.Now()
		ids, err := fill(ctx, p, "latency-"+string(rune('a'+round)), n)
		if err != nil {
			return err
		}
		if err := worked(ctx, d, time.Minute); err != nil {
			return err
		}
		create = append(create, time.Since(begin).Seconds())
		begin = time.Now()
		if err := patchAll(ctx, &crowd{db: d, proc: p, ids: ids}, n, "slow"); err != nil {
			return err
		}
		if err := worked(ctx, d, time.Minute); err != nil {
			return err
		}
		update = append(update, time.Since(begin).Seconds())
		b.say("round %d: create %.2f s (1 call each), update %.2f s (3 calls each)", round+1, create[round], update[round])
	}
	b.print("provider100x100ms.seconds", median(create), "s")
	b.print("provider100x100ms.update.seconds", median(update), "s")
	return nil
}
