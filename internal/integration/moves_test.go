package integration

import (
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

const (
	// drainHostSQL has one host drained and the others up, without a drain that would begin moves of its own.
	drainHostSQL = `UPDATE host SET state = CASE WHEN $2 AND id = (SELECT held_host_id FROM installation WHERE id = $1) THEN 'draining' ELSE 'up' END`

	// beginMoveSQL does what the store does when a drain's step begins a move.
	beginMoveSQL = `WITH i AS (
	UPDATE installation SET version = version + 1, generation = generation + 1 WHERE id = $1 RETURNING *
)
INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, owner, class, state, request_state, generation)
SELECT $2, 'move', 'installation', id, name, owner, 1, 'active', state, generation FROM i`
)

// moving begins the subject's move away from its host, which is drained or not.
func moving(drained bool) func(*kase) fleet.OperationID {
	return func(c *kase) fleet.OperationID { return c.move(newOp(), drained) }
}

// movingSick is moving, but the subject can't run where it goes.
func movingSick(c *kase) fleet.OperationID {
	op := newOp()
	c.sick.Store(fleet.InstanceID(fleet.DeriveID(string(op), "instance")), fleet.Exit{Reason: fleet.ReasonCrashLoop, Code: 1})
	return c.move(op, true)
}

func (c *kase) move(op fleet.OperationID, drained bool) fleet.OperationID {
	c.t.Helper()
	c.began = c.state()
	_, err := c.db.Exec(drainHostSQL, c.id, drained)
	require.NoError(c.t, err)
	_, err = c.db.Exec(beginMoveSQL, c.id, op)
	require.NoError(c.t, err)
	c.wake()
	return op
}

// stranded leaves the subject in the middle of a move that could not come back
// either, for that step's sake.
func stranded(pkg, step string) func(*kase) {
	return func(c *kase) {
		c.do(created(pkg), failing("leave-host "+step, doing{begin: moving(true), end: "update-failed"}))
	}
}

// moved requires that all of the subject is on one host, the drained one or another, and nothing anywhere else.
func (c *kase) moved(away bool) {
	c.t.Helper()
	drained := c.strings(`SELECT id FROM host WHERE state = 'draining'`)
	at := c.strings(`SELECT held_host_id FROM installation WHERE id = $1 AND reserved_host_id = '' AND reserved_memory_mib = 0 AND reserved_disk_mib = 0
		UNION SELECT host_id FROM instance WHERE installation_id = $1 AND deleted_at IS NULL
		UNION SELECT host_id FROM volume WHERE installation_id = $1 AND deleted_at IS NULL
		UNION SELECT host_id FROM address_lease WHERE installation_id = $1`, c.id)
	require.Len(c.t, at, 1, "it lies on one host")
	if len(drained) > 0 {
		require.Equal(c.t, !away, at[0] == drained[0], "on which")
	}
	require.Len(c.t, c.strings(`SELECT id FROM instance WHERE installation_id = $1 AND deleted_at IS NULL`, c.id), 1)
	machines, _ := c.sim.Inventory(fleet.ClusterID(c.strings(`SELECT cluster_id FROM installation WHERE id = $1`, c.id)[0]))
	for _, m := range machines {
		if string(m.InstallationID) == c.id {
			require.Equal(c.t, at[0], string(m.HostID), "the simulator has it elsewhere")
		}
	}
}
