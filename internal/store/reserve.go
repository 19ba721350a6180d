package store

import (
	"context"
	"slices"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

const (
	// lockMovesSQL locks the operations of a batch that ask for anything, as grantSQL does.
	lockMovesSQL = `SELECT o.id FROM operation o JOIN unnest($1::text[], $2::bigint[], $3::bigint[]) AS w (id, epoch, revision) ON w.id = o.id
WHERE o.epoch = w.epoch AND o.revision >= w.revision AND coalesce(o.state) = 'active' ORDER BY o.id FOR UPDATE OF o`

	// lockMoveHostsSQL locks all hosts that this batch has to do with, in order:
	// those that grantSQL locks after it, too.
	lockMoveHostsSQL = `SELECT h.id FROM host h WHERE h.id = ANY ($1) OR h.id IN (
	SELECT unnest(ARRAY[i.held_host_id, i.reserved_host_id]) FROM installation i WHERE i.id = ANY ($2))
ORDER BY h.id FOR UPDATE`

	// unreserveSQL gives back what is reserved, and the address there.
	unreserveSQL = `WITH had AS (
	SELECT id, reserved_host_id, reserved_memory_mib, reserved_disk_mib FROM installation WHERE id = $1 AND reserved_host_id <> ''
), ins AS (
	UPDATE installation i SET reserved_host_id = '', reserved_memory_mib = 0, reserved_disk_mib = 0 FROM had WHERE i.id = had.id
), freed AS (
	UPDATE address_lease l SET installation_id = NULL, released_at = dormouse_now()
	FROM had WHERE l.installation_id = had.id AND l.host_id = had.reserved_host_id
)
UPDATE host h SET memory_held_mib = h.memory_held_mib - had.reserved_memory_mib, disk_held_mib = h.disk_held_mib - had.reserved_disk_mib
FROM had WHERE h.id = had.reserved_host_id`

	// reserveSQL says what is missing, if anything, and else takes it: capacity
	// before an address. Only a host that is up has any.
	reserveSQL = `WITH h AS (
	SELECT id, address_pool <> '' AS addressed FROM host
	WHERE id = $2 AND state = 'up' AND ($3 <= 0 OR $3 <= memory_mib - memory_held_mib) AND ($4 <= 0 OR $4 <= disk_mib - disk_held_mib)
), l AS MATERIALIZED (
	SELECT a.id FROM address_lease a WHERE a.host_id = $2 AND a.installation_id IS NULL AND EXISTS (SELECT FROM h WHERE addressed)
	ORDER BY a.released_at NULLS FIRST, a.id LIMIT 1 FOR UPDATE SKIP LOCKED
), able AS MATERIALIZED (
	SELECT h.id FROM h WHERE NOT h.addressed OR EXISTS (SELECT FROM l)
), leased AS (
	UPDATE address_lease a SET installation_id = $1, leased_at = dormouse_now(), released_at = NULL FROM l, able WHERE a.id = l.id
), held AS (
	UPDATE host x SET memory_held_mib = x.memory_held_mib + $3, disk_held_mib = x.disk_held_mib + $4 FROM able WHERE x.id = able.id
), ins AS (
	UPDATE installation SET reserved_host_id = able.id, reserved_memory_mib = $3, reserved_disk_mib = $4 FROM able WHERE installation.id = $1
)
SELECT CASE WHEN EXISTS (SELECT FROM able) THEN '' WHEN EXISTS (SELECT FROM h) THEN 'waiting-for-address' ELSE 'waiting-for-capacity' END`

	// swapSQL names the host that is to be held then: done twice, it would else be undone.
	swapSQL = `UPDATE installation SET held_host_id = reserved_host_id, held_memory_mib = reserved_memory_mib, held_disk_mib = reserved_disk_mib,
	reserved_host_id = held_host_id, reserved_memory_mib = held_memory_mib, reserved_disk_mib = held_disk_mib
WHERE id = $1 AND reserved_host_id = $2`

	heldLeaseSQL = `SELECT l.id, l.host_id, l.address, l.mac FROM address_lease l JOIN installation i ON i.id = l.installation_id AND i.held_host_id = l.host_id
WHERE i.id = $1`
)

// reserves tells whether changes are of what a move holds besides.
func reserves(c fleet.Changes) bool { return c.Reserve != nil || c.HoldOn != "" }

// reserve does what the results of a batch ask for of what moves hold besides,
// before the grant; no statement where none asks. It returns what was denied,
// and the addresses that were changed.
func (t *Tx) reserve(ctx context.Context, results []fleet.Result) (map[fleet.OperationID]grant, error) {
	var ids, hosts, installations []string
	var epochs, revisions []int64
	if !slices.ContainsFunc(results, func(r fleet.Result) bool { return reserves(r.Changes) }) {
		return nil, nil
	}
	for _, r := range results {
		c := r.Changes
		if c.Hold != nil || c.Address != "" || reserves(c) {
			ids, epochs, revisions = append(ids, string(r.OperationID)), append(epochs, int64(r.Epoch)), append(revisions, r.Revision)
		}
		if c.Hold != nil || reserves(c) {
			installations = append(installations, string(r.InstallationID))
		}
		for _, h := range []*fleet.Hold{c.Hold, c.Reserve} {
			if h != nil {
				hosts = append(hosts, string(h.HostID))
			}
		}
	}
	var rows, locked []string
	if err := t.list(ctx, "locking moves", &rows, lockMovesSQL, pq.Array(ids), pq.Array(epochs), pq.Array(revisions)); err != nil {
		return nil, err
	}
	if err := t.list(ctx, "locking the hosts of moves", &locked, lockMoveHostsSQL, pq.Array(hosts), pq.Array(installations)); err != nil {
		return nil, err
	}
	live := map[fleet.OperationID]bool{}
	for _, id := range rows {
		live[fleet.OperationID(id)] = true
	}
	out := map[fleet.OperationID]grant{}
	for _, r := range results {
		if !live[r.OperationID] || !reserves(r.Changes) {
			continue
		}
		g, err := t.reserveOne(ctx, r.InstallationID, r.Changes)
		if err != nil {
			return nil, err
		}
		if g != (grant{}) {
			out[r.OperationID] = g
		}
	}
	return out, nil
}

func (t *Tx) reserveOne(ctx context.Context, id fleet.InstallationID, c fleet.Changes) (grant, error) {
	var g grant
	if c.Reserve != nil {
		if _, err := t.exec(ctx, "giving back what was reserved", unreserveSQL, id); err != nil {
			return g, err
		}
		if c.Reserve.HostID != "" {
			err := t.get(ctx, "reserving capacity", &g.denied, reserveSQL, id, c.Reserve.HostID, c.Reserve.MemoryMiB, c.Reserve.DiskMiB)
			return g, err
		}
	}
	if c.HoldOn == "" {
		return g, nil
	}
	if _, err := t.exec(ctx, "swapping what is held and reserved", swapSQL, id, c.HoldOn); err != nil {
		return g, err
	}
	var l struct {
		ID      fleet.LeaseID `db:"id"`
		HostID  fleet.HostID  `db:"host_id"`
		Address string        `db:"address"`
		MAC     string        `db:"mac"`
	}
	err := t.get(ctx, "reading the address there", &l, heldLeaseSQL, id)
	if fleet.KindOf(err) == fleet.KindNotFound {
		return g, nil
	}
	g.lease = &fleet.AddressLease{ID: l.ID, HostID: l.HostID, Address: l.Address, MAC: l.MAC}
	return g, err
}
