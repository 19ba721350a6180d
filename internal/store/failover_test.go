package store

import (
	"context"
	"net"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/pgtest"
)

// What can go wrong in a failover, with sessions that are open.
func TestFailover(t *testing.T) {
	t.Parallel()
	pair := pgtest.NewPair(t, migrateUp)
	board := pgtest.NewSwitchboard(t, pair.Primary())
	w := &world{Store: open(t, board.URL(pair.Primary())), t: t}
	w.cluster = w.newCluster("local", fleet.Host{ID: "h1", Name: "h1", State: fleet.HostUp, MemoryMiB: 1000, DiskMiB: 1000, AddressPool: "10.77.0.0/29"})
	w.pkg = w.newPackage("web", "1")
	w.running("before")
	for _, part := range []struct {
		name string
		run  func(*testing.T, *world, *pgtest.Pair, *pgtest.Switchboard)
	}{{"TheURLNamesBoth", bothNamed}, {"TheStandbyIsRefused", standbyRefused}, {"ThePrimaryTakesNoMoreWrites", noMoreWrites}} {
		require.True(t, t.Run(part.name, func(t *testing.T) { w.t = t; part.run(t, w, pair, board) }))
	}
}

// Of the hosts in the URL, the one that takes writes is used.
func bothNamed(t *testing.T, w *world, pair *pgtest.Pair, board *pgtest.Switchboard) {
	standby := pgtest.NewSwitchboard(t, pair.Standby())
	u, err := url.Parse(w.url)
	require.NoError(t, err)
	u.Host = ""
	q := url.Values{"sslmode": {"disable"}, "host": {"127.0.0.1,127.0.0.1"}}
	_, first, err := net.SplitHostPort(standby.Addr().String())
	require.NoError(t, err)
	_, second, err := net.SplitHostPort(board.Addr().String())
	require.NoError(t, err)
	q.Set("port", first+","+second)
	u.RawQuery = q.Encode()
	s := open(t, u.String())
	require.NoError(t, s.Ping(t.Context()))
	require.NoError(t, s.Lead(t.Context(), "sweep", func(context.Context) error { return nil }))
}

// The database's name leads to the standby. A session with it answered reads from
// before and was kept in the pool for as long as it was used; a lead taken there
// excluded nobody.
func standbyRefused(t *testing.T, w *world, pair *pgtest.Pair, board *pgtest.Switchboard) {
	ctx := t.Context()
	board.Point(pair.Standby())
	board.Cut()
	for range 3 * w.maxConns {
		_, err := w.NextEpoch(ctx)
		require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)
		_, err = w.Installation(ctx, "", "before")
		require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)
		_, err = w.Claim(ctx, claimRequest("w1"))
		require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)
	}
	err := w.Lead(ctx, "sweep", func(context.Context) error { return nil })
	require.ErrorContains(t, err, "standby", "a lock on a standby excludes nobody")

	board.Point(pair.Primary())
	require.Eventually(t, func() bool { return w.Ping(ctx) == nil }, waitTime, tick)
	w.mustChange("before", fleet.OperationRestart)
	w.commit(finish(w.claimOne(), fleet.StateStable))
}

// In a switch-over the primary is told to take no more writes. BEGIN READ WRITE,
// which the driver says, overruled that: writes went on, to be lost. And when
// the name led to the new primary, the sessions with the old one stayed.
func noMoreWrites(t *testing.T, w *world, pair *pgtest.Pair, board *pgtest.Switchboard) {
	admin := w.plain(t)
	for _, query := range []string{"ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"} {
		_, err := admin.Exec(query)
		require.NoError(t, err)
	}
	refused := func() bool { _, err := w.change("before", fleet.OperationRestart); return err != nil }
	require.Eventually(t, refused, waitTime, tick)
	for range 3 * w.maxConns {
		_, err := w.change("before", fleet.OperationRestart)
		require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)
		_, err = w.Claim(t.Context(), claimRequest("w1"))
		require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)
	}
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(w.Ping(t.Context())))

	pair.Follow()
	pair.Promote()
	board.Point(pair.Standby())
	require.Eventually(t, func() bool { return !refused() }, waitTime, tick, "the old primary is still there, and nothing has cut its sessions")
	for range w.maxConns { // wherever a session is
		w.mustChange("before", fleet.OperationRestart)
	}
	require.Len(t, w.claim(), 1)
}
