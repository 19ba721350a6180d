package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"dormouse/client"
)

// The provider's calls of benchRollout, log-normal, and the slots of its rollouts.
const (
	callP50, callP99 = 500 * time.Millisecond, 5 * time.Second
	rolloutSlots     = 200
)

// callMean is the mean of that distribution: exp(μ + σ²/2).
func callMean() time.Duration {
	const p99z = 2.3263478740408408 // the 99th percentile of the standard normal distribution
	sigma := math.Log(float64(callP99)/float64(callP50)) / p99z
	return time.Duration(float64(callP50) * math.Exp(sigma*sigma/2))
}

// benchRollout rolls a release out through 10,000 installations by wall clock,
// all awake and then three in ten asleep, beside what the provider's calls alone
// would take with every slot always in use.
func benchRollout(ctx context.Context, b *bench) error {
	n := pick(b, 10_000, 600)
	for _, c := range []struct {
		name   string
		asleep int
	}{{"rollout", 0}, {"rollout.sleepers", n * 3 / 10}} {
		if err := rollOut(ctx, b, c.name, n, c.asleep); err != nil {
			return err
		}
	}
	return nil
}

func rollOut(ctx context.Context, b *bench, name string, n, asleep int) error {
	d, err := b.newDatabase(ctx, name)
	if err != nil {
		return err
	}
	p, err := b.startProvisioner(ctx, start{name: name, database: d.url, extra: []string{"--slots", "600"}})
	if err != nil {
		return err
	}
	defer p.stop()
	if err := b.furnish(ctx, p, map[string]string{"latency": fmt.Sprintf("p50=%s,p99=%s", callP50, callP99), "seed": "7"}); err != nil {
		return err
	}
	if _, err := p.client.Groups.Create(ctx, client.CreateGroup{Name: groupName, Package: packageName}); err != nil {
		return err
	}
	begin := time.Now()
	ids, err := members(ctx, p, n)
	if err == nil {
		err = worked(ctx, d, 10*time.Minute)
	}
	if err == nil {
		_, err = spread(ctx, p.api, 16, asleep, func(c *conn, i int) error {
			_, err := c.want(202, "POST", installationsPath+"/"+ids[i]+"/hibernate", "", "")
			return err
		})
	}
	if err == nil {
		err = worked(ctx, d, 10*time.Minute)
	}
	if err != nil {
		return err
	}
	b.say("%d members, %d of them asleep, after %.0f s", n, asleep, time.Since(begin).Seconds())
	release := "2"
	if _, err := p.client.Groups.Update(ctx, groupName, client.UpdateGroup{Env: map[string]*string{"RELEASE": &release}}); err != nil {
		return err
	}
	var took time.Duration
	var r client.Rollout
	made, err := d.measure(ctx, func() error {
		begin := time.Now()
		r, err = p.client.Rollouts.Create(ctx, groupName, client.CreateRollout{RolloutSpec: client.RolloutSpec{
			Slots: rolloutSlots, VerifySlots: rolloutSlots, FirstWave: n, Soak: "0s", HealthyFor: "1ms", MinSamples: 1}})
		if err != nil {
			return err
		}
		err := until(ctx, 100*time.Millisecond, 30*time.Minute, "the rollout has come to its end", func() (bool, error) {
			var state string
			err := d.look.QueryRowContext(ctx, `SELECT state FROM rollout WHERE id = $1`, r.ID).Scan(&state)
			if err == nil && state != "running" && state != "succeeded" {
				return false, fmt.Errorf("the rollout is %s", state)
			}
			return state == "succeeded", err
		})
		took = time.Since(begin)
		return err
	})
	if err != nil {
		return err
	}
	return b.reportRollout(ctx, d, name, r.ID, n, asleep, took, made)
}

// members creates installations of the group.
func members(ctx context.Context, p *provisioner, n int) ([]string, error) {
	ids := make([]string, n)
	_, err := spread(ctx, p.api, 16, n, func(c *conn, i int) error {
		content, err := c.want(202, "POST", installationsPath, "", fmt.Sprintf(`{"name":"m-%d","owner":%q,"cluster":%q,"group":%q}`, i, owner, clusterName, groupName))
		if err == nil {
			ids[i], err = idOf(content)
		}
		return err
	})
	return ids, err
}

// Calls to the provider of one member's update (stop, start, two looks at its
// health, delete) and of one verification (clone, two looks, delete).
const (
	callsOfUpdate = 5
	callsOfVerify = 4
)

func (b *bench) reportRollout(ctx context.Context, d *database, name, id string, n, asleep int, took time.Duration, made counts) error {
	awake := n - asleep
	slots := func(members, calls int) float64 {
		return float64(calls) * callMean().Seconds() * float64(members) / rolloutSlots
	}
	// Both kinds have slots of their own, and are worked on at the same time.
	ideal := max(slots(awake, callsOfUpdate), slots(asleep, callsOfVerify))
	b.explain(made, float64(n), "member")
	b.print(name+".installations", float64(n), "installations")
	b.print(name+".seconds", took.Seconds(), "s")
	b.print(name+".ideal_seconds", ideal, "s")
	b.print(name+".ideal_ratio", took.Seconds()/ideal, "ratio")
	b.print(name+".statements_per_member", float64(made.statements)/float64(n), "statements")
	for _, count := range []struct{ name, query string }{
		{"done", `SELECT count(*) FROM rollout_member WHERE rollout_id = $1 AND state = 'done'`},
		{"asleep_verified", `SELECT count(*) FROM rollout_member WHERE rollout_id = $1 AND state = 'asleep-verified'`},
		{"asleep_unverified", `SELECT count(*) FROM rollout_member m JOIN installation i ON i.id = m.installation_id
			WHERE m.rollout_id = $1 AND i.state = 'hibernating' AND (m.state <> 'asleep-verified' OR i.verified_package_id <> i.package_id OR i.group_revision <> 2)`},
		{"woken", `SELECT count(*) FROM operation o JOIN rollout_member m ON m.installation_id = o.resource_id WHERE m.rollout_id = $1 AND o.kind = 'wake'`},
		{"failed", `SELECT count(*) FROM rollout_member WHERE rollout_id = $1 AND state = 'failed'`},
		{"tried_again", `SELECT count(*) FROM rollout_member WHERE rollout_id = $1 AND attempts > 1`},
	} {
		var v int
		if err := d.look.QueryRowContext(ctx, count.query, id).Scan(&v); err != nil {
			return err
		}
		b.print(name+"."+count.name, float64(v), "installations")
	}
	return nil
}
