package integration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/rollout"
)

// A rollout whose members were all busy looked again after half a minute or more,
// though they may have been free long before.
func TestARolloutSeesSoonThatAMemberIsFree(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 2, 0, nil)
	g.exec(`CREATE EXTENSION IF NOT EXISTS pg_stat_statements`)
	// They are being restarted by a host that does not come.
	for _, name := range g.awake {
		g.exec(`INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, owner, class, state, request_state, generation, executor)
			SELECT $1, 'restart', 'installation', id, name, owner, 0, 'active', state, generation + 1, 'far' FROM installation WHERE name = $2`, fleet.NewID(), name)
	}
	id := g.release(fleet.GroupChange{PackageRef: &second}, quick())
	turns := func() int {
		return g.numbers(`SELECT coalesce(max(revision), 0) FROM operation watched WHERE resource_id = $1 AND wait_detail LIKE '%busy with something else'`, id)[0]
	}
	g.eventually(func() bool { return turns() > 0 }, func() string { return "it waits for busy members" })
	before, statements, since := turns(), g.statements(), time.Now()
	g.eventually(func() bool { return turns() >= before+2*2 }, func() string { return "it looks twice more" }) // a claim and a commit each
	cost, took := g.statements()-statements, time.Since(since)
	t.Logf("two turns while members are busy: %d statements in %s", cost, took)
	require.Greater(t, took, rollout.BusyLook)
	require.LessOrEqual(t, cost, 2*6+2*int(took/g.poll)+4, "a turn costs few statements, beside those that look for work")
	g.exec(`UPDATE operation SET state = 'cancelled', fail_reason = 'in-use', finished_at = dormouse_now() WHERE executor = 'far' AND resource_name = 't000'`)
	freed := time.Now()
	g.eventually(func() bool {
		return len(g.strings(`SELECT installation_id FROM rollout_member WHERE attempts > 0`)) == 1
	}, func() string { return "the one that is free is begun" })
	require.Less(t, time.Since(freed), 10*time.Second)
	g.exec(`UPDATE operation SET state = 'cancelled', fail_reason = 'in-use', finished_at = dormouse_now() WHERE executor = 'far' AND state = 'active'`)
	g.ended(id, fleet.RolloutSucceeded)
	require.Less(t, time.Since(freed), 20*time.Second)
	g.invariants()
}
