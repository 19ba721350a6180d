package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// freePort is a port that nobody has on loopback, and a listener that keeps it.
func freePort(t *testing.T) (net.Listener, int) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l, l.Addr().(*net.TCPAddr).Port
}

func dialPort(t *testing.T, port int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	return conn
}

// askTCP speaks HTTP on a connection of plain TCP: the machine does not know better.
func askTCP(t *testing.T, conn net.Conn) string {
	t.Helper()
	_, err := io.WriteString(conn, "GET /over-tcp HTTP/1.1\r\nHost: anything\r\n\r\n")
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

func TestPlainTCPWakesASleeper(t *testing.T) {
	t.Parallel()
	kept, port := freePort(t)
	acme := sleeper("acme")
	acme.Ports = []fleet.RoutePort{{Gateway: port, Port: 1883}}
	routes := newRoutes(acme)
	m := newMachine(t, acme, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello ", r.URL.Path) })
	g, _ := serve(t, Options{Routes: routes, Local: m.local, Waker: m, PortHosts: []string{"127.0.0.1"}})

	// Somebody else has the port at first: it is said, and tried again.
	require.Eventually(t, func() bool { return len(g.PortErrors()) == 1 }, time.Minute, time.Millisecond)
	wrong := g.PortErrors()[0]
	require.Equal(t, port, wrong.Port)
	require.Equal(t, acme.InstallationID, wrong.InstallationID)
	require.ErrorContains(t, wrong.Err, "in use")
	require.NoError(t, kept.Close())
	signal(g.ports.changed)
	require.Eventually(t, func() bool { return len(g.PortErrors()) == 0 }, time.Minute, time.Millisecond)

	conn := dialPort(t, port)
	require.Equal(t, "hello /over-tcp", askTCP(t, conn))
	require.EqualValues(t, 1, m.wakes.Load())
	require.Equal(t, Load{Open: 1}, g.Load(), "it keeps the machine awake")
	_, err := g.Quiesce(t.Context(), acme.InstallationID, QuiesceOptions{Yield: true})
	requireVisited(t, err)
	q, err := g.Quiesce(t.Context(), acme.InstallationID, QuiesceOptions{})
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err, "it was broken off")
	m.sleep()
	q.Release()
	conn = dialPort(t, port)
	require.Equal(t, "hello /over-tcp", askTCP(t, conn))
	require.EqualValues(t, 2, m.wakes.Load())
	require.NoError(t, conn.Close())

	// The port goes with its route.
	acme.Ports = nil
	routes.set(acme)
	g.Changed(acme.InstallationID)
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, time.Minute, 10*time.Millisecond)
}

func TestAPortIsOneInstallations(t *testing.T) {
	t.Parallel()
	kept, port := freePort(t)
	require.NoError(t, kept.Close())
	first, second := sleeper("acme"), sleeper("beta")
	first.Ports = []fleet.RoutePort{{Gateway: port, Port: 1883}}
	second.Ports = []fleet.RoutePort{{Gateway: port, Port: 1883}, {Gateway: 70000, Port: 1}}
	m := newMachine(t, first, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "acme") })
	g, _ := serve(t, Options{Routes: newRoutes(first, second), Local: m.local, Waker: m, PortHosts: []string{"127.0.0.1"}})
	require.Eventually(t, func() bool { return len(g.PortErrors()) == 2 }, time.Minute, time.Millisecond)
	wrong := g.PortErrors()
	require.Equal(t, second.InstallationID, wrong[0].InstallationID)
	require.ErrorContains(t, wrong[0].Err, "i-acme")
	require.ErrorContains(t, wrong[1].Err, "no such port")
	require.Equal(t, "acme", askTCP(t, dialPort(t, port)))
}

// Who may not wake it is cut off, and a port of the machine's that it has not.
func TestPlainTCPThatLeadsNowhere(t *testing.T) {
	t.Parallel()
	kept, port := freePort(t)
	keptOther, other := freePort(t)
	require.NoError(t, kept.Close())
	require.NoError(t, keptOther.Close())
	acme := sleeper("acme")
	acme.Ports = []fleet.RoutePort{{Gateway: port, Port: 1883}, {Gateway: other, Port: 99}}
	acme.Wake.CIDRs = []string{"127.0.0.0/8"}
	routes := newRoutes(acme)
	m := newMachine(t, acme, func(http.ResponseWriter, *http.Request) {})
	g, _ := serve(t, Options{Routes: routes, Local: m.local, Waker: m, PortHosts: []string{"127.0.0.1"}})
	require.Eventually(t, func() bool { g.ports.mu.Lock(); defer g.ports.mu.Unlock(); return len(g.ports.open) == 2 }, time.Minute, time.Millisecond)
	_, err := dialPort(t, port).Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.Zero(t, m.wakes.Load())
	acme.Wake.CIDRs = nil
	routes.set(acme)
	g.book.put(acme, answered{at: time.Now(), changes: g.book.changesNow()})
	_, err = dialPort(t, other).Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.EqualValues(t, 1, m.wakes.Load(), "it was woken, and once")
}

// A port whose listener fails is opened again.
func TestAListenerThatFails(t *testing.T) {
	t.Parallel()
	g := New(Options{Routes: newRoutes()})
	l, port := freePort(t)
	g.ports.open[port] = []net.Listener{l}
	g.ports.ended(l, port, http.ErrServerClosed)
	require.Len(t, g.ports.open, 1)
	g.ports.ended(l, port, io.ErrUnexpectedEOF)
	require.Empty(t, g.ports.open)
}

// Several addresses, one of them with TLS and HTTP/2; a listener that fails ends all.
func TestServesOnSeveralAddresses(t *testing.T) {
	t.Parallel()
	acme := sleeper("acme")
	m := newMachine(t, acme, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("X-Forwarded-Proto")) })
	// The standard library's certificate for tests.
	lent := httptest.NewUnstartedServer(nil)
	lent.StartTLS()
	lent.Close()
	plain, _ := freePort(t)
	secure, _ := freePort(t)
	six, err := net.Listen("tcp6", "[::1]:0")
	require.NoError(t, err)
	g := New(Options{Routes: newRoutes(acme), Local: m.local, Waker: m, Dial: new(net.Dialer).DialContext})
	ended := make(chan error, 1)
	go func() {
		ended <- g.Serve(context.Background(), Listener{Listener: plain}, Listener{Listener: secure, TLS: lent.TLS}, Listener{Listener: six})
	}()
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	ask := func(url string) (*http.Response, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		r.Host = "acme.localhost"
		response, err := client.Do(r)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response, string(body)
	}
	for _, l := range []net.Listener{plain, six} {
		_, body := ask("http://" + l.Addr().String())
		require.Equal(t, "http", body)
	}
	response, body := ask("https://" + secure.Addr().String())
	require.Equal(t, "https", body)
	require.Equal(t, 2, response.ProtoMajor)
	require.EqualValues(t, 1, m.wakes.Load())
	client.CloseIdleConnections()
	require.NoError(t, six.Close())
	require.ErrorIs(t, <-ended, net.ErrClosed)
}
