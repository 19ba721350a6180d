package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

const (
	waitFor = 30 * time.Second
	tick    = time.Millisecond
)

func TestLogs(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	call[client.Installation](t, h, http.StatusAccepted, "POST", "/api/v1/installations", createAcme)
	require.Contains(t, h.refused(t, http.StatusNotFound, "GET", "/api/v1/installations/acme/logs", "").Detail, "no instance yet")
	h.store.settle("acme", fleet.StateStable)
	w := h.call(t, "GET", "/api/v1/installations/acme/logs?tail=10&follow=false", "")
	require.Equal(t, "one\ntwo\n", w.Body.String())
	require.Equal(t, "text/plain; charset=utf-8", w.Header().Get("Content-Type"))
	require.Equal(t, fleet.ConsoleOptions{TailLines: 10}, h.consoles.options)
	h.call(t, "GET", "/api/v1/installations/acme/logs?follow=true", "")
	require.Equal(t, fleet.ConsoleOptions{Follow: true}, h.consoles.options)
	for query, field := range map[string]string{"tail=0": "tail", "tail=100001": "tail", "tail=x": "tail", "follow=yes": "follow", "follow=": "follow"} {
		require.Equal(t, "query."+field, h.refused(t, http.StatusBadRequest, "GET", "/api/v1/installations/acme/logs?"+query, "").Field)
	}
	h.consoles.err = fleet.Errorf(fleet.KindUnavailable, "host h2 does not answer")
	h.refused(t, http.StatusServiceUnavailable, "GET", "/api/v1/installations/acme/logs", "")
}

// A followed log passes on each line when it comes, and ends with the client.
func TestLogsAreFollowed(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.acme(t, fleet.StateStable)
	in, out := io.Pipe()
	left := make(chan struct{})
	h.consoles.reader = func(ctx context.Context) io.ReadCloser {
		context.AfterFunc(ctx, func() { _ = out.CloseWithError(ctx.Err()); close(left) })
		return in
	}
	server := httptest.NewServer(h.handler)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/v1/installations/acme/logs?follow=true", nil)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(r) // the header comes before the first line
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	for _, line := range []string{"first\n", "second\n"} {
		_, err = io.WriteString(out, line)
		require.NoError(t, err)
		got := make([]byte, len(line))
		_, err = io.ReadFull(answer.Body, got)
		require.NoError(t, err)
		require.Equal(t, line, string(got))
	}
	cancel()
	select {
	case <-left:
	case <-time.After(waitFor):
		t.Fatal("the console was not told that the client left")
	}
}

// Half a log must not look like the whole.
func TestABrokenLogIsCut(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.acme(t, fleet.StateStable)
	h.consoles.reader = func(context.Context) io.ReadCloser {
		return io.NopCloser(iotest.TimeoutReader(iotest.OneByteReader(iotest.ErrReader(errors.New("disk")))))
	}
	server := httptest.NewServer(h.handler)
	defer server.Close()
	answer, err := http.Get(server.URL + "/api/v1/installations/acme/logs")
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	_, err = io.ReadAll(answer.Body)
	require.Error(t, err)
}
