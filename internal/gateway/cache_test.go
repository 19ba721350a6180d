package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func testCache(f *fakeRoutes) *cache { return newCache(f, noMetrics{}, f.clock) }

func TestCacheAsksOncePerSecond(t *testing.T) {
	t.Parallel()
	f := newRoutes(stable("acme", "a:1"))
	c := testCache(f)
	for range 5 {
		route, err := c.route(t.Context(), "acme")
		require.NoError(t, err)
		require.Equal(t, "a:1", route.Address)
		_, err = c.route(t.Context(), "other")
		require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	}
	require.Equal(t, 2, f.lookups())
	f.change(func() {
		f.now = f.now.Add(freshFor)
		f.routes["acme"] = stable("acme", "a:2")
		f.routes["other"] = stable("other", "a:3")
	})
	for name, want := range map[string]string{"acme": "a:2", "other": "a:3"} {
		route, err := c.route(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, want, route.Address)
	}
	f.change(func() { f.now = f.now.Add(freshFor); delete(f.routes, "acme") })
	_, err := c.route(t.Context(), "acme")
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err), "deleted")
}

func TestCacheGoesOnWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	address := backend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	f := newRoutes(stable("acme", address))
	gateway := newGateway(t, Options{Routes: f})
	response, _ := get(t, gateway, "acme.localhost")
	require.Equal(t, http.StatusNoContent, response.StatusCode)
	f.change(func() { f.err = errors.New("no database"); f.now = f.now.Add(time.Hour) })
	before := f.lookups()
	for range 3 {
		response, _ = get(t, gateway, "acme.localhost")
		require.Equal(t, http.StatusNoContent, response.StatusCode)
	}
	require.Equal(t, before+1, f.lookups(), "a failure is remembered too")
	response, body := get(t, gateway, "other.localhost")
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	require.NotContains(t, body, "database")
	f.change(func() { f.err = nil; f.now = f.now.Add(time.Hour); delete(f.routes, "acme") })
	response, _ = get(t, gateway, "acme.localhost")
	require.Equal(t, http.StatusNotFound, response.StatusCode, "back again, and told of the deletion")
}

func TestCacheAsksOnceForAll(t *testing.T) {
	t.Parallel()
	f := newRoutes(stable("acme", "a:1"))
	f.gate = make(chan struct{})
	c := testCache(f)
	impatient, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := c.route(impatient, "acme"); gone <- err }()
	require.Eventually(t, func() bool { return f.lookups() == 1 }, time.Minute, time.Millisecond)
	var wg sync.WaitGroup
	errs := make(chan error, 20)
	for range 20 {
		wg.Go(func() { _, err := c.route(context.Background(), "acme"); errs <- err })
	}
	cancel()
	require.ErrorIs(t, <-gone, context.Canceled, "who gives up does not end it for the others")
	close(f.gate)
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, 1, f.lookups())
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	f := newRoutes(stable("acme", "a:1"))
	c := testCache(f)
	_, err := c.route(t.Context(), "acme")
	require.NoError(t, err)
	for i := range maxUnknown + 10 {
		_, err := c.route(t.Context(), fmt.Sprint("guess", i))
		require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	}
	require.Len(t, c.unknown.entries, maxUnknown)
	require.Equal(t, maxUnknown, c.unknown.order.Len())
	_, known := c.known.get("acme")
	require.True(t, known, "guesses push no real route out")

	r := newRecent(2)
	r.put(answer{name: "a"})
	r.put(answer{name: "b"})
	r.get("a")
	r.put(answer{name: "c"})
	_, a := r.get("a")
	_, b := r.get("b")
	require.True(t, a)
	require.False(t, b, "used longest ago")
}
