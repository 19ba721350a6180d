package store

import (
	"context"
	"fmt"
	"strings"

	"dormouse/internal/fleet"
)

// instancesSQL reads the instances that %s picks. OFFSET 0 is a fence, as in pageSQL.
const instancesSQL = `SELECT to_jsonb(x) AS instance, coalesce(i.name, '') AS installation, coalesce(i.owner, '') AS owner,
	coalesce(c.name, '') AS cluster, coalesce(h.name, '') AS host, coalesce(l.address, '') AS address, coalesce(l.mac, '') AS mac
FROM (SELECT * FROM instance x WHERE x.deleted_at IS NULL AND %s) x
LEFT JOIN LATERAL (SELECT i.name, i.owner FROM installation i WHERE i.id = x.installation_id OFFSET 0) i ON true
LEFT JOIN cluster c ON c.id = x.cluster_id
LEFT JOIN host h ON h.id = x.host_id
LEFT JOIN LATERAL (SELECT l.address, l.mac FROM address_lease l WHERE l.installation_id = x.installation_id AND l.host_id = x.host_id OFFSET 0) l ON true
ORDER BY x.id`

type instanceViewRow struct {
	Instance     jsonText `db:"instance"`
	Installation string   `db:"installation"`
	Owner        string   `db:"owner"`
	Cluster      string   `db:"cluster"`
	Host         string   `db:"host"`
	Address      string   `db:"address"`
	MAC          string   `db:"mac"`
}

func (r instanceViewRow) view() (fleet.InstanceView, error) {
	v := fleet.InstanceView{InstallationName: r.Installation, Owner: r.Owner, ClusterName: r.Cluster, HostName: r.Host, Address: r.Address, MAC: r.MAC}
	return v, r.Instance.into(&v.Instance)
}

// ListInstances returns at most q.Limit instances that are not deleted, in order of ID.
func (s *Store) ListInstances(ctx context.Context, q fleet.InstanceQuery) ([]fleet.InstanceView, error) {
	query, args := instancesQuery(q)
	views := []fleet.InstanceView{}
	err := s.read(func(tx *Tx) error {
		var rows []instanceViewRow
		if err := tx.list(ctx, "listing instances", &rows, query, args...); err != nil {
			return err
		}
		for _, r := range rows {
			v, err := r.view()
			if err != nil {
				return err
			}
			views = append(views, v)
		}
		return nil
	})
	return views, err
}

// Instance returns one that is not deleted, by its ID.
func (s *Store) Instance(ctx context.Context, id fleet.InstanceID) (fleet.InstanceView, error) {
	var v fleet.InstanceView
	err := s.read(func(tx *Tx) error {
		var r instanceViewRow
		err := tx.get(ctx, "reading an instance", &r, fmt.Sprintf(instancesSQL, "x.id = $1"), id)
		if fleet.KindOf(err) == fleet.KindNotFound {
			return fleet.Errorf(fleet.KindNotFound, "there is no instance %q", id)
		}
		if err != nil {
			return err
		}
		v, err = r.view()
		return err
	})
	return v, err
}

func instancesQuery(q fleet.InstanceQuery) (string, []any) {
	where := []string{"x.id > $1"}
	args := []any{q.After, q.Limit}
	add := func(column, table, value string) {
		if value == "" {
			return
		}
		args = append(args, value)
		condition := fmt.Sprintf("%s = $%d", column, len(args))
		if !fleet.ValidID(value) {
			condition = fmt.Sprintf("%s IN (SELECT id FROM %s WHERE name = $%d AND deleted_at IS NULL)", column, table, len(args))
		}
		where = append(where, condition)
	}
	add("x.installation_id", "installation", q.Installation)
	add("x.cluster_id", "cluster", q.Cluster)
	return fmt.Sprintf(instancesSQL, strings.Join(where, " AND ")+" ORDER BY x.id LIMIT $2"), args
}
