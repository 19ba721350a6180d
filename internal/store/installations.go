package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

const viewColumns = `i.id, i.owner, i.name, i.cluster_id, i.state, i.state_reason, i.state_detail, i.generation, i.package_id,
	i.memory_mib, i.disk_mib, i.vcpus, i.env, i.secrets, i.labels, i.when_full, i.verified_package_id,
	i.running_package_id, i.saved_package_id, i.held_host_id, i.held_memory_mib, i.held_disk_mib,
	i.created_at, i.updated_at, i.deleted_at, i.version,
	c.name AS cluster_name, p.name || '@' || p.version AS package_ref, p.manifest -> 'ports' AS ports,
	coalesce(rp.name || '@' || rp.version, '') AS running_ref,
	coalesce(vp.name || '@' || vp.version, '') AS verified_ref,
	x.id AS x_id, x.role AS x_role, x.host_id AS x_host_id, x.provider_ref AS x_provider_ref, x.serving AS x_serving,
	x.power AS x_power, x.endpoints AS x_endpoints, x.exit_record AS x_exit, x.restarts AS x_restarts,
	x.created_at AS x_created_at, x.image AS x_image, x.x_memory_mib, x.x_generation, coalesce(h.name, '') AS host_name,
	q.kinds AS queued, i.group_id, i.group_revision, i.own, gg.name AS group_name,
	i.dns_names, i.idle, i.wake, i.awake_since, i.asleep_since, i.wakes, act.last_active_at, x.saved AS x_saved,
	` + gatewayPorts + ` AS gateway_ports`

const viewFrom = besideSQL + `
LEFT JOIN LATERAL (
	SELECT * FROM operation a
	WHERE a.resource_id = i.id AND a.state <> 'queued' ORDER BY a.generation DESC LIMIT 1) o ON true
` + queuedSQL

// besideSQL joins what is shown beside an installation, but for its operations.
const besideSQL = `
FROM installation i
JOIN cluster c ON c.id = i.cluster_id
JOIN package p ON p.id = i.package_id
LEFT JOIN package rp ON rp.id = i.running_package_id
LEFT JOIN package vp ON vp.id = i.verified_package_id
LEFT JOIN LATERAL (
	SELECT n.id, n.role, n.host_id, n.provider_ref, n.serving, n.power, n.endpoints, n.exit_record, n.restarts, n.created_at, n.saved,
		n.spec ->> 'image' AS image, CASE jsonb_typeof(n.spec -> 'memory_mib') WHEN 'number' THEN (n.spec -> 'memory_mib')::int END AS x_memory_mib,
		CASE jsonb_typeof(n.spec -> 'generation') WHEN 'number' THEN (n.spec -> 'generation')::bigint END AS x_generation
	FROM instance n
	WHERE n.installation_id = i.id AND n.deleted_at IS NULL AND NOT n.clone
	ORDER BY n.serving DESC, n.created_at DESC LIMIT 1) x ON true
LEFT JOIN host h ON h.id = x.host_id
LEFT JOIN installation_group gg ON gg.id = i.group_id
LEFT JOIN installation_activity act ON act.installation_id = i.id`

const queuedSQL = `LEFT JOIN LATERAL (
	SELECT array_agg(b.kind ORDER BY b.generation) AS kinds FROM operation b
	WHERE b.resource_id = i.id AND b.state = 'queued' AND b.generation > coalesce(o.generation, 0)) q ON true
`

const viewSQL = `SELECT ` + viewColumns + `, ` + operationColumns + viewFrom

type viewRow struct {
	ID                string         `db:"id"`
	Owner             string         `db:"owner"`
	Name              string         `db:"name"`
	ClusterID         string         `db:"cluster_id"`
	State             string         `db:"state"`
	StateReason       string         `db:"state_reason"`
	StateDetail       string         `db:"state_detail"`
	Generation        int64          `db:"generation"`
	PackageID         string         `db:"package_id"`
	MemoryMiB         int            `db:"memory_mib"`
	DiskMiB           int            `db:"disk_mib"`
	VCPUs             int            `db:"vcpus"`
	Env               jsonText       `db:"env"`
	Secrets           jsonText       `db:"secrets"`
	Labels            jsonText       `db:"labels"`
	WhenFull          string         `db:"when_full"`
	VerifiedPackageID string         `db:"verified_package_id"`
	RunningPackageID  string         `db:"running_package_id"`
	SavedPackageID    string         `db:"saved_package_id"`
	HeldHostID        string         `db:"held_host_id"`
	HeldMemoryMiB     int64          `db:"held_memory_mib"`
	HeldDiskMiB       int64          `db:"held_disk_mib"`
	CreatedAt         sql.NullTime   `db:"created_at"`
	UpdatedAt         sql.NullTime   `db:"updated_at"`
	DeletedAt         sql.NullTime   `db:"deleted_at"`
	Version           int64          `db:"version"`
	ClusterName       string         `db:"cluster_name"`
	PackageRef        string         `db:"package_ref"`
	Ports             jsonText       `db:"ports"`
	RunningRef        string         `db:"running_ref"`
	VerifiedRef       string         `db:"verified_ref"`
	XID               sql.NullString `db:"x_id"`
	XRole             sql.NullString `db:"x_role"`
	XHostID           sql.NullString `db:"x_host_id"`
	XProviderRef      sql.NullString `db:"x_provider_ref"`
	XServing          sql.NullBool   `db:"x_serving"`
	XPower            sql.NullString `db:"x_power"`
	XEndpoints        jsonText       `db:"x_endpoints"`
	XExit             jsonText       `db:"x_exit"`
	XRestarts         sql.NullInt64  `db:"x_restarts"`
	XCreatedAt        sql.NullTime   `db:"x_created_at"`
	XImage            sql.NullString `db:"x_image"`
	XMemoryMiB        sql.NullInt64  `db:"x_memory_mib"`
	XGeneration       sql.NullInt64  `db:"x_generation"`
	HostName          string         `db:"host_name"`
	Queued            pq.StringArray `db:"queued"`
	GroupID           sql.NullString `db:"group_id"`
	GroupRevision     sql.NullInt64  `db:"group_revision"`
	Own               jsonText       `db:"own"`
	GroupName         sql.NullString `db:"group_name"`
	DNSNames          pq.StringArray `db:"dns_names"`
	Idle              jsonText       `db:"idle"`
	Wake              jsonText       `db:"wake"`
	AwakeSince        sql.NullTime   `db:"awake_since"`
	AsleepSince       sql.NullTime   `db:"asleep_since"`
	Wakes             int64          `db:"wakes"`
	LastActiveAt      sql.NullTime   `db:"last_active_at"`
	XSaved            jsonText       `db:"x_saved"`
	GatewayPorts      jsonText       `db:"gateway_ports"`
	operationRow
}

func (r viewRow) view() (fleet.InstallationView, error) {
	v := fleet.InstallationView{
		Installation: fleet.Installation{
			ID: fleet.InstallationID(r.ID), Owner: r.Owner, Name: r.Name, ClusterID: fleet.ClusterID(r.ClusterID),
			State: fleet.State(r.State), StateReason: fleet.Reason(r.StateReason), StateDetail: r.StateDetail,
			Generation: r.Generation, PackageID: fleet.PackageID(r.PackageID),
			MemoryMiB: r.MemoryMiB, DiskMiB: r.DiskMiB, VCPUs: r.VCPUs, WhenFull: fleet.WhenFull(r.WhenFull),
			VerifiedPackageID: fleet.PackageID(r.VerifiedPackageID), RunningPackageID: fleet.PackageID(r.RunningPackageID),
			SavedPackageID: fleet.PackageID(r.SavedPackageID), HeldHostID: fleet.HostID(r.HeldHostID),
			HeldMemoryMiB: r.HeldMemoryMiB, HeldDiskMiB: r.HeldDiskMiB,
			CreatedAt: timeOf(r.CreatedAt), UpdatedAt: timeOf(r.UpdatedAt), DeletedAt: timeOf(r.DeletedAt), Version: r.Version,
			GroupID: fleet.GroupID(r.GroupID.String), GroupRevision: fleet.RevisionNumber(r.GroupRevision.Int64),
			DNSNames: namesOf(r.DNSNames), AwakeSince: timeOf(r.AwakeSince), AsleepSince: timeOf(r.AsleepSince), Wakes: r.Wakes,
		},
		LastActiveAt: timeOf(r.LastActiveAt),
		GroupName:    r.GroupName.String, ClusterName: r.ClusterName, PackageRef: r.PackageRef, RunningRef: r.RunningRef, VerifiedRef: r.VerifiedRef, HostName: r.HostName,
	}
	for _, k := range r.Queued {
		v.Queued = append(v.Queued, fleet.OperationKind(k))
	}
	malformed := parts(part{r.Env, &v.Env}, part{r.Secrets, &v.Secrets}, part{r.Labels, &v.Labels}, part{r.Ports, &v.Ports}, part{r.Own, &v.Own},
		part{r.Idle, &v.Idle}, part{r.Wake, &v.Wake},
		part{r.GatewayPorts, &v.GatewayPorts})
	if r.XID.Valid {
		v.Instance = &fleet.Instance{
			ID: fleet.InstanceID(r.XID.String), InstallationID: v.ID, Role: fleet.Role(r.XRole.String), ClusterID: v.ClusterID,
			HostID: fleet.HostID(r.XHostID.String), ProviderRef: r.XProviderRef.String, Serving: r.XServing.Bool,
			Power: fleet.Power(r.XPower.String), Restarts: int(r.XRestarts.Int64), CreatedAt: timeOf(r.XCreatedAt),
			Spec: fleet.InstanceConfig{Image: fleet.ImageID(r.XImage.String), MemoryMiB: int(r.XMemoryMiB.Int64), Generation: r.XGeneration.Int64},
		}
		malformed = errors.Join(malformed, parts(part{r.XEndpoints, &v.Instance.Endpoints}, part{r.XExit, &v.Instance.Exit}, part{r.XSaved, &v.Instance.Saved}))
	}
	op, err := r.operation()
	v.Operation = op
	err = shown(&v.StateDetail, errors.Join(malformed, err))
	return v, err
}

// Installation finds one by ID, deleted ones included, or by name among those
// not deleted. An empty owner is any; another's installation is KindNotFound.
func (s *Store) Installation(ctx context.Context, owner, idOrName string) (fleet.InstallationView, error) {
	var v fleet.InstallationView
	err := s.read(func(tx *Tx) (err error) {
		v, err = tx.installation(ctx, owner, idOrName)
		return err
	})
	return v, err
}

const (
	viewByIDSQL   = viewSQL + `WHERE i.id = $1 AND ($2 = '' OR i.owner = $2)`
	viewByNameSQL = viewSQL + `WHERE i.name = $1 AND i.deleted_at IS NULL AND ($2 = '' OR i.owner = $2)`
)

func (t *Tx) installation(ctx context.Context, owner, idOrName string) (fleet.InstallationView, error) {
	var r viewRow
	err := error(fleet.Errorf(fleet.KindNotFound, "no such ID"))
	if fleet.ValidID(idOrName) {
		err = t.get(ctx, "reading an installation", &r, viewByIDSQL, idOrName, owner)
	}
	if fleet.KindOf(err) == fleet.KindNotFound {
		err = t.get(ctx, "reading an installation", &r, viewByNameSQL, idOrName, owner)
	}
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.InstallationView{}, fleet.Errorf(fleet.KindNotFound, "there is no installation %q", idOrName)
	}
	if err != nil {
		return fleet.InstallationView{}, err
	}
	return r.view()
}
