package store

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// maxQueued bounds how many operations may follow the active one.
const maxQueued = 8

const lockInstallationSQL = `SELECT id FROM installation WHERE id = $1 FOR UPDATE`

// readForChangeSQL reads without a lock: the write compares the version, which
// rises with every change of the installation or of its open operations.
const readForChangeSQL = `SELECT to_jsonb(i) AS installation,
	(SELECT jsonb_agg(to_jsonb(o) ORDER BY o.generation) FROM operation o
		WHERE o.resource_id = i.id AND o.state IN ('active', 'queued')) AS operations,
	k.request_hash AS key_hash, k.operation_id AS key_operation_id, k.resource_id AS key_resource_id,
	gr.config AS group_config,
	coalesce(p.id, '') AS package_id, coalesce((coalesce(p.manifest, d.manifest) ->> 'min_memory_mib')::int, 0) AS min_memory_mib,
	pg_advisory_xact_lock_shared(hashtextextended(coalesce(p.id, ''), 0)) IS NULL AS l1
FROM installation i
JOIN package d ON d.id = i.package_id
LEFT JOIN group_revision gr ON gr.group_id = i.group_id AND gr.number = i.group_revision
LEFT JOIN idempotency_key k ON k.key = $2
LEFT JOIN LATERAL (
	SELECT id, manifest FROM package
	WHERE name = $3 AND ($4 = '' OR version = $4) AND deleted_at IS NULL ORDER BY id DESC LIMIT 1) p ON true
`

const (
	readForChangeByIDSQL   = readForChangeSQL + `WHERE i.id = $1 AND i.deleted_at IS NULL AND ($5 = '' OR i.owner = $5)`
	readForChangeByNameSQL = readForChangeSQL + `WHERE i.name = $1 AND i.deleted_at IS NULL AND ($5 = '' OR i.owner = $5)`
)

type forChange struct {
	keyRow
	Installation jsonText `db:"installation"`
	Operations   jsonText `db:"operations"`
	GroupConfig  jsonText `db:"group_config"`
	PackageID    string   `db:"package_id"`
	MinMemoryMiB int      `db:"min_memory_mib"`
	L1           bool     `db:"l1"`
}

// writeChangeSQL writes an accepted request: what is desired, the operation
// ($4 = ” where an open one takes the request up), the cancellations that a
// delete brings, and the event. A hibernation that somebody asks for while the idle
// policy's is under way is theirs from then on.
//
// Everything hangs on the update of the installation, so that its row is
// locked first and nothing is written where the version has moved on, or where
// the package was deleted before this transaction had its lock on it.
const writeChangeSQL = `WITH ins AS (
	UPDATE installation i SET state = CASE WHEN $8 = 'active' THEN $9 ELSE i.state END,
		state_reason = CASE WHEN $8 = 'active' AND $9 <> i.state THEN '' ELSE i.state_reason END,
		state_detail = CASE WHEN $8 = 'active' AND $9 <> i.state THEN '' ELSE i.state_detail END,
		package_id = $10, memory_mib = $11, disk_mib = $12, vcpus = $13, env = $14::jsonb, secrets = $15::jsonb, labels = $16::jsonb,
		group_id = nullif($19, ''), group_revision = nullif($20::bigint, 0), own = $21::jsonb,
		dns_names = $22::text[], idle = $23::jsonb, wake = $24::jsonb, schedule_seen_at = CASE WHEN $23::jsonb -> 'schedules' IS NOT DISTINCT FROM i.idle -> 'schedules' THEN i.schedule_seen_at END,
		schedule_due_at = CASE WHEN $23::jsonb -> 'schedules' IS NOT DISTINCT FROM i.idle -> 'schedules' THEN i.schedule_due_at
			WHEN $23::jsonb ? 'schedules' THEN dormouse_now() END,
		generation = i.generation + 1, version = i.version + 1, updated_at = dormouse_now()
	WHERE i.id = $3 AND i.version = $17 AND ($10 = i.package_id OR EXISTS (SELECT FROM package p WHERE p.id = $10 AND p.deleted_at IS NULL))
	RETURNING i.id, i.name, i.owner, i.generation
), key AS (
	INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id)
	SELECT $1, $2, id, $5 FROM ins WHERE $1 <> ''
), cancelled AS (
	UPDATE operation o SET state = 'cancelled', fail_reason = CASE $7 WHEN 'delete' THEN 'preempted-by-delete' ELSE 'preempted' END,
		error = 'a ' || $7 || ' was asked for',
		worker = '', finished_at = dormouse_now(), revision = o.revision + 1
	FROM ins WHERE $6 AND o.resource_id = ins.id AND o.state IN ('active', 'queued') RETURNING o.id
), unnamed AS (
	DELETE FROM installation_dns_name d USING ins WHERE d.installation_id = ins.id AND d.name <> ALL ($22::text[])
), named AS (
	INSERT INTO installation_dns_name (name, installation_id)
	SELECT n, ins.id FROM ins, unnest($22::text[]) n
	WHERE NOT EXISTS (SELECT FROM installation_dns_name d WHERE d.name = n AND d.installation_id = ins.id) ORDER BY n
), op AS (
	INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, owner, class, state, request_state, generation, observed)
	SELECT $4, $7, 'installation', ins.id, ins.name, ins.owner, $25, $8, $9, ins.generation, $26::jsonb
	FROM ins, (SELECT count(*) FROM cancelled) AS after_the_cancellations
	WHERE $4 <> ''
), joined AS (
	UPDATE operation o SET observed = (o.observed - 'idle') || $26::jsonb, class = least(o.class, $25)
	FROM ins WHERE $4 = '' AND $7 = 'hibernate' AND NOT $26::jsonb ? 'idle' AND o.id = $5 AND o.resource_id = ins.id
), ev AS (
	INSERT INTO event (kind, resource_type, resource_id, owner, operation_id, data)
	SELECT CASE WHEN $8 = 'active' AND $9 <> $18 THEN 'installation.state' ELSE 'installation.requested' END, 'installation', ins.id, ins.owner, $5,
		jsonb_build_object('from', $18::text, 'to', $9::text, 'kind', $7::text)
	FROM ins
)
SELECT id FROM ins`

// ChangeInstallation accepts one request on an installation. Work under way is
// followed by a queued operation, or joined where it does the same already; a
// delete pre-empts. KindNotAccepted where the state does not allow the request.
func (s *Store) ChangeInstallation(ctx context.Context, in fleet.Change) (fleet.Accepted, error) {
	var acc fleet.Accepted
	var lock fleet.InstallationID
	for {
		var seen fleet.InstallationID
		err := s.InTx(ctx, func(tx *Tx) (err error) {
			acc, seen, err = tx.change(ctx, in, lock)
			return err
		})
		switch {
		case err == nil:
			return acc, nil
		case constraintOf(err) == "idempotency_key_pkey":
			// The same request came in at the same moment: now its answer is there.
		case (errors.Is(err, errMovedOn) || constraintOf(err) == "operation_active") && lock != seen:
			lock = seen // wait in line for the row this time; it is another one where the name has moved on
		case constraintOf(err) == constraintDNSName && in.DNSNames != nil:
			return acc, s.nameTaken(ctx, seen, *in.DNSNames)
		default:
			return acc, err
		}
	}
}

// readKeySQL finds what a request was answered with whose installation is gone since.
const readKeySQL = `SELECT request_hash AS key_hash, operation_id AS key_operation_id, resource_id AS key_resource_id
FROM idempotency_key WHERE key = $1`

// errMovedOn: what a request is about changed between the read and the write.
var errMovedOn = errors.New("it changed meanwhile")

// change returns the installation's ID also where it fails with errMovedOn.
func (t *Tx) change(ctx context.Context, in fleet.Change, lock fleet.InstallationID) (fleet.Accepted, fleet.InstallationID, error) {
	if lock != "" {
		var id string
		if err := t.get(ctx, "locking the installation", &id, lockInstallationSQL, lock); err != nil {
			return fleet.Accepted{}, "", err
		}
	}
	r, err := t.readForChange(ctx, in)
	if fleet.KindOf(err) == fleet.KindNotFound && in.Key.Key != "" {
		err = t.get(ctx, "reading the idempotency key", &r.keyRow, readKeySQL, in.Key.Key)
		if fleet.KindOf(err) == fleet.KindNotFound {
			err = fleet.Errorf(fleet.KindNotFound, "there is no installation %q", in.IDOrName)
		}
	}
	if err != nil {
		return fleet.Accepted{}, "", err
	}
	switch known, err := r.replayed(in.Key); {
	case err != nil:
		return fleet.Accepted{}, "", err
	case known:
		acc, err := t.accepted(ctx, r.keyRow)
		return acc, "", err
	}
	var inst fleet.Installation
	var open []fleet.Operation
	if err := r.Installation.into(&inst); err != nil {
		return fleet.Accepted{}, "", err
	}
	if err := r.Operations.into(&open); err != nil {
		return fleet.Accepted{}, inst.ID, err
	}
	if in.IfMatch != 0 && in.IfMatch != inst.Version {
		return fleet.Accepted{}, inst.ID, fleet.Errorf(fleet.KindStale,
			"installation %s is at version %d, not %d: read it again and repeat the change", inst.Name, inst.Version, in.IfMatch)
	}
	plan, err := planChange(inst, open, in.Kind)
	if err != nil {
		return fleet.Accepted{}, inst.ID, err
	}
	before := inst
	if err := t.apply(ctx, r, &inst, in); err != nil {
		return fleet.Accepted{}, inst.ID, err
	}
	if err := t.writeChange(ctx, in, before, inst, plan); err != nil {
		return fleet.Accepted{}, inst.ID, err
	}
	if inst.PackageID != before.PackageID {
		dry, err := t.leasePorts(ctx, string(inst.ID))
		if err == nil && dry {
			err = portsDry()
		}
		if err != nil {
			return fleet.Accepted{}, inst.ID, err
		}
	}
	acc, err := t.changed(ctx, in, inst.ID, plan)
	return acc, inst.ID, err
}

// changed reads the installation back, and its operation where that is not the one shown with it.
func (t *Tx) changed(ctx context.Context, in fleet.Change, id fleet.InstallationID, plan changePlan) (fleet.Accepted, error) {
	opID := in.OperationID
	if plan.join != "" {
		opID = plan.join
	}
	v, err := t.installation(ctx, "", string(id))
	if err != nil {
		return fleet.Accepted{}, err
	}
	if v.Operation == nil || v.Operation.ID != opID {
		op, err := t.operation(ctx, opID)
		if err != nil {
			return fleet.Accepted{}, err
		}
		v.Operation = &op
	}
	return fleet.Accepted{Installation: v, Operation: *v.Operation}, nil
}

func (t *Tx) readForChange(ctx context.Context, in fleet.Change) (forChange, error) {
	var ref, version string
	if in.PackageRef != nil {
		ref, version, _ = strings.Cut(*in.PackageRef, "@")
	}
	var r forChange
	err := error(fleet.Errorf(fleet.KindNotFound, "no such ID"))
	if fleet.ValidID(in.IDOrName) {
		err = t.get(ctx, "reading the installation", &r, readForChangeByIDSQL, in.IDOrName, in.Key.Key, ref, version, in.Owner)
	}
	if fleet.KindOf(err) == fleet.KindNotFound {
		err = t.get(ctx, "reading the installation", &r, readForChangeByNameSQL, in.IDOrName, in.Key.Key, ref, version, in.Owner)
	}
	if fleet.KindOf(err) == fleet.KindNotFound {
		return r, fleet.Errorf(fleet.KindNotFound, "there is no installation %q", in.IDOrName)
	}
	return r, err
}

// changePlan is how a request fits to the work that is open.
type changePlan struct {
	kind  fleet.OperationKind
	state fleet.OperationState // of the new operation
	// join is the open operation that takes the request up; no new one is made.
	join fleet.OperationID
	// preempts: what is open is cancelled.
	preempts bool
	// stays: the installation's state stays as it is.
	stays bool
	// behindMove: what is open is a move, which nobody has asked for.
	behindMove bool
}

// planChange decides by the transition table. open holds the active operation
// and those queued behind it, in order.
func planChange(inst fleet.Installation, open []fleet.Operation, kind fleet.OperationKind) (changePlan, error) {
	refuse := func(state fleet.State) (changePlan, error) {
		asked := string(kind)
		if kind == "" {
			asked = "retry"
		}
		return changePlan{}, fleet.Errorf(fleet.KindNotAccepted, "installation %s is %s and does not accept %s now", inst.Name, state, asked)
	}
	if kind == "" {
		var ok bool
		if kind, ok = fleet.RetryOf(inst.State); !ok {
			return refuse(inst.State)
		}
	}
	plan := changePlan{kind: kind, state: fleet.OperationActive, preempts: kind == fleet.OperationDelete}
	if len(open) == 1 && open[0].GivesWay() {
		// Nobody waits for a clone of what they have asked for, or for a host that has room.
		open, plan.preempts = nil, true
	}
	if kind == fleet.OperationClone {
		if len(open) > 0 || inst.State != fleet.StateHibernating {
			return changePlan{}, fleet.Errorf(fleet.KindNotAccepted, "installation %s is %s: only one that sleeps, and is not being worked on, can be cloned", inst.Name, inst.State)
		}
		plan.stays = true
		return plan, nil
	}
	if len(open) == 0 {
		if !slices.Contains(fleet.Accepts(inst.State), kind) {
			return refuse(inst.State)
		}
		return plan, nil
	}
	tail := open[len(open)-1]
	after := tail.Kind.DoneState()
	if tail.Kind == fleet.OperationMove {
		after = inst.State // which a move leaves as it is
	}
	switch {
	case tail.Kind == kind && (kind != fleet.OperationUpdate || tail.State == fleet.OperationQueued):
		plan.join, plan.preempts = tail.ID, false
		return plan, nil
	case kind == fleet.OperationDelete:
		return plan, nil
	case tail.Kind == fleet.OperationDelete, !slices.Contains(fleet.Accepts(after), kind):
		return refuse(inst.State)
	case len(open) > maxQueued:
		return changePlan{}, fleet.Errorf(fleet.KindNotAccepted, "installation %s has %d requests waiting: wait for them", inst.Name, len(open)-1)
	}
	plan.state, plan.behindMove = fleet.OperationQueued, open[0].Kind == fleet.OperationMove
	return plan, nil
}

// merge applies a merge patch (RFC 7386) to a flat map.
func merge(have map[string]string, patch map[string]*string) map[string]string {
	out := maps.Clone(have)
	if out == nil {
		out = map[string]string{}
	}
	for k, v := range patch {
		if v == nil {
			delete(out, k)
		} else {
			out[k] = *v
		}
	}
	return out
}

func (t *Tx) writeChange(ctx context.Context, in fleet.Change, before, after fleet.Installation, plan changePlan) error {
	newOp, opID, state := in.OperationID, in.OperationID, plan.state
	if plan.join != "" {
		// The open operation does it; a pending update reads what is desired when it begins.
		newOp, opID, state = "", plan.join, fleet.OperationQueued
	}
	requested := plan.kind.RequestedState()
	if plan.stays {
		requested = before.State
	}
	body, err := encodeAll(after.Env, after.Secrets, after.Labels, in.Observed)
	if err != nil {
		return err
	}
	texts, err := encodeEach(after.Own, after.Idle, after.Wake)
	if err != nil {
		return err
	}
	var id string
	err = t.get(ctx, "writing the change", &id, writeChangeSQL, in.Key.Key, in.Key.RequestHash, before.ID, newOp, opID,
		plan.preempts, plan.kind, state, requested, after.PackageID, after.MemoryMiB, after.DiskMiB, after.VCPUs,
		body[0], body[1], body[2], before.Version, before.State, after.GroupID, after.GroupRevision, texts[0],
		pq.Array(sortedNames(after.DNSNames)), texts[1], texts[2], in.Class, body[3])
	if fleet.KindOf(err) == fleet.KindNotFound {
		return errMovedOn
	}
	if err == nil && plan.behindMove {
		_, err = t.exec(ctx, "hurrying a move that is waited for", hurryMoveSQL, before.ID)
	}
	return err
}

// hurryMoveSQL has a move that a request waits behind wait behind no bulk work.
const hurryMoveSQL = `UPDATE operation SET class = 0 WHERE resource_id = $1 AND kind = 'move' AND state = 'active'`
