package store

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// snapshotColumns gather all that a step may know around the operation c.
// Nothing in it may fail for what one row holds: no operation could be claimed then.
const snapshotColumns = `to_jsonb(c) AS operation, to_jsonb(i) AS installation, to_jsonb(p) AS package,
	(SELECT jsonb_agg(to_jsonb(x) ORDER BY x.created_at, x.id) FROM instance x
		WHERE x.installation_id = i.id AND x.deleted_at IS NULL) AS instances,
	(SELECT to_jsonb(v) FROM volume v WHERE v.installation_id = i.id AND v.role = 'application' AND v.deleted_at IS NULL) AS volume,
	(SELECT to_jsonb(l) FROM address_lease l WHERE l.installation_id = i.id AND l.host_id = coalesce(nullif(i.held_host_id, ''), l.host_id) LIMIT 1) AS lease,
	(SELECT jsonb_build_object('package', to_jsonb(tp), 'config', gr.config) FROM group_revision gr JOIN package tp ON tp.id = gr.config ->> 'package_id'
		WHERE c.kind = 'verify' AND gr.group_id = i.group_id AND gr.number = CASE WHEN c.rollout ->> 'to' ~ '^[0-9]{1,18}$' THEN (c.rollout ->> 'to')::bigint END) AS target,
	to_jsonb(cl) AS cluster,
	(SELECT jsonb_agg(to_jsonb(h)) FROM (
		(SELECT * FROM host WHERE id IN (i.held_host_id, i.reserved_host_id))
		UNION ALL
		(SELECT * FROM host WHERE cluster_id = cl.id AND (state = 'up' OR c.resource_type = 'cluster') AND (c.kind = 'move' OR coalesce(i.held_host_id, '') = '')
			AND id NOT IN (coalesce(i.held_host_id, ''), coalesce(i.reserved_host_id, ''))
			ORDER BY memory_mib - memory_held_mib DESC LIMIT 8)) h) AS hosts,
	dormouse_now() AS now`

// claimSQL locks operations before installations, the other way round than all
// else. That can't deadlock because it waits for neither: an installation that
// a request or a commit is writing at this moment is left for the next claim,
// which whoever writes it calls for.
const claimSQL = `WITH interactive AS (
	SELECT id, resource_id, request_state FROM operation WHERE state = 'active' AND class = 0 AND due_at <= dormouse_now() AND executor = ANY ($1)
	ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
), bulk AS (
	SELECT id, resource_id, request_state FROM operation WHERE state = 'active' AND class = 1 AND due_at <= dormouse_now() AND executor = ANY ($1)
	ORDER BY due_at LIMIT least($3, $2 - (SELECT count(*) FROM interactive)) FOR UPDATE SKIP LOCKED
), signalled AS (
	SELECT id, resource_id, request_state FROM operation WHERE id = ANY ($8) AND state = 'active' AND worker = '' AND executor = ANY ($1)
	FOR UPDATE SKIP LOCKED
), due AS (
	SELECT * FROM interactive UNION SELECT * FROM bulk UNION SELECT * FROM signalled
), beginning AS MATERIALIZED (
	SELECT i.id FROM due JOIN installation i ON i.id = due.resource_id AND i.state = due.request_state FOR UPDATE OF i SKIP LOCKED
), c AS (
	UPDATE operation o SET worker = $4, epoch = nextval('operation_epoch'), due_at = dormouse_now() + $5 * interval '1 ms',
		step_deadline_at = o.step_deadline_at + greatest(dormouse_now() - o.due_at, interval '0'),
		started_at = coalesce(o.started_at, dormouse_now()), revision = o.revision + 1
	FROM due WHERE o.id = due.id AND (due.resource_id IN (SELECT id FROM beginning)
		OR NOT EXISTS (SELECT FROM installation i WHERE i.id = due.resource_id AND i.state = due.request_state))
	RETURNING o.*
), begun AS (
	UPDATE installation i SET state = s.begun, version = i.version + 1, updated_at = dormouse_now()
	FROM c JOIN unnest($6::text[], $7::text[]) AS s (requested, begun) ON true
	WHERE i.id = c.resource_id AND i.state = s.requested AND c.request_state = s.requested
	RETURNING i.id, i.owner, c.id AS operation_id, s.requested, s.begun
), clusters AS (
	UPDATE cluster cl SET state = replace(cl.state, '-requested', '-in-progress'), updated_at = dormouse_now()
	FROM c WHERE cl.id = c.resource_id AND cl.state = c.request_state
	RETURNING cl.id, c.id AS operation_id, c.request_state AS requested, cl.state AS begun
), ev AS (
	INSERT INTO event (kind, resource_type, resource_id, owner, operation_id, data)
	SELECT 'installation.state', 'installation', id, owner, operation_id, jsonb_build_object('from', requested, 'to', begun) FROM begun
	UNION ALL
	SELECT 'cluster.state', 'cluster', id, '', operation_id, jsonb_build_object('from', requested, 'to', begun) FROM clusters
)
SELECT ` + snapshotColumns + `
FROM c
LEFT JOIN installation i ON i.id = c.resource_id
LEFT JOIN package p ON p.id = i.package_id
LEFT JOIN cluster cl ON cl.id = coalesce(i.cluster_id, c.resource_id)
ORDER BY c.class, c.id`

type snapshotRow struct {
	Operation    jsonText  `db:"operation"`
	Installation jsonText  `db:"installation"`
	Package      jsonText  `db:"package"`
	Instances    jsonText  `db:"instances"`
	Volume       jsonText  `db:"volume"`
	Lease        jsonText  `db:"lease"`
	Target       jsonText  `db:"target"`
	Cluster      jsonText  `db:"cluster"`
	Hosts        jsonText  `db:"hosts"`
	Now          time.Time `db:"now"`
}

func (r snapshotRow) snapshot() (fleet.Snapshot, error) {
	var malformed error
	s := fleet.Snapshot{Now: r.Now.UTC()}
	for _, part := range []struct {
		from jsonText
		into any
	}{
		{r.Operation, &s.Operation}, {r.Installation, &s.Installation}, {r.Package, &s.Package}, {r.Instances, &s.Instances},
		{r.Volume, &s.Volume}, {r.Lease, &s.Lease}, {r.Target, &s.Target}, {r.Cluster, &s.Cluster}, {r.Hosts, &s.Hosts},
	} {
		// What can be read is, so that the operation can be ended for what cannot.
		malformed = errors.Join(malformed, part.from.into(part.into))
	}
	// The statement saw the states from before its own update of them.
	kind := s.Operation.Kind
	if s.Installation != nil && s.Installation.State == kind.RequestedState() {
		s.Installation.State = kind.InProgressState()
	}
	if s.Cluster != nil && s.Operation.ResourceType == fleet.ResourceCluster {
		switch s.Cluster.State {
		case fleet.ClusterCreationRequested:
			s.Cluster.State = fleet.ClusterCreationInProgress
		case fleet.ClusterDeletionRequested:
			s.Cluster.State = fleet.ClusterDeletionInProgress
		}
	}
	return s, malformed
}

// Claim takes operations that are due for this worker, interactive ones first,
// under a new epoch each, in one statement; bulk ones only as far as
// in.Interactive leaves room. Why an operation waited stays until its next
// commit, so that a deadline can say what it waited for. The deadline itself
// moves by the time in which nobody took the operation though it was due: while
// every process was down, nothing can have been late.
func (s *Store) Claim(ctx context.Context, in fleet.ClaimRequest) ([]fleet.Snapshot, error) {
	executors := []string{fleet.ExecutorAny}
	for _, h := range in.Executors {
		executors = append(executors, string(h))
	}
	signalled := make([]string, len(in.Signalled))
	for i, id := range in.Signalled {
		signalled[i] = string(id)
	}
	requested, begun := requestedStates()
	var out []fleet.Snapshot
	err := s.InTx(ctx, func(tx *Tx) error {
		out = nil
		var rows []snapshotRow
		if err := tx.list(ctx, "claiming operations", &rows, claimSQL, pq.Array(executors), in.Interactive, in.Bulk,
			in.Worker, in.Lease.Milliseconds(), pq.Array(requested), pq.Array(begun), pq.Array(signalled)); err != nil {
			return err
		}
		for _, r := range rows {
			snap, err := r.snapshot()
			if err != nil {
				// One malformed row stops only itself: the engine fails the operation with these words.
				snap.Malformed = err.Error()
			}
			out = append(out, snap)
		}
		return nil
	})
	return out, err
}

func requestedStates() (requested, begun []string) {
	for _, k := range fleet.InstallationOperations() {
		requested = append(requested, string(k.RequestedState()))
		begun = append(begun, string(k.InProgressState()))
	}
	return requested, begun
}

// extendSQL has coalesce for the reason that commitSQL has.
const extendSQL = `UPDATE operation SET due_at = dormouse_now() + $3 * interval '1 ms'
FROM unnest($1::text[], $2::bigint[]) AS held (id, epoch)
WHERE operation.id = held.id AND operation.epoch = held.epoch AND coalesce(operation.state) = 'active'
RETURNING operation.id`

// Extend moves the end of the leases, and returns the operations still held;
// the worker must stop work on the others.
func (s *Store) Extend(ctx context.Context, held map[fleet.OperationID]fleet.Epoch, lease time.Duration) (map[fleet.OperationID]bool, error) {
	ids, epochs := make([]string, 0, len(held)), make([]int64, 0, len(held))
	for _, id := range slices.Sorted(maps.Keys(held)) {
		ids, epochs = append(ids, string(id)), append(epochs, int64(held[id]))
	}
	still := map[fleet.OperationID]bool{}
	err := s.InTx(ctx, func(tx *Tx) error {
		var rows []string
		if err := tx.list(ctx, "extending leases", &rows, extendSQL, pq.Array(ids), pq.Array(epochs), lease.Milliseconds()); err != nil {
			return err
		}
		for _, id := range rows {
			still[fleet.OperationID(id)] = true
		}
		return nil
	})
	return still, err
}

const releaseSQL = `UPDATE operation SET due_at = dormouse_now(), worker = '',
	step_deadline_at = step_deadline_at + greatest(dormouse_now() - due_at, interval '0')
WHERE worker = $1 AND worker <> '' AND state = 'active'`

// Release gives back what a worker held, when it stops or starts again. Deadlines
// move as in Claim.
func (s *Store) Release(ctx context.Context, worker fleet.WorkerID) (int64, error) {
	var n int64
	err := s.InTx(ctx, func(tx *Tx) (err error) {
		n, err = tx.exec(ctx, "releasing leases", releaseSQL, worker)
		return err
	})
	return n, err
}
