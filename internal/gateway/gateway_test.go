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
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway/wire"
)

func backend(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func stable(name, address string) Route {
	return Route{InstallationID: fleet.InstallationID("i-" + name), Name: name, State: fleet.StateStable, Address: address}
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
	require.Eventually(t, func() bool { return metrics.count("request I'm a teapot") == 1 }, time.Minute, time.Millisecond)
}

func TestHosts(t *testing.T) {
	t.Parallel()
	address := backend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	routes := newRoutes(stable("acme", address))
	local := newGateway(t, Options{Routes: routes})
	elsewhere := newRoutes(stable("acme", address))
	elsewhere.domain = "apps.example.com"
	configured := newGateway(t, Options{Routes: elsewhere, Domain: "Apps.Example.com."})
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
		gateway := newGateway(t, Options{Routes: newRoutes(Route{InstallationID: "i", Name: "acme", State: state, Address: address})})
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
	require.Equal(t, map[string]any{"type": "about:blank", "title": "This workspace is asleep", "status": 503.0, "reason": "not-serving"}, document)
	response, _ = get(t, gateway, "acme.localhost")
	require.Equal(t, "application/problem+json", response.Header.Get("Content-Type"))
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
		"connecting takes long":    {Options{Routes: newRoutes(stable("acme", "10.77.0.9:80")), Dial: waits, Engine: wire.Options{DialTimeout: time.Millisecond}}, 504},
		"no head of an answer":     {Options{Routes: newRoutes(stable("acme", silent)), Engine: wire.Options{AnswerTimeout: time.Millisecond}}, 504},
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
	gateway := newGateway(t, Options{Routes: newRoutes(stable("acme", address)), Engine: wire.Options{AnswerTimeout: time.Minute}})
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
	require.Eventually(t, func() bool { return metrics.count("request Switching Protocols") == 1 }, time.Minute, time.Millisecond)
}

// A route is remembered for a while; a workspace that went to sleep meanwhile
// must be answered for what it is, not as a machine that does not answer.
func TestLooksAgainWhereARouteLeadsNowhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		route := stable("far", "10.9.0.2:80")
		w.routes.set(route)
		for what, state := range map[string]fleet.State{"is asleep": fleet.StateHibernating, "is stopped": fleet.StateCrashLooping} {
			h := head("far.localhost")
			pass, answer := w.Enter(t.Context(), h)
			require.Nil(t, answer)
			time.Sleep(time.Second)
			slept := route
			slept.State, slept.Address = state, ""
			w.routes.set(slept)
			answer = w.Failed(t.Context(), h, pass, timeoutError{errors.New("no answer of 10.9.0.2")})
			require.Equal(t, http.StatusServiceUnavailable, answer.Status)
			require.Contains(t, string(answer.Body), what)
			pass.Done(answer.Status, nil)
			w.routes.set(route)
			time.Sleep(time.Minute)
		}
	})
}
