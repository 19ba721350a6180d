package store

import (
	"context"
	"database/sql"
	"strings"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// resolveSQL finds what a create names, and takes a shared lock on each, so
// that neither a package nor a cluster is deleted between this statement and
// the insert.
const resolveSQL = `SELECT k.request_hash AS key_hash, k.operation_id AS key_operation_id, k.resource_id AS key_resource_id,
	p.id AS package_id, p.name AS package_name, p.version AS package_version, p.manifest -> 'ports' AS ports,
	coalesce((p.manifest ->> 'min_memory_mib')::int, 0) AS min_memory_mib,
	c.id AS cluster_id, c.name AS cluster_name, c.state AS cluster_state, c.allow_installations, coalesce(c.candidates, 0) AS candidates,
	h.free_memory_mib, h.free_disk_mib,
	pg_advisory_xact_lock_shared(hashtextextended(coalesce(p.id, ''), 0)) IS NULL AS l1,
	pg_advisory_xact_lock_shared(hashtextextended(coalesce(c.id, ''), 0)) IS NULL AS l2
FROM (SELECT) one
LEFT JOIN idempotency_key k ON k.key = $1
LEFT JOIN LATERAL (
	SELECT * FROM package
	WHERE name = $2 AND ($3 = '' OR version = $3) AND deleted_at IS NULL ORDER BY id DESC LIMIT 1) p ON true
LEFT JOIN LATERAL (
	SELECT *, count(*) OVER () AS candidates FROM cluster
	WHERE deleted_at IS NULL AND CASE WHEN $4 = '' THEN allow_installations AND state = 'stable' ELSE name = $4 END LIMIT 1) c ON true
LEFT JOIN LATERAL (
	SELECT max(memory_mib - memory_held_mib) AS free_memory_mib, max(disk_mib - disk_held_mib) AS free_disk_mib FROM host
	WHERE $5 AND cluster_id = c.id AND state = 'up') h ON true`

type resolved struct {
	keyRow
	PackageID          sql.NullString `db:"package_id"`
	PackageName        sql.NullString `db:"package_name"`
	PackageVersion     sql.NullString `db:"package_version"`
	Ports              jsonText       `db:"ports"`
	MinMemoryMiB       int            `db:"min_memory_mib"`
	ClusterID          sql.NullString `db:"cluster_id"`
	ClusterName        sql.NullString `db:"cluster_name"`
	ClusterState       sql.NullString `db:"cluster_state"`
	AllowInstallations sql.NullBool   `db:"allow_installations"`
	Candidates         int            `db:"candidates"`
	FreeMemoryMiB      sql.NullInt64  `db:"free_memory_mib"`
	FreeDiskMiB        sql.NullInt64  `db:"free_disk_mib"`
	L1                 bool           `db:"l1"`
	L2                 bool           `db:"l2"`
}

// keyRow is what is stored of an idempotency key; null where it is new.
type keyRow struct {
	KeyHash        sql.NullString `db:"key_hash"`
	KeyOperationID sql.NullString `db:"key_operation_id"`
	KeyResourceID  sql.NullString `db:"key_resource_id"`
}

// replayed tells whether the key is known; KindConflict where it was used for another request.
func (r keyRow) replayed(key fleet.IdempotencyKey) (bool, error) {
	if !r.KeyHash.Valid || key.Key == "" {
		return false, nil
	}
	if r.KeyHash.String != key.RequestHash {
		return false, fleet.Errorf(fleet.KindConflict,
			"the Idempotency-Key was used for another request: send a new key with a new request")
	}
	return true, nil
}

func (r resolved) check(in fleet.NewInstallation) error {
	switch {
	case !r.PackageID.Valid:
		return fleet.InvalidField("package", "there is no package %q: create it with `cloudctl package create`, or see `cloudctl package list`", in.PackageRef)
	case r.MinMemoryMiB > in.MemoryMiB:
		return fleet.InvalidField("memory_mib", "package %s needs at least %d MiB of memory, %d were asked for", in.PackageRef, r.MinMemoryMiB, in.MemoryMiB)
	case !r.ClusterID.Valid && in.ClusterName == "":
		return fleet.InvalidField("cluster", "no cluster takes installations now: see `cloudctl cluster list`")
	case !r.ClusterID.Valid:
		return fleet.InvalidField("cluster", "there is no cluster %q: see `cloudctl cluster list`", in.ClusterName)
	case in.ClusterName == "" && r.Candidates > 1:
		return fleet.InvalidField("cluster", "more than one cluster takes installations: name one")
	case strings.HasPrefix(r.ClusterState.String, "deletion") || !r.AllowInstallations.Bool:
		return fleet.Errorf(fleet.KindNotAccepted, "cluster %s takes no installations now (it is %s)", r.ClusterName.String, r.ClusterState.String)
	case in.WhenFull == fleet.WhenFullRefuse &&
		(r.FreeMemoryMiB.Int64 < int64(in.MemoryMiB) || r.FreeDiskMiB.Int64 < int64(in.DiskMiB)):
		return fleet.Errorf(fleet.KindCapacity, "cluster %s has no host with room for %d MiB of memory and %d MiB of disk (%d and %d are free): ask for less, free some, or let it wait",
			r.ClusterName.String, in.MemoryMiB, in.DiskMiB, r.FreeMemoryMiB.Int64, r.FreeDiskMiB.Int64)
	}
	return nil
}

// insertInstallationSQL writes everything that an accepted create is, at once.
// It inserts nothing where the cluster or the package went away meanwhile. The
// key goes first: of two equal requests at once, the later one must find the
// key taken and be answered as the first one was, not that the name is taken.
const insertInstallationSQL = `WITH wanted AS MATERIALIZED (
	SELECT e.guest_port, row_number() OVER (ORDER BY e.guest_port) AS n FROM package p, ` + tcpPorts + ` WHERE p.id = $9
), ` + freePorts + `, key AS (
	INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id)
	SELECT $1, $2, $3, $4 WHERE $1 <> '' RETURNING key
), ins AS (
	INSERT INTO installation (id, owner, name, cluster_id, state, package_id, memory_mib, disk_mib, vcpus, env, secrets, labels, when_full,
		group_id, group_revision, own, dns_names, idle, wake, schedule_due_at)
	SELECT $3, $5, $6, c.id, $7, p.id, $10, $11, $12, $13::jsonb, $14::jsonb, $15::jsonb, $16, nullif($17, ''), nullif($18::bigint, 0), $19::jsonb,
		$20::text[], $21::jsonb, $22::jsonb, CASE WHEN $21::jsonb ? 'schedules' THEN dormouse_now() END
	FROM cluster c, package p, (SELECT count(*) FROM key) AS after_the_key
	WHERE c.id = $8 AND c.allow_installations AND c.state NOT LIKE 'deletion%' AND c.deleted_at IS NULL
		AND p.id = $9 AND p.deleted_at IS NULL AND ` + portsSuffice + `
	RETURNING id, created_at
), leased AS (
	UPDATE gateway_port g SET installation_id = ins.id, guest_port = w.guest_port, leased_at = dormouse_now(), released_at = NULL
	FROM ins, free f JOIN wanted w ON w.n = f.n WHERE g.port = f.port RETURNING g.port, g.guest_port
), dns AS (
	INSERT INTO installation_dns_name (name, installation_id) SELECT n, ins.id FROM ins, unnest($20::text[]) n ORDER BY n
), op AS (
	INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, owner, state, request_state, generation)
	SELECT $4, 'create', 'installation', id, $6, $5, 'active', $7, 1 FROM ins
), ev AS (
	INSERT INTO event (kind, resource_type, resource_id, owner, operation_id, data)
	SELECT 'installation.state', 'installation', id, $5, $4, jsonb_build_object('from', '', 'to', $7::text) FROM ins
)
SELECT (SELECT created_at FROM ins) AS created_at, NOT ` + portsSuffice + ` AS ports_dry,
	(SELECT jsonb_agg(jsonb_build_object('gateway', port, 'port', guest_port) ORDER BY port) FROM leased) AS gateway_ports`

// created is what insertInstallationSQL says: no time where it inserted nothing.
type created struct {
	At           sql.NullTime `db:"created_at"`
	PortsDry     bool         `db:"ports_dry"`
	GatewayPorts jsonText     `db:"gateway_ports"`
}

// CreateInstallation accepts a new installation: the row, its operation and
// its event in one transaction of two statements.
func (s *Store) CreateInstallation(ctx context.Context, in fleet.NewInstallation) (fleet.Accepted, error) {
	var acc fleet.Accepted
	asked := in
	err := s.InTx(ctx, func(tx *Tx) error {
		acc = fleet.Accepted{}
		in, m, err := tx.enter(ctx, asked)
		if err != nil {
			return err
		}
		body, err := encodeAll(in.Env, in.Secrets, in.Labels)
		if err != nil {
			return err
		}
		texts, err := encodeEach(m.own, in.Idle, in.Wake)
		if err != nil {
			return err
		}
		name, version, _ := strings.Cut(in.PackageRef, "@")
		var r resolved
		if err := tx.get(ctx, "resolving the request", &r, resolveSQL,
			in.Key.Key, name, version, in.ClusterName, in.WhenFull == fleet.WhenFullRefuse); err != nil {
			return err
		}
		switch known, err := r.replayed(in.Key); {
		case err != nil:
			return err
		case known:
			acc, err = tx.accepted(ctx, r.keyRow)
			return err
		}
		if err := r.check(in); err != nil {
			return err
		}
		var done created
		err = tx.get(ctx, "creating the installation", &done, insertInstallationSQL, in.Key.Key, in.Key.RequestHash,
			in.ID, in.OperationID, in.Owner, in.Name, fleet.StateCreationRequested, r.ClusterID.String, r.PackageID.String,
			in.MemoryMiB, in.DiskMiB, in.VCPUs, body[0], body[1], body[2], in.WhenFull, m.group.ID, m.group.Revision, texts[0],
			pq.Array(sortedNames(in.DNSNames)), texts[1], texts[2])
		switch {
		case err != nil:
			return err
		case done.PortsDry:
			return portsDry()
		case !done.At.Valid:
			return fleet.Errorf(fleet.KindConflict, "the cluster or the package was deleted meanwhile: try again")
		}
		acc, err = r.accept(in, done)
		acc.Installation.GroupID, acc.Installation.GroupRevision = m.group.ID, m.group.Revision
		acc.Installation.GroupName, acc.Installation.Own = m.group.Name, m.own
		return err
	})
	switch constraintOf(err) {
	case "installation_name":
		return acc, fleet.Errorf(fleet.KindConflict, "an installation named %q exists already: choose another name", in.Name)
	case constraintDNSName:
		return acc, s.nameTaken(ctx, in.ID, in.DNSNames)
	case "idempotency_key_pkey":
		return s.CreateInstallation(ctx, asked) // the same request came in at the same moment: now its answer is there
	}
	return acc, err
}

// accept returns the answer to a create without reading it back.
func (r resolved) accept(in fleet.NewInstallation, done created) (fleet.Accepted, error) {
	now := timeOf(done.At)
	op := fleet.Operation{
		ID: in.OperationID, Kind: fleet.OperationCreate, ResourceType: fleet.ResourceInstallation, ResourceID: string(in.ID),
		ResourceName: in.Name, Owner: in.Owner, State: fleet.OperationActive, StepNumber: 1, StepsTotal: 1, StepSince: now,
		Generation: 1, Revision: 1, DueAt: now, CreatedAt: now,
	}
	v := fleet.InstallationView{
		Installation: fleet.Installation{
			ID: in.ID, Owner: in.Owner, Name: in.Name, ClusterID: fleet.ClusterID(r.ClusterID.String),
			State: fleet.StateCreationRequested, Generation: 1, PackageID: fleet.PackageID(r.PackageID.String),
			MemoryMiB: in.MemoryMiB, DiskMiB: in.DiskMiB, VCPUs: in.VCPUs, Env: in.Env, Secrets: in.Secrets, Labels: in.Labels,
			WhenFull: in.WhenFull, DNSNames: in.DNSNames, Idle: in.Idle, Wake: in.Wake, CreatedAt: now, UpdatedAt: now, AwakeSince: now, Version: 1,
		},
		ClusterName: r.ClusterName.String, PackageRef: r.PackageName.String + "@" + r.PackageVersion.String, Operation: &op,
	}
	err := parts(part{r.Ports, &v.Ports}, part{done.GatewayPorts, &v.GatewayPorts})
	return fleet.Accepted{Installation: v, Operation: op}, err
}

// accepted reads what an earlier request with the same key was answered with.
func (t *Tx) accepted(ctx context.Context, key keyRow) (fleet.Accepted, error) {
	v, err := t.installation(ctx, "", key.KeyResourceID.String)
	if err != nil {
		return fleet.Accepted{}, err
	}
	op, err := t.operation(ctx, fleet.OperationID(key.KeyOperationID.String))
	if err != nil {
		return fleet.Accepted{}, err
	}
	v.Operation = &op
	return fleet.Accepted{Installation: v, Operation: op, Replayed: true}, nil
}

// encodeAll returns each map as JSON, a nil one as {}.
func encodeAll(maps ...map[string]string) ([]string, error) {
	out := make([]string, len(maps))
	for i, m := range maps {
		if m == nil {
			m = map[string]string{}
		}
		var err error
		if out[i], err = encode(m); err != nil {
			return nil, err
		}
	}
	return out, nil
}
