package store

import (
	"context"
	"database/sql"
	"time"

	"dormouse/internal/fleet"
)

const (
	expectedInstancesSQL = `SELECT x.id, i.id, i.name, x.host_id, x.provider_ref, x.power, x.serving, o.id IS NOT NULL, i.state,
	(extract(epoch FROM dormouse_now() - i.updated_at) * 1000)::bigint
FROM instance x
JOIN installation i ON i.id = x.installation_id
LEFT JOIN operation o ON o.resource_id = i.id AND o.state = 'active'
WHERE x.cluster_id = $1 AND x.deleted_at IS NULL ORDER BY x.id`

	expectedVolumesSQL = `SELECT v.id, i.id, i.name, v.host_id, v.provider_ref, v.size_mib, coalesce(v.attached_instance_id, ''), o.id IS NOT NULL,
	i.state, i.updated_at
FROM volume v
JOIN installation i ON i.id = v.installation_id
LEFT JOIN operation o ON o.resource_id = i.id AND o.state = 'active'
WHERE v.cluster_id = $1 AND v.deleted_at IS NULL ORDER BY v.id`
)

// ExpectedInstances returns every instance of a cluster that is not deleted, in
// order of ID, as of one moment.
func (s *Store) ExpectedInstances(ctx context.Context, cluster fleet.ClusterID) ([]fleet.ExpectedInstance, error) {
	out := []fleet.ExpectedInstance{}
	err := s.read(func(tx *Tx) error {
		return tx.each(ctx, "listing a cluster's instances", func(rows *sql.Rows) error {
			var x fleet.ExpectedInstance
			var rested int64
			err := rows.Scan(&x.ID, &x.InstallationID, &x.InstallationName, &x.HostID, &x.ProviderRef, &x.Power, &x.Serving,
				&x.OperationActive, &x.State, &rested)
			x.Rested = time.Duration(rested) * time.Millisecond
			out = append(out, x)
			return err
		}, expectedInstancesSQL, cluster)
	})
	return out, err
}

// ExpectedVolumes returns every volume of a cluster that is not deleted, in
// order of ID, as of one moment.
func (s *Store) ExpectedVolumes(ctx context.Context, cluster fleet.ClusterID) ([]fleet.ExpectedVolume, error) {
	out := []fleet.ExpectedVolume{}
	err := s.read(func(tx *Tx) error {
		return tx.each(ctx, "listing a cluster's volumes", func(rows *sql.Rows) error {
			var v fleet.ExpectedVolume
			err := rows.Scan(&v.ID, &v.InstallationID, &v.InstallationName, &v.HostID, &v.ProviderRef, &v.SizeMiB, &v.AttachedInstanceID,
				&v.OperationActive, &v.State, &v.ChangedAt)
			v.ChangedAt = v.ChangedAt.UTC()
			out = append(out, v)
			return err
		}, expectedVolumesSQL, cluster)
	})
	return out, err
}

const nextEpochSQL = `SELECT nextval('operation_epoch')`

// NextEpoch returns a fencing token higher than any given out before, for work
// outside of an operation: the reaper's.
func (s *Store) NextEpoch(ctx context.Context) (fleet.Epoch, error) {
	var e fleet.Epoch
	err := s.read(func(tx *Tx) error { return tx.get(ctx, "drawing an epoch", &e, nextEpochSQL) })
	return e, err
}
