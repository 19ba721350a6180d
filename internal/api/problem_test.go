package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func TestEveryKindOfErrorBecomesAProblem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		kind   string
		said   bool
	}{
		{fleet.InvalidField("package", "detail"), 400, "invalid", true},
		{fleet.Errorf(fleet.KindNotFound, "detail"), 404, "not-found", true},
		{fleet.Errorf(fleet.KindConflict, "detail"), 409, "conflict", true},
		{fleet.Errorf(fleet.KindNotAccepted, "detail"), 409, "not-accepted", true},
		{fleet.Errorf(fleet.KindStale, "detail"), 412, "stale", true},
		{fleet.Errorf(fleet.KindCapacity, "detail"), 409, "insufficient-capacity", true},
		{fleet.Errorf(fleet.KindThrottled, "detail"), 429, "throttled", true},
		{fleet.Errorf(fleet.KindUnavailable, "detail"), 503, "unavailable", true},
		{fleet.Errorf(fleet.KindPermanent, "detail"), 422, "permanent", true},
		{fleet.Errorf(fleet.KindInternal, "detail"), 500, "internal", false},
		{fleet.Errorf(fleet.KindFenced, "detail"), 500, "internal", false},
		{errors.New("detail"), 500, "internal", false},
		{fmt.Errorf("around: %w", fleet.Errorf(fleet.KindNotFound, "detail")), 404, "not-found", true},
		{fmt.Errorf("around: %w", context.DeadlineExceeded), 503, "unavailable", false},
	} {
		t.Run(c.err.Error()+c.kind, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.store.setFail(c.err)
			for _, r := range []struct{ method, path, body string }{
				{"POST", "/api/v1/installations", createAcme}, {"GET", "/api/v1/installations", ""}, {"GET", "/api/v1/installations/acme", ""},
				{"PATCH", "/api/v1/installations/acme", `{"vcpus":2}`}, {"PATCH", "/api/v1/installations/acme", `{"env":{}}`},
				{"DELETE", "/api/v1/installations/acme", ""}, {"POST", "/api/v1/installations/acme/wake", ""},
				{"GET", "/api/v1/installations/acme/explain", ""}, {"GET", "/api/v1/installations/acme/logs", ""},
				{"GET", "/api/v1/groups", ""}, {"POST", "/api/v1/groups", createWeb}, {"GET", "/api/v1/groups/web", ""},
				{"PATCH", "/api/v1/groups/web", `{"vcpus":2}`}, {"PATCH", "/api/v1/groups/web", `{"labels":{}}`}, {"DELETE", "/api/v1/groups/web", ""},
				{"GET", "/api/v1/groups/web/revisions", ""}, {"POST", "/api/v1/groups/web/rollouts", `{}`}, {"POST", "/api/v1/groups/web/rollouts", `{"dry_run":true}`},
				{"GET", "/api/v1/rollouts", ""}, {"GET", "/api/v1/rollouts/" + fleet.NewID(), ""}, {"GET", "/api/v1/rollouts/" + fleet.NewID() + "/members", ""},
				{"GET", "/api/v1/rollouts/" + fleet.NewID() + "/explain", ""}, {"GET", "/api/v1/clusters/local/explain", ""},
				{"GET", "/api/v1/operations/" + fleet.NewID() + "/explain", ""},
				{"POST", "/api/v1/rollouts/" + fleet.NewID() + "/pause", ""},
				{"GET", "/api/v1/clusters", ""}, {"POST", "/api/v1/clusters", `{"name":"local","provider":"kvm"}`},
				{"GET", "/api/v1/clusters/local", ""}, {"DELETE", "/api/v1/clusters/local", ""}, {"POST", "/api/v1/clusters/local/check", ""},
				{"GET", "/api/v1/clusters/local/hosts", ""}, {"GET", "/api/v1/clusters/local/hosts/here", ""},
				{"DELETE", "/api/v1/clusters/local/hosts/here", ""}, {"POST", "/api/v1/clusters/local/hosts/here/cordon", ""},
				{"POST", "/api/v1/clusters/local/hosts/here/uncordon", ""}, {"POST", "/api/v1/clusters/local/hosts/here/drain", ""},
				{"GET", "/api/v1/packages", ""}, {"GET", "/api/v1/packages/p", ""}, {"DELETE", "/api/v1/packages/p@1", ""},
				{"GET", "/api/v1/operations", ""}, {"GET", "/api/v1/operations/" + fleet.NewID(), ""},
			} {
				p := h.refused(t, c.status, r.method, r.path, r.body)
				require.Equal(t, c.kind, p.Kind)
				require.Equal(t, c.said, strings.Contains(p.Detail, "detail"), p.Detail)
				require.Equal(t, r.path, p.Instance)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	throttled := fleet.Errorf(fleet.KindThrottled, "wait")
	throttled.RetryAfter = 1500 * time.Millisecond
	h.store.setFail(throttled)
	require.Equal(t, "2", h.call(t, "GET", "/api/v1/installations", "").Header().Get("Retry-After"))
	h.store.setFail(fleet.Errorf(fleet.KindUnavailable, "wait"))
	require.Equal(t, "1", h.call(t, "GET", "/api/v1/installations", "").Header().Get("Retry-After"))
}

func TestPathsAndMethodsThatAreNot(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for _, path := range []string{"/", "/api/v1", "/api/v1/installations/", "/api/v1//installations", "/api/v1/installations/a/b", "/api/v2/installations", "/api/v1/../healthz"} {
		require.Equal(t, "not-found", h.refused(t, http.StatusNotFound, "GET", path, "").Kind, path)
	}
	for path, allow := range map[string]string{
		"/api/v1/installations": "GET, POST", "/api/v1/installations/acme": "GET, PATCH, DELETE", "/api/v1/installations/acme/wake": "POST", "/healthz": "GET",
	} {
		for _, method := range []string{"PUT", "OPTIONS", "TRACE"} {
			w := h.call(t, method, path, "")
			require.Equal(t, http.StatusMethodNotAllowed, w.Code)
			require.Equal(t, allow, w.Header().Get("Allow"))
			require.Equal(t, "invalid", problemIn(t, w).Kind)
		}
	}
}

func TestAPanicIsContained(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	s, err := newServer(Options{
		Store: h.store, Packages: h.packages, Images: h.images, ImageContents: h.images, Kernels: h.images, Tracer: h.images, Consoles: h.consoles, Watch: h.watch, Seal: h.seal, Planner: fakePlanner{}, Schedules: fakeSchedules{},
		GatewayURL: func(string) string { panic("the secret of the panic") }, Log: newLog(),
	})
	require.NoError(t, err)
	h.handler, err = s.handler(append(s.routes(), route{method: "GET", path: "/late", handle: func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusOK)
		panic("too late")
	}}))
	require.NoError(t, err)
	w := h.call(t, "POST", "/api/v1/installations", createAcme)
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.NotContains(t, w.Body.String(), "secret")
	require.PanicsWithValue(t, http.ErrAbortHandler, func() {
		h.handler.ServeHTTP(httptest.NewRecorder(), request("GET", "/late", ""))
	})
}

func TestAClientThatLeft(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.store.setFail(context.Canceled)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, request("GET", "/api/v1/installations", "").WithContext(ctx))
	require.Equal(t, http.StatusServiceUnavailable, w.Code, "whoever is still there may try again")
	require.Equal(t, 499, h.logs.LastEntry().Data["status"])
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	require.Equal(t, "my-id.1", h.call(t, "GET", "/healthz", "", header{"X-Request-ID", "my-id.1"}).Header().Get("X-Request-ID"))
	for _, bad := range []string{"", "a b", "a\"b", strings.Repeat("a", 65)} {
		require.True(t, fleet.ValidID(h.call(t, "GET", "/healthz", "", header{"X-Request-ID", bad}).Header().Get("X-Request-ID")))
	}
}

func TestLogAndMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	h := newHarness(t, func(o *Options) { o.Metrics = registry })
	h.acme(t, fleet.StateStable)
	h.call(t, "GET", "/api/v1/installations/acme", "", header{"X-Request-ID", "r1"})
	data := h.logs.LastEntry().Data
	require.Equal(t, "r1", data["request"])
	require.Equal(t, "GET", data["method"])
	require.Equal(t, "/api/v1/installations/{id}", data["route"])
	require.Equal(t, 200, data["status"])
	require.IsType(t, time.Duration(0), data["duration"])
	h.call(t, "MADEUP", "/nowhere", "")
	text := h.call(t, "GET", "/metrics", "").Body.String()
	for _, line := range []string{
		`dormouse_http_requests_total{method="GET",route="/api/v1/installations/{id}",status="200"} 1`,
		`dormouse_http_requests_total{method="POST",route="/api/v1/installations",status="202"} 1`,
		`dormouse_http_requests_total{method="other",route="(none)",status="404"} 1`,
		`dormouse_http_requests_in_flight 1`,
		`dormouse_http_request_seconds_count{method="GET",route="/api/v1/installations/{id}"} 1`,
	} {
		require.Contains(t, text, line)
	}
	_, err := New(Options{Store: h.store, Packages: h.packages, Images: h.images, ImageContents: h.images, Kernels: h.images, Tracer: h.images, Consoles: h.consoles, Watch: h.watch, Seal: h.seal, Planner: fakePlanner{}, Schedules: fakeSchedules{},
		GatewayURL: func(string) string { return "" }, Log: newLog(), Metrics: registry})
	require.ErrorContains(t, err, "registering the API's metrics")
	_, err = New(Options{})
	require.ErrorContains(t, err, "are all needed")
}

func TestHealthAndReadiness(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	require.Equal(t, "ok\n", h.call(t, "GET", "/healthz", "").Body.String())
	require.Equal(t, "ok\n", h.call(t, "GET", "/readyz", "").Body.String())
	h.store.setFail(errors.New("dial postgres://user:password@host"))
	require.Equal(t, http.StatusOK, h.call(t, "GET", "/healthz", "").Code)
	p := h.refused(t, http.StatusServiceUnavailable, "GET", "/readyz", "")
	require.Equal(t, "unavailable", p.Kind)
	require.NotContains(t, p.Detail, "password")
}

func TestClusters(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	const create = `{"name":"local","provider":"sim","settings":{"latency":"5ms"}}`
	key := header{"Idempotency-Key", "k"}
	w := h.call(t, "POST", "/api/v1/clusters", create, key)
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	require.Contains(t, w.Header().Get("Location"), "/api/v1/operations/")
	require.Equal(t, "true", h.call(t, "POST", "/api/v1/clusters", create, key).Header().Get("Idempotency-Replayed"))
	c := call[client.Cluster](t, h, http.StatusOK, "GET", "/api/v1/clusters/local", "")
	require.Equal(t, "apt-get install qemu-system-x86", c.Checks[0].Mend)
	require.Equal(t, int64(128), c.Hosts[0].MemoryHeldMiB)
	require.Equal(t, "create-cluster", c.Operation.Kind)
	call[client.Cluster](t, h, http.StatusAccepted, "POST", "/api/v1/clusters", `{"name":"other","provider":"kvm"}`)
	page := call[client.Page[client.Cluster]](t, h, http.StatusOK, "GET", "/api/v1/clusters?limit=1", "")
	require.Len(t, page.Items, 1)
	page = call[client.Page[client.Cluster]](t, h, http.StatusOK, "GET", "/api/v1/clusters?limit=1&cursor="+page.NextCursor, "")
	require.Len(t, page.Items, 1)
	require.Empty(t, page.NextCursor)
	for body, field := range map[string]string{
		`{"name":"Local","provider":"kvm"}`: "name", `{"name":"a","provider":"aws"}`: "provider", `{"name":"a"}`: "provider",
		`{"name":"a","provider":"kvm","settings":{"a":1}}`: "settings", `{"name":"a","provider":"kvm","settings":{"a":"\u0000"}}`: "settings.a",
		`{"name":"a","provider":"kvm","settings":{"-":"x"}}`: "settings.-", `{"name":"a","provider":"kvm","settings":null}`: "settings",
	} {
		require.Equal(t, field, h.refused(t, http.StatusBadRequest, "POST", "/api/v1/clusters", body).Field, body)
	}
	const check = "/api/v1/clusters/local/check"
	h.refused(t, http.StatusConflict, "POST", check, "")
	h.store.clusters[fleet.ClusterID(c.ID)].State = fleet.ClusterStable
	w = h.call(t, "POST", check, "")
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	require.Contains(t, w.Header().Get("Location"), "/api/v1/operations/")
	require.Empty(t, h.store.checked.Settings)
	c = call[client.Cluster](t, h, http.StatusAccepted, "POST", check, `{"settings":{"hosts":"5","latency":""}}`)
	require.Equal(t, "check-cluster", c.Operation.Kind)
	require.Equal(t, map[string]string{"hosts": "5", "latency": ""}, h.store.checked.Settings)
	for body, field := range map[string]string{`{"settings":null}`: "settings", `{"settings":{"-":"x"}}`: "settings.-", `{"hosts":5}`: "hosts"} {
		require.Equal(t, field, h.refused(t, http.StatusBadRequest, "POST", check, body).Field, body)
	}
	h.refused(t, http.StatusNotFound, "POST", "/api/v1/clusters/none/check", "")
	h.refused(t, http.StatusPreconditionFailed, "DELETE", "/api/v1/clusters/local", "", header{"If-Match", `"1"`})
	require.Equal(t, "deletion-requested", call[client.Cluster](t, h, http.StatusAccepted, "DELETE", "/api/v1/clusters/local", "", header{"If-Match", "*"}).State)
	h.acme(t, fleet.StateStable)
	require.Empty(t, h.refused(t, http.StatusConflict, "DELETE", "/api/v1/clusters/local", "").Accepts)
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/clusters/none", "")
	h.refused(t, http.StatusNotFound, "DELETE", "/api/v1/clusters/No", "")
}
