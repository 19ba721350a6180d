package store

import (
	"context"

	"dormouse/internal/fleet"
)

// grantSQL decides about capacity and addresses for a batch. It locks the
// operations first, so that the results which follow in the same transaction
// can't turn out stale; then the hosts, in order. What asks for more than is
// free, counted in the order of the batch, is denied, and so is a host that is
// not up to who does not lie on it; giving back is not. An
// address on another host than the one asked for is exchanged.
const grantSQL = `WITH want AS MATERIALIZED (
	SELECT * FROM jsonb_to_recordset($1::jsonb) AS w (ord int, operation_id text, epoch bigint, revision bigint, installation_id text, host_id text,
		memory_mib bigint, disk_mib bigint, hold boolean, address_host text)
), live AS MATERIALIZED (
	SELECT o.id FROM operation o JOIN want w ON w.operation_id = o.id
	WHERE o.epoch = w.epoch AND o.revision >= w.revision AND coalesce(o.state) = 'active' ORDER BY o.id FOR UPDATE OF o
), hosts AS MATERIALIZED (
	SELECT h.id, h.state, h.memory_mib - h.memory_held_mib AS free_memory, h.disk_mib - h.disk_held_mib AS free_disk FROM host h
	WHERE (SELECT count(*) FROM live) > 0 AND h.id IN (
		SELECT host_id FROM want WHERE hold
		UNION SELECT i.held_host_id FROM installation i JOIN want w ON w.installation_id = i.id WHERE w.hold)
	ORDER BY h.id FOR UPDATE
), delta AS (
	SELECT w.ord, w.operation_id, w.host_id,
		w.memory_mib - CASE WHEN i.held_host_id = w.host_id THEN i.held_memory_mib ELSE 0 END AS memory,
		w.disk_mib - CASE WHEN i.held_host_id = w.host_id THEN i.held_disk_mib ELSE 0 END AS disk,
		i.held_host_id, i.held_memory_mib, i.held_disk_mib
	FROM want w JOIN live l ON l.id = w.operation_id JOIN installation i ON i.id = w.installation_id WHERE w.hold
), running AS (
	SELECT d.*, sum(greatest(memory, 0)) OVER p AS sum_memory, sum(greatest(disk, 0)) OVER p AS sum_disk
	FROM delta d WINDOW p AS (PARTITION BY host_id ORDER BY ord)
), fits AS (
	SELECT r.*, coalesce((r.memory <= 0 OR r.sum_memory <= h.free_memory) AND (r.disk <= 0 OR r.sum_disk <= h.free_disk)
		AND (h.state = 'up' OR r.held_host_id = r.host_id), r.host_id = '') AS fits
	FROM running r LEFT JOIN hosts h ON h.id = r.host_id
), takers AS (
	SELECT w.operation_id, w.installation_id, w.address_host, row_number() OVER (PARTITION BY w.address_host ORDER BY w.ord) AS n
	FROM want w JOIN live l ON l.id = w.operation_id LEFT JOIN fits f ON f.operation_id = w.operation_id
	WHERE w.address_host <> '' AND coalesce(f.fits, true)
		AND NOT EXISTS (SELECT FROM address_lease a WHERE a.installation_id = w.installation_id AND a.host_id = w.address_host)
), free AS (
	SELECT a.id, a.host_id, row_number() OVER (PARTITION BY a.host_id ORDER BY a.ord) AS n
	FROM (SELECT DISTINCT address_host FROM takers) t,
	LATERAL (
		SELECT f.id, f.host_id, row_number() OVER () AS ord FROM (
			SELECT id, host_id FROM address_lease
			WHERE host_id = t.address_host AND installation_id IS NULL
			ORDER BY released_at NULLS FIRST, id LIMIT (SELECT count(*) FROM takers) FOR UPDATE SKIP LOCKED) f) a
), left_behind AS (
	UPDATE address_lease a SET installation_id = NULL, released_at = dormouse_now()
	FROM free f JOIN takers t ON t.address_host = f.host_id AND t.n = f.n
	WHERE a.installation_id = t.installation_id AND a.host_id <> t.address_host
	RETURNING a.id
), leased AS (
	UPDATE address_lease a SET installation_id = t.installation_id, leased_at = dormouse_now(), released_at = NULL
	FROM free f JOIN takers t ON t.address_host = f.host_id AND t.n = f.n
	WHERE a.id = f.id AND (SELECT count(*) FROM left_behind) >= 0 -- which must be free first
	RETURNING t.operation_id, a.id, a.host_id, a.address, a.mac
), final AS (
	SELECT w.operation_id, coalesce(f.fits, true) AND w.operation_id IS NOT NULL AS fits,
		t.operation_id IS NOT NULL AND l.operation_id IS NULL AS no_address,
		f.host_id, f.memory_mib AS memory_mib, f.disk_mib AS disk_mib, f.held_host_id, f.held_memory_mib, f.held_disk_mib, l.id, l.host_id AS lease_host, l.address, l.mac
	FROM want w JOIN live lv ON lv.id = w.operation_id
	LEFT JOIN (SELECT fits.*, w2.memory_mib, w2.disk_mib FROM fits JOIN want w2 USING (operation_id)) f ON f.operation_id = w.operation_id
	LEFT JOIN takers t ON t.operation_id = w.operation_id
	LEFT JOIN leased l ON l.operation_id = w.operation_id
), changes AS (
	SELECT host_id AS id, sum(memory_mib) AS memory, sum(disk_mib) AS disk FROM (
		SELECT host_id, memory_mib, disk_mib FROM final WHERE host_id <> '' AND fits AND NOT no_address
		UNION ALL
		SELECT held_host_id, -held_memory_mib, -held_disk_mib FROM final WHERE host_id IS NOT NULL AND fits AND NOT no_address AND held_host_id <> '') c
	GROUP BY host_id
), applied AS (
	UPDATE host h SET memory_held_mib = h.memory_held_mib + c.memory, disk_held_mib = h.disk_held_mib + c.disk
	FROM changes c WHERE h.id = c.id
)
SELECT operation_id, fits, no_address, coalesce(id, '') AS lease_id, coalesce(lease_host, '') AS lease_host,
	coalesce(address, '') AS address, coalesce(mac, '') AS mac
FROM final`

// grant is what became of a request for capacity and for an address.
type grant struct {
	denied fleet.Reason
	lease  *fleet.AddressLease
}

type wantRow struct {
	Ord            int                  `json:"ord"`
	OperationID    fleet.OperationID    `json:"operation_id"`
	Epoch          fleet.Epoch          `json:"epoch"`
	Revision       int64                `json:"revision"`
	InstallationID fleet.InstallationID `json:"installation_id"`
	HostID         fleet.HostID         `json:"host_id"`
	MemoryMiB      int64                `json:"memory_mib"`
	DiskMiB        int64                `json:"disk_mib"`
	Hold           bool                 `json:"hold"`
	AddressHost    fleet.HostID         `json:"address_host"`
}

// grant decides for the results of a batch that ask for something; no statement where none does.
func (t *Tx) grant(ctx context.Context, results []fleet.Result) (map[fleet.OperationID]grant, error) {
	var want []wantRow
	for i, r := range results {
		c := r.Changes
		if c.Hold == nil && c.Address == "" {
			continue
		}
		w := wantRow{Ord: i, OperationID: r.OperationID, Epoch: r.Epoch, Revision: r.Revision, InstallationID: r.InstallationID, AddressHost: c.Address}
		if c.Hold != nil {
			w.Hold, w.HostID, w.MemoryMiB, w.DiskMiB = true, c.Hold.HostID, c.Hold.MemoryMiB, c.Hold.DiskMiB
		}
		want = append(want, w)
	}
	if len(want) == 0 {
		return map[fleet.OperationID]grant{}, nil
	}
	text, err := encode(want)
	if err != nil {
		return nil, err
	}
	var rows []struct {
		OperationID fleet.OperationID `db:"operation_id"`
		Fits        bool              `db:"fits"`
		NoAddress   bool              `db:"no_address"`
		LeaseID     fleet.LeaseID     `db:"lease_id"`
		LeaseHost   fleet.HostID      `db:"lease_host"`
		Address     string            `db:"address"`
		MAC         string            `db:"mac"`
	}
	if err := t.list(ctx, "granting capacity", &rows, grantSQL, text); err != nil {
		return nil, err
	}
	out := make(map[fleet.OperationID]grant, len(rows))
	for _, r := range rows {
		g := grant{}
		switch {
		case !r.Fits:
			g.denied = fleet.WaitCapacity
		case r.NoAddress:
			g.denied = fleet.WaitAddress
		case r.LeaseID != "":
			g.lease = &fleet.AddressLease{ID: r.LeaseID, HostID: r.LeaseHost, Address: r.Address, MAC: r.MAC}
		}
		out[r.OperationID] = g
	}
	return out, nil
}
