package store

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// Every connection was in a transaction that waited for one more connection to
// prepare its first statement: the first burst of requests after a start stood
// still until their deadlines ended it.
func TestFirstBurstOnAFullPool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, err := Open(t.Context(), Options{URL: w.url, MaxConns: 4})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, 32)
	begin := make(chan struct{})
	for i := range errs {
		in := w.request(fmt.Sprintf("burst-%d", i))
		wg.Go(func() {
			<-begin
			_, errs[i] = s.CreateInstallation(ctx, in)
			if errs[i] == nil {
				_, errs[i] = s.ChangeInstallation(ctx, fleet.Change{
					IDOrName: in.Name, Kind: fleet.OperationDelete, OperationID: newOperationID()})
			}
		})
	}
	close(begin)
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

// On a server with jit on, a list of many was compiled each time, for a second.
func TestStatementsAreNotCompiled(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.sqlExec(t, "ALTER DATABASE "+s.text(t, "SELECT current_database()")+" SET jit = on")
	require.Equal(t, "off", open(t, s.url).text(t, "SHOW jit"))
	require.Equal(t, "on", open(t, with(t, s.url, "jit", "on")).text(t, "SHOW jit"))
}

// A wait for a connection had no end of its own: requests stood behind slow ones
// until their clients gave up.
func TestAWaitForAConnectionEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, err := Open(t.Context(), Options{URL: w.url, MaxConns: 3, Name: "api", Wait: 20 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	holding, release := make(chan struct{}), make(chan struct{})
	var held sync.WaitGroup
	for range 2 {
		held.Go(func() {
			err := s.InTx(t.Context(), func(*Tx) error {
				holding <- struct{}{}
				<-release
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
		<-holding
	}
	for name, use := range map[string]func() error{
		"Read":        func() error { _, err := s.ListClusters(t.Context(), fleet.Page{Limit: 1}); return err },
		"Transaction": func() error { return s.InTx(t.Context(), func(*Tx) error { return nil }) },
	} {
		err := use()
		require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), name)
		require.ErrorContains(t, err, "the api's 2 connections to the database have been busy for 20ms")
		var typed *fleet.Error
		require.ErrorAs(t, err, &typed)
		require.Equal(t, time.Second, typed.RetryAfter)
	}
	require.NoError(t, s.Ping(t.Context()), "whether the database is there can be told")
	require.Equal(t, PoolStats{Max: 3, InUse: 2, Idle: s.PoolStats().Idle, Waits: 2, TimedOut: 2}, s.PoolStats())
	close(release)
	held.Wait()
	_, err = s.ListClusters(t.Context(), fleet.Page{Limit: 1})
	require.NoError(t, err)
	require.Zero(t, s.PoolStats().InUse, "what was waited for in vain is not held")
}
