package store

import (
	"context"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

const (
	// gatewayPorts are the gateway's ports that lead to an installation i.
	gatewayPorts = `(SELECT jsonb_agg(jsonb_build_object('gateway', g.port, 'port', g.guest_port) ORDER BY g.port) FROM gateway_port g WHERE g.installation_id = i.id)`

	// tcpPorts are the ports e of a package p that the gateway reaches by a port of its own.
	tcpPorts = `LATERAL (SELECT DISTINCT (x ->> 'number')::int AS guest_port
		FROM jsonb_array_elements(CASE jsonb_typeof(p.manifest -> 'ports') WHEN 'array' THEN p.manifest -> 'ports' ELSE '[]' END) x
		WHERE x ->> 'protocol' = 'tcp' AND x ->> 'number' ~ '^[0-9]{1,5}$') e`

	// freePorts takes as many as wanted has rows, never used ones first and then those
	// that have been free the longest, and waits for nobody else who takes some.
	freePorts = `free AS MATERIALIZED (
	SELECT port, row_number() OVER () AS n FROM (
		SELECT port FROM gateway_port WHERE installation_id IS NULL AND EXISTS (SELECT FROM wanted)
		ORDER BY released_at NULLS FIRST, port LIMIT (SELECT count(*) FROM wanted) FOR UPDATE SKIP LOCKED) g
)`

	// portsSuffice also where the gateway has no ports at all: then none is reached.
	portsSuffice = `((SELECT count(*) FROM wanted) <= (SELECT count(*) FROM free) OR (SELECT port FROM gateway_port WHERE port > 0 ORDER BY port LIMIT 1) IS NULL)`

	// leasePortsSQL leases what the desired packages of installations lack. A port that
	// a package no longer has stays leased until the installation is deleted: a release
	// may come back.
	leasePortsSQL = `WITH wanted AS MATERIALIZED (
	SELECT i.id, e.guest_port, row_number() OVER (ORDER BY i.id, e.guest_port) AS n
	FROM installation i JOIN package p ON p.id = i.package_id, ` + tcpPorts + `
	WHERE i.id = ANY ($1) AND NOT EXISTS (SELECT FROM gateway_port h WHERE h.installation_id = i.id AND h.guest_port = e.guest_port)
), ` + freePorts + `, leased AS (
	UPDATE gateway_port g SET installation_id = w.id, guest_port = w.guest_port, leased_at = dormouse_now(), released_at = NULL
	FROM free f JOIN wanted w ON w.n = f.n WHERE g.port = f.port
)
SELECT NOT ` + portsSuffice + ` AS dry`
)

// portsDry refuses what needs a port of the gateway.
func portsDry() error {
	e := fleet.Errorf(fleet.KindCapacity, "all TCP ports of the gateway are leased: delete what is not needed, or widen the range with --gateway-ports")
	e.Reason = fleet.ReasonNoPort
	return e
}

// leasePorts leases ports of the gateway; true says that there were too few.
func (t *Tx) leasePorts(ctx context.Context, installations ...string) (dry bool, err error) {
	err = t.get(ctx, "leasing ports of the gateway", &dry, leasePortsSQL, pq.Array(installations))
	return dry, err
}

const (
	offerPortsSQL = `INSERT INTO gateway_port (port) SELECT n FROM generate_series($1::int, $2::int) n
WHERE NOT EXISTS (SELECT FROM gateway_port g WHERE g.port = n) ORDER BY n ON CONFLICT DO NOTHING`
	// unreachedSQL finds who is to have ports of the gateway and has none: what was there
	// before the gateway had any, or when it had too few.
	unreachedSQL = `SELECT i.id FROM package p JOIN installation i ON i.package_id = p.id AND i.deleted_at IS NULL
WHERE p.manifest -> 'ports' @> '[{"protocol": "tcp"}]' AND NOT EXISTS (SELECT FROM gateway_port g WHERE g.installation_id = i.id)
ORDER BY i.id LIMIT $1`
	withdrawPortsSQL = `DELETE FROM gateway_port WHERE installation_id IS NULL AND NOT port BETWEEN $1 AND $2`
)

// SetGatewayPorts says which TCP ports the gateway has for ports of installations,
// both ends included; none where the last is below the first. What is leased
// outside of them stays so until it is released. Where there are more than before,
// those that have had none get some, as far as they go.
func (s *Store) SetGatewayPorts(ctx context.Context, first, last int) error {
	return s.InTx(ctx, func(tx *Tx) error {
		more, err := tx.exec(ctx, "offering ports of the gateway", offerPortsSQL, first, last)
		if err != nil {
			return err
		}
		if _, err := tx.exec(ctx, "withdrawing ports of the gateway", withdrawPortsSQL, first, last); err != nil || more == 0 {
			return err
		}
		var unreached []string
		if err := tx.list(ctx, "finding who has no port of the gateway", &unreached, unreachedSQL, more); err != nil || len(unreached) == 0 {
			return err
		}
		_, err = tx.leasePorts(ctx, unreached...)
		return err
	})
}

// lowPoolsSQL counts what is free only as far as it matters. The first address of a
// network is the network's own, the second the host's, the last the broadcast's (leasesSQL).
const lowPoolsSQL = `WITH pools AS (
	SELECT 'host' AS type, h.id, h.name || ' ' || h.address_pool AS pool, least(broadcast(a.net) - network(a.net) - 2, 65000 - 1) AS size
	FROM host h, LATERAL (SELECT h.address_pool::inet AS net) a WHERE h.address_pool <> ''
	UNION ALL
	SELECT 'gateway', 'ports', 'gateway ports ' || min(port) || '-' || max(port), count(*) FROM gateway_port HAVING count(*) > 0
), levels AS (
	SELECT p.*, CASE p.type
		WHEN 'host' THEN (SELECT count(*) FROM (SELECT FROM address_lease l WHERE l.host_id = p.id AND l.installation_id IS NULL LIMIT p.size / 10 + 1) f)
		ELSE (SELECT count(*) FROM (SELECT FROM gateway_port g WHERE g.installation_id IS NULL LIMIT p.size / 10 + 1) f) END AS free
	FROM pools p
), low AS (
	SELECT * FROM levels WHERE free * 10 < size
), over AS (
	DELETE FROM pool_low o WHERE NOT EXISTS (SELECT FROM low WHERE low.pool = o.pool) RETURNING pool
), new AS (
	INSERT INTO pool_low (pool) SELECT pool FROM low ON CONFLICT DO NOTHING RETURNING pool
), ev AS (
	INSERT INTO event (kind, resource_type, resource_id, data)
	SELECT 'pool.low', low.type, low.id, jsonb_build_object('pool', low.pool, 'size', low.size, 'free', low.free) FROM low JOIN new ON new.pool = low.pool
	UNION ALL SELECT 'pool.recovered', 'pool', '', jsonb_build_object('pool', pool) FROM over
)
SELECT low.pool AS name, low.size, low.free, new.pool IS NOT NULL AS new FROM low LEFT JOIN new ON new.pool = low.pool ORDER BY low.pool`

// LowPools returns the pools of addresses and ports of which less than a tenth is
// free. An event tells of each that has become so since it was last asked, and of
// each that is so no more.
func (s *Store) LowPools(ctx context.Context) ([]fleet.Pool, error) {
	out := []fleet.Pool{}
	err := s.InTx(ctx, func(tx *Tx) error {
		var rows []struct {
			Name       string `db:"name"`
			Size, Free int64
			New        bool
		}
		if err := tx.list(ctx, "looking for pools that run dry", &rows, lowPoolsSQL); err != nil {
			return err
		}
		out = out[:0]
		for _, r := range rows {
			out = append(out, fleet.Pool{Name: r.Name, Size: r.Size, Free: r.Free, New: r.New})
		}
		return nil
	})
	return out, err
}
