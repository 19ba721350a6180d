package store

import (
	"context"
	"fmt"
	"strings"

	"dormouse/internal/fleet"
)

// pageSQL reads what a list shows of the installations that %s picks, with a row
// for each of their instances. Names are not in it: see names. OFFSET 0 is a
// fence. Without it the planner, to whom the limit of a prepared statement is
// unknown, may join a page with all active operations there are.
const pageSQL = `SELECT i.id, i.owner, i.name, i.cluster_id, i.state, i.state_reason, i.state_detail, i.generation, i.package_id,
	i.memory_mib, i.disk_mib, i.vcpus, i.env, i.secrets, i.labels, i.verified_package_id, i.running_package_id,
	i.created_at, i.updated_at, i.version, coalesce(i.group_id, ''), coalesce(i.group_revision, 0), i.own,
	i.dns_names, i.idle, i.wake, i.awake_since, i.asleep_since, i.wakes, act.last_active_at, ` + gatewayPorts + `,
	x.id, x.serving, x.power, x.endpoints, x.exit_record, x.restarts, x.saved, x.created_at, x.image, x.memory_mib, h.name,
	o.id, o.kind, o.state, o.step, o.step_number, o.steps_total, o.step_since, o.steps, o.attempt, o.executor, o.worker,
	o.due_at, o.step_deadline_at, o.wait_reason, o.wait_detail, o.fail_reason, o.error, o.revision, o.created_at, o.started_at
FROM (SELECT * FROM installation i WHERE i.deleted_at IS NULL AND %s) i
LEFT JOIN LATERAL (
	SELECT n.id, n.host_id, n.serving, n.power, n.endpoints, n.exit_record, n.restarts, n.saved, n.created_at,
		n.spec ->> 'image' AS image, CASE jsonb_typeof(n.spec -> 'memory_mib') WHEN 'number' THEN (n.spec -> 'memory_mib')::int END AS memory_mib
	FROM instance n WHERE n.installation_id = i.id AND n.deleted_at IS NULL AND NOT n.clone OFFSET 0) x ON true
LEFT JOIN host h ON h.id = x.host_id
LEFT JOIN LATERAL (SELECT a.last_active_at FROM installation_activity a WHERE a.installation_id = i.id OFFSET 0) act ON true
LEFT JOIN LATERAL (SELECT * FROM operation a WHERE a.resource_id = i.id AND a.state = 'active' OFFSET 0) o ON true
ORDER BY i.id`

const (
	clusterIDSQL = `SELECT id FROM cluster WHERE name = $1 AND deleted_at IS NULL`
	groupIDSQL   = `SELECT id FROM installation_group WHERE name = $1 AND deleted_at IS NULL`
)

// ListInstallations returns at most q.Limit installations that are not deleted,
// in order of ID, as one statement sees them, with what a list shows: an
// operation only while it is under way, and nothing of what is queued, held or
// saved. Installation and ListOperations show the rest. The views share their Ports.
func (s *Store) ListInstallations(ctx context.Context, q fleet.InstallationQuery) ([]fleet.InstallationView, error) {
	p := newPageReader(q.Limit)
	err := s.read(func(tx *Tx) error {
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
		query, args, prepare, err := pageQuery(q, cluster, group)
		if err != nil {
			return err
		}
		each := tx.eachPlanned
		if prepare {
			each = tx.each
		}
		if err := each(ctx, "listing installations", p.read, query, args...); err != nil {
			return err
		}
		return tx.name(ctx, p.views)
	})
	if err != nil {
		return nil, err
	}
	return p.views, nil
}

// pageQuery returns the statement for a page, and whether it is to be prepared.
// With at most one filter that has an index in the order of the page, one plan
// is best whatever is asked for. Else an owner, a state or a label may be that
// of nearly all or of none, and the best plan for either is bad for the other,
// so that the statement is planned for its arguments.
func pageQuery(q fleet.InstallationQuery, cluster, group string) (query string, args []any, prepare bool, err error) {
	where := []string{"i.id > $1"}
	args = []any{q.After}
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
	prepare = len(where) <= 2 && len(q.Labels) == 0
	if len(q.Labels) > 0 {
		labels, err := encode(q.Labels)
		if err != nil {
			return "", nil, false, err
		}
		add("i.labels <> '{}' AND i.labels @> $%d::jsonb", labels)
	}
	args = append(args, q.Limit)
	picked := strings.Join(where, " AND ") + fmt.Sprintf(" ORDER BY i.id LIMIT $%d", len(args))
	return fmt.Sprintf(pageSQL, picked), args, prepare, nil
}
