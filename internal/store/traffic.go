package store

import (
	"context"
	"database/sql"

	"dormouse/internal/fleet"
)

const (
	trafficColumns = `SELECT i.id, i.name, i.state, i.idle, coalesce(a.requests, 0) AS requests, coalesce(a.bytes_in, 0) AS bytes_in,
	coalesce(a.bytes_out, 0) AS bytes_out, coalesce(a.open, 0) AS open, a.last_active_at, a.told_at, i.awake_since, i.asleep_since, i.wakes,
	coalesce((SELECT o.kind FROM operation o WHERE o.resource_id = i.id AND o.state = 'active'), '') AS busy, dormouse_now() AS now
`
	trafficOf        = trafficColumns + `FROM installation i LEFT JOIN installation_activity a ON a.installation_id = i.id `
	trafficByIDSQL   = trafficOf + `WHERE i.id = $1`
	trafficByNameSQL = trafficOf + `WHERE i.name = $1 AND i.deleted_at IS NULL`

	// listTrafficSQL goes through what was told in order of when somebody last came.
	listTrafficSQL = trafficColumns + `FROM (SELECT * FROM installation_activity WHERE last_active_at <= dormouse_now() ORDER BY last_active_at DESC LIMIT $1) a
JOIN LATERAL (SELECT * FROM installation n WHERE n.id = a.installation_id AND n.deleted_at IS NULL OFFSET 0) i ON true
ORDER BY a.last_active_at DESC`
)

type trafficRow struct {
	ID           fleet.InstallationID `db:"id"`
	Name         string               `db:"name"`
	State        fleet.State          `db:"state"`
	Idle         jsonText             `db:"idle"`
	Requests     int64                `db:"requests"`
	BytesIn      int64                `db:"bytes_in"`
	BytesOut     int64                `db:"bytes_out"`
	Open         int64                `db:"open"`
	LastActiveAt sql.NullTime         `db:"last_active_at"`
	ToldAt       sql.NullTime         `db:"told_at"`
	AwakeSince   sql.NullTime         `db:"awake_since"`
	AsleepSince  sql.NullTime         `db:"asleep_since"`
	Wakes        int64                `db:"wakes"`
	Busy         fleet.OperationKind  `db:"busy"`
	Now          sql.NullTime         `db:"now"`
}

func (r trafficRow) traffic() (fleet.Traffic, error) {
	t := fleet.Traffic{
		Activity: fleet.Activity{InstallationID: r.ID, Requests: r.Requests, BytesIn: r.BytesIn, BytesOut: r.BytesOut, Open: r.Open, LastAt: timeOf(r.LastActiveAt)},
		Name:     r.Name, State: r.State, ToldAt: timeOf(r.ToldAt), AwakeSince: timeOf(r.AwakeSince), AsleepSince: timeOf(r.AsleepSince),
		Wakes: r.Wakes, Busy: r.Busy, Now: timeOf(r.Now),
	}
	var unsaid string // the installation's own view says it
	return t, shown(&unsaid, r.Idle.into(&t.Idle))
}

// Traffic tells of one installation's visitors, found as Installation finds it.
func (s *Store) Traffic(ctx context.Context, idOrName string) (fleet.Traffic, error) {
	var r trafficRow
	err := s.read(func(tx *Tx) error {
		err := error(fleet.Errorf(fleet.KindNotFound, "no such ID"))
		if fleet.ValidID(idOrName) {
			err = tx.get(ctx, "reading traffic", &r, trafficByIDSQL, idOrName)
		}
		if fleet.KindOf(err) == fleet.KindNotFound {
			err = tx.get(ctx, "reading traffic", &r, trafficByNameSQL, idOrName)
		}
		return err
	})
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.Traffic{}, fleet.Errorf(fleet.KindNotFound, "there is no installation %q", idOrName)
	}
	if err != nil {
		return fleet.Traffic{}, err
	}
	return r.traffic()
}

// ListTraffic tells of the installations that were visited last, latest first.
func (s *Store) ListTraffic(ctx context.Context, limit int) ([]fleet.Traffic, error) {
	out := []fleet.Traffic{}
	err := s.read(func(tx *Tx) error {
		var rows []trafficRow
		if err := tx.list(ctx, "listing traffic", &rows, listTrafficSQL, limit); err != nil {
			return err
		}
		for _, r := range rows {
			t, err := r.traffic()
			if err != nil {
				return err
			}
			out = append(out, t)
		}
		return nil
	})
	return out, err
}
