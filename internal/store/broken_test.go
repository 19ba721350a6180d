package store

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// cutSQL ends all other connections to the database.
const cutSQL = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`

func TestReadOnlyDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	url := with(t, w.url, "default_transaction_read_only", "on")
	_, err := Open(context.Background(), Options{URL: url})
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
	require.Contains(t, err.Error(), "takes no writes")

	// One that becomes so later, with sessions that begin anew; failover_test.go
	// has those that are open.
	w.sqlExec(t, "ALTER DATABASE "+w.text(t, "SELECT current_database()")+" SET default_transaction_read_only = on")
	_, err = w.plain(t).Exec(cutSQL)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err = w.NextEpoch(context.Background())
		return err != nil && strings.Contains(err.Error(), "takes no writes")
	}, waitTime, tick)
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(w.Ping(context.Background())))
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(translate("writing", &pq.Error{Code: "25006"})))
}

func TestNoDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	_, err := Open(context.Background(), Options{URL: "postgres://nobody@127.0.0.1:1/none?sslmode=disable"})
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
	_, err = Open(context.Background(), Options{URL: "postgres://%zz"})
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
}

// All connections are cut again and again under load: whoever is told of it is
// told KindUnavailable, and the pool recovers.
func TestPoolRecoversFromCutConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.running("hello")
	ctx := context.Background()
	admin := w.plain(t)
	var mu sync.Mutex
	var failures []error
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i := range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var err error
				if i%2 == 0 {
					_, err = w.Installation(ctx, "", string(v.ID))
				} else {
					_, err = w.Claim(ctx, claimRequest("w1"))
				}
				if err != nil {
					mu.Lock()
					failures = append(failures, err)
					mu.Unlock()
				}
			}
		})
	}
	for range 30 {
		var n int
		require.NoError(t, admin.Get(&n, cutSQL))
		_, err := w.CreateInstallation(ctx, fleet.NewInstallation{Name: "x", PackageRef: "none"}) // sees to it that there is something to cut
		require.Error(t, err)
	}
	close(stop)
	wg.Wait()
	for _, err := range failures {
		require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)
	}
	require.Eventually(t, func() bool { return w.Ping(ctx) == nil }, waitTime, tick)
	require.Eventually(t, func() bool { _, err := w.change("hello", fleet.OperationUpdate); return err == nil }, waitTime, tick)
	require.Len(t, w.claim(), 1)
}
