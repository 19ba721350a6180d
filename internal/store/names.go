package store

import (
	"context"
	"maps"
	"slices"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// maxNames bounds what names remembers of packages, and of clusters; past it,
// the old ones are forgotten and read again when they are needed.
const maxNames = 10_000

// names remembers what the ID of a package, a cluster or a group stands for, which
// never changes: a package is immutable, the others are not renamed, and the row of
// each stays when it is deleted. (A host is another matter: each check of its
// cluster writes its name again.) A names is not changed once it is shared.
type names struct {
	packages map[fleet.PackageID]packageName
	clusters map[fleet.ClusterID]string
	groups   map[fleet.GroupID]string
}

type packageName struct {
	ref   string // name@version
	ports []fleet.Port
}

const namesSQL = `SELECT 'package' AS what, p.id, p.name || '@' || p.version AS name, p.manifest -> 'ports' AS ports
FROM package p WHERE p.id = ANY ($1)
UNION ALL SELECT 'cluster', c.id, c.name, NULL FROM cluster c WHERE c.id = ANY ($2)
UNION ALL SELECT 'group', g.id, g.name, NULL FROM installation_group g WHERE g.id = ANY ($3)`

type nameRow struct {
	What  string   `db:"what"`
	ID    string   `db:"id"`
	Name  string   `db:"name"`
	Ports jsonText `db:"ports"`
}

// name fills in the names that views need, and the ports of their packages,
// which views share. It asks the database only for what the store does not
// remember. What is not there, which the store's transactions rule out, stays empty.
func (t *Tx) name(ctx context.Context, views []fleet.InstallationView) error {
	known := t.s.names.Load()
	packages, clusters, groups := known.fill(views)
	if len(packages)+len(clusters)+len(groups) == 0 {
		return nil
	}
	var rows []nameRow
	if err := t.list(ctx, "reading names of packages, clusters and groups", &rows, namesSQL, pq.Array(packages), pq.Array(clusters), pq.Array(groups)); err != nil {
		return err
	}
	more, err := known.with(rows)
	if err != nil {
		return err
	}
	more.fill(views)
	t.s.names.Store(more) // over what others have stored meanwhile, who then ask again
	return nil
}

// fill fills in what is known, and returns the IDs of what is not, once each.
func (n *names) fill(views []fleet.InstallationView) (packages, clusters, groups []string) {
	for i := range views {
		v := &views[i]
		if p, ok := n.packages[v.PackageID]; ok {
			v.PackageRef, v.Ports = p.ref, p.ports
		} else {
			packages = addNew(packages, string(v.PackageID))
		}
		if p, ok := n.packages[v.RunningPackageID]; ok {
			v.RunningRef = p.ref
		} else {
			packages = addNew(packages, string(v.RunningPackageID))
		}
		if p, ok := n.packages[v.VerifiedPackageID]; ok {
			v.VerifiedRef = p.ref
		} else {
			packages = addNew(packages, string(v.VerifiedPackageID))
		}
		if name, ok := n.clusters[v.ClusterID]; ok {
			v.ClusterName = name
		} else {
			clusters = addNew(clusters, string(v.ClusterID))
		}
		if name, ok := n.groups[v.GroupID]; ok {
			v.GroupName = name
		} else {
			groups = addNew(groups, string(v.GroupID))
		}
	}
	return packages, clusters, groups
}

// addNew appends an ID that is not among them yet; "" is none.
func addNew(ids []string, id string) []string {
	if id == "" || slices.Contains(ids, id) {
		return ids
	}
	return append(ids, id)
}

// with returns what is known together with rows.
func (n *names) with(rows []nameRow) (*names, error) {
	out := &names{packages: map[fleet.PackageID]packageName{}, clusters: map[fleet.ClusterID]string{}, groups: map[fleet.GroupID]string{}}
	if len(n.packages)+len(rows) <= maxNames {
		maps.Copy(out.packages, n.packages)
	}
	if len(n.clusters)+len(rows) <= maxNames {
		maps.Copy(out.clusters, n.clusters)
	}
	if len(n.groups)+len(rows) <= maxNames {
		maps.Copy(out.groups, n.groups)
	}
	for _, r := range rows {
		switch r.What {
		case "cluster":
			out.clusters[fleet.ClusterID(r.ID)] = r.Name
			continue
		case "group":
			out.groups[fleet.GroupID(r.ID)] = r.Name
			continue
		}
		p := packageName{ref: r.Name}
		if err := r.Ports.into(&p.ports); err != nil {
			return nil, err
		}
		out.packages[fleet.PackageID(r.ID)] = p
	}
	return out, nil
}
