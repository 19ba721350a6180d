package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// Members that were verified or rolling when their rollout was superseded or
// cancelled stayed so for ever in what is told of it: nobody followed them any more.
func TestWhatAnEndedRolloutHadBegunComesToItsEnd(t *testing.T) {
	t.Parallel()
	verb := func(verbs ...fleet.RolloutVerb) func(*group, fleet.RolloutID) {
		return func(g *group, id fleet.RolloutID) {
			for _, v := range verbs {
				_, err := g.store.ControlRollout(g.ctx, fleet.RolloutControl{ID: id, Verb: v})
				require.NoError(g.t, err)
			}
			g.world.wake()
		}
	}
	supersede := func(g *group, _ fleet.RolloutID) { g.release(fleet.GroupChange{Env: envOf("")}, quick()) }
	restart := func(g *group) {
		g.engine.stop()
		g.engine = g.start(setup{slots: 16})
	}
	stays := func(*group) {}
	for name, c := range map[string]struct {
		end   func(*group, fleet.RolloutID)
		die   func(*group)
		state fleet.RolloutState
		want  map[fleet.MemberState]int
	}{
		"Superseded":                {supersede, stays, fleet.RolloutSuperseded, map[fleet.MemberState]int{fleet.MemberDone: 2, fleet.MemberRolledBack: 2, fleet.MemberWaiting: 2}},
		"SupersededAndTheProcess":   {supersede, restart, fleet.RolloutSuperseded, map[fleet.MemberState]int{fleet.MemberDone: 2, fleet.MemberRolledBack: 2, fleet.MemberWaiting: 2}},
		"Cancelled":                 {verb(fleet.RolloutCancel), stays, fleet.RolloutCancelled, map[fleet.MemberState]int{fleet.MemberDone: 2, fleet.MemberRolledBack: 2, fleet.MemberWaiting: 2}},
		"CancelledAndTheProcess":    {verb(fleet.RolloutCancel), restart, fleet.RolloutCancelled, map[fleet.MemberState]int{fleet.MemberDone: 2, fleet.MemberRolledBack: 2, fleet.MemberWaiting: 2}},
		"CancelledWhileRollingBack": {verb(fleet.RolloutRollback, fleet.RolloutCancel), stays, fleet.RolloutCancelled, nil},
		"RolledBack":                {verb(fleet.RolloutRollback), restart, fleet.RolloutRolledBack, map[fleet.MemberState]int{fleet.MemberRolledBack: 4, fleet.MemberWaiting: 2}},
		"NobodyCarriesItOut": {func(g *group, id fleet.RolloutID) {
			g.exec(`UPDATE operation SET state = 'failed', fail_reason = 'in-use', error = 'a hand was at it', finished_at = dormouse_now() WHERE resource_id = $1`, id)
			supersede(g, id)
		}, stays, fleet.RolloutSuperseded, map[fleet.MemberState]int{fleet.MemberDone: 2, fleet.MemberRolledBack: 2, fleet.MemberWaiting: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGroup(t, 3, 3, nil)
			spec := quick()
			spec.FirstWave, spec.Slots, spec.HealthyFor, spec.HealthDeadline = 6, 2, time.Hour, 10*time.Minute
			id := g.release(fleet.GroupChange{PackageRef: &second}, spec)
			watched := func() int {
				return len(g.strings(`SELECT id FROM operation WHERE state = 'active' AND wait_reason = $1`, fleet.WaitSteady))
			}
			g.eventually(func() bool { return watched() == 4 }, func() string { return "two updates and two clones are watched for an hour" })
			c.end(g, id)
			c.die(g)
			var v fleet.RolloutView
			g.eventually(func() bool {
				var err error
				v, err = g.store.Rollout(g.ctx, id)
				return err == nil && v.State == c.state && counts(v)[fleet.MemberVerifying] == 0
			}, func() string { return fmt.Sprintf("the trials on clones are given up: %s %v", v.State, v.Counts) })
			g.later(61 * time.Minute)
			g.settled()
			v = g.ended(id, c.state)
			if c.want != nil {
				require.Equal(t, c.want, counts(v))
			}
			g.none("clones that are left", `SELECT id FROM instance WHERE clone AND deleted_at IS NULL`)
			g.none("strikes", `SELECT name FROM rollout_member WHERE strikes > 0`)
			g.none("rollouts that did not end", `SELECT id || ' ' || state FROM rollout WHERE finished_at IS NULL`)
			g.invariants()
		})
	}
}
