package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// recordActivitySQL adds to what was told before. The rows are written in order, so
// that two batches at once do not wait for one another in a circle.
const recordActivitySQL = `INSERT INTO installation_activity AS have (installation_id, last_active_at, requests, bytes_in, bytes_out, open, told_at)
SELECT i.id, least(max(a.last_at), dormouse_now()), sum(a.requests), sum(a.bytes_in), sum(a.bytes_out), sum(a.open), dormouse_now()
FROM unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) AS a (id, last_at, requests, bytes_in, bytes_out, open)
JOIN installation i ON i.id = a.id AND i.deleted_at IS NULL
GROUP BY i.id ORDER BY i.id
ON CONFLICT (installation_id) DO UPDATE SET last_active_at = greatest(have.last_active_at, excluded.last_active_at),
	requests = have.requests + excluded.requests, bytes_in = have.bytes_in + excluded.bytes_in, bytes_out = have.bytes_out + excluded.bytes_out,
	open = excluded.open, told_at = excluded.told_at`

// mostTold bounds what a gateway can tell at once.
const mostTold = 1 << 50

// RecordActivity adds what a gateway has seen to what it told before, in one
// statement for all; of installations that are gone nothing is kept. A time that
// lies ahead of the database's is taken for now.
func (s *Store) RecordActivity(ctx context.Context, seen []fleet.Activity) error {
	if len(seen) == 0 {
		return nil
	}
	ids, at := make([]string, len(seen)), make([]time.Time, len(seen))
	var numbers [4][]int64
	for i, a := range seen {
		ids[i], at[i] = string(a.InstallationID), a.LastAt
		for n, v := range []int64{a.Requests, a.BytesIn, a.BytesOut, a.Open} {
			numbers[n] = append(numbers[n], min(max(0, v), mostTold)) // or a sum might fail, and the whole batch with it
		}
	}
	return s.InTx(ctx, func(tx *Tx) error {
		_, err := tx.exec(ctx, "recording activity", recordActivitySQL, pq.Array(ids), pq.Array(at),
			pq.Array(numbers[0]), pq.Array(numbers[1]), pq.Array(numbers[2]), pq.Array(numbers[3]))
		return err
	})
}

// idleCandidatesSQL reads those awake that may fall asleep by themselves, and those
// whose schedules are due: the first index holds no sleepers, the second one is in
// order of what is due. No policy says less than a minute, so that the first is
// entered behind those that have just woken. What a gateway has told to be open
// counts for three minutes.
const idleCandidatesSQL = `(SELECT i.id, i.version, true AS idle, i.awake_since, i.idle, i.schedule_seen_at, i.schedule_due_at, dormouse_now()
FROM installation i
LEFT JOIN LATERAL (SELECT * FROM installation_activity x WHERE x.installation_id = i.id OFFSET 0) a ON true
WHERE i.state = 'stable' AND i.idle_after IS NOT NULL AND i.awake_since <= dormouse_now() - interval '1 min'
	AND i.awake_since <= dormouse_now() - greatest(i.idle_after, i.minimum_awake) * interval '1 s'
	AND (a.last_active_at IS NULL OR a.last_active_at <= dormouse_now() - i.idle_after * interval '1 s' AND NOT (a.open > 0 AND a.told_at > dormouse_now() - interval '3 min'))
	AND NOT EXISTS (SELECT FROM operation o WHERE o.resource_id = i.id AND o.state = 'active')
ORDER BY i.awake_since LIMIT $1)
UNION ALL
(SELECT i.id, i.version, false, i.awake_since, i.idle, i.schedule_seen_at, i.schedule_due_at, dormouse_now()
FROM installation i WHERE i.schedule_due_at <= dormouse_now() AND i.schedule_due_at IS NOT NULL AND i.deleted_at IS NULL
ORDER BY i.schedule_due_at LIMIT $1)`

// IdleCandidates returns, for a whole fleet in one query, at most limit
// installations that are to be put to sleep because nobody comes, and as many
// whose schedules are due. An installation may be among both.
func (s *Store) IdleCandidates(ctx context.Context, limit int) ([]fleet.IdleCandidate, error) {
	var out []fleet.IdleCandidate
	err := s.read(func(tx *Tx) error {
		out = nil
		return tx.each(ctx, "looking for idle installations", func(rows *sql.Rows) error {
			var c fleet.IdleCandidate
			var policy sql.RawBytes
			var seen, due sql.NullTime
			if err := rows.Scan(&c.InstallationID, &c.Version, &c.Idle, &c.AwakeSince, &policy, &seen, &due, &c.Now); err != nil {
				return err
			}
			c.AwakeSince, c.Now, c.ScheduleSeenAt, c.ScheduleDueAt = c.AwakeSince.UTC(), c.Now.UTC(), timeOf(seen), timeOf(due)
			if err := (jsonText{policy}).into(&c.Policy); err != nil {
				c.Policy = fleet.IdlePolicy{} // one row that can't be read must not keep the others awake
			}
			out = append(out, c)
			return nil
		}, idleCandidatesSQL, limit)
	})
	return out, err
}

const schedulesSeenSQL = `UPDATE installation i SET schedule_seen_at = s.seen_at, schedule_due_at = s.next_at
FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[]) AS s (id, due, seen_at, next_at)
WHERE i.id = s.id AND i.schedule_due_at = s.due`

// SchedulesSeen records how far schedules have been carried out, in one statement.
// Where they have changed meanwhile nothing is written: they are due still.
func (s *Store) SchedulesSeen(ctx context.Context, seen []fleet.ScheduleSeen) error {
	if len(seen) == 0 {
		return nil
	}
	ids, due, at, next := make([]string, len(seen)), make([]time.Time, len(seen)), make([]time.Time, len(seen)), make([]sql.NullTime, len(seen))
	for i, x := range seen {
		ids[i], due[i], at[i], next[i] = string(x.InstallationID), x.Due, x.SeenAt, nullTime(x.NextAt)
	}
	return s.InTx(ctx, func(tx *Tx) error {
		_, err := tx.exec(ctx, "recording schedules", schedulesSeenSQL, pq.Array(ids), pq.Array(due), pq.Array(at), pq.Array(next))
		return err
	})
}
