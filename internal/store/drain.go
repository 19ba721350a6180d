package store

import (
	"context"
	"database/sql"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

const (
	// membersOfHost reads who lies on a host, or may come back to it, with what
	// became of the moves of its drain.
	membersOfHost = `SELECT jsonb_build_object('installation_id', i.id, 'name', i.name, 'state', i.state, 'memory_mib', i.held_memory_mib, 'disk_mib', i.held_disk_mib,
	'busy', coalesce((SELECT b.kind FROM operation b WHERE b.resource_id = i.id AND b.state = 'active'), ''),
	'failures', coalesce(f.n, 0), 'reason', coalesce(f.fail_reason, ''), 'detail', coalesce(f.error, ''), 'failed_at', f.finished_at) AS member
FROM installation i
LEFT JOIN LATERAL (
	SELECT m.fail_reason, m.error, m.finished_at, count(*) OVER () AS n FROM operation m
	WHERE m.resource_id = i.id AND m.kind = 'move' AND m.state = 'failed' AND m.created_at >= $2 ORDER BY m.generation DESC LIMIT 1) f ON true
WHERE i.deleted_at IS NULL AND (i.held_host_id = $1 OR i.reserved_host_id = $1) AND `

	// hostMembersSQL reads a cluster's installations: an index on the host would cost every create.
	hostMembersSQL  = membersOfHost + `i.cluster_id = $3 ORDER BY i.id`
	knownMembersSQL = membersOfHost + `i.id = ANY ($3) ORDER BY i.id`

	drainLookSQL = `SELECT to_jsonb(h) AS host, dormouse_now() AS now, (SELECT jsonb_agg(to_jsonb(x)) FROM (
	SELECT * FROM host y WHERE y.cluster_id = h.cluster_id AND y.state = 'up' ORDER BY y.memory_mib - y.memory_held_mib DESC LIMIT 32) x) AS others
FROM host h WHERE h.id = $1`

	drainBeganSQL = `SELECT coalesce((SELECT created_at FROM operation WHERE id = $1), dormouse_now())`
)

// LookAtDrain returns a host that is drained and who lies there: all, or of
// those that are known already only. KindNotFound where there is no such host.
func (s *Store) LookAtDrain(ctx context.Context, id fleet.HostID, known []fleet.InstallationID) (fleet.DrainLook, error) {
	var look fleet.DrainLook
	err := s.read(func(tx *Tx) error {
		var row struct {
			Host   jsonText     `db:"host"`
			Now    sql.NullTime `db:"now"`
			Others jsonText     `db:"others"`
		}
		if err := tx.get(ctx, "looking at a host", &row, drainLookSQL, id); err != nil {
			return err
		}
		look.Now = timeOf(row.Now)
		if err := parts(part{row.Host, &look.Host}, part{row.Others, &look.Others}); err != nil {
			return err
		}
		var err error
		look.Members, err = tx.drainMembers(ctx, look.Host, known)
		return err
	})
	return look, err
}

func (t *Tx) drainMembers(ctx context.Context, h fleet.Host, known []fleet.InstallationID) ([]fleet.DrainMember, error) {
	var began sql.NullTime
	if err := t.get(ctx, "reading when the drain began", &began, drainBeganSQL, h.DrainOperationID); err != nil {
		return nil, err
	}
	query, among := hostMembersSQL, any(h.ClusterID)
	if known != nil {
		ids := make([]string, len(known))
		for i, id := range known {
			ids[i] = string(id)
		}
		query, among = knownMembersSQL, pq.Array(ids)
	}
	members := []fleet.DrainMember{}
	err := t.decode(ctx, "finding who lies on a host", query, func(j jsonText) error {
		var m fleet.DrainMember
		err := j.into(&m)
		members = append(members, m)
		return err
	}, h.ID, began.Time, among)
	return members, err
}

const (
	// drainedSQL finds the host only while that operation drains it.
	drainedSQL = `SELECT id FROM host WHERE id = $1 AND drain_operation_id = $2 AND state = 'draining'`

	// beginMovesSQL begins moves. Who is busy, deleted or elsewhere by now is left.
	beginMovesSQL = `WITH able AS MATERIALIZED (
	SELECT w.operation_id, i.id, i.name, i.owner, i.state FROM jsonb_to_recordset($2::jsonb) AS w (installation_id text, operation_id text)
	JOIN installation i ON i.id = w.installation_id
	WHERE i.id = ANY ($3) AND i.deleted_at IS NULL AND i.held_host_id = $1 AND i.state = ANY ($4)
		AND NOT EXISTS (SELECT FROM operation o WHERE o.resource_id = i.id AND o.state IN ('active', 'queued'))
), ins AS (
	UPDATE installation i SET generation = i.generation + 1, version = i.version + 1, updated_at = dormouse_now()
	FROM able a WHERE i.id = a.id RETURNING i.id, i.generation
), op AS (
	INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, owner, class, state, request_state, generation)
	SELECT a.operation_id, 'move', 'installation', a.id, a.name, a.owner, 1, 'active', a.state, ins.generation FROM able a JOIN ins ON ins.id = a.id
)
INSERT INTO event (kind, resource_type, resource_id, owner, operation_id, data)
SELECT 'installation.requested', 'installation', id, owner, operation_id, jsonb_build_object('from', state, 'to', state, 'kind', 'move') FROM able`

	drainOverSQL = `WITH h AS (
	UPDATE host SET state = 'cordoned' WHERE id = $1 AND drain_operation_id = $2 AND state = 'draining' RETURNING id
)
INSERT INTO event (kind, resource_type, resource_id, operation_id, data)
SELECT 'host.state', 'host', id, $2, jsonb_build_object('from', 'draining', 'to', 'cordoned') FROM h`
)

// writeDrain begins the moves that a drain's step has decided on; nothing where the
// host is drained no more.
func (t *Tx) writeDrain(ctx context.Context, c *fleet.DrainChange) error {
	if c.Over {
		_, err := t.exec(ctx, "ending a drain", drainOverSQL, c.HostID, c.OperationID)
		return err
	}
	var host string
	err := t.get(ctx, "reading the host that is drained", &host, drainedSQL, c.HostID, c.OperationID)
	if fleet.KindOf(err) == fleet.KindNotFound {
		return nil
	}
	if err != nil || len(c.Begin) == 0 {
		return err
	}
	ids := make([]string, len(c.Begin))
	for i, b := range c.Begin {
		ids[i] = string(b.InstallationID)
	}
	var free []string
	if err := t.list(ctx, "locking who is to move", &free, beginLockSQL, pq.Array(ids)); err != nil || len(free) == 0 {
		return err
	}
	text, err := encode(c.Begin)
	if err != nil {
		return err
	}
	var movable []string
	for _, s := range fleet.Movable() {
		movable = append(movable, string(s))
	}
	_, err = t.exec(ctx, "beginning moves", beginMovesSQL, c.HostID, text, pq.Array(free), pq.Array(movable))
	return err
}
