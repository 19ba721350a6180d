package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// pageSQL is viewSQL less what a list can do without: operations that have
// finished, and what an operation has in common with its installation.
const pageSQL = `SELECT ` + viewColumns + `,
	o.id, o.kind, o.class, o.state, o.step, o.step_number, o.steps_total, o.step_since,
	o.steps, o.attempt, o.executor, o.worker, o.epoch, o.due_at, o.step_deadline_at, o.generation,
	o.wait_reason, o.wait_detail, o.error_kind, o.fail_reason, o.error, o.observed, o.revision,
	o.created_at, o.started_at, o.finished_at` + besideSQL + `
LEFT JOIN LATERAL (
	SELECT * FROM operation a WHERE a.resource_id = i.id AND a.state = 'active' LIMIT 1) o ON true
` + queuedSQL

// pageDests are where the columns of pageSQL go, in their order. sqlx would
// find them by name, for every row: half of what a page costs.
func (r *viewRow) pageDests() []any {
	o := &r.operationRow
	return []any{
		&r.ID, &r.Owner, &r.Name, &r.ClusterID, &r.State, &r.StateReason, &r.StateDetail, &r.Generation, &r.PackageID,
		&r.MemoryMiB, &r.DiskMiB, &r.VCPUs, &r.Env, &r.Secrets, &r.Labels, &r.WhenFull, &r.VerifiedPackageID,
		&r.RunningPackageID, &r.SavedPackageID, &r.HeldHostID, &r.HeldMemoryMiB, &r.HeldDiskMiB,
		&r.CreatedAt, &r.UpdatedAt, &r.DeletedAt, &r.Version,
		&r.ClusterName, &r.PackageRef, &r.Ports, &r.RunningRef, &r.VerifiedRef,
		&r.XID, &r.XRole, &r.XHostID, &r.XProviderRef, &r.XServing,
		&r.XPower, &r.XEndpoints, &r.XExit, &r.XRestarts,
		&r.XCreatedAt, &r.XImage, &r.XMemoryMiB, &r.XGeneration, &r.HostName, &r.Queued,
		&r.GroupID, &r.GroupRevision, &r.Own, &r.GroupName,
		&o.ID, &o.Kind, &o.Class, &o.State, &o.Step, &o.StepNumber, &o.StepsTotal, &o.StepSince, &o.Steps,
		&o.Attempt, &o.Executor, &o.Worker, &o.Epoch, &o.DueAt, &o.StepDeadlineAt, &o.Generation,
		&o.WaitReason, &o.WaitDetail, &o.ErrorKind, &o.FailReason, &o.Error, &o.Observed, &o.Revision,
		&o.CreatedAt, &o.StartedAt, &o.FinishedAt,
	}
}

// pageReader decodes rows. Installations of one package have the same ports,
// which are decoded once.
type pageReader struct {
	row   viewRow
	dests []any
	ports map[string][]fleet.Port
	views []fleet.InstallationView
}

func newPageReader(limit int) *pageReader {
	p := &pageReader{ports: map[string][]fleet.Port{}, views: make([]fleet.InstallationView, 0, min(limit, 1000))}
	p.dests = p.row.pageDests()
	return p
}

func (p *pageReader) read(rows *sql.Rows) error {
	r := &p.row
	r.Queued = nil
	if err := rows.Scan(p.dests...); err != nil {
		return err
	}
	ports, known := p.ports[r.PackageID]
	if !known {
		if err := r.Ports.into(&ports); err != nil {
			return err
		}
		p.ports[r.PackageID] = ports
	}
	r.Ports.b = nil
	v, err := r.view()
	if err != nil {
		return err
	}
	v.Ports = ports
	if v.Operation != nil {
		v.Operation.ResourceType, v.Operation.ResourceID, v.Operation.ResourceName, v.Operation.Owner =
			fleet.ResourceInstallation, r.ID, r.Name, r.Owner
	}
	p.views = append(p.views, v)
	return nil
}

const (
	pageOfAllSQL = pageSQL + `WHERE i.deleted_at IS NULL AND i.id > $1 ORDER BY i.id LIMIT $2`
	pageOfSQL    = pageSQL + `WHERE i.id = ANY ($1) ORDER BY i.id`

	clusterIDSQL = `SELECT id FROM cluster WHERE name = $1 AND deleted_at IS NULL`
	groupIDSQL   = `SELECT id FROM installation_group WHERE name = $1 AND deleted_at IS NULL`
)

// ListInstallations returns at most q.Limit installations that are not
// deleted, in order of ID, each with its operation only while that is under way:
// Installation and ListOperations show those that have finished.
//
// All are one statement. With a filter, the IDs are found first: an owner, a
// state or a label may be that of nearly all or of none, and the best plan for
// either is bad for the other, so that this small statement is planned for its
// arguments.
func (s *Store) ListInstallations(ctx context.Context, q fleet.InstallationQuery) ([]fleet.InstallationView, error) {
	p := newPageReader(q.Limit)
	err := s.read(func(tx *Tx) error {
		if q.Owner == "" && q.Cluster == "" && q.Group == "" && q.State == "" && len(q.Labels) == 0 {
			return tx.each(ctx, "listing installations", p.read, pageOfAllSQL, q.After, q.Limit)
		}
		var cluster, group string
		for _, f := range []struct {
			name, what, query string
			into              *string
		}{{q.Cluster, "finding the cluster", clusterIDSQL, &cluster}, {q.Group, "finding the group", groupIDSQL, &group}} {
			if f.name == "" {
				continue
			}
			err := tx.get(ctx, f.what, f.into, f.query, f.name)
			if fleet.KindOf(err) == fleet.KindNotFound {
				return nil // none is there
			}
			if err != nil {
				return err
			}
		}
		query, args, err := idsQuery(q, cluster, group)
		if err != nil {
			return err
		}
		var ids []string
		if err := tx.listPlanned(ctx, "finding installations", &ids, query, args...); err != nil || len(ids) == 0 {
			return err
		}
		return tx.each(ctx, "listing installations", p.read, pageOfSQL, pq.Array(ids))
	})
	if err != nil {
		return nil, err
	}
	return p.views, nil
}

// idsQuery finds the IDs of a page.
func idsQuery(q fleet.InstallationQuery, cluster, group string) (string, []any, error) {
	where := []string{"i.deleted_at IS NULL", "i.id > $1"}
	args := []any{q.After}
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf(condition, len(args)))
	}
	if q.Owner != "" {
		add("i.owner = $%d", q.Owner)
	}
	if cluster != "" {
		add("i.cluster_id = $%d", cluster)
	}
	if group != "" {
		add("i.group_id = $%d", group)
	}
	if q.State != "" {
		add("i.state = $%d", string(q.State))
	}
	if len(q.Labels) > 0 {
		labels, err := encode(q.Labels)
		if err != nil {
			return "", nil, err
		}
		add("i.labels <> '{}' AND i.labels @> $%d::jsonb", labels)
	}
	args = append(args, q.Limit)
	return "SELECT i.id FROM installation i WHERE " + strings.Join(where, " AND ") + fmt.Sprintf(" ORDER BY i.id LIMIT $%d", len(args)), args, nil
}
