package store

import (
	"context"

	"dormouse/internal/fleet"
)

const (
	// lockServingSQL waits for whatever writes the installation now.
	lockServingSQL = `SELECT i.id FROM instance x JOIN installation i ON i.id = x.installation_id
WHERE x.id = $1 AND x.serving AND x.deleted_at IS NULL AND i.state = 'stable' FOR UPDATE OF i`

	observeExitSQL = `WITH ins AS (
	UPDATE installation i SET state = $3, state_reason = $4, state_detail = $5, running_package_id = '',
		version = i.version + 1, updated_at = dormouse_now()
	FROM instance x
	WHERE i.id = $1 AND i.state = 'stable' AND i.deleted_at IS NULL AND x.id = $2 AND x.installation_id = i.id AND x.serving AND x.deleted_at IS NULL
		AND NOT EXISTS (SELECT FROM operation o WHERE o.resource_id = i.id AND o.state = 'active')
	RETURNING i.id, i.owner
), off AS (
	UPDATE instance x SET power = 'off', serving = false, endpoints = NULL, exit_record = $6::jsonb FROM ins WHERE x.id = $2
), detached AS (
	UPDATE volume v SET attached_instance_id = NULL FROM ins WHERE v.attached_instance_id = $2 AND v.deleted_at IS NULL
), ev AS (
	INSERT INTO event (kind, resource_type, resource_id, owner, data)
	SELECT 'installation.state', 'installation', id, owner,
		jsonb_build_object('from', 'stable', 'to', $3::text, 'reason', $4::text, 'detail', $5::text) FROM ins
)
SELECT id FROM ins`
)

// ObserveExit records that the program of a serving instance ended by itself,
// and leaves the installation in state to (StateExited or StateCrashLooping)
// with its volume detached. It keeps the capacity that it holds. False says
// that this does not apply, or no longer: an operation is at work, the
// installation is not stable, or the instance does not serve. The caller must
// have observed the instance since it last came into service.
func (s *Store) ObserveExit(ctx context.Context, id fleet.InstanceID, exit fleet.Exit, to fleet.State) (bool, error) {
	if to != fleet.StateExited && to != fleet.StateCrashLooping {
		return false, fleet.Errorf(fleet.KindInternal, "recording the exit of instance %s: state %q is not one that a program ends in", id, to)
	}
	record, err := encode(exit)
	if err != nil {
		return false, err
	}
	err = s.InTx(ctx, func(tx *Tx) error {
		var installation string
		if err := tx.get(ctx, "finding whose program ended", &installation, lockServingSQL, id); err != nil {
			return err
		}
		return tx.get(ctx, "recording how the program ended", &installation, observeExitSQL, installation, id, to, exit.Reason, exit.String(), record)
	})
	if fleet.KindOf(err) == fleet.KindNotFound {
		return false, nil
	}
	return err == nil, err
}
