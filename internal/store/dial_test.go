package store

import (
	"context"
	"database/sql"
	"net"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// TestSilentDatabase: a Postgres that was stopped (SIGSTOP) takes connections
// and says nothing. /readyz used to hang with it, for lib/pq waits without a
// limit even where the context has ended.
func TestSilentDatabase(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	connector, err := pq.NewConnector("postgres://dormouse@" + l.Addr().String() + "/dormouse?sslmode=disable")
	require.NoError(t, err)
	connector.Dialer(dialer{answer: 50 * time.Millisecond})
	db := sql.OpenDB(connector)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	ended := make(chan error, 1)
	go func() { ended <- db.PingContext(context.Background()) }()
	select {
	case err := <-ended:
		require.Error(t, err)
		require.Equal(t, fleet.KindUnavailable, fleet.KindOf(translate("asking", err)))
	case <-time.After(time.Minute):
		require.Fail(t, "it waits for ever")
	}
}
