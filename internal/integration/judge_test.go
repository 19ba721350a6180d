package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/pgtest"
	"dormouse/internal/provider/sim"
	"dormouse/internal/supervisor/engine"
)

// fastClock goes times as fast as the wall's since it was made, for engines, the
// simulator and the database alike.
type fastClock struct {
	base  time.Time
	times int
}

func (c fastClock) Now() time.Time { return c.base.Add(time.Since(c.base) * time.Duration(c.times)) }

func (c fastClock) AfterFunc(d time.Duration, f func()) func() {
	return wallClock{}.AfterFunc(d/time.Duration(c.times), f)
}

// sql replaces the schema's clock.
func (c fastClock) sql() string {
	base := c.base.UTC().Format(time.RFC3339Nano)
	return fmt.Sprintf(`CREATE OR REPLACE FUNCTION dormouse_now() RETURNS timestamptz LANGUAGE sql STABLE AS
		$$SELECT '%s'::timestamptz + (now() - '%s'::timestamptz) * %d$$`, base, base, c.times)
}

// simClock is one in the simulator's terms.
type simClock struct{ fastClock }

func (c simClock) AfterFunc(d time.Duration, f func()) sim.Timer {
	return sim.WallClock{}.AfterFunc(d/time.Duration(c.times), f)
}

// fastGroup is a group whose hours pass in seconds. An operation's health is looked
// at as often as ever, the rollout's members every few seconds of that time.
func fastGroup(t *testing.T, members int, cluster map[string]string) *group {
	t.Helper()
	c := fastClock{base: time.Now(), times: 300}
	w := newBareWorld(t, pgtest.NewMigrated(t, migrate), c, sim.Options{Clock: simClock{c}})
	_, err := w.db.Exec(c.sql())
	require.NoError(t, err)
	w.poll = 10 * time.Second
	w.health = 30 * time.Minute // a slow machine is no bad release
	slower := func(_ fleet.OperationKind, step string, run engine.Run) engine.Run {
		return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			out, err := run(ctx, s)
			if step == "advance" {
				out.After = max(out.After, 5*time.Second)
			}
			return out, err
		}
	}
	return newGroupIn(w, setup{slots: 16, lease: time.Hour, wrap: slower}, members, 0, 4, cluster)
}

// Five releases of the exam's classes are played through Postgres, the engine
// and the simulator: the judge says there what it says in memory.
func TestJudgeThroughPostgres(t *testing.T) {
	t.Parallel()
	flaky := map[string]string{"fault.wrong_health": "0.02", "fault.unknown_health": "0.05"}
	for name, c := range map[string]struct {
		behaviour string
		cluster   map[string]string
		bad       bool
		// again: the experiment convicts, and not that all are bad at once while the untouched are well.
		again bool
		// touched is how many installations it may be put on before it is known.
		touched int
	}{
		"Good":          {},
		"FlakyObserver": {cluster: flaky},
		"CrashAll":      {behaviour: "crash", bad: true, again: true, touched: 3},
		"Stratum":       {behaviour: "crash;only_memory=64", bad: true, again: true, touched: 12},
		"Late":          {behaviour: "fail_after=2m", bad: true, touched: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := fastGroup(t, 40, c.cluster)
			change := fleet.GroupChange{PackageRef: &second}
			if c.behaviour != "" {
				change.Env = envOf(c.behaviour)
			}
			id := g.release(change, fleet.RolloutSpec{Soak: 10 * time.Minute, HealthDeadline: 30 * time.Minute, AutoRollback: true})
			if !c.bad {
				v := g.ended(id, fleet.RolloutSucceeded)
				require.Equal(t, map[fleet.MemberState]int{fleet.MemberDone: 40}, counts(v))
				require.Equal(t, map[string]int{"2 stable": 40}, g.runs())
				return
			}
			v := g.ended(id, fleet.RolloutRolledBack)
			require.Equal(t, fleet.ReasonJudgedBad, v.Reason, "%s", v.Detail)
			touched := g.strings(`SELECT name FROM rollout_member WHERE attempts > 0`)
			require.LessOrEqual(t, len(touched), c.touched, "%v", counts(v))
			if c.again {
				require.NotEmpty(t, g.strings(`SELECT name FROM rollout_member WHERE strikes > 1`), "what failed once is remembered")
			}
			g.none("installations that are not on the release before", `SELECT i.name FROM installation i JOIN package p ON p.id = i.package_id WHERE p.version <> '1'`)
			g.none("instances of the release that are left", `SELECT n.id FROM instance n JOIN package p ON p.id = n.spec ->> 'package_id'
				WHERE n.deleted_at IS NULL AND p.version <> '1'`)
			t.Logf("%d touched, back in %v: %s", len(touched), g.strings(`SELECT (r.finished_at - e.at)::text FROM rollout r JOIN event e ON e.resource_id = r.id
				WHERE e.data ->> 'from' = 'running'`), v.Detail)
			g.invariants()
		})
	}
}

// The release that is put back is in service again as soon as it runs, though it
// takes its time to answer well.
func TestRollBackDoesNotWaitForHealth(t *testing.T) {
	t.Parallel()
	g := fastGroup(t, 4, nil)
	spec := fleet.RolloutSpec{FirstWave: 4, Soak: -1, HealthDeadline: 2 * time.Hour}
	g.ended(g.release(fleet.GroupChange{Env: envOf("slow=20m")}, spec), fleet.RolloutSucceeded)
	spec.Soak = 100 * time.Hour
	id := g.release(fleet.GroupChange{Env: map[string]*string{sim.BehaviourVariable: nil}}, spec)
	g.eventually(func() bool {
		v, err := g.store.Rollout(g.ctx, id)
		return err == nil && counts(v)[fleet.MemberDone] == 4
	}, func() string { return "all are done" })
	_, err := g.store.ControlRollout(g.ctx, fleet.RolloutControl{ID: id, Verb: fleet.RolloutRollback})
	require.NoError(t, err)
	g.wake()
	require.Equal(t, map[fleet.MemberState]int{fleet.MemberRolledBack: 4}, counts(g.ended(id, fleet.RolloutRolledBack)))
	require.Len(t, g.strings(`SELECT id FROM operation WHERE rollout ? 'back'`), 4)
	g.none("operations that waited for health", `SELECT id FROM operation WHERE rollout ? 'back' AND finished_at - created_at > interval '15 minutes'`)
	g.none("installations that are not in service", `SELECT i.name FROM installation i
		WHERE NOT EXISTS (SELECT FROM instance n WHERE n.installation_id = i.id AND n.deleted_at IS NULL AND n.serving)`)
}
