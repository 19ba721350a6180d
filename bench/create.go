package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// benchCreate measures POST /installations on a process that has only the API,
// so that no supervisor's statements or processor time are among its own.
func benchCreate(ctx context.Context, b *bench) error {
	d, err := b.newDatabase(ctx, "create")
	if err != nil {
		return err
	}
	whole, err := b.startProvisioner(ctx, start{name: "create", database: d.url})
	if err != nil {
		return err
	}
	if err := errors.Join(b.furnish(ctx, whole, nil), whole.stop()); err != nil {
		return err
	}
	b.say("from here on the process has --roles api: what supervisors do with a create is in `update` and `idle`")
	p, err := b.startProvisioner(ctx, start{name: "create", database: d.url, roles: "api"})
	if err != nil {
		return err
	}
	c := &creator{b: b, d: d, p: p}
	// Every connection of the pool has prepared its statements before it counts.
	if _, err := c.rate(ctx, 16, time.Second, false); err != nil {
		return err
	}
	if err := c.statements(ctx); err != nil {
		return err
	}
	return c.rates(ctx)
}

type creator struct {
	b *bench
	d *database
	p *provisioner
	// made numbers the installations.
	made int
}

func (c *creator) one(conn *conn, i int, keyed bool) error {
	name, header := fmt.Sprintf("c%d-%d", c.made, i), ""
	if keyed {
		header = "Idempotency-Key: key-" + name + "\r\n"
	}
	_, err := conn.want(202, "POST", installationsPath, header, newInstallation(name))
	return err
}

func (c *creator) statements(ctx context.Context) error {
	n := pick(c.b, 500, 100)
	for _, keyed := range []bool{false, true} {
		name := "create"
		if keyed {
			name = "create.key"
		}
		c.made++
		before, err := c.d.transactions(ctx, c.b.quick)
		if err != nil {
			return err
		}
		made, err := c.d.measure(ctx, func() error {
			_, err := spread(ctx, c.p.api, 1, n, func(conn *conn, i int) error { return c.one(conn, i, keyed) })
			return err
		})
		if err != nil {
			return err
		}
		after, err := c.d.transactions(ctx, c.b.quick)
		if err != nil {
			return err
		}
		c.b.explain(made, float64(n), "create")
		c.b.print(name+".statements", float64(made.statements)/float64(n), "statements")
		c.b.print(name+".commits", float64(made.commits)/float64(n), "commits")
		if !c.b.quick {
			c.b.print(name+".xact_commits", float64(after-before)/float64(n), "commits")
		}
	}
	return nil
}

// statsDelay is how long a backend may keep its numbers to itself
// (PGSTAT_IDLE_INTERVAL of Postgres 15).
const statsDelay = 11 * time.Second

// transactions cross-checks the commits by pg_stat_database, which counts those
// of autovacuum too.
func (d *database) transactions(ctx context.Context, skip bool) (int64, error) {
	if skip {
		return 0, nil
	}
	if err := pause(ctx, statsDelay); err != nil {
		return 0, err
	}
	var n int64
	err := d.p.stats.QueryRowContext(ctx, `SELECT xact_commit FROM pg_stat_database WHERE datname = $1`, d.name).Scan(&n)
	return n, err
}

// rate creates for a while and returns how long each create took.
func (c *creator) rate(ctx context.Context, clients int, d time.Duration, keyed bool) ([]time.Duration, error) {
	c.made++
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return spread(ctx, c.p.api, clients, -1, func(conn *conn, i int) error { return c.one(conn, i, keyed) })
}

// rates takes turns with pgbench, so that both meet the same machine.
func (c *creator) rates(ctx context.Context) error {
	if err := c.b.preparePgbench(ctx); err != nil {
		return err
	}
	took := pick(c.b, 4*time.Second, time.Second)
	rates, latencies := map[string][]float64{}, map[int][]time.Duration{}
	for round := range pick(c.b, 5, 1) {
		for _, clients := range []int{1, 16} {
			insert, err := c.b.pgbench(ctx, clients, took)
			if err != nil {
				return err
			}
			begin := time.Now()
			all, err := c.rate(ctx, clients, took, false)
			if err != nil {
				return err
			}
			rate := float64(len(all)) / time.Since(begin).Seconds()
			c.b.say("round %d, %2d clients: %.0f creates/s, %.0f one-insert commits/s", round+1, clients, rate, insert)
			create, pgbench := fmt.Sprintf("create.rate.%d", clients), fmt.Sprintf("pgbench.insert.rate.%d", clients)
			rates[create], rates[pgbench] = append(rates[create], rate), append(rates[pgbench], insert)
			latencies[clients] = append(latencies[clients], all...)
		}
	}
	for _, name := range []string{"create.rate.1", "pgbench.insert.rate.1", "create.rate.16", "pgbench.insert.rate.16"} {
		c.b.print(name, median(rates[name]), "1/s")
	}
	for _, clients := range []int{1, 16} {
		c.b.print(fmt.Sprintf("create.p50_ms.%d", clients), ms(percentile(latencies[clients], 0.50)), "ms")
		c.b.print(fmt.Sprintf("create.p99_ms.%d", clients), ms(percentile(latencies[clients], 0.99)), "ms")
	}
	return nil
}
