package gateway

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway/wire"
)

var (
	awake    = Here{Serves: true, Endpoints: []fleet.Endpoint{{Port: 80, Protocol: fleet.ProtocolHTTP, Address: "10.0.0.2:80"}, {Port: 1883, Protocol: fleet.ProtocolTCP, Address: "10.0.0.2:1883"}}}
	sleeping = Here{Asleep: true, Tier: fleet.TierWarm}
)

// sleeper is the route of one that sleeps, as its control plane sees it.
func sleeper(name string) Route {
	return Route{InstallationID: fleet.InstallationID("i-" + name), InstanceID: fleet.InstanceID("x-" + name), Name: name, State: fleet.StateHibernating}
}

// world is a gateway among fakes: acme sleeps.
type world struct {
	*Gateway
	routes  *fakeRoutes
	local   *fakeLocal
	waker   *fakeWaker
	metrics *recordedMetrics
	acme    Route
}

// newWorld is for bubbles of synctest: its time is theirs.
func newWorld(t *testing.T, o Options) *world {
	t.Helper()
	w := &world{acme: sleeper("acme"), local: &fakeLocal{}, metrics: &recordedMetrics{}}
	w.routes = newRoutes(w.acme)
	w.local.set(w.acme.InstanceID, sleeping)
	w.waker = &fakeWaker{local: w.local, takes: 200 * time.Millisecond}
	o.Routes, o.Local, o.Metrics = w.routes, w.local, w.metrics
	if o.Waker == nil {
		o.Waker = w.waker
	}
	w.Gateway = New(o)
	t.Cleanup(w.keep())
	return w
}

// head is a GET of a machine at 192.0.2.1; header lines are "Name: value".
func head(host string, headers ...string) *wire.Head {
	h := make(http.Header)
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return &wire.Head{Size: 512, Method: http.MethodGet, Target: "/path?q=1", Host: host, Client: netip.MustParseAddrPort("192.0.2.1:4000"), Header: h.Get}
}

func fromClient(h *wire.Head, client string) *wire.Head {
	h.Client = netip.AddrPortFrom(netip.MustParseAddr(client), 4000)
	return h
}

const browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"

// visitAcme asks for acme, and ends what it was let in for.
func (w *world) visitAcme(t *testing.T, headers ...string) *wire.Answer {
	t.Helper()
	pass, answer := w.Enter(t.Context(), head("acme.localhost", headers...))
	if pass != nil {
		pass.Done(http.StatusOK, nil)
	}
	return answer
}

// arrival is a visit under way.
type arrival struct {
	pass   *wire.Pass
	answer *wire.Answer
	after  time.Duration
	done   chan struct{}
}

func (w *world) arrive(ctx context.Context, h *wire.Head) *arrival {
	a := &arrival{done: make(chan struct{})}
	begin := time.Now()
	go func() {
		defer close(a.done)
		a.pass, a.answer = w.Enter(ctx, h)
		a.after = time.Since(begin)
	}()
	return a
}

func (a *arrival) waiting() bool {
	select {
	case <-a.done:
		return false
	default:
		return true
	}
}

// passed requires that the visitor was let in, and returns the pass.
func (a *arrival) passed(t *testing.T) *wire.Pass {
	t.Helper()
	<-a.done
	require.Nil(t, a.answer)
	require.NotNil(t, a.pass)
	return a.pass
}

// serve serves a gateway on loopback and returns its address.
func serve(t *testing.T, o Options) (*Gateway, string) {
	t.Helper()
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	g := New(o)
	go func() { ended <- g.Serve(ctx, Listener{Listener: listener}) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return g, listener.Addr().String()
}

func newGateway(t *testing.T, o Options) string {
	t.Helper()
	_, address := serve(t, o)
	return address
}
