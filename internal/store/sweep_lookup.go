package store

import (
	"context"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

const instancePlaceSQL = `SELECT to_jsonb(o) AS operation, to_jsonb(i) AS installation, NULL AS package,
	jsonb_build_array(to_jsonb(x)) AS instances, NULL AS volume, NULL AS lease, to_jsonb(cl) AS cluster, NULL AS hosts, dormouse_now() AS now
FROM instance x
JOIN installation i ON i.id = x.installation_id
JOIN cluster cl ON cl.id = x.cluster_id
LEFT JOIN operation o ON o.resource_id = i.id AND o.state = 'active'
WHERE x.id = $1 AND x.deleted_at IS NULL`

// InstancePlace returns what is known around one instance: its installation,
// its cluster, the instance alone in Instances, and the installation's active
// operation, or the zero one. KindNotFound where there is no such instance, or
// it is deleted.
func (s *Store) InstancePlace(ctx context.Context, id fleet.InstanceID) (fleet.Snapshot, error) {
	var out fleet.Snapshot
	err := s.read(func(tx *Tx) error {
		var row snapshotRow
		if err := tx.get(ctx, "reading an instance's place", &row, instancePlaceSQL, id); err != nil {
			return err
		}
		var err error
		out, err = row.snapshot()
		return err
	})
	return out, err
}

const deletedVolumesSQL = `SELECT id FROM volume WHERE id = ANY ($1) AND deleted_at IS NOT NULL`

// DeletedVolumes returns those of the volumes whose row says that they were deleted.
func (s *Store) DeletedVolumes(ctx context.Context, ids []fleet.VolumeID) (map[fleet.VolumeID]bool, error) {
	out := map[fleet.VolumeID]bool{}
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = string(id)
	}
	err := s.read(func(tx *Tx) error {
		clear(out)
		var rows []fleet.VolumeID
		if err := tx.list(ctx, "looking for deleted volumes", &rows, deletedVolumesSQL, pq.Array(texts)); err != nil {
			return err
		}
		for _, id := range rows {
			out[id] = true
		}
		return nil
	})
	return out, err
}
