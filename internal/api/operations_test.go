package api

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// accepted creates an installation and returns the address of its operation.
func (h *harness) accepted(t *testing.T) (fleet.OperationID, string) {
	t.Helper()
	in := call[client.Installation](t, h, http.StatusAccepted, "POST", "/api/v1/installations", createAcme)
	return fleet.OperationID(in.Operation.ID), "/api/v1/operations/" + in.Operation.ID
}

func TestGetOperation(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	id, path := h.accepted(t)
	op := call[client.Operation](t, h, http.StatusOK, "GET", path, "")
	require.Equal(t, "active", op.State)
	require.False(t, op.NextAt.IsZero())
	h.store.advance(id, func(o *fleet.Operation) {
		o.State, o.WaitReason, o.Error, o.FinishedAt = fleet.OperationFailed, fleet.WaitBackoff, "no", epochTime
		o.Steps = append(o.Steps, fleet.StepDone{Name: "resolve", StartedAt: epochTime, FinishedAt: epochTime, Attempts: 1})
	})
	op = call[client.Operation](t, h, http.StatusOK, "GET", path, "")
	require.True(t, op.NextAt.IsZero() && op.WaitReason == "" && op.Error == "no" && len(op.Steps) == 1, "%+v", op)
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/operations/"+fleet.NewID(), "")
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/operations/acme", "")
	for query, field := range map[string]string{"wait=2m": "wait", "wait=-1s": "wait", "wait=30": "wait", "revision=-1": "revision", "revision=x": "revision"} {
		require.Equal(t, "query."+field, h.refused(t, http.StatusBadRequest, "GET", path+"?"+query, "").Field)
	}
}

// poll starts a long poll and returns its answer, once it has read the operation first.
func (h *harness) poll(t *testing.T, ctx context.Context, path string) <-chan *httptest.ResponseRecorder {
	t.Helper()
	answer, reading := make(chan *httptest.ResponseRecorder, 1), make(chan struct{}, 100)
	h.store.read = func() { reading <- struct{}{} }
	go func() {
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, request("GET", path, "").WithContext(ctx))
		answer <- w
	}()
	<-reading
	return answer
}

func TestLongPollIsToldOfTheEnd(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Reread = time.Hour })
	id, path := h.accepted(t)
	answer := h.poll(t, t.Context(), path+"?wait=1m")
	h.store.advance(id, func(o *fleet.Operation) { o.Step = "next" })
	h.watch.tell(string(id)) // a change, but not the end
	select {
	case w := <-answer:
		t.Fatal("answered before the end: ", w.Body)
	default:
	}
	h.store.advance(id, func(o *fleet.Operation) { o.State = fleet.OperationSucceeded })
	h.watch.tell(string(id))
	w := <-answer
	require.Equal(t, http.StatusOK, w.Code)
	require.Contains(t, w.Body.String(), `"succeeded"`)
}

func TestLongPollIsToldOfARevision(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Reread = time.Hour })
	id, path := h.accepted(t)
	require.Equal(t, int64(1), call[client.Operation](t, h, http.StatusOK, "GET", path+"?wait=1m&revision=0", "").Revision)
	answer := h.poll(t, t.Context(), path+"?wait=1m&revision=1")
	h.store.advance(id, func(o *fleet.Operation) { o.Step = "next" })
	h.watch.tell(string(id))
	require.Contains(t, (<-answer).Body.String(), `"revision":2`)
}

func TestNobodyWatchesWhatHasEndedOrIsNot(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	id, path := h.accepted(t)
	h.store.advance(id, func(o *fleet.Operation) { o.State = fleet.OperationCancelled })
	call[client.Operation](t, h, http.StatusOK, "GET", path+"?wait=1m", "")
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/operations/"+fleet.NewID()+"?wait=1m", "")
	require.Empty(t, h.watch.channels)
}

// A change by another process is told by nobody: the operation is read again.
func TestLongPollReadsAgain(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Reread = 5 * time.Millisecond })
	id, path := h.accepted(t)
	answer := h.poll(t, t.Context(), path+"?wait=1m")
	h.store.advance(id, func(o *fleet.Operation) { o.State = fleet.OperationSucceeded })
	require.Contains(t, (<-answer).Body.String(), `"succeeded"`)
}

func TestLongPollEnds(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Reread = time.Hour })
	_, path := h.accepted(t)
	require.Equal(t, "active", call[client.Operation](t, h, http.StatusOK, "GET", path+"?wait=10ms", "").State)

	ctx, cancel := context.WithCancel(t.Context())
	answer := h.poll(t, ctx, path+"?wait=1m")
	cancel() // as when the server stops
	w := <-answer
	require.Equal(t, http.StatusOK, w.Code)
	require.Contains(t, w.Body.String(), `"active"`)
}

func TestLongPollFailsWithTheStore(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Reread = 5 * time.Millisecond })
	_, path := h.accepted(t)
	answer := h.poll(t, t.Context(), path+"?wait=1m")
	h.store.setFail(fleet.Errorf(fleet.KindUnavailable, "the database does not answer"))
	require.Equal(t, http.StatusServiceUnavailable, (<-answer).Code)
}

func TestListOperations(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	v := h.acme(t, fleet.StateStable)
	call[client.Installation](t, h, http.StatusAccepted, "POST", "/api/v1/installations/acme/restart", "")
	type page = client.Page[client.Operation]
	first := call[page](t, h, http.StatusOK, "GET", "/api/v1/operations?limit=1", "")
	require.Equal(t, "restart", first.Items[0].Kind, "newest first")
	second := call[page](t, h, http.StatusOK, "GET", "/api/v1/operations?limit=1&cursor="+first.NextCursor, "")
	require.Equal(t, "create", second.Items[0].Kind)
	require.Empty(t, second.NextCursor)
	require.Len(t, call[page](t, h, http.StatusOK, "GET", "/api/v1/operations?resource=acme&state=succeeded", "").Items, 1)
	require.Len(t, call[page](t, h, http.StatusOK, "GET", "/api/v1/operations?resource="+string(v.ID), "").Items, 2)
	h.refused(t, http.StatusBadRequest, "GET", "/api/v1/operations?resource=A", "")
	h.refused(t, http.StatusBadRequest, "GET", "/api/v1/operations?state=done", "")
}

// A store that hangs must not hang the request.
func TestTimeout(t *testing.T) {
	t.Parallel()
	var hung atomic.Bool
	h := newHarness(t)
	handler, err := New(Options{
		Store: hangingStore{Store: h.store, hung: &hung}, Packages: h.packages, Images: h.images, ImageContents: h.images, Kernels: h.images, Tracer: h.images, Consoles: h.consoles, Watch: h.watch, Seal: h.seal, Planner: fakePlanner{}, Schedules: fakeSchedules{},
		GatewayURL: func(string) string { return "" }, Log: newLog(), Timeout: 5 * time.Millisecond,
	})
	require.NoError(t, err)
	h.handler = handler
	w := h.call(t, "GET", "/api/v1/installations/acme", "")
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	require.Equal(t, "unavailable", problemIn(t, w).Kind)
	require.True(t, hung.Load())
}

type hangingStore struct {
	Store
	hung *atomic.Bool
}

func (s hangingStore) Installation(ctx context.Context, _, _ string) (InstallationView, error) {
	s.hung.Store(true)
	<-ctx.Done()
	return InstallationView{}, ctx.Err()
}

// A body that stops coming holds neither a request nor an upload for ever.
func TestABodyThatStopsComing(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Timeout = 20 * time.Millisecond })
	server := httptest.NewServer(h.handler)
	defer server.Close()
	for path, kind := range map[string]string{"/api/v1/installations": "application/json", "/api/v1/packages": "application/gzip"} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\n{", path, kind)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(waitFor)))
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err, path)
		require.Contains(t, []int{http.StatusBadRequest, http.StatusServiceUnavailable}, answer.StatusCode, path)
		require.NoError(t, answer.Body.Close())
		require.NoError(t, conn.Close())
	}
}
