package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// fakeRoutes is a Routes whose answers and time the test decides.
type fakeRoutes struct {
	mu     sync.Mutex
	routes map[string]Route
	err    error
	asked  int
	now    time.Time
	gate   chan struct{} // where not nil, a lookup waits for it
}

func newRoutes(routes ...Route) *fakeRoutes {
	f := &fakeRoutes{routes: make(map[string]Route), now: time.Unix(1e9, 0)}
	for _, r := range routes {
		f.routes[r.Name] = r
	}
	return f
}

func (f *fakeRoutes) Route(ctx context.Context, name string) (Route, error) {
	f.mu.Lock()
	f.asked++
	route, ok := f.routes[name]
	err, gate := f.err, f.gate
	f.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return Route{}, ctx.Err()
		}
	}
	if err == nil && !ok {
		err = fleet.Errorf(fleet.KindNotFound, "no %s", name)
	}
	return route, err
}

func (f *fakeRoutes) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fakeRoutes) change(c func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c()
}

func (f *fakeRoutes) lookups() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

type recordedMetrics struct{ statuses, lookups sync.Map }

func (m *recordedMetrics) Request(status int, _ time.Duration) { bump(&m.statuses, status) }
func (m *recordedMetrics) Lookup(result string)                { bump(&m.lookups, result) }

func bump(m *sync.Map, key any) {
	n, _ := m.LoadOrStore(key, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
}

func tally(m *sync.Map, key any) int64 {
	n, ok := m.Load(key)
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

// newGateway serves a gateway and returns its address.
func newGateway(t *testing.T, o Options) string {
	t.Helper()
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if f, ok := o.Routes.(*fakeRoutes); ok && o.Clock == nil {
		o.Clock = f.clock
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	server := NewServer(New(o))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-ended, http.ErrServerClosed)
	})
	return listener.Addr().String()
}

func backend(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func stable(name, address string) Route {
	return Route{InstallationID: "i", Name: name, State: fleet.StateStable, Address: address}
}

// get asks the gateway; header lines are "Name: value".
func get(t *testing.T, gateway, host string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+gateway+"/path?q=1;2", nil)
	require.NoError(t, err)
	r.Host = host
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(body)
}

func TestPassesRequestsOn(t *testing.T) {
	t.Parallel()
	address := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Seen", fmt.Sprint(r.Host, " ", r.RequestURI, " ", r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Host"],
			r.Header["X-Forwarded-Proto"], r.Header["Forwarded"], r.Header["X-Real-Ip"]))
		w.WriteHeader(http.StatusTeapot)
	})
	metrics := &recordedMetrics{}
	gateway := newGateway(t, Options{Routes: newRoutes(stable("acme", address)), Metrics: metrics})
	response, _ := get(t, gateway, "ACME.localhost.:8065", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil", "X-Forwarded-Proto: gopher",
		"Forwarded: for=6.6.6.6", "X-Real-IP: 6.6.6.6")
	require.Equal(t, http.StatusTeapot, response.StatusCode)
	require.Equal(t, "ACME.localhost.:8065 /path?q=1;2 [127.0.0.1] [ACME.localhost.:8065] [http] [] []", response.Header.Get("X-Seen"))
	require.Eventually(t, func() bool { return tally(&metrics.statuses, http.StatusTeapot) == 1 }, time.Minute, time.Millisecond)
	require.EqualValues(t, 1, tally(&metrics.lookups, "found"))
}

func TestHosts(t *testing.T) {
	t.Parallel()
	address := backend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	routes := newRoutes(stable("acme", address))
	local := newGateway(t, Options{Routes: routes})
	configured := newGateway(t, Options{Routes: routes, Domain: "Apps.Example.com."})
	for _, test := range []struct {
		gateway, host string
		want          int
	}{
		{local, "acme.localhost", http.StatusNoContent},
		{local, "acme.localhost:8065", http.StatusNoContent},
		{configured, "acme.apps.example.com", http.StatusNoContent},
		{configured, "acme.localhost", http.StatusNotFound},
		{local, "other.localhost", http.StatusNotFound},
		{local, "a.acme.localhost", http.StatusNotFound},
		{local, "localhost", http.StatusNotFound},
		{local, "acme.example.com", http.StatusNotFound},
		{local, "127.0.0.1", http.StatusBadRequest},
		{local, "127.0.0.1:8065", http.StatusBadRequest},
		{local, "[::1]:8065", http.StatusBadRequest},
		{local, "acme.localhost:x", http.StatusBadRequest},
		{local, "-acme.localhost", http.StatusBadRequest},
		{local, "ac_me.localhost", http.StatusBadRequest},
		{local, ".localhost", http.StatusBadRequest},
		{local, strings.Repeat("a", 64) + ".localhost", http.StatusBadRequest},
	} {
		response, _ := get(t, test.gateway, test.host)
		require.Equal(t, test.want, response.StatusCode, test.host)
	}
	conn, err := net.Dial("tcp4", local)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "CONNECT acme.localhost:80 HTTP/1.1\r\nHost: acme.localhost:80\r\n\r\n")
	require.NoError(t, err)
	status, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, status, "405")
}

func TestStates(t *testing.T) {
	t.Parallel()
	address := backend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	for _, state := range fleet.States() {
		gateway := newGateway(t, Options{Routes: newRoutes(Route{Name: "acme", State: state, Address: address})})
		response, body := get(t, gateway, "acme.localhost")
		doing, described := inWords(state)
		switch {
		case state == fleet.StateDeleted:
			require.Equal(t, http.StatusNotFound, response.StatusCode)
		case !described:
			require.Equal(t, fleet.StateStable, state, "a state without words")
			require.Equal(t, http.StatusNoContent, response.StatusCode)
		case doing.serves:
			require.Equal(t, http.StatusNoContent, response.StatusCode, state)
		default:
			require.Equal(t, http.StatusServiceUnavailable, response.StatusCode, state)
			require.NotEmpty(t, response.Header.Get("Retry-After"), state)
			require.Contains(t, body, doing.words)
		}
		homeless := newGateway(t, Options{Routes: newRoutes(Route{Name: "acme", State: state})})
		response, _ = get(t, homeless, "acme.localhost")
		require.NotEqual(t, http.StatusNoContent, response.StatusCode, state)
	}
}

// What is stable serves nothing for a moment while it is moved: its users come again soon.
func TestMoving(t *testing.T) {
	t.Parallel()
	gateway := newGateway(t, Options{Routes: newRoutes(Route{Name: "acme", State: fleet.StateStable, Moving: true})})
	response, body := get(t, gateway, "acme.localhost")
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	require.Contains(t, body, "is being moved to another machine")
	require.Equal(t, "2", response.Header.Get("Retry-After"))
}

func TestRefusalsSpeakTheClientsLanguage(t *testing.T) {
	t.Parallel()
	gateway := newGateway(t, Options{Routes: newRoutes(Route{Name: "acme", State: fleet.StateHibernating})})
	response, body := get(t, gateway, "acme.localhost", "Accept: text/html,application/xhtml+xml,*/*;q=0.8")
	require.Equal(t, "text/html; charset=utf-8", response.Header.Get("Content-Type"))
	require.Contains(t, body, "<h1>This workspace is asleep</h1>")
	require.Equal(t, "60", response.Header.Get("Retry-After"))
	response, body = get(t, gateway, "acme.localhost", "Accept: application/json")
	require.Equal(t, "application/problem+json", response.Header.Get("Content-Type"))
	var document map[string]any
	require.NoError(t, json.Unmarshal([]byte(body), &document))
	require.Equal(t, map[string]any{"type": "about:blank", "title": "This workspace is asleep", "status": 503.0}, document)
	response, body = get(t, gateway, "acme.localhost")
	require.Equal(t, "text/plain; charset=utf-8", response.Header.Get("Content-Type"))
	require.Equal(t, "This workspace is asleep\n", body)
	require.Equal(t, "no-store", response.Header.Get("Cache-Control"))
}

type timeoutError struct{ error }

func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

func TestBackendFailures(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	silent := backend(t, func(http.ResponseWriter, *http.Request) { <-hang })
	t.Cleanup(func() { close(hang) }) // before the backend's own cleanup
	broken := backend(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	refuse := func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("connection refused by 10.77.0.9")
	}
	timeOut := func(context.Context, string, string) (net.Conn, error) {
		return nil, timeoutError{errors.New("no answer")}
	}
	waits := func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	restarting := stable("acme", "10.77.0.9:80")
	restarting.State = fleet.StateRestartInProgress
	for name, test := range map[string]struct {
		o    Options
		want int
	}{
		"refused":                  {Options{Routes: newRoutes(stable("acme", "10.77.0.9:80")), Dial: refuse}, 502},
		"refused while restarting": {Options{Routes: newRoutes(restarting), Dial: refuse}, 503},
		"broken off":               {Options{Routes: newRoutes(stable("acme", broken))}, 502},
		"network times out":        {Options{Routes: newRoutes(stable("acme", "10.77.0.9:80")), Dial: timeOut}, 504},
		"connecting takes long":    {Options{Routes: newRoutes(stable("acme", "10.77.0.9:80")), Dial: waits, DialTimeout: time.Millisecond}, 504},
		"no head of an answer":     {Options{Routes: newRoutes(stable("acme", silent)), AnswerTimeout: time.Millisecond}, 504},
	} {
		response, body := get(t, newGateway(t, test.o), "acme.localhost")
		require.Equal(t, test.want, response.StatusCode, name)
		require.NotEmpty(t, response.Header.Get("Retry-After"), name)
		require.NotContains(t, body, "10.77", name)
	}
}

func TestStreamsAtOnce(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	address := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	})
	gateway := newGateway(t, Options{Routes: newRoutes(stable("acme", address)), AnswerTimeout: time.Minute})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+gateway, nil)
	require.NoError(t, err)
	r.Host = "acme.localhost"
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for i := range 3 { // each event arrives before the backend goes on
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("data: %d\n", i), line)
		_, err = lines.ReadString('\n')
		require.NoError(t, err)
		next <- struct{}{}
	}
}

func TestUpgrades(t *testing.T) {
	t.Parallel()
	address := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(conn, buffered) // echoes until the client closes
	})
	metrics := &recordedMetrics{}
	gateway := newGateway(t, Options{Routes: newRoutes(stable("acme", address)), Metrics: metrics})
	conn, err := net.Dial("tcp4", gateway)
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: acme.localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	require.NoError(t, err)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
	for _, message := range []string{"one", "two"} {
		_, err = io.WriteString(conn, message)
		require.NoError(t, err)
		echo := make([]byte, len(message))
		_, err = io.ReadFull(reader, echo)
		require.NoError(t, err)
		require.Equal(t, message, string(echo))
	}
	require.NoError(t, conn.Close())
	require.Eventually(t, func() bool { return tally(&metrics.statuses, http.StatusSwitchingProtocols) == 1 }, time.Minute, time.Millisecond)
}

func TestSlowClientsAreCutOff(t *testing.T) {
	t.Parallel()
	server := NewServer(New(Options{Routes: newRoutes(), Dial: new(net.Dialer).DialContext}))
	require.Equal(t, 10*time.Second, server.ReadHeaderTimeout)
	require.Equal(t, 2*time.Minute, server.IdleTimeout)
	require.Zero(t, server.WriteTimeout, "answers may take as long as they take")
	require.Zero(t, server.ReadTimeout, "uploads may take as long as they take")
	server.ReadHeaderTimeout = 50 * time.Millisecond
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = server.Serve(listener) }() // ends with Close
	defer server.Close()
	conn, err := net.Dial("tcp4", listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: ac")
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = io.ReadAll(conn)
	require.NoError(t, err, "the server closed it")
}

// A route is remembered for a second; a workspace that went to sleep within it
// must be answered for what it is, not as a machine that does not answer.
func TestLooksAgainWhereARouteLeadsNowhere(t *testing.T) {
	t.Parallel()
	routes := newRoutes(stable("acme", "10.77.0.9:80"))
	o := Options{Routes: routes, Dial: func(context.Context, string, string) (net.Conn, error) {
		routes.change(func() {
			routes.now = routes.now.Add(100 * time.Millisecond)
			routes.routes["acme"] = Route{InstallationID: "i", Name: "acme", State: fleet.StateHibernating}
		})
		return nil, timeoutError{errors.New("no answer")}
	}}
	response, _ := get(t, newGateway(t, o), "acme.localhost")
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
}
