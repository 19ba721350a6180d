package client

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFollowToTheEnd(t *testing.T) {
	t.Parallel()
	f := newFake(t,
		answer(200, Operation{ID: "op", State: "queued", Revision: 1}),
		answer(200, Operation{ID: "op", State: "active", Revision: 3}),
		refuse(Problem{Status: 500, Kind: KindInternal}),
		answer(200, Operation{ID: "op", State: "active", Revision: 3}),
		answer(200, Operation{ID: "op", State: "failed", Revision: 4}))
	var revisions []int64
	op, err := newClient(t, f.URL, hurried()).Operations.Follow(t.Context(), "op", func(o Operation) { revisions = append(revisions, o.Revision) })
	require.NoError(t, err)
	require.Equal(t, "failed", op.State)
	// 3 twice: seen again after the server was lost and found.
	require.Equal(t, []int64{1, 3, 3, 4}, revisions)
	var uris []string
	for _, r := range f.seen() {
		uris = append(uris, r.uri)
	}
	const path = "/api/v1/operations/op"
	require.Equal(t, []string{path, path + "?revision=1&wait=30s", path + "?revision=3&wait=30s", path, path + "?revision=3&wait=30s"}, uris)
}

func TestFollowDoesNotAskInATightLoop(t *testing.T) {
	t.Parallel()
	options := hurried()
	options.Backoff, options.BackoffMax = time.Hour, time.Hour
	asked := make(chan struct{}, 100)
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		answer(200, Operation{ID: "op", State: "active", Revision: 1})(w, r)
		asked <- struct{}{}
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := newClient(t, f.URL, options).Operations.Follow(ctx, "op", nil)
		ended <- err
	}()
	<-asked
	<-asked
	require.Never(t, func() bool { return len(asked) > 0 }, 50*time.Millisecond, 5*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestFollowReturnsOtherRefusalsAtOnce(t *testing.T) {
	t.Parallel()
	f := newFake(t, refuse(Problem{Status: 404, Kind: KindNotFound}))
	_, err := newClient(t, f.URL, hurried()).Operations.Follow(t.Context(), "op", nil)
	require.True(t, IsNotFound(err))
	require.Len(t, f.seen(), 1)
}

func TestFollowKeepsTheLastSeenWhenTheContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	f := newFake(t, answer(200, Operation{ID: "op", State: "active", Step: "boot", Revision: 2}), func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	op, err := newClient(t, f.URL, hurried()).Operations.Follow(ctx, "op", nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, "boot", op.Step)
}

// A server that is killed in the middle of a long poll and comes back later
// with the operation moved on: connections reset, then refused, then an answer.
func TestFollowSurvivesARestart(t *testing.T) {
	t.Parallel()
	polling := make(chan struct{})
	var once sync.Once
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("wait") == "" {
			answer(200, Operation{ID: "op", State: "active", Revision: 1})(w, r)
			return
		}
		once.Do(func() { close(polling) })
		<-r.Context().Done()
	}))
	address := first.Listener.Addr().String()

	options := hurried()
	failures := make(chan Retry, 1000)
	options.OnRetry = func(r Retry) {
		select {
		case failures <- r:
		default:
		}
	}
	type result struct {
		op  Operation
		err error
	}
	ended := make(chan result, 1)
	go func() {
		op, err := newClient(t, first.URL, options).Operations.Follow(t.Context(), "op", nil)
		ended <- result{op, err}
	}()
	<-polling
	require.NoError(t, first.Listener.Close())
	first.CloseClientConnections()
	// More failures than Attempts allows elsewhere: only the context ends it.
	for r := range failures {
		require.True(t, IsUnreachable(r.Err), r.Err)
		if r.Attempt > 2*defaultAttempts {
			break
		}
	}
	second := httptest.NewUnstartedServer(answer(200, Operation{ID: "op", State: "succeeded", Revision: 9}))
	require.NoError(t, second.Listener.Close())
	second.Listener = listenAgain(t, address)
	second.Start()
	t.Cleanup(second.Close)
	got := <-ended
	require.NoError(t, got.err)
	require.Equal(t, "succeeded", got.op.State)
	first.Close()
}

func TestFollowGivesUpWithItsContextWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	options := hurried()
	options.OnRetry = func(r Retry) {
		if r.Attempt == 3 {
			cancel()
		}
	}
	f := newFake(t, hangUp)
	_, err := newClient(t, f.URL, options).Operations.Follow(ctx, "op", nil)
	require.ErrorIs(t, err, context.Canceled)
}

func TestFollowARolloutToTheEnd(t *testing.T) {
	t.Parallel()
	f := newFake(t,
		answer(200, Rollout{ID: "r1", State: "running", Version: 1}),
		hangUp,
		refuse(Problem{Status: 500, Kind: KindInternal}),
		answer(200, Rollout{ID: "r1", State: "running", Version: 2}),
		answer(200, Rollout{ID: "r1", State: "rolled-back", Version: 3}))
	var versions []int64
	r, err := newClient(t, f.URL, hurried()).Rollouts.Follow(t.Context(), "r1", time.Millisecond, func(r Rollout) bool {
		versions = append(versions, r.Version)
		return true
	})
	require.NoError(t, err)
	require.Equal(t, "rolled-back", r.State)
	require.Equal(t, []int64{1, 2, 3}, versions)
	require.Equal(t, "/api/v1/rollouts/r1", f.seen()[0].uri)
	require.Equal(t, "/api/v1/rollouts/r1?wait=1ms", f.seen()[1].uri)
}

func TestFollowARolloutAsLongAsItIsLookedAt(t *testing.T) {
	t.Parallel()
	f := newFake(t, answer(200, Rollout{ID: "r1", State: "halted"}))
	r, err := newClient(t, f.URL, hurried()).Rollouts.Follow(t.Context(), "r1", 0, func(r Rollout) bool { return r.State != "halted" })
	require.NoError(t, err)
	require.Equal(t, "halted", r.State)
	require.Len(t, f.seen(), 1)

	f = newFake(t, refuse(Problem{Status: 404, Kind: KindNotFound}))
	_, err = newClient(t, f.URL, hurried()).Rollouts.Follow(t.Context(), "r1", 0, nil)
	require.True(t, IsNotFound(err))
	require.Len(t, f.seen(), 1)
}

// A server that does not hold the request is asked no more often than was said.
func TestFollowingARolloutDoesNotAskInATightLoop(t *testing.T) {
	t.Parallel()
	f := newFake(t, answer(200, Rollout{ID: "r1", State: "running", Version: 1}))
	ctx, cancel := context.WithCancel(t.Context())
	looks := make(chan struct{}, 100)
	ended := make(chan error)
	go func() {
		_, err := newClient(t, f.URL, hurried()).Rollouts.Follow(ctx, "r1", time.Hour, func(Rollout) bool {
			looks <- struct{}{}
			return true
		})
		ended <- err
	}()
	<-looks
	<-looks // the second look was to be held
	require.Never(t, func() bool { return len(looks) > 0 }, 50*time.Millisecond, 5*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}
