package store

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

const cutLeadersSQL = `SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`

func TestOneLeads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	leading, release := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	own := errors.New("done")
	go func() {
		first <- w.Lead(ctx, "sweep", func(context.Context) error { close(leading); <-release; return own })
	}()
	<-leading
	var second atomic.Bool
	waiting := make(chan error, 1)
	go func() {
		waiting <- w.Lead(ctx, "sweep", func(context.Context) error { second.Store(true); return nil })
	}()
	require.NoError(t, w.Lead(ctx, "prune", func(context.Context) error { return nil }), "another name is another lead")
	impatient, cancel := context.WithCancel(ctx)
	cancel()
	require.Error(t, w.Lead(impatient, "sweep", func(context.Context) error { return nil }))
	require.False(t, second.Load())
	close(release)
	require.ErrorIs(t, <-first, own)
	require.NoError(t, <-waiting)
	require.True(t, second.Load(), "the lead was given back")
}

func TestLeadEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	leading := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- w.Lead(context.Background(), "sweep", func(ctx context.Context) error {
			close(leading)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	<-leading
	require.Equal(t, 1, w.count(t, cutLeadersSQL))
	err := <-ended
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)
	require.NoError(t, w.Lead(context.Background(), "sweep", func(context.Context) error { return nil }))
}

// While it leads, and while others wait for their next poll, nothing is asked.
func TestAnIdleLeaderCostsNoStatement(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sqlExec(t, "CREATE EXTENSION pg_stat_statements")
	require.NoError(t, w.Lead(context.Background(), "sweep", func(context.Context) error {
		n, _ := w.statements(func() {})
		require.Zero(t, n)
		return nil
	}))
}

func TestListenAndNotify(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	called := make(chan struct{}, 1000)
	ended := make(chan error, 1)
	go func() { ended <- w.Listen(ctx, "work", func() { called <- struct{}{} }) }()
	<-called // it listens now
	require.NoError(t, w.Notify(ctx, "other"))
	require.NoError(t, w.Notify(ctx, "work"))
	<-called
	// The connection breaks: after it is back, whatever was missed counts as called.
	require.Positive(t, w.count(t, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ILIKE 'LISTEN %'`))
	<-called
	require.NoError(t, w.Notify(ctx, "work"))
	<-called
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}
