package integration

import (
	"context"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// joined creates the subject as the member of a group of its own.
var joined = doing{end: "stable", begin: func(c *kase) fleet.OperationID {
	web := "web@1"
	_, err := c.store.CreateGroup(c.ctx, fleet.NewGroup{ID: fleet.GroupID(fleet.NewID()), Name: c.subject, Config: fleet.GroupChange{PackageRef: &web}})
	require.NoError(c.t, err)
	in := fleet.NewInstallation{ID: fleet.InstallationID(fleet.NewID()), OperationID: newOp(), Name: c.subject, Owner: "acme", ClusterName: clusterName,
		DiskMiB: 100, WhenFull: fleet.WhenFullWait, Group: fleet.GroupMembership{Join: c.subject}}
	a, err := c.store.CreateInstallation(c.ctx, in)
	require.NoError(c.t, err)
	c.id = string(in.ID)
	c.wake()
	return a.Operation.ID
}}

// beginMemberSQL does what the store does when a rollout's step begins a member.
const beginMemberSQL = `WITH i AS (
	UPDATE installation SET version = version + 1, generation = generation + 1,
		state = CASE $3 WHEN 'update' THEN 'update-requested' ELSE state END,
		group_revision = CASE $3 WHEN 'update' THEN 2 ELSE group_revision END,
		env = CASE $3 WHEN 'update' THEN (SELECT config -> 'env' FROM group_revision r WHERE r.group_id = installation.group_id AND r.number = 2) ELSE env END
	WHERE id = $1 RETURNING *
), ev AS (
	INSERT INTO event (kind, resource_type, resource_id, owner, operation_id, data)
	SELECT 'installation.state', 'installation', id, owner, $2, jsonb_build_object('from', 'stable', 'to', state) FROM i WHERE $3 = 'update'
)
INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, owner, class, state, request_state, generation, rollout)
SELECT $2, $3, 'installation', id, name, owner, 1, 'active', state, generation,
	jsonb_build_object('id', '', 'from', 1, 'to', 2, 'healthy_for_ms', 1) FROM i`

// rolled makes a second revision of the subject's group and begins on it.
func rolled(kind fleet.OperationKind, key, value string) func(*kase) fleet.OperationID {
	return func(c *kase) fleet.OperationID {
		c.t.Helper()
		_, err := c.store.ChangeGroup(c.ctx, fleet.ChangeGroup{IDOrName: c.subject, Config: fleet.GroupChange{Env: map[string]*string{key: &value}}})
		require.NoError(c.t, err)
		op := newOp()
		_, err = c.db.Exec(beginMemberSQL, c.id, op, kind)
		require.NoError(c.t, err)
		c.wake()
		return op
	}
}

// cloned leaves the subject asleep, with a clone that runs.
func cloned(c *kase) {
	c.do(joined, asleep)
	e := c.start(setup{wrap: func(_ fleet.OperationKind, step string, run engine.Run) engine.Run {
		if step != "await-clone" {
			return run
		}
		return func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
			return fleet.Wait(patience, fleet.WaitHealthy, "injected: for ever"), nil
		}
	}})
	rolled(fleet.OperationVerify, "A", "3")(c)
	c.eventually(func() bool {
		return len(c.strings(`SELECT id FROM operation WHERE resource_id = $1 AND kind = 'verify' AND wait_detail = 'injected: for ever'`, c.id)) == 1
	}, c.last)
	e.stop()
	// A signal of the clone's boot may have had it claimed again, so that it was given back just now.
	_, err := c.db.Exec(`UPDATE operation SET due_at = dormouse_now() + interval '1 hour' WHERE resource_id = $1 AND state = 'active'`, c.id)
	require.NoError(c.t, err)
}

// pins requires the revision that the subject pins, with what it makes of it, and that no clone is left.
func (c *kase) pins(number int) {
	c.t.Helper()
	require.Equal(c.t, []int{number}, c.numbers(`SELECT group_revision FROM installation WHERE id = $1`, c.id))
	c.none("a clone is left", `SELECT id FROM instance WHERE installation_id = $1 AND clone AND deleted_at IS NULL`, c.id)
	c.none("what it is to run is what its revision and its own settings make", `SELECT i.env FROM installation i
		JOIN group_revision r ON r.group_id = i.group_id AND r.number = i.group_revision
		WHERE i.id = $1 AND i.env <> coalesce(r.config -> 'env', '{}') || coalesce(i.own -> 'env', '{}')`, c.id)
}

func (w *world) numbers(query string, args ...any) []int {
	w.t.Helper()
	rows, err := w.db.Query(query, args...)
	require.NoError(w.t, err)
	defer rows.Close()
	var all []int
	for rows.Next() {
		var n int
		require.NoError(w.t, rows.Scan(&n))
		all = append(all, n)
	}
	require.NoError(w.t, rows.Err())
	return all
}
