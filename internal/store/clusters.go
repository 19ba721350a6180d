package store

import (
	"context"
	"errors"
	"maps"
	"strings"

	"dormouse/internal/fleet"
)

const clusterSQL = `SELECT to_jsonb(c) AS cluster,
	(SELECT jsonb_agg(to_jsonb(h) ORDER BY h.name) FROM host h WHERE h.cluster_id = c.id) AS hosts,
	` + operationColumns + `
FROM cluster c
LEFT JOIN LATERAL (
	SELECT * FROM operation a
	WHERE a.resource_id = c.id AND a.state <> 'queued' ORDER BY a.generation DESC LIMIT 1) o ON true
`

type clusterRow struct {
	Cluster jsonText `db:"cluster"`
	Hosts   jsonText `db:"hosts"`
	operationRow
}

func (r clusterRow) view() (fleet.ClusterView, error) {
	var v fleet.ClusterView
	err := parts(part{r.Cluster, &v.Cluster}, part{r.Hosts, &v.Hosts})
	op, err2 := r.operation()
	v.Operation = op
	err = shown(&v.StateDetail, errors.Join(err, err2))
	return v, err
}

const (
	clusterByIDSQL   = clusterSQL + `WHERE c.id = $1`
	clusterByNameSQL = clusterSQL + `WHERE c.name = $1 AND c.deleted_at IS NULL`
	listClustersSQL  = clusterSQL + `WHERE c.deleted_at IS NULL AND c.id > $1 ORDER BY c.id LIMIT $2`
)

// Cluster finds one by ID, deleted ones included, or by name.
func (s *Store) Cluster(ctx context.Context, idOrName string) (fleet.ClusterView, error) {
	var v fleet.ClusterView
	err := s.read(func(tx *Tx) (err error) {
		v, err = tx.cluster(ctx, idOrName)
		return err
	})
	return v, err
}

func (t *Tx) cluster(ctx context.Context, idOrName string) (fleet.ClusterView, error) {
	var r clusterRow
	err := error(fleet.Errorf(fleet.KindNotFound, "no such ID"))
	if fleet.ValidID(idOrName) {
		err = t.get(ctx, "reading a cluster", &r, clusterByIDSQL, idOrName)
	}
	if fleet.KindOf(err) == fleet.KindNotFound {
		err = t.get(ctx, "reading a cluster", &r, clusterByNameSQL, idOrName)
	}
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.ClusterView{}, fleet.Errorf(fleet.KindNotFound, "there is no cluster %q", idOrName)
	}
	if err != nil {
		return fleet.ClusterView{}, err
	}
	return r.view()
}

// ListClusters returns clusters in order of ID.
func (s *Store) ListClusters(ctx context.Context, page fleet.Page) ([]fleet.ClusterView, error) {
	out := []fleet.ClusterView{}
	err := s.read(func(tx *Tx) error {
		var rows []clusterRow
		if err := tx.list(ctx, "listing clusters", &rows, listClustersSQL, page.After, page.Limit); err != nil {
			return err
		}
		for _, r := range rows {
			v, err := r.view()
			if err != nil {
				return err
			}
			out = append(out, v)
		}
		return nil
	})
	return out, err
}

const insertClusterSQL = `WITH key AS (
	INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id) SELECT $1, $2, $3, $4 WHERE $1 <> '' RETURNING key
), c AS (
	INSERT INTO cluster (id, name, provider, state, settings)
	SELECT $3, $5, $6, $7, $8::jsonb FROM (SELECT count(*) FROM key) AS after_the_key RETURNING id
), op AS (
	INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, state, request_state, generation)
	SELECT $4, 'create-cluster', 'cluster', id, $5, 'active', $7, 1 FROM c
)
INSERT INTO event (kind, resource_type, resource_id, operation_id, data)
SELECT 'cluster.state', 'cluster', id, $4, jsonb_build_object('from', '', 'to', $7::text) FROM c`

// CreateCluster accepts a new cluster.
func (s *Store) CreateCluster(ctx context.Context, in fleet.NewCluster) (fleet.ClusterView, error) {
	settings, err := encodeAll(in.Settings)
	if err != nil {
		return fleet.ClusterView{}, err
	}
	v, err := s.clusterRequest(ctx, in.Key, func(tx *Tx) (string, error) {
		_, err := tx.exec(ctx, "creating the cluster", insertClusterSQL, in.Key.Key, in.Key.RequestHash, in.ID, in.OperationID,
			in.Name, in.Provider, fleet.ClusterCreationRequested, settings[0])
		return string(in.ID), err
	})
	if constraintOf(err) == "cluster_name" {
		return v, fleet.Errorf(fleet.KindConflict, "a cluster named %q exists already: choose another name", in.Name)
	}
	return v, err
}

// clusterRequest runs accept once per idempotency key and returns the cluster that it names.
func (s *Store) clusterRequest(ctx context.Context, key fleet.IdempotencyKey, accept func(*Tx) (string, error)) (fleet.ClusterView, error) {
	var v fleet.ClusterView
	err := s.InTx(ctx, func(tx *Tx) error {
		var k keyRow
		err := tx.get(ctx, "reading the idempotency key", &k, readKeySQL, key.Key)
		if err != nil && fleet.KindOf(err) != fleet.KindNotFound {
			return err
		}
		known, err := k.replayed(key)
		if err != nil {
			return err
		}
		id := k.KeyResourceID.String
		if !known {
			if id, err = accept(tx); err != nil {
				return err
			}
		}
		if v, err = tx.cluster(ctx, id); err != nil || !known {
			return err
		}
		first, err := tx.operation(ctx, fleet.OperationID(k.KeyOperationID.String))
		v.Operation, v.Replayed = &first, true
		return err
	})
	if constraintOf(err) == "idempotency_key_pkey" {
		return s.clusterRequest(ctx, key, accept)
	}
	return v, err
}

const (
	clusterUsersSQL = `SELECT name FROM installation WHERE cluster_id = $1 AND deleted_at IS NULL LIMIT 3`

	// insertKeySQL remembers a request that an operation under way takes up.
	insertKeySQL = `INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id) SELECT $1, $2, $3, $4 WHERE $1 <> ''`

	deleteClusterSQL = `WITH key AS (
	INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id) SELECT $1, $2, $3, $4 WHERE $1 <> ''
), cancelled AS (
	UPDATE operation SET state = 'cancelled', fail_reason = 'preempted-by-delete', error = 'a delete was asked for',
		worker = '', finished_at = dormouse_now(), revision = revision + 1
	WHERE resource_id = $3 AND state IN ('active', 'queued') RETURNING id
), c AS (
	UPDATE cluster SET state = $6, state_reason = '', state_detail = '', allow_installations = false, updated_at = dormouse_now()
	WHERE id = $3 AND state = $5 RETURNING id, name
), op AS (
	INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, state, request_state, generation)
	SELECT $4, 'delete-cluster', 'cluster', c.id, c.name, 'active', $6,
		1 + coalesce((SELECT max(generation) FROM operation WHERE resource_id = $3), 0)
	FROM c, (SELECT count(*) FROM cancelled) AS after_the_cancellations
)
INSERT INTO event (kind, resource_type, resource_id, operation_id, data)
SELECT 'cluster.state', 'cluster', id, $4, jsonb_build_object('from', $5::text, 'to', $6::text) FROM c`
)

// DeleteCluster accepts the deletion of a cluster without installations. A
// deletion under way is joined.
func (s *Store) DeleteCluster(ctx context.Context, idOrName string, key fleet.IdempotencyKey) (fleet.ClusterView, error) {
	for try := 1; ; try++ {
		v, err := s.deleteCluster(ctx, idOrName, key)
		if fleet.KindOf(err) != fleet.KindStale || try == maxTries {
			return v, err
		}
	}
}

func (s *Store) deleteCluster(ctx context.Context, idOrName string, key fleet.IdempotencyKey) (fleet.ClusterView, error) {
	return s.clusterRequest(ctx, key, func(tx *Tx) (string, error) {
		c, err := tx.cluster(ctx, idOrName)
		if err != nil {
			return "", err
		}
		switch c.State {
		case fleet.ClusterDeletionRequested, fleet.ClusterDeletionInProgress:
			_, err := tx.exec(ctx, "joining the deletion", insertKeySQL, key.Key, key.RequestHash, c.ID, c.Operation.ID)
			return string(c.ID), err
		case fleet.ClusterDeleted:
			return "", fleet.Errorf(fleet.KindNotFound, "there is no cluster %q", idOrName)
		}
		// Creates hold this lock shared: after it is had, no create that saw the cluster is open.
		var locked bool
		if err := tx.get(ctx, "locking the cluster", &locked, lockResourceSQL, c.ID); err != nil {
			return "", err
		}
		var users []string
		if err := tx.listPlanned(ctx, "looking for installations of the cluster", &users, clusterUsersSQL, c.ID); err != nil {
			return "", err
		}
		if len(users) > 0 {
			return "", fleet.Errorf(fleet.KindNotAccepted, "cluster %s is in use by installation %s: delete it first", c.Name, strings.Join(users, ", "))
		}
		n, err := tx.exec(ctx, "deleting the cluster", deleteClusterSQL, key.Key, key.RequestHash, c.ID, fleet.NewID(), c.State, fleet.ClusterDeletionRequested)
		if err == nil && n == 0 {
			err = fleet.Errorf(fleet.KindStale, "cluster %s changed meanwhile: try again", c.Name)
		}
		return string(c.ID), err
	})
}

const checkClusterSQL = `WITH key AS (
	INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id) SELECT $1, $2, $3, $4 WHERE $1 <> ''
), c AS (
	UPDATE cluster SET state = $6, state_reason = '', state_detail = '', updated_at = dormouse_now() WHERE id = $3 AND state = $5 RETURNING id, name
), op AS (
	INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, state, request_state, generation, observed)
	SELECT $4, $7, 'cluster', c.id, c.name, 'active', CASE WHEN $5::text = $6::text THEN '' ELSE $6 END,
		1 + coalesce((SELECT max(generation) FROM operation WHERE resource_id = $3), 0), $8::jsonb FROM c
), ev AS (
	INSERT INTO event (kind, resource_type, resource_id, operation_id, data)
	SELECT 'cluster.state', 'cluster', id, $4, jsonb_build_object('from', $5::text, 'to', $6::text) FROM c WHERE $5::text <> $6::text
)
SELECT id FROM c`

// CheckCluster accepts another check of a cluster. KindNotAccepted where its state
// takes none, or another operation is at work on it.
func (s *Store) CheckCluster(ctx context.Context, in fleet.CheckCluster) (fleet.ClusterView, error) {
	for try := 1; ; try++ {
		v, err := s.clusterRequest(ctx, in.Key, func(tx *Tx) (string, error) { return tx.checkCluster(ctx, in) })
		switch again := constraintOf(err) == "operation_active" || errors.Is(err, errMovedOn); {
		case !again:
			return v, err
		case try == maxTries:
			return v, fleet.Errorf(fleet.KindNotAccepted, "cluster %s is being worked on: try again", in.IDOrName)
		}
	}
}

func (t *Tx) checkCluster(ctx context.Context, in fleet.CheckCluster) (string, error) {
	c, err := t.cluster(ctx, in.IDOrName)
	if err != nil {
		return "", err
	}
	var locked bool // against a deletion, which cancels what is at work, and another check, which may change settings
	if err := t.get(ctx, "locking the cluster", &locked, lockResourceSQL, c.ID); err != nil {
		return "", err
	}
	if c, err = t.cluster(ctx, string(c.ID)); err != nil {
		return "", err
	}
	kind, requested, ok := c.State.Recheck()
	switch {
	case c.State == fleet.ClusterDeleted:
		return "", fleet.Errorf(fleet.KindNotFound, "there is no cluster %q", in.IDOrName)
	case !ok:
		return "", fleet.Errorf(fleet.KindNotAccepted, "cluster %s is %s and can't be checked now", c.Name, c.State)
	case c.Operation != nil && !c.Operation.State.Finished():
		return "", fleet.Errorf(fleet.KindNotAccepted, "cluster %s is being checked: ask again when operation %s has ended", c.Name, c.Operation.ID)
	}
	observed := map[string]string{}
	if len(c.Hosts) > 0 {
		observed[fleet.ObservedHost] = string(c.Hosts[0].ID)
	}
	if len(in.Settings) > 0 {
		if observed[fleet.ObservedSettings], err = encode(changed(c.Settings, in.Settings)); err != nil {
			return "", err
		}
	}
	text, err := encode(observed)
	if err != nil {
		return "", err
	}
	var id string
	err = t.get(ctx, "beginning the check", &id, checkClusterSQL, in.Key.Key, in.Key.RequestHash, c.ID, in.OperationID, c.State, requested, kind, text)
	if fleet.KindOf(err) == fleet.KindNotFound {
		err = errMovedOn
	}
	return string(c.ID), err
}

// changed are settings with some of them changed.
func changed(settings, by map[string]string) map[string]string {
	all := maps.Clone(settings)
	if all == nil {
		all = map[string]string{}
	}
	for name, value := range by {
		if all[name] = value; value == "" {
			delete(all, name)
		}
	}
	return all
}
