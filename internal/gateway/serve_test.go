package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// machine is an instance on loopback that can be put to sleep and woken.
type machine struct {
	local *fakeLocal
	id    fleet.InstanceID
	serve http.HandlerFunc

	mu     sync.Mutex
	server *http.Server
	wakes  atomic.Int64
	conns  map[net.Conn]bool
}

func newMachine(t *testing.T, route Route, serve http.HandlerFunc) *machine {
	t.Helper()
	m := &machine{local: &fakeLocal{}, id: route.InstanceID, serve: serve}
	m.local.set(m.id, sleeping)
	t.Cleanup(m.sleep)
	return m
}

// Wake implements Waker.
func (m *machine) Wake(_ context.Context, route Route) (Woken, error) {
	m.wakes.Add(1)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return Woken{}, err
	}
	m.mu.Lock()
	m.conns = make(map[net.Conn]bool)
	m.server = &http.Server{Handler: m.serve, ConnState: m.seen}
	go func(s *http.Server) { _ = s.Serve(l) }(m.server) // ends with sleep
	m.mu.Unlock()
	address := l.Addr().String()
	m.local.set(m.id, Here{Serves: true, Endpoints: []fleet.Endpoint{
		{Port: 80, Protocol: fleet.ProtocolHTTP, Address: address}, {Port: 1883, Protocol: fleet.ProtocolTCP, Address: address}}})
	return Woken{Route: route}, nil
}

// seen keeps account of the machine's connections.
func (m *machine) seen(conn net.Conn, state http.ConnState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns[conn] = true; state == http.StateClosed || state == http.StateHijacked {
		delete(m.conns, conn)
	}
}

func (m *machine) connections() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.conns)
}

func (m *machine) sleep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.server != nil {
		_ = m.server.Close()
		m.server = nil
	}
	m.local.set(m.id, sleeping)
}

func TestRequestsWakeASleeper(t *testing.T) {
	t.Parallel()
	acme := sleeper("acme")
	m := newMachine(t, acme, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Method, body)
	})
	g, address := serve(t, Options{Routes: newRoutes(acme), Local: m.local, Waker: m, SourceWakesPerHour: -1, WakesPerHour: -1})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}
	defer client.CloseIdleConnections()
	for round := range int64(5) {
		var asking sync.WaitGroup
		answers := make(chan string, 200)
		for i := range 200 {
			asking.Go(func() {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address, strings.NewReader(fmt.Sprint(i)))
				if err != nil {
					answers <- err.Error()
					return
				}
				r.Host = "acme.localhost"
				response, err := client.Do(r)
				if err != nil {
					answers <- err.Error()
					return
				}
				defer response.Body.Close()
				body, err := io.ReadAll(response.Body)
				answers <- fmt.Sprint(response.StatusCode, " ", string(body), err)
			})
		}
		asking.Wait()
		close(answers)
		seen := make(map[string]bool)
		for a := range answers {
			seen[a] = true
		}
		for i := range 200 {
			require.Contains(t, seen, fmt.Sprintf("200 POST %d<nil>", i))
		}
		require.Equal(t, round+1, m.wakes.Load())
		require.Eventually(t, func() bool { return g.Load().Open == 0 }, time.Minute, time.Millisecond)
		q, err := g.Quiesce(t.Context(), acme.InstallationID, QuiesceOptions{Yield: true})
		require.NoError(t, err)
		m.sleep()
		q.Release()
	}
}

// Posts never cease while the machine goes to sleep again and again: each is
// answered, and done once.
func TestNothingIsLostByGoingToSleep(t *testing.T) {
	t.Parallel()
	acme := sleeper("acme")
	var mu sync.Mutex
	done := make(map[string]int)
	m := newMachine(t, acme, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		done[r.URL.Path]++
	})
	g, address := serve(t, Options{Routes: newRoutes(acme), Local: m.local, Waker: m, SourceWakesPerHour: -1, WakesPerHour: -1})
	ctx, cancel := context.WithCancel(t.Context())
	var posting sync.WaitGroup
	errs := make(chan error, 8)
	var sent [8]int
	for worker := range sent {
		posting.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://%s/%d-%d", address, worker, sent[worker]), nil)
				if err == nil {
					r.Host = "acme.localhost"
					var response *http.Response
					if response, err = client.Do(r); err == nil {
						_ = response.Body.Close()
						if response.StatusCode != http.StatusOK {
							err = fmt.Errorf("status %s", response.Status)
						}
					}
				}
				if err != nil {
					errs <- err
					return
				}
				sent[worker]++
			}
		})
	}
	for range 100 {
		q, err := g.Quiesce(ctx, acme.InstallationID, QuiesceOptions{})
		require.NoError(t, err)
		m.sleep()
		q.Release()
		require.Eventually(t, func() bool { here, _ := m.local.Here(m.id); return here.Serves }, time.Minute, 100*time.Microsecond)
	}
	cancel()
	posting.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	all := 0
	for worker, n := range sent {
		all += n
		for i := range n {
			require.Equal(t, 1, done[fmt.Sprintf("/%d-%d", worker, i)])
		}
	}
	require.Len(t, done, all)
	require.GreaterOrEqual(t, m.wakes.Load(), int64(100))
}

// A request that hangs is told that it was broken off; a connection that lasts is just ended.
func TestWhatIsBrokenOffIsTold(t *testing.T) {
	t.Parallel()
	acme := sleeper("acme")
	begun := make(chan struct{}, 2)
	m := newMachine(t, acme, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			begun <- struct{}{}
			<-r.Context().Done()
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
		begun <- struct{}{}
		_, _ = io.Copy(io.Discard, conn) // until the gateway ends it
	})
	g, address := serve(t, Options{Routes: newRoutes(acme), Local: m.local, Waker: m})
	dial := func(headers string) *bufio.Reader {
		conn, err := net.Dial("tcp4", address)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: acme.localhost\r\n"+headers+"\r\n")
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
		<-begun
		return bufio.NewReader(conn)
	}
	hangs, lasts := dial(""), dial("Upgrade: echo\r\nConnection: Upgrade\r\n")
	q, err := g.Quiesce(t.Context(), acme.InstallationID, QuiesceOptions{Grace: time.Millisecond})
	require.NoError(t, err)
	response, err := http.ReadResponse(hangs, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	require.Equal(t, "broken-off", response.Header.Get(ReasonHeader))
	response, err = http.ReadResponse(lasts, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
	_, err = lasts.ReadByte()
	require.Error(t, err)
	q.Release()
	require.Zero(t, g.Load().Open)
}

// TestAMachineThatIsKilled: a guest that is gone says so to nobody, and whoever
// waits for it was left to their own patience.
func TestAMachineThatIsKilled(t *testing.T) {
	t.Parallel()
	acme := sleeper("acme")
	begun := make(chan struct{}, 1)
	m := newMachine(t, acme, func(_ http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-r.Context().Done()
	})
	g, address := serve(t, Options{Routes: newRoutes(acme), Local: m.local, Waker: m})
	conn, err := net.Dial("tcp4", address)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: acme.localhost\r\n\r\n")
	require.NoError(t, err)
	<-begun
	g.Changed(acme.InstallationID) // it runs
	m.local.set(m.id, Here{Off: true, Run: "another"})
	g.Changed(acme.InstallationID) // from another run of it
	require.EqualValues(t, 1, g.Load().Open)
	m.local.set(m.id, Here{Off: true})
	g.Changed(acme.InstallationID)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	require.Eventually(t, func() bool { return g.Load().Open == 0 }, time.Minute, time.Millisecond)
}

// The bubble ends only when all that the gateway began has ended.
func TestServeLeavesNothingRunning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kept, port := freePort(t)
		require.NoError(t, kept.Close())
		l, _ := freePort(t)
		acme := sleeper("acme")
		acme.Ports = []fleet.RoutePort{{Gateway: port, Port: 1883}}
		m := newMachine(t, acme, func(http.ResponseWriter, *http.Request) {})
		g := New(Options{Routes: newRoutes(acme), Local: m.local, Waker: m, Dial: new(net.Dialer).DialContext, Dir: t.TempDir(),
			Report: &fakeReport{}, PortHosts: []string{"127.0.0.1"}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- g.Serve(ctx, Listener{Listener: l}) }()
		conn := dialPort(t, l.Addr().(*net.TCPAddr).Port)
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: acme.localhost\r\n\r\n")
		require.NoError(t, err)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, response.StatusCode)
		m.sleep()
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, conn.Close())
	})
}

// A machine that is put to sleep has no open connection that its client has
// given up: it would keep its end for ever.
func TestNoConnectionIsLeftToASleeper(t *testing.T) {
	t.Parallel()
	acme := sleeper("acme")
	m := newMachine(t, acme, func(http.ResponseWriter, *http.Request) {})
	g, address := serve(t, Options{Routes: newRoutes(acme), Local: m.local, Waker: m})
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for range 3 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address, nil)
		require.NoError(t, err)
		r.Host = "acme.localhost"
		response, err := client.Do(r)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.NotZero(t, m.connections())
		q, err := g.Quiesce(t.Context(), acme.InstallationID, QuiesceOptions{})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return m.connections() == 0 }, 10*time.Second, time.Millisecond, "sooner than the engine gives up what is not used")
		m.sleep()
		q.Release()
	}
}
