package store

import (
	"context"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// settled are the columns of an installation i as a revision r of its group and
// its own settings make them: the same as fleet.GroupConfig.Settle.
const settled = `group_revision = r.number,
		package_id = coalesce(i.own ->> 'package_id', r.config ->> 'package_id'),
		memory_mib = coalesce((i.own ->> 'memory_mib')::int, (r.config ->> 'memory_mib')::int, 128),
		vcpus = coalesce((i.own ->> 'vcpus')::int, (r.config ->> 'vcpus')::int, 1),
		env = coalesce(r.config -> 'env', '{}') || coalesce(i.own -> 'env', '{}'),
		idle = ` + settledIdle + `, wake = coalesce(r.config -> 'wake', '{}') || coalesce(i.own -> 'wake', '{}'),
		schedule_seen_at = CASE WHEN ` + settledIdle + ` -> 'schedules' IS NOT DISTINCT FROM i.idle -> 'schedules' THEN i.schedule_seen_at END,
		schedule_due_at = CASE WHEN ` + settledIdle + ` -> 'schedules' IS NOT DISTINCT FROM i.idle -> 'schedules' THEN i.schedule_due_at
			WHEN ` + settledIdle + ` ? 'schedules' THEN dormouse_now() END,
		generation = i.generation + 1, version = i.version + 1, updated_at = dormouse_now()`

// settledIdle is the idle policy among them: IdlePolicy.Over. An installation that sets
// one of the first two has not the group's of the other.
const settledIdle = `(coalesce(r.config -> 'idle', '{}')
		- CASE WHEN i.own -> 'idle' ?| ARRAY['never', 'idle_after_seconds'] THEN ARRAY['never', 'idle_after_seconds'] ELSE '{}'::text[] END
		|| coalesce(i.own -> 'idle', '{}'))`

const pinSQL = `UPDATE installation i SET ` + settled + `
FROM group_revision r WHERE i.id = $1 AND r.group_id = i.group_id AND r.number = $2 AND ` + ownIsSound

// pin moves an installation to a revision of its group; nothing where it has left
// the group, or where what it sets itself can't be read.
func (t *Tx) pin(ctx context.Context, id fleet.InstallationID, number fleet.RevisionNumber) error {
	if _, err := t.exec(ctx, "pinning a revision", pinSQL, id, number); err != nil {
		return err
	}
	_, err := t.leasePorts(ctx, string(id))
	return err
}

const (
	// writeRolloutSQL writes nothing where somebody else has written since it was read.
	writeRolloutSQL = `WITH r AS (
	UPDATE rollout SET state = $3, reason = $4, detail = $5, ring = $6, wave = $7, wave_since = $8, progress_at = $9,
		finished_at = CASE WHEN $10 THEN dormouse_now() END, version = version + 1, decided_epoch = $12
	WHERE id = $1 AND version = $2 AND finished_at IS NULL RETURNING id, group_id, to_revision, state
), proven AS (
	UPDATE installation_group g SET revision = r.to_revision, version = g.version + 1, updated_at = dormouse_now()
	FROM r WHERE g.id = r.group_id AND r.state = 'succeeded'
), ev AS (
	INSERT INTO event (kind, resource_type, resource_id, data)
	SELECT 'rollout.state', 'rollout', id, jsonb_build_object('from', $11::text, 'to', $3::text, 'reason', $4::text, 'detail', $5::text)
	FROM r WHERE $11 <> $3
)
SELECT group_id FROM r`

	// beginLockSQL waits for nobody: who is being written now is busy.
	beginLockSQL = `SELECT i.id FROM installation i WHERE i.id = ANY ($1) ORDER BY i.id FOR UPDATE SKIP LOCKED`

	// beginSQL begins work on members. A sleeper that is moved without anything
	// being started has its operation end with the first step.
	beginSQL = `WITH want AS (
	SELECT * FROM jsonb_to_recordset($2::jsonb) AS w (installation_id text, operation_id text, kind text, work jsonb, strike boolean)
	WHERE installation_id = ANY ($3)
), able AS MATERIALIZED (
	SELECT w.*, i.name, i.owner, i.state, i.group_id, i.generation FROM want w JOIN installation i ON i.id = w.installation_id
	WHERE i.deleted_at IS NULL AND i.group_id = $1 AND ` + ownIsSound + `
		AND i.state = ANY (CASE w.kind WHEN 'verify' THEN ARRAY['hibernating'] ELSE $4::text[] END)
		AND NOT EXISTS (SELECT FROM operation o WHERE o.resource_id = i.id AND o.state IN ('active', 'queued'))
), moved AS (
	UPDATE installation i SET state = 'update-requested', state_reason = '', state_detail = '', ` + settled + `
	FROM able a JOIN group_revision r ON r.group_id = a.group_id AND r.number = (a.work ->> 'to')::bigint
	WHERE i.id = a.installation_id AND a.kind = 'update'
), op AS (
	INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, owner, class, state, request_state, generation, rollout)
	SELECT operation_id, kind, 'installation', installation_id, name, owner, 1, 'active',
		CASE kind WHEN 'update' THEN 'update-requested' ELSE state END, generation + 1, work FROM able
), ev AS (
	INSERT INTO event (kind, resource_type, resource_id, owner, operation_id, data)
	SELECT CASE kind WHEN 'update' THEN 'installation.state' ELSE 'installation.requested' END, 'installation', installation_id, owner,
		operation_id, jsonb_build_object('from', state, 'to', CASE kind WHEN 'update' THEN 'update-requested' ELSE state END, 'kind', kind)
	FROM able
), members AS (
	UPDATE rollout_member m SET state = CASE WHEN a.work ? 'back' THEN 'rolling-back' WHEN a.kind = 'verify' THEN 'verifying' ELSE 'rolling' END,
		attempts = m.attempts + CASE WHEN a.work ? 'back' THEN 0 ELSE 1 END, strikes = m.strikes + a.strike::int, operation_id = a.operation_id,
		started_at = dormouse_now(), finished_at = NULL, health = '', bad_since = NULL
	FROM able a WHERE m.rollout_id = a.work ->> 'id' AND m.installation_id = a.installation_id
)
SELECT installation_id FROM able`

	writeMembersSQL = `INSERT INTO rollout_member (rollout_id, installation_id, name, ring, wave, ord, from_revision, cluster_id, memory_mib, labels,
	state, reason, detail, attempts, strikes, operation_id, started_at, finished_at, health, bad_since, observed_at)
SELECT $1, j.installation_id, j.name, j.ring, j.wave, j."order", j.from_revision, j.cluster_id, j.memory_mib, coalesce(j.labels, '{}'),
	j.state, coalesce(j.reason, ''), coalesce(j.detail, ''), j.attempts, coalesce(j.strikes, 0), coalesce(j.operation_id, ''), j.started_at, j.finished_at,
	coalesce(j.health, ''), j.bad_since, j.observed_at
FROM jsonb_to_recordset($2::jsonb) AS j (installation_id text, name text, ring int, wave int, "order" int, from_revision bigint, cluster_id text,
	memory_mib int, labels jsonb, state text, reason text, detail text, attempts int, strikes int, operation_id text, started_at timestamptz,
	finished_at timestamptz, health text, bad_since timestamptz, observed_at timestamptz)
ON CONFLICT (rollout_id, installation_id) DO UPDATE SET ring = excluded.ring, wave = excluded.wave, ord = excluded.ord, state = excluded.state,
	reason = excluded.reason, detail = excluded.detail, attempts = excluded.attempts, strikes = excluded.strikes, operation_id = excluded.operation_id,
	started_at = excluded.started_at, finished_at = excluded.finished_at, health = excluded.health, bad_since = excluded.bad_since,
	observed_at = excluded.observed_at`

	// recallSQL waits for nobody either. Who is at work on one sees it at the next look.
	recallSQL = `UPDATE operation SET rollout = rollout || '{"recalled": true}',
	due_at = CASE WHEN worker = '' THEN least(due_at, dormouse_now()) ELSE due_at END
WHERE id IN (SELECT id FROM operation WHERE id = ANY ($1) AND state = 'active' ORDER BY id FOR UPDATE SKIP LOCKED)`
)

// startRow is a fleet.MemberStart as beginSQL reads it.
type startRow struct {
	InstallationID fleet.InstallationID `json:"installation_id"`
	OperationID    fleet.OperationID    `json:"operation_id"`
	Kind           fleet.OperationKind  `json:"kind"`
	Work           fleet.RolloutWork    `json:"work"`
	Strike         bool                 `json:"strike"`
}

// writeRollout writes what a rollout's step has decided, and begins work on
// members; nothing of it where the rollout has changed since it was read.
func (t *Tx) writeRollout(ctx context.Context, c *fleet.RolloutChange) error {
	r := c.Rollout
	if c.Before.Finished() { // only what it had begun is still told of: no verb is accepted any more
		if err := t.writeMembers(ctx, r.ID, c.Members); err != nil {
			return err
		}
		return t.recall(ctx, c.Recall)
	}
	var group fleet.GroupID
	err := t.get(ctx, "writing a rollout", &group, writeRolloutSQL, r.ID, r.Version, r.State, r.Reason, r.Detail, r.Ring, r.Wave,
		nullTime(r.WaveSince), nullTime(r.ProgressAt), r.State.Finished(), c.Before, c.Epoch)
	if fleet.KindOf(err) == fleet.KindNotFound {
		return nil // whoever has written it wakes the step again
	}
	if err != nil {
		return err
	}
	if err := t.writeMembers(ctx, r.ID, c.Members); err != nil {
		return err
	}
	if err := t.begin(ctx, group, c.Begin); err != nil {
		return err
	}
	return t.recall(ctx, c.Recall)
}

func (t *Tx) recall(ctx context.Context, operations []fleet.OperationID) error {
	if len(operations) == 0 {
		return nil
	}
	ids := make([]string, len(operations))
	for i, id := range operations {
		ids[i] = string(id)
	}
	_, err := t.exec(ctx, "recalling operations", recallSQL, pq.Array(ids))
	return err
}

func (t *Tx) writeMembers(ctx context.Context, id fleet.RolloutID, members []fleet.RolloutMember) error {
	if len(members) == 0 {
		return nil
	}
	text, err := encode(members)
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, "writing members of a rollout", writeMembersSQL, id, text)
	return err
}

func (t *Tx) begin(ctx context.Context, group fleet.GroupID, starts []fleet.MemberStart) error {
	if len(starts) == 0 {
		return nil
	}
	ids, rows := make([]string, len(starts)), make([]startRow, len(starts))
	for i, s := range starts {
		ids[i], rows[i] = string(s.InstallationID), startRow(s)
	}
	var free []string
	if err := t.list(ctx, "locking members", &free, beginLockSQL, pq.Array(ids)); err != nil || len(free) == 0 {
		return err
	}
	text, err := encode(rows)
	if err != nil {
		return err
	}
	var begun []string
	if err := t.list(ctx, "beginning members", &begun, beginSQL, group, text, pq.Array(free), pq.Array(updatableStates())); err != nil || len(begun) == 0 {
		return err
	}
	// Where the range has run dry a new port is not reached; the release goes on.
	_, err = t.leasePorts(ctx, begun...)
	return err
}

// updatableStates are those in which an update is accepted.
func updatableStates() []string {
	var states []string
	for _, tr := range fleet.Transitions() {
		if tr.Request && tr.By == fleet.OperationUpdate {
			states = append(states, string(tr.From))
		}
	}
	return states
}
