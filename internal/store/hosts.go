package store

import (
	"context"
	"errors"

	"dormouse/internal/fleet"
)

const (
	hostSQL = `SELECT to_jsonb(h) || jsonb_build_object('cluster_name', c.name) AS host, ` + operationColumns + `
FROM host h JOIN cluster c ON c.id = h.cluster_id
LEFT JOIN operation o ON o.id = h.drain_operation_id AND h.drain_operation_id <> ''
WHERE (c.id = $1 OR c.name = $1) AND c.deleted_at IS NULL`

	listHostsSQL = hostSQL + ` ORDER BY h.name, h.id`
	oneHostSQL   = hostSQL + ` AND (h.id = $2 OR h.name = $2) ORDER BY h.id = $2 DESC, h.id LIMIT 1`
)

type hostRow struct {
	Host jsonText `db:"host"`
	operationRow
}

func (r hostRow) view() (v fleet.HostView, err error) {
	err = r.Host.into(&v)
	op, err2 := r.operation()
	v.Operation = op
	return v, errors.Join(err, err2)
}

// ListHosts returns the hosts of a cluster in order of their names, with the
// installations that lie there where they are drained.
func (s *Store) ListHosts(ctx context.Context, cluster string) ([]fleet.HostView, error) {
	out := []fleet.HostView{}
	err := s.read(func(tx *Tx) error {
		if _, err := tx.cluster(ctx, cluster); err != nil {
			return err
		}
		var rows []hostRow
		if err := tx.list(ctx, "listing hosts", &rows, listHostsSQL, cluster); err != nil {
			return err
		}
		for _, r := range rows {
			v, err := r.view()
			if err == nil && v.State == fleet.HostDraining {
				v.Members, err = tx.drainMembers(ctx, v.Host, nil)
			}
			if err != nil {
				return err
			}
			out = append(out, v)
		}
		return nil
	})
	return out, err
}

// Host returns one, by ID or name, with the installations that lie on it.
func (s *Store) Host(ctx context.Context, cluster, host string) (fleet.HostView, error) {
	var v fleet.HostView
	err := s.read(func(tx *Tx) (err error) {
		if v, err = tx.host(ctx, cluster, host); err != nil {
			return err
		}
		v.Members, err = tx.drainMembers(ctx, v.Host, nil)
		return err
	})
	return v, err
}

func (t *Tx) host(ctx context.Context, cluster, host string) (fleet.HostView, error) {
	c, err := t.cluster(ctx, cluster)
	if err != nil {
		return fleet.HostView{}, err
	}
	var r hostRow
	err = t.get(ctx, "reading a host", &r, oneHostSQL, c.ID, host)
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.HostView{}, fleet.Errorf(fleet.KindNotFound, "there is no host %q in cluster %s: see `cloudctl host list --cluster %s`", host, c.Name, c.Name)
	}
	if err != nil {
		return fleet.HostView{}, err
	}
	return r.view()
}

const (
	lockHostSQL = `SELECT id FROM host WHERE id = $1 FOR UPDATE`

	// endDrainSQL ends the drain of a host that takes installations again. Moves that
	// have begun come to their end; one that has touched nothing yet leaves it at that.
	endDrainSQL = `UPDATE operation SET state = 'cancelled', fail_reason = 'uncordoned', error = 'the host was uncordoned', worker = '',
	finished_at = dormouse_now(), revision = revision + 1
WHERE id = $1 AND state = 'active'`

	hostStateSQL = `WITH h AS (
	UPDATE host SET state = $2, drain_operation_id = $3, drain_at_once = $4 WHERE id = $1 RETURNING id
), key AS (
	INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id) SELECT $5, $6, id, $3 FROM h WHERE $5 <> ''
)
INSERT INTO event (kind, resource_type, resource_id, operation_id, data)
SELECT 'host.state', 'host', id, $3, jsonb_build_object('from', $7::text, 'to', $2::text) FROM h WHERE $7::text <> $2::text`

	insertDrainSQL = `INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, class, state, request_state, generation)
SELECT $1, 'drain', 'host', h.id, h.name, 0, 'active', '', 1 + coalesce((SELECT max(generation) FROM operation o WHERE o.resource_id = h.id), 0)
FROM host h WHERE h.id = $2`

	// hostUsersSQL finds whatever refers to a host. It reads a cluster's rows: a
	// removal is rare, and an index for it would cost every create.
	hostUsersSQL = `SELECT i.name FROM installation i WHERE i.cluster_id = $1 AND i.deleted_at IS NULL AND (i.held_host_id = $2 OR i.reserved_host_id = $2)
UNION SELECT i.name FROM instance x JOIN installation i ON i.id = x.installation_id WHERE x.cluster_id = $1 AND x.deleted_at IS NULL AND x.host_id = $2
UNION SELECT i.name FROM volume x JOIN installation i ON i.id = x.installation_id WHERE x.cluster_id = $1 AND x.deleted_at IS NULL AND x.host_id = $2
LIMIT 1`

	removeLeasesSQL = `DELETE FROM address_lease WHERE host_id = $1`
	removeHostSQL   = `WITH h AS (
	DELETE FROM host WHERE id = $1 RETURNING id, name
), key AS (
	INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id) SELECT $2, $3, id, '' FROM h WHERE $2 <> ''
)
INSERT INTO event (kind, resource_type, resource_id, data) SELECT 'host.removed', 'host', id, jsonb_build_object('name', name) FROM h`
)

// ControlHost carries a verb out and returns the host as it is then, or as it was
// where the verb has removed it. KindNotAccepted where its state does not take the
// verb, or where something lies on a host that is to be removed. Asking for what is
// so already changes nothing; a drain under way is joined.
func (s *Store) ControlHost(ctx context.Context, in fleet.HostControl) (fleet.HostView, error) {
	for try := 1; ; try++ {
		v, err := s.controlHost(ctx, in)
		// The same request came in at the same moment, and now its answer is there; or another one did.
		if again := constraintOf(err) == "idempotency_key_pkey" || fleet.KindOf(err) == fleet.KindStale; !again || try == maxTries {
			return v, err
		}
	}
}

func (s *Store) controlHost(ctx context.Context, in fleet.HostControl) (fleet.HostView, error) {
	var v fleet.HostView
	err := s.InTx(ctx, func(tx *Tx) error {
		id, known, err := tx.once(ctx, in.Key, func(tx *Tx) (string, error) {
			var err error
			v, err = tx.controlHost(ctx, in)
			return string(v.ID), err
		})
		if err != nil || in.Verb == fleet.HostRemove {
			if known {
				v = fleet.HostView{Host: fleet.Host{ID: fleet.HostID(id)}, Replayed: true}
			}
			return err
		}
		if v, err = tx.host(ctx, in.Cluster, id); err != nil {
			return err
		}
		v.Replayed = known
		v.Members, err = tx.drainMembers(ctx, v.Host, nil)
		return err
	})
	return v, err
}

func (t *Tx) controlHost(ctx context.Context, in fleet.HostControl) (fleet.HostView, error) {
	v, err := t.host(ctx, in.Cluster, in.Host)
	if err != nil {
		return v, err
	}
	// An operation is locked before a host.
	if in.Verb == fleet.HostUncordon && v.DrainOperationID != "" {
		if _, err := t.exec(ctx, "ending the drain", endDrainSQL, v.DrainOperationID); err != nil {
			return v, err
		}
	}
	var locked string
	if err := t.get(ctx, "locking the host", &locked, lockHostSQL, v.ID); err != nil {
		return v, err
	}
	drain := v.DrainOperationID
	if v, err = t.host(ctx, in.Cluster, string(v.ID)); err != nil {
		return v, err
	}
	to, ok := v.State.Accepts(in.Verb)
	switch {
	case !ok && in.Verb == fleet.HostRemove:
		return v, fleet.Errorf(fleet.KindNotAccepted, "host %s is %s: cordon and drain it before it is removed", v.Name, v.State)
	case !ok:
		return v, fleet.Errorf(fleet.KindNotAccepted, "host %s is %s and does not accept %s now", v.Name, v.State, in.Verb)
	case drain != v.DrainOperationID:
		return v, fleet.Errorf(fleet.KindStale, "host %s changed meanwhile: try again", v.Name)
	case in.Verb == fleet.HostRemove:
		return v, t.removeHost(ctx, v, in.Key)
	}
	atOnce := v.DrainAtOnce
	if in.Verb == fleet.HostDrain {
		if atOnce = in.AtOnce; atOnce == 0 {
			atOnce = fleet.DefaultDrainAtOnce
			if v.State == fleet.HostDraining {
				atOnce = v.DrainAtOnce
			}
		}
		if v.State != fleet.HostDraining {
			drain = in.OperationID
			if _, err := t.exec(ctx, "beginning the drain", insertDrainSQL, drain, v.ID); err != nil {
				return v, err
			}
		}
	}
	_, err = t.exec(ctx, "changing the host", hostStateSQL, v.ID, to, drain, atOnce, in.Key.Key, in.Key.RequestHash, v.State)
	return v, err
}

func (t *Tx) removeHost(ctx context.Context, v fleet.HostView, key fleet.IdempotencyKey) error {
	var users []string
	if err := t.listPlanned(ctx, "looking for what lies on the host", &users, hostUsersSQL, v.ClusterID, v.ID); err != nil {
		return err
	}
	if len(users) > 0 || v.MemoryHeldMiB != 0 || v.DiskHeldMiB != 0 {
		what := "capacity is held there"
		if len(users) > 0 {
			what = "installation " + users[0] + " lies there"
		}
		return fleet.Errorf(fleet.KindNotAccepted, "host %s is not empty, %s: drain it first with `cloudctl host drain %s --wait`", v.Name, what, v.Name)
	}
	if _, err := t.exec(ctx, "forgetting the host's addresses", removeLeasesSQL, v.ID); err != nil {
		return err
	}
	_, err := t.exec(ctx, "removing the host", removeHostSQL, v.ID, key.Key, key.RequestHash)
	return err
}

// What a cluster's check finds no more is forgotten where nothing refers to it,
// and down where something does.
const (
	goneHosts = `h.cluster_id = $1 AND h.id NOT IN (SELECT j ->> 'id' FROM jsonb_array_elements($2::jsonb) AS j)`

	downHostsSQL = `UPDATE host h SET state = 'down' WHERE ` + goneHosts

	dropHostsSQL = `WITH h AS (
	DELETE FROM host h WHERE ` + goneHosts + ` AND h.memory_held_mib = 0 AND h.disk_held_mib = 0
		AND NOT EXISTS (SELECT FROM installation i WHERE i.cluster_id = $1 AND i.deleted_at IS NULL AND (i.held_host_id = h.id OR i.reserved_host_id = h.id))
		AND NOT EXISTS (SELECT FROM instance x WHERE x.cluster_id = $1 AND x.deleted_at IS NULL AND x.host_id = h.id)
		AND NOT EXISTS (SELECT FROM volume x WHERE x.cluster_id = $1 AND x.deleted_at IS NULL AND x.host_id = h.id)
	RETURNING id
)
DELETE FROM address_lease l USING h WHERE l.host_id = h.id`
)

// missing deals with the hosts of a cluster that are not among those found.
// They are down first, so that nobody is placed there any more.
func (t *Tx) missing(ctx context.Context, cluster fleet.ClusterID, found string) error {
	for _, query := range []string{downHostsSQL, dropHostsSQL} {
		if _, err := t.exec(ctx, "looking for hosts that are gone", query, cluster, found); err != nil {
			return err
		}
	}
	return nil
}
