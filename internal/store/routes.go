package store

import (
	"context"
	"database/sql"
	"strings"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

const (
	// routeColumns are read by routeRow: of an installation i with the instance x that
	// serves, or else the latest. What leads to a port of the gateway is shown whether
	// anything serves or not.
	routeColumns = `SELECT i.id, i.name, i.state, i.dns_names, i.wake, x.id AS instance_id, x.cluster_id, x.host_id, x.serving, x.endpoints,
	x.serving IS NOT TRUE AND i.state = 'stable' AND coalesce((SELECT o.kind = 'move' FROM operation o WHERE o.resource_id = i.id AND o.state = 'active'), false) AS moving,
	` + gatewayPorts + ` AS ports
`
	routeInstance = `
LEFT JOIN LATERAL (
	SELECT n.id, n.cluster_id, n.host_id, n.serving, n.endpoints FROM instance n
	WHERE n.installation_id = i.id AND n.deleted_at IS NULL AND n.role = 'application' AND NOT n.clone
	ORDER BY n.serving DESC, n.created_at DESC, n.id DESC LIMIT 1) x ON true
`
	routeByNameSQL    = routeColumns + `FROM installation i` + routeInstance + `WHERE i.name = $1 AND i.deleted_at IS NULL`
	routeByDNSNameSQL = routeColumns + `FROM installation_dns_name d JOIN installation i ON i.id = d.installation_id` + routeInstance +
		`WHERE d.name = $1 AND i.deleted_at IS NULL`

	// routesOfSQL goes through each host's instances in order of their installations.
	routesOfSQL = routeColumns + `FROM (
	SELECT DISTINCT y.installation_id FROM unnest($1::text[]) AS host (id), LATERAL (
		SELECT DISTINCT n.installation_id FROM instance n
		WHERE n.host_id = host.id AND n.installation_id > $2 AND n.deleted_at IS NULL AND n.role = 'application' AND NOT n.clone
		ORDER BY n.installation_id LIMIT $3) y
	ORDER BY y.installation_id LIMIT $3) page
JOIN LATERAL (SELECT * FROM installation n WHERE n.id = page.installation_id AND n.deleted_at IS NULL OFFSET 0) i ON true` + routeInstance + `ORDER BY i.id`
)

type routeRow struct {
	ID         fleet.InstallationID `db:"id"`
	Name       string               `db:"name"`
	State      fleet.State          `db:"state"`
	DNSNames   pq.StringArray       `db:"dns_names"`
	Wake       jsonText             `db:"wake"`
	InstanceID maybeText            `db:"instance_id"`
	ClusterID  maybeText            `db:"cluster_id"`
	HostID     maybeText            `db:"host_id"`
	Serving    sql.NullBool         `db:"serving"`
	Endpoints  jsonText             `db:"endpoints"`
	Moving     bool                 `db:"moving"`
	Ports      jsonText             `db:"ports"`
}

func (r routeRow) route() (fleet.Route, error) {
	out := fleet.Route{InstallationID: r.ID, Name: r.Name, State: r.State, DNSNames: namesOf(r.DNSNames), Moving: r.Moving,
		InstanceID: fleet.InstanceID(r.InstanceID), ClusterID: fleet.ClusterID(r.ClusterID), HostID: fleet.HostID(r.HostID)}
	var endpoints []fleet.Endpoint
	if err := parts(part{r.Endpoints, &endpoints}, part{r.Ports, &out.Ports}, part{r.Wake, &out.Wake}); err != nil {
		return out, err
	}
	if !r.Serving.Bool {
		return out, nil
	}
	first, _ := fleet.FirstEndpoint(endpoints)
	out.Address = first.Address
	for i := range out.Ports {
		for _, e := range endpoints {
			if e.Port == out.Ports[i].Port {
				out.Ports[i].Address = e.Address
			}
		}
	}
	return out, nil
}

// Route returns where the gateway finds an installation: by its name, a label, or
// by one of its DNS names, which hold a dot. One that nothing serves has no
// address. KindNotFound where there is none.
func (s *Store) Route(ctx context.Context, host string) (fleet.Route, error) {
	query := routeByNameSQL
	if strings.Contains(host, ".") {
		query = routeByDNSNameSQL
	}
	var row routeRow
	err := s.read(func(tx *Tx) error { return tx.get(ctx, "finding a route", &row, query, host) })
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.Route{}, fleet.Errorf(fleet.KindNotFound, "there is no installation %q", host)
	}
	if err != nil {
		return fleet.Route{}, err
	}
	return row.route()
}

// RoutesOf returns, in order of ID, at most limit routes of installations after
// one that have an instance on one of these hosts, be it that it serves or that it
// sleeps. A route may lead elsewhere: during a move there is one on either host.
// What can't be read of a row is left out, so that it does not hide the others.
func (s *Store) RoutesOf(ctx context.Context, hosts []fleet.HostID, after fleet.InstallationID, limit int) ([]fleet.Route, error) {
	ids := make([]string, len(hosts))
	for i, h := range hosts {
		ids[i] = string(h)
	}
	out := []fleet.Route{}
	err := s.read(func(tx *Tx) error {
		var rows []routeRow
		if err := tx.list(ctx, "listing routes", &rows, routesOfSQL, pq.Array(ids), after, limit); err != nil {
			return err
		}
		for _, r := range rows {
			route, err := r.route()
			var unsaid string // a route has no place for it
			if err := shown(&unsaid, err); err != nil {
				return err
			}
			out = append(out, route)
		}
		return nil
	})
	return out, err
}
