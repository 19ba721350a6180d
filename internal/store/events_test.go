package store

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// readEventsSQL is how events are to be read: in the order of (txid, id), up
// to the oldest transaction that may still write.
const readEventsSQL = `SELECT txid::text AS txid, id FROM event
WHERE (txid, id) > ($1::xid8, $2) AND txid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY txid, id LIMIT 50`

// A reader that goes on from where it was sees every event, though writers
// commit in another order than they began.
func TestEventsHaveNoGapForAReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var seen []int64
	txid, id := "0", int64(0)
	read := func() int {
		var rows []struct {
			TxID string `db:"txid"`
			ID   int64  `db:"id"`
		}
		require.NoError(t, w.db.Select(&rows, readEventsSQL, txid, id))
		for _, r := range rows {
			txid, id = r.TxID, r.ID
			seen = append(seen, r.ID)
		}
		return len(rows)
	}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for j := range 40 {
				tx, err := w.db.Beginx()
				if err != nil {
					t.Error(err)
					return
				}
				_, err = tx.Exec("INSERT INTO event (kind, resource_type, resource_id) VALUES ('test', 'test', $1)", fmt.Sprint(i, j))
				if err == nil && j%5 == 0 { // some take their time
					_, err = tx.Exec("SELECT pg_sleep(0.01)")
				}
				if err == nil && j%7 == 0 {
					err = tx.Rollback()
				} else if err == nil {
					err = tx.Commit()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for working := true; working; {
		select {
		case <-done:
			working = false
		default:
			read()
		}
	}
	require.Eventually(t, func() bool { // other databases of the server may hold the horizon for a moment
		for read() > 0 {
		}
		return len(seen) == w.count(t, "SELECT count(*) FROM event")
	}, waitTime, tick, "the reader missed something")
	unique := map[int64]bool{}
	for _, e := range seen {
		require.False(t, unique[e], "event %d was read twice", e)
		unique[e] = true
	}
}

// Each change of state has its event, in order, from the first to the last.
func TestEventsTellTheWholeStory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.running("hello")
	w.mustChange("hello", "update")
	w.mustChange("hello", "hibernate")
	w.commit(finish(w.claimOne(), "stable"))
	w.commit(finish(w.claimOne(), "hibernating"))
	w.mustChange("hello", "delete")
	w.commit(finish(w.claimOne(), "deleted"))
	var moves []string
	require.NoError(t, w.db.SelectContext(context.Background(), &moves,
		`SELECT (data ->> 'from') || '>' || (data ->> 'to') FROM event WHERE resource_id = $1 AND kind = 'installation.state' ORDER BY txid, id`, string(v.ID)))
	require.Equal(t, []string{">creation-requested", "creation-requested>creation-in-progress", "creation-in-progress>stable", "stable>update-requested",
		"update-requested>update-in-progress", "update-in-progress>stable", "stable>hibernation-requested", "hibernation-requested>hibernation-in-progress",
		"hibernation-in-progress>hibernating", "hibernating>deletion-requested", "deletion-requested>deletion-in-progress", "deletion-in-progress>deleted"}, moves)
}
