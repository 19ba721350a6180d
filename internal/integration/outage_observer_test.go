package integration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// What looks at health breaks in the middle of a rollout, and calls everything
// sick: those with the new release, and those that were never touched. Nobody is
// put back, nothing is halted and nothing begun until it sees again.
func TestOutageAnObserverCallsEverythingSickDuringARollout(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 16, 0, nil)
	spec := quick()
	spec.FirstWave, spec.Soak, spec.Slots, spec.AutoRollback = 4, time.Hour, 4, true
	id := g.release(fleet.GroupChange{PackageRef: &second}, spec)
	done := func() int {
		v, err := g.store.Rollout(g.ctx, id)
		require.NoError(t, err)
		return counts(v)[fleet.MemberDone]
	}
	g.eventually(func() bool { return done() == 4 }, func() string { return "the first wave is done" })

	look := func() {
		g.exec(`UPDATE operation SET due_at = dormouse_now() WHERE resource_id = $1 AND worker = ''`, id)
		g.wake()
	}
	ahead := time.Duration(0)
	g.sickness.Store(true)
	for range 4 { // it is seen to be so for long enough to count
		ahead += 10 * time.Minute
		g.shift(ahead)
		g.eventually(func() bool {
			look()
			return len(g.strings(`SELECT name FROM rollout_member WHERE rollout_id = $1 AND bad_since IS NOT NULL`, id)) == 16
		}, func() string { return "all look sick" })
	}
	g.eventually(func() bool { // a look that was under way at the last shift knows the time before it
		look()
		return len(g.strings(`SELECT id FROM operation WHERE resource_id = $1 AND wait_reason = $2`, id, fleet.WaitObserver)) == 1
	}, func() string { return "the observer is waited for" })
	g.explains("rollouts/"+string(id), explained{waiting: fleet.WaitObserver, summary: "the observer or the platform is in doubt", advice: "the release is not held responsible"})
	v, err := g.store.Rollout(g.ctx, id)
	require.NoError(t, err)
	require.Equal(t, fleet.RolloutRunning, v.State, "%s %s", v.Reason, v.Detail)
	require.Equal(t, map[fleet.MemberState]int{fleet.MemberDone: 4, fleet.MemberWaiting: 12}, counts(v), "nobody is put back, and nobody is begun")
	require.Empty(t, v.Failures)

	g.sickness.Store(false)
	g.eventually(func() bool {
		v, err := g.store.Rollout(g.ctx, id)
		require.NoError(t, err)
		if counts(v)[fleet.MemberRolling] == 0 {
			ahead += 5 * time.Minute // a soak lasts an hour
			g.shift(ahead)
		}
		look()
		return v.State != fleet.RolloutRunning
	}, func() string { return "it goes on, and ends" })
	g.ended(id, fleet.RolloutSucceeded)
	require.Equal(t, map[string]int{"2 stable": 16}, g.runs())
	g.invariants()
}
