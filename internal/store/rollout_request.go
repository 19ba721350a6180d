package store

import (
	"context"
	"slices"

	"dormouse/internal/fleet"
)

// dueNow takes a rollout's operation away from whoever looks at this moment:
// what that look decides would make it wait, and the verb would be noticed late.
const dueNow = `due_at = dormouse_now(), worker = '', epoch = nextval('operation_epoch')`

// A rollout's operation ends before what the rollout has begun only where its row
// could not be read, or a hand was at it; old names the rollout.
const (
	carriedOutByNobody = `NOT EXISTS (SELECT FROM operation a WHERE a.resource_id = old.id AND a.state = 'active')`
	nextGeneration     = `1 + coalesce((SELECT max(generation) FROM operation n WHERE n.resource_id = old.id), 0)`
)

const (
	// supersedeSQL ends the rollout that a newer one takes the place of. What it
	// has begun comes to its end; its operation ends by itself after that.
	supersedeSQL = `WITH old AS (
	UPDATE rollout SET state = 'superseded', reason = 'superseded', detail = 'rollout ' || $2 || ' took its place', finished_at = dormouse_now(),
		version = version + 1
	WHERE group_id = $1 AND finished_at IS NULL RETURNING id
), op AS (
	UPDATE operation o SET ` + dueNow + ` FROM old WHERE o.resource_id = old.id AND o.state = 'active'
), anew AS (
	INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, class, state, request_state, generation)
	SELECT $3, 'rollout', 'rollout', old.id, $4, 0, 'active', '', ` + nextGeneration + `
	FROM old WHERE ` + carriedOutByNobody + `
)
INSERT INTO event (kind, resource_type, resource_id, data)
SELECT 'rollout.state', 'rollout', id, jsonb_build_object('to', 'superseded', 'by', $2::text) FROM old`

	insertRolloutSQL = `WITH key AS (
	INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id) SELECT $1, $2, $3, $4 WHERE $1 <> ''
), r AS (
	INSERT INTO rollout (id, group_id, from_revision, to_revision, spec, state, wave_since, progress_at)
	VALUES ($3, $5, $6, $7, $8::jsonb, 'running', dormouse_now(), dormouse_now()) RETURNING id
), op AS (
	INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, class, state, request_state, generation)
	SELECT $4, 'rollout', 'rollout', id, $9, 0, 'active', '', 1 FROM r
)
INSERT INTO event (kind, resource_type, resource_id, operation_id, data)
SELECT 'rollout.state', 'rollout', id, $4, jsonb_build_object('from', '', 'to', 'running', 'group', $9::text, 'to_revision', $7::bigint) FROM r`
)

// CreateRollout begins to move a group's members to a revision. A rollout of
// the same group that is not finished is superseded.
func (s *Store) CreateRollout(ctx context.Context, in fleet.NewRollout) (fleet.RolloutView, error) {
	spec, err := encode(in.Spec)
	if err != nil {
		return fleet.RolloutView{}, err
	}
	return s.rolloutRequest(ctx, in.Key, func(tx *Tx) (string, error) {
		g, err := tx.group(ctx, in.Group)
		if err != nil {
			return "", err
		}
		// One at a time: the group's row is the lock.
		var id string
		if err := tx.get(ctx, "locking the group", &id, lockGroupSQL, g.ID); err != nil {
			return "", err
		}
		if g, err = tx.group(ctx, id); err != nil {
			return "", err
		}
		r, err := planned(g, in.To)
		if err != nil {
			return "", err
		}
		if _, err := tx.exec(ctx, "superseding the rollout before", supersedeSQL, g.ID, in.ID, fleet.NewID(), g.Name); err != nil {
			return "", err
		}
		_, err = tx.exec(ctx, "creating the rollout", insertRolloutSQL, in.Key.Key, in.Key.RequestHash, in.ID, in.OperationID, g.ID,
			r.From, r.To, spec, g.Name)
		return string(in.ID), err
	})
}

// rolloutRequest runs accept once per idempotency key and returns the rollout that it names.
func (s *Store) rolloutRequest(ctx context.Context, key fleet.IdempotencyKey, accept func(*Tx) (string, error)) (fleet.RolloutView, error) {
	var v fleet.RolloutView
	err := s.InTx(ctx, func(tx *Tx) error {
		id, known, err := tx.once(ctx, key, accept)
		if err != nil {
			return err
		}
		v, err = tx.rollout(ctx, fleet.RolloutID(id))
		v.Replayed = known
		return err
	})
	if constraintOf(err) == "idempotency_key_pkey" {
		return s.rolloutRequest(ctx, key, accept) // the same request came in at the same moment: now its answer is there
	}
	return v, err
}

const (
	lockRolloutSQL = `SELECT id FROM rollout WHERE id = $1 FOR UPDATE`

	controlSQL = `WITH r AS (
	UPDATE rollout SET state = $2, reason = '', detail = '', forced = forced OR $3, progress_at = dormouse_now(),
		finished_at = CASE WHEN $4 THEN dormouse_now() END, version = version + 1
	WHERE id = $1 RETURNING id
), op AS (
	UPDATE operation o SET ` + dueNow + ` FROM r WHERE o.resource_id = r.id AND o.state = 'active'
), anew AS (
	INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, class, state, request_state, generation)
	SELECT $9, 'rollout', 'rollout', r.id, g.name, 0, 'active', '', ` + nextGeneration + `
	FROM r JOIN rollout old ON old.id = r.id JOIN installation_group g ON g.id = old.group_id
	WHERE ` + carriedOutByNobody + `
), key AS (
	INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id) SELECT $5, $6, id, '' FROM r WHERE $5 <> ''
)
INSERT INTO event (kind, resource_type, resource_id, data)
SELECT 'rollout.state', 'rollout', id, jsonb_build_object('from', $7::text, 'to', $2::text, 'verb', $8::text) FROM r`

	retryFailedSQL = `UPDATE rollout_member SET state = 'waiting', reason = '', detail = '', attempts = 0, strikes = 0, started_at = NULL, finished_at = NULL
WHERE rollout_id = $1 AND state = 'failed'`
)

// ControlRollout carries a verb out. KindNotAccepted where the rollout's state
// does not take it, KindStale where IfMatch is another version. A rollout that
// nothing carries out any more gets an operation anew.
func (s *Store) ControlRollout(ctx context.Context, in fleet.RolloutControl) (fleet.RolloutView, error) {
	return s.rolloutRequest(ctx, in.Key, func(tx *Tx) (string, error) {
		var id fleet.RolloutID
		err := tx.get(ctx, "locking the rollout", &id, lockRolloutSQL, in.ID)
		if err != nil && fleet.KindOf(err) != fleet.KindNotFound {
			return "", err
		}
		v, err := tx.rollout(ctx, in.ID)
		if err != nil {
			return "", err
		}
		if in.IfMatch != 0 && in.IfMatch != v.Version {
			return "", fleet.Errorf(fleet.KindStale, "rollout %s is at version %d, not %d: read it again", v.ID, v.Version, in.IfMatch)
		}
		from, to := fleet.RolloutMoves(in.Verb)
		switch {
		case to == "":
			return "", fleet.InvalidField("verb", "there is no verb %q for a rollout", in.Verb)
		case v.State == fleet.RolloutHalted && in.Verb == fleet.RolloutResume:
			return "", fleet.Errorf(fleet.KindNotAccepted, "rollout %s was halted (%s): force it, retry what failed, roll it back or cancel it", v.ID, v.Detail)
		case !slices.Contains(from, v.State):
			return "", fleet.Errorf(fleet.KindNotAccepted, "rollout %s is %s and does not accept %s now", v.ID, v.State, in.Verb)
		}
		if in.Verb == fleet.RolloutRetry {
			if _, err := tx.exec(ctx, "retrying what failed", retryFailedSQL, in.ID); err != nil {
				return "", err
			}
		}
		_, err = tx.exec(ctx, "controlling the rollout", controlSQL, in.ID, to, in.Verb == fleet.RolloutForce, to.Finished(),
			in.Key.Key, in.Key.RequestHash, v.State, in.Verb, fleet.NewID())
		return string(in.ID), err
	})
}
