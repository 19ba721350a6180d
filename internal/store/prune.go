package store

import (
	"context"
	"time"
)

// keyAge is how long an idempotency key is remembered.
const keyAge = 24 * time.Hour

const (
	// The rows are named by where they lie (none of these is ever updated), which no plan can miss.
	pruneKeysSQL = `DELETE FROM idempotency_key WHERE ctid = ANY (ARRAY(
	SELECT ctid FROM idempotency_key WHERE created_at < dormouse_now() - $1 * interval '1 ms' ORDER BY created_at LIMIT $2))`

	// Events lie in order of age, so that only the oldest are looked at.
	pruneEventsSQL = `DELETE FROM event WHERE ctid = ANY (ARRAY(
	SELECT ctid FROM (SELECT ctid, at FROM event ORDER BY id LIMIT $2) oldest WHERE at < dormouse_now() - $1 * interval '1 ms'))`

	// The newest operation of a resource stays, however old: it is shown with
	// it. So as not to look at those again in each batch, a batch says how far
	// it came.
	pruneOperationsSQL = `WITH oldest AS MATERIALIZED (
	SELECT id, resource_id, generation, state FROM operation
	WHERE id > $3 AND created_at < dormouse_now() - $1 * interval '1 ms' ORDER BY id LIMIT $2
), gone AS (
	DELETE FROM operation o USING oldest
	WHERE o.id = oldest.id AND o.finished_at < dormouse_now() - $1 * interval '1 ms' AND EXISTS (
		SELECT FROM operation n WHERE n.resource_id = oldest.resource_id AND n.generation > oldest.generation AND n.state <> 'queued')
	RETURNING o.id
)
SELECT coalesce((SELECT max(id) FROM oldest), '') AS last, (SELECT count(*) FROM gone) AS gone`
)

// pruneBatch is how many rows one transaction looks at.
const pruneBatch = 1000

// Prune removes what nobody needs any more: idempotency keys of more than a
// day ago, and finished operations (but for the newest of each resource) and
// events that are older than olderThan. It removes at most about limit rows,
// in small transactions, and returns how many; as many as limit say that there
// is more. An operation stays at least as long as the key that names it.
func (s *Store) Prune(ctx context.Context, olderThan time.Duration, limit int) (int64, error) {
	var total int64
	for _, p := range []struct {
		what, query string
		age         time.Duration
	}{{"removing old idempotency keys", pruneKeysSQL, keyAge}, {"removing old events", pruneEventsSQL, olderThan}} {
		for n := int64(1); n > 0 && total < int64(limit); total += n {
			err := s.InTx(ctx, func(tx *Tx) (err error) {
				n, err = tx.exec(ctx, p.what, p.query, p.age.Milliseconds(), min(pruneBatch, int64(limit)-total))
				return err
			})
			if err != nil {
				return total, err
			}
		}
	}
	var batch struct {
		Last string `db:"last"`
		Gone int64  `db:"gone"`
	}
	for after := ""; total < int64(limit); after = batch.Last {
		err := s.InTx(ctx, func(tx *Tx) error {
			return tx.get(ctx, "removing old operations", &batch, pruneOperationsSQL, max(olderThan, keyAge).Milliseconds(), min(pruneBatch, int64(limit)-total), after)
		})
		if err != nil {
			return total, err
		}
		total += batch.Gone
		if batch.Last == "" {
			break
		}
	}
	return total, nil
}
