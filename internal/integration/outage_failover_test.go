package integration

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/pgtest"
	"dormouse/internal/provider/sim"
	"dormouse/internal/store"
	"dormouse/internal/supervisor/engine"
)

// The database fails over while work is under way. Sessions with the old primary,
// which takes no more writes but answers, stay open. Nothing is decided by what it
// says: the control plane says that it is not ready, goes over to the new primary
// by itself, and loses nothing that was acknowledged.
func TestOutageAFailoverLeavesSessionsOnAReadOnlyServer(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t, migrate)
	board := pgtest.NewSwitchboard(t, pair.Primary())
	w := newBareWorld(t, board.URL(pair.Primary()), wallClock{}, sim.Options{})
	w.createCluster(clusterName, map[string]string{"boot_time": "20ms", "latency": "2ms"})
	_, err := w.store.CreatePackage(w.ctx, fleet.Package{Name: "web", Version: "1", Digest: "d", Kernel: fleet.KernelLinux, Manifest: fleet.Manifest{Program: "/web", Persist: []string{"/data"}}})
	require.NoError(t, err)
	requests, err := store.Open(w.ctx, store.Options{URL: w.url, MaxConns: 4, Name: "api"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = requests.Close() })
	front := w.api(requests)
	e := w.start(setup{store: func(real engine.Store) engine.Store { return real }})
	accepted := map[fleet.InstallationID]bool{}
	create := func() error {
		id := fleet.InstallationID(fleet.NewID())
		_, err := requests.CreateInstallation(w.ctx, fleet.NewInstallation{ID: id, OperationID: newOp(), Name: fmt.Sprintf("n%s", id), Owner: "acme", PackageRef: "web",
			ClusterName: clusterName, MemoryMiB: 1, DiskMiB: 1, VCPUs: 1, WhenFull: fleet.WhenFullWait})
		if err == nil {
			accepted[id] = true
		}
		w.wake()
		return err
	}
	for range 20 {
		require.NoError(t, create())
	}
	// The switch-over begins: the primary takes no more writes.
	for _, query := range []string{"ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"} {
		w.exec(query)
	}
	w.eventually(func() bool { return front.get("/readyz", nil).StatusCode == http.StatusServiceUnavailable }, func() string { return "it is not ready" })
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(create()))
	pair.Follow()
	pair.Promote()
	board.Point(pair.Standby()) // and nothing has cut the sessions with the old one
	w.eventually(func() bool { return front.get("/readyz", nil).StatusCode == http.StatusOK }, func() string { return "it is ready again, by itself" })
	for range 12 { // whichever session is used
		require.NoError(t, create())
	}
	_ = w.db.Close() // the test's own sessions are with the old one
	w.db = w.open(w.url)
	w.settled()
	e.stop()
	require.Len(t, accepted, 32)
	for id := range accepted {
		v, err := w.store.Installation(w.ctx, "", string(id))
		require.NoError(t, err)
		require.Equal(t, fleet.StateStable, v.State, v.StateDetail)
	}
	require.Equal(t, []string{"f"}, w.strings(`SELECT pg_is_in_recovery()::text::"char"::text`))
	w.invariants()
}
