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
