package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// commitRow is a Result as the statement reads it.
type commitRow struct {
	fleet.Result
	Verified       *fleet.PackageID  `json:"verified,omitempty"`
	Running        *fleet.PackageID  `json:"running,omitempty"`
	Saved          *fleet.PackageID  `json:"saved,omitempty"`
	Observed       map[string]string `json:"observed,omitempty"`
	ReleaseAddress bool              `json:"release_address"`
	HeldHost       *fleet.HostID     `json:"held_host,omitempty"`
	HeldMemoryMiB  int64             `json:"held_memory_mib"`
	HeldDiskMiB    int64             `json:"held_disk_mib"`
	// Touch: the installation's row changes.
	Touch bool `json:"touch"`
}

type instanceRow struct {
	OperationID fleet.OperationID `json:"operation_id"`
	fleet.Instance
	Gone bool `json:"gone"`
}

type volumeRow struct {
	OperationID fleet.OperationID `json:"operation_id"`
	fleet.Volume
	Gone bool `json:"gone"`
}

// commitSQL writes a batch of results, each fenced by its epoch, with all that
// hangs on them. What is sent again because its answer was lost is written again,
// and adds no second line to the history (a later revision than the result's says
// so). What was recalled waits no longer than a second: it may have been told so while
// its step ran, and would hear of it only after the step's own wait. The order of the
// arms is that of the lock order. coalesce keeps the planner from reading the whole
// index of active operations, which looks small to it until there is much work.
const commitSQL = `WITH r AS MATERIALIZED (
	SELECT * FROM jsonb_to_recordset($1::jsonb) AS r (
		operation_id text, epoch bigint, revision bigint, state text, step text, step_number int, steps_total int, done text, ran int, executor text,
		due_ms bigint, keep boolean, deadline_ms bigint, attempt int, wait_reason text, wait_detail text, error_kind text,
		fail_reason text, error text, from_state text, to_state text, to_reason text, to_detail text, generation bigint,
		follow jsonb, verified text, running text, saved text, observed jsonb, release_address boolean,
		held_host text, held_memory_mib bigint, held_disk_mib bigint, touch boolean)
), moved AS (
	UPDATE operation o SET state = r.state, step = r.step, step_number = r.step_number, steps_total = r.steps_total,
		steps = CASE WHEN r.done = '' OR o.revision > r.revision AND o.step_number = r.step_number AND r.step_number <> r.ran THEN o.steps ELSE o.steps || jsonb_build_object('name', r.done,
			'started_at', o.step_since, 'finished_at', dormouse_now(), 'number', r.ran, 'attempts', o.attempt + 1) END,
		step_since = CASE WHEN r.step <> o.step OR r.done <> '' THEN dormouse_now() ELSE o.step_since END,
		step_deadline_at = CASE WHEN r.state <> 'active' THEN NULL
			WHEN r.deadline_ms > 0 THEN dormouse_now() + r.deadline_ms * interval '1 ms' ELSE o.step_deadline_at END,
		executor = r.executor, due_at = dormouse_now() + interval '1 ms' *
			CASE WHEN o.rollout ? 'recalled' AND NOT r.keep AND r.attempt = 0 THEN least(r.due_ms, 1000) ELSE r.due_ms END,
		worker = CASE WHEN r.keep THEN o.worker ELSE '' END, attempt = r.attempt,
		wait_reason = r.wait_reason, wait_detail = r.wait_detail, error_kind = r.error_kind,
		fail_reason = r.fail_reason, error = r.error, observed = o.observed || coalesce(r.observed, '{}'),
		finished_at = CASE WHEN r.state <> 'active' THEN dormouse_now() END, revision = o.revision + 1
	FROM r WHERE o.id = r.operation_id AND o.epoch = r.epoch AND o.revision >= r.revision AND coalesce(o.state) = 'active'
	RETURNING o.id, o.resource_type, o.resource_id, o.owner, o.kind, o.revision > r.revision + 1 AS again, r.*
), following AS (
	SELECT DISTINCT ON (o.resource_id) o.id, o.resource_id, o.kind, o.request_state, coalesce(m.follow, '[]') ? o.kind AS accepted
	FROM operation o JOIN moved m ON m.resource_id = o.resource_id
	WHERE m.state <> 'active' AND o.state = 'queued' ORDER BY o.resource_id, o.generation
), followed AS (
	UPDATE operation o SET state = CASE WHEN f.accepted THEN 'active' ELSE 'cancelled' END, due_at = dormouse_now(),
		step_since = dormouse_now(), revision = o.revision + 1,
		fail_reason = CASE WHEN f.accepted THEN '' ELSE 'predecessor-failed' END,
		error = CASE WHEN f.accepted THEN '' ELSE 'the operation before it failed, and this one does not fit the state that it left' END,
		finished_at = CASE WHEN f.accepted THEN NULL ELSE dormouse_now() END
	FROM following f
	WHERE o.resource_id = f.resource_id AND o.state = 'queued' AND (o.id = f.id OR NOT f.accepted)
	RETURNING o.id, o.resource_id, o.state, f.request_state
), ins AS (
	UPDATE installation i SET
		state = coalesce(n.request_state, nullif(m.to_state, ''), i.state),
		state_reason = CASE WHEN m.to_state = '' THEN i.state_reason WHEN n.id IS NOT NULL THEN '' ELSE m.to_reason END,
		state_detail = CASE WHEN m.to_state = '' THEN i.state_detail WHEN n.id IS NOT NULL THEN '' ELSE m.to_detail END,
		verified_package_id = coalesce(m.verified, i.verified_package_id),
		running_package_id = coalesce(m.running, i.running_package_id),
		saved_package_id = coalesce(m.saved, i.saved_package_id),
		hibernated = CASE m.to_state WHEN 'hibernating' THEN true WHEN 'stable' THEN false ELSE i.hibernated END,
		awake_since = CASE m.to_state WHEN 'stable' THEN dormouse_now() ELSE i.awake_since END,
		asleep_since = CASE m.to_state WHEN 'hibernating' THEN coalesce(i.asleep_since, dormouse_now()) WHEN 'stable' THEN NULL ELSE i.asleep_since END,
		wakes = i.wakes + CASE WHEN m.kind = 'wake' AND m.to_state = 'stable' THEN 1 ELSE 0 END,
		held_host_id = coalesce(m.held_host, i.held_host_id),
		held_memory_mib = CASE WHEN m.held_host IS NULL THEN i.held_memory_mib ELSE m.held_memory_mib END,
		held_disk_mib = CASE WHEN m.held_host IS NULL THEN i.held_disk_mib ELSE m.held_disk_mib END,
		deleted_at = CASE WHEN m.to_state = 'deleted' THEN dormouse_now() ELSE i.deleted_at END,
		version = i.version + 1, updated_at = dormouse_now()
	FROM moved m LEFT JOIN followed n ON n.resource_id = m.resource_id AND n.state = 'active'
	WHERE i.id = m.resource_id AND m.touch
), clu AS (
	UPDATE cluster c SET state = coalesce(nullif(m.to_state, ''), c.state),
		state_reason = m.to_reason, state_detail = m.to_detail,
		deleted_at = CASE WHEN m.to_state = 'deleted' THEN dormouse_now() ELSE c.deleted_at END, updated_at = dormouse_now()
	FROM moved m WHERE c.id = m.resource_id AND m.resource_type = 'cluster' AND m.to_state <> ''
), x AS (
	INSERT INTO instance (id, installation_id, role, cluster_id, host_id, provider_ref, spec, serving, clone, power, endpoints, exit_record, restarts, saved, deleted_at)
	SELECT j.id, j.installation_id, j.role, j.cluster_id, j.host_id, j.provider_ref, j.spec, j.serving, j.clone, j.power, j.endpoints,
		j.exit_record, j.restarts, j.saved, CASE WHEN j.gone THEN dormouse_now() END
	FROM jsonb_to_recordset($2::jsonb) AS j (operation_id text, id text, installation_id text, role text, cluster_id text, host_id text,
		provider_ref text, spec jsonb, serving boolean, clone boolean, power text, endpoints jsonb, exit_record jsonb, restarts int, saved jsonb, gone boolean)
	JOIN moved m ON m.id = j.operation_id
	ORDER BY j.serving
	ON CONFLICT (id) DO UPDATE SET provider_ref = excluded.provider_ref, host_id = excluded.host_id, serving = excluded.serving,
		power = excluded.power, endpoints = excluded.endpoints, exit_record = excluded.exit_record, restarts = excluded.restarts,
		saved = excluded.saved, deleted_at = excluded.deleted_at
), v AS (
	INSERT INTO volume (id, installation_id, role, cluster_id, host_id, provider_ref, size_mib, attached_instance_id, deleted_at)
	SELECT j.id, j.installation_id, j.role, j.cluster_id, j.host_id, j.provider_ref, j.size_mib, nullif(j.attached_instance_id, ''),
		CASE WHEN j.gone THEN dormouse_now() END
	FROM jsonb_to_recordset($3::jsonb) AS j (operation_id text, id text, installation_id text, role text, cluster_id text, host_id text,
		provider_ref text, size_mib int, attached_instance_id text, gone boolean)
	JOIN moved m ON m.id = j.operation_id
	ON CONFLICT (id) DO UPDATE SET host_id = excluded.host_id, provider_ref = excluded.provider_ref, size_mib = excluded.size_mib,
		attached_instance_id = excluded.attached_instance_id, deleted_at = excluded.deleted_at
), freed AS (
	UPDATE address_lease l SET installation_id = NULL, released_at = dormouse_now()
	FROM moved m WHERE m.release_address AND l.installation_id = m.resource_id
), unnamed AS (
	DELETE FROM installation_dns_name d USING moved m WHERE m.to_state = 'deleted' AND d.installation_id = m.resource_id
), unleased AS (
	UPDATE gateway_port g SET installation_id = NULL, guest_port = NULL, released_at = dormouse_now()
	FROM moved m WHERE m.to_state = 'deleted' AND g.installation_id = m.resource_id
), unseen AS (
	DELETE FROM installation_activity a USING moved m WHERE m.to_state = 'deleted' AND a.installation_id = m.resource_id
), ev AS (
	INSERT INTO event (kind, resource_type, resource_id, owner, operation_id, data)
	SELECT m.resource_type || '.state', m.resource_type, m.resource_id, m.owner, m.id,
		jsonb_build_object('from', m.from_state, 'to', m.to_state, 'reason', m.to_reason, 'detail', m.to_detail)
	FROM moved m WHERE m.to_state <> ''
	UNION ALL
	SELECT 'operation.step-failed', m.resource_type, m.resource_id, m.owner, m.id,
		jsonb_build_object('step', m.step, 'attempt', m.attempt, 'error', m.error)
	FROM moved m WHERE m.state = 'active' AND m.attempt > 0 AND m.error <> '' AND NOT m.again
	UNION ALL
	SELECT m.resource_type || '.state', m.resource_type, m.resource_id, m.owner, n.id,
		jsonb_build_object('from', coalesce(nullif(m.to_state, ''), m.from_state), 'to', n.request_state)
	FROM followed n JOIN moved m ON m.resource_id = n.resource_id WHERE n.state = 'active'
)
SELECT m.id AS operation_id, coalesce(n.id, '') AS next
FROM moved m LEFT JOIN followed n ON n.resource_id = m.resource_id AND n.state = 'active'`

// touches tells whether the result changes the resource's own row, which must
// be locked before the operation's.
func touches(r fleet.Result) bool {
	c := r.Changes
	return r.To != "" || r.State != fleet.OperationActive || c.Verified != nil || c.Running != nil || c.Saved != nil || c.Hold != nil || c.Pin != nil || reserves(c)
}

const lockInstallationsSQL = `SELECT id FROM installation WHERE id = ANY ($1) ORDER BY id FOR UPDATE`

// Commit writes a batch of results in one transaction: two statements where
// only operations and instances change, a lock before them where installations
// do, and a grant where capacity or addresses are asked for. What is stale is
// left out and said.
func (s *Store) Commit(ctx context.Context, results []fleet.Result) ([]fleet.Committed, error) {
	newest := newestOf(results)
	var written []fleet.Committed
	err := s.InTx(ctx, func(tx *Tx) (err error) {
		written, err = tx.commit(ctx, slices.Clone(newest))
		return err
	})
	if err != nil || len(newest) == len(results) {
		return written, err
	}
	out := make([]fleet.Committed, len(results))
	for i, r := range results {
		out[i] = fleet.Committed{OperationID: r.OperationID, Stale: true}
		for j, n := range newest {
			if n.OperationID == r.OperationID && n.Epoch == r.Epoch {
				out[i] = written[j]
			}
		}
	}
	return out, nil
}

// newestOf leaves of each operation the result with the latest epoch. A worker that
// has lost an operation and claimed it again may send both in one batch: the
// older one is stale, and the statements, which go by the operation's ID, must not see it.
func newestOf(results []fleet.Result) []fleet.Result {
	latest := make(map[fleet.OperationID]fleet.Epoch, len(results))
	for _, r := range results {
		latest[r.OperationID] = max(latest[r.OperationID], r.Epoch)
	}
	if len(latest) == len(results) {
		return results
	}
	return slices.DeleteFunc(slices.Clone(results), func(r fleet.Result) bool { return r.Epoch != latest[r.OperationID] })
}

func (t *Tx) commit(ctx context.Context, results []fleet.Result) ([]fleet.Committed, error) {
	var lock []string
	for _, r := range results {
		if r.InstallationID != "" && touches(r) {
			lock = append(lock, string(r.InstallationID))
		}
	}
	if len(lock) > 0 {
		var ids []string
		if err := t.list(ctx, "locking installations", &ids, lockInstallationsSQL, pq.Array(lock)); err != nil {
			return nil, err
		}
	}
	var checked []string
	for _, r := range results {
		if r.Changes.Check != nil {
			checked = append(checked, string(r.ClusterID))
		}
	}
	if len(checked) > 0 {
		var ids []string
		if err := t.list(ctx, "locking the hosts of clusters", &ids, lockHostsSQL, pq.Array(checked)); err != nil {
			return nil, err
		}
	}
	reserved, err := t.reserve(ctx, results)
	if err != nil {
		return nil, err
	}
	granted, err := t.grant(ctx, results)
	if err != nil {
		return nil, err
	}
	maps.Copy(granted, reserved)
	rows, instances, volumes := make([]commitRow, 0, len(results)), []instanceRow{}, []volumeRow{}
	for i := range results {
		r := &results[i]
		if why := granted[r.OperationID].denied; why != "" {
			deny(r, why)
		}
		if err := t.s.moves.check(*r); err != nil {
			return nil, err
		}
		c := r.Changes
		row := commitRow{Result: *r, Verified: c.Verified, Running: c.Running, Saved: c.Saved, Observed: c.Observed,
			ReleaseAddress: c.ReleaseAddress, Touch: r.InstallationID != "" && touches(*r)}
		if c.Hold != nil {
			row.HeldHost, row.HeldMemoryMiB, row.HeldDiskMiB = &c.Hold.HostID, c.Hold.MemoryMiB, c.Hold.DiskMiB
		}
		rows = append(rows, row)
		for _, x := range c.Instances {
			instances = append(instances, instanceRow{r.OperationID, x, !x.DeletedAt.IsZero()})
		}
		if c.Volume != nil {
			volumes = append(volumes, volumeRow{r.OperationID, *c.Volume, !c.Volume.DeletedAt.IsZero()})
		}
	}
	out, err := t.write(ctx, rows, instances, volumes, granted)
	if err != nil {
		return nil, err
	}
	for i, r := range results {
		if out[i].Stale {
			continue
		}
		switch {
		case r.ClusterID != "":
			err = t.writeHosts(ctx, r)
		case r.Changes.Pin != nil:
			err = t.pin(ctx, r.InstallationID, *r.Changes.Pin)
		case r.Changes.Rollout != nil:
			err = t.writeRollout(ctx, r.Changes.Rollout)
		case r.Changes.Drain != nil:
			err = t.writeDrain(ctx, r.Changes.Drain)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (t *Tx) write(ctx context.Context, rows []commitRow, instances []instanceRow, volumes []volumeRow, granted map[fleet.OperationID]grant) ([]fleet.Committed, error) {
	args := make([]any, 3)
	for i, v := range []any{rows, instances, volumes} {
		text, err := encode(v)
		if err != nil {
			return nil, err
		}
		args[i] = text
	}
	var written []struct {
		OperationID fleet.OperationID `db:"operation_id"`
		Next        fleet.OperationID `db:"next"`
	}
	if err := t.list(ctx, "committing steps", &written, commitSQL, args...); err != nil {
		return nil, err
	}
	next := make(map[fleet.OperationID]fleet.OperationID, len(written))
	for _, w := range written {
		next[w.OperationID] = w.Next
	}
	out := make([]fleet.Committed, len(rows))
	for i, r := range rows {
		follow, ok := next[r.OperationID]
		out[i] = fleet.Committed{OperationID: r.OperationID, Stale: !ok}
		if g := granted[r.OperationID]; ok {
			out[i].Denied, out[i].Lease, out[i].Next = g.denied, g.lease, follow
		}
	}
	return out, nil
}

// deniedWait is how long an operation waits before it asks for capacity again;
// a release of capacity in the same process wakes it sooner.
const deniedWait = 5 * time.Second

// deny turns a result whose grant was refused into a wait that changes nothing.
func deny(r *fleet.Result, why fleet.Reason) {
	r.State, r.Step, r.StepNumber = fleet.OperationActive, r.Done, r.Ran
	r.Done, r.To, r.Keep = "", "", false
	r.DueMillis, r.DeadlineMillis = deniedWait.Milliseconds(), 0
	r.WaitReason = why
	r.WaitDetail = map[fleet.Reason]string{
		fleet.WaitCapacity: "no host has room for it now",
		fleet.WaitAddress:  "all addresses of the host's pool are leased",
	}[why]
	r.Changes = fleet.Changes{}
}

const (
	checkSQL = `UPDATE cluster SET check_report = $2::jsonb, settings = coalesce($3::jsonb, settings), updated_at = dormouse_now() WHERE id = $1`

	// hostsSQL leaves a host that is another cluster's alone: installations are held there.
	hostsSQL = `INSERT INTO host (id, cluster_id, name, state, memory_mib, disk_mib, address_pool)
SELECT h.id, $1, h.name, h.state, h.memory_mib, h.disk_mib, h.address_pool
FROM jsonb_to_recordset($2::jsonb) AS h (id text, name text, state text, memory_mib bigint, disk_mib bigint, address_pool text)
ORDER BY h.id
ON CONFLICT (id) DO UPDATE SET name = excluded.name, memory_mib = excluded.memory_mib,
	disk_mib = excluded.disk_mib, address_pool = excluded.address_pool, state = CASE host.state WHEN 'down' THEN excluded.state ELSE host.state END
WHERE host.cluster_id = excluded.cluster_id`

	// lockHostsSQL is before the grants of the same batch, which lock hosts in order, too.
	lockHostsSQL = `SELECT id FROM host WHERE cluster_id = ANY ($1) ORDER BY id FOR UPDATE`

	// Hosts go with their cluster: a cluster that is made anew may find them again.
	forgetLeasesSQL = `DELETE FROM address_lease WHERE host_id IN (SELECT id FROM host WHERE cluster_id = $1)`
	forgetHostsSQL  = `DELETE FROM host WHERE cluster_id = $1`

	// The first address of a pool is the host's own; the last is the broadcast
	// address. The MAC follows from the address: 52:54 and its four bytes.
	leasesSQL = `INSERT INTO address_lease (id, host_id, address, mac)
SELECT h.id || '-' || n, h.id, host(network(h.pool) + n),
	'52:54:' || regexp_replace(lpad(to_hex((network(h.pool) + n) - '0.0.0.0'::inet), 8, '0'), '(..)(..)(..)(..)', '\1:\2:\3:\4')
FROM (SELECT id, address_pool::inet AS pool FROM host WHERE cluster_id = $1 AND address_pool <> '') h,
	generate_series(2, least((broadcast(h.pool) - network(h.pool))::bigint - 1, 65000)) AS n
ON CONFLICT DO NOTHING`
)

// writeHosts stores what a cluster's check found: the report, the hosts, and
// the addresses that their pools offer. It forgets them with the cluster.
func (t *Tx) writeHosts(ctx context.Context, r fleet.Result) error {
	if r.To == string(fleet.ClusterDeleted) {
		for _, query := range []string{forgetLeasesSQL, forgetHostsSQL} {
			if _, err := t.exec(ctx, "forgetting the cluster's hosts", query, r.ClusterID); err != nil {
				return err
			}
		}
	}
	if r.Changes.Check == nil {
		return nil
	}
	report, err := encode(r.Changes.Check)
	if err != nil {
		return err
	}
	hosts, err := encode(r.Changes.Check.Hosts)
	if err != nil {
		return err
	}
	var settings any // as they are
	if r.Changes.Settings != nil {
		if settings, err = encode(r.Changes.Settings); err != nil {
			return err
		}
	}
	if _, err := t.exec(ctx, "storing the check's report", checkSQL, r.ClusterID, report, settings); err != nil {
		return err
	}
	if len(r.Changes.Check.Hosts) == 0 {
		return nil
	}
	if _, err := t.exec(ctx, "storing the hosts", hostsSQL, r.ClusterID, hosts); err != nil {
		return fmt.Errorf("cluster %s: %w", r.ClusterID, err)
	}
	if err := t.missing(ctx, r.ClusterID, hosts); err != nil {
		return err
	}
	_, err = t.exec(ctx, "storing the addresses", leasesSQL, r.ClusterID)
	return err
}
