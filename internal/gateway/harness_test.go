package gateway

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway/wire"
)

// fakeRoutes is a Routes whose answers the test decides.
type fakeRoutes struct {
	mu     sync.Mutex
	domain string
	routes map[string]Route // by name
	err    error
	asked  map[string]int // by host; "" for All
	gate   chan struct{}  // where not nil, a lookup waits for it
	page   int            // how many All returns at once; 0 is all
}

func newRoutes(routes ...Route) *fakeRoutes {
	f := &fakeRoutes{domain: "localhost", routes: make(map[string]Route), asked: make(map[string]int)}
	for _, r := range routes {
		f.routes[r.Name] = r
	}
	return f
}

func (f *fakeRoutes) Route(ctx context.Context, host string) (Route, error) {
	f.mu.Lock()
	f.asked[host]++
	route, ok := Route{}, false
	for _, r := range f.routes {
		if host == r.Name+"."+f.domain || slices.Contains(r.DNSNames, host) {
			route, ok = r, true
		}
	}
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
		err = fleet.Errorf(fleet.KindNotFound, "no %s", host)
	}
	return route, err
}

func (f *fakeRoutes) All(_ context.Context, after string) (page []Route, next string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[""]++
	for _, r := range f.routes {
		if string(r.InstallationID) > after {
			page = append(page, r)
		}
	}
	slices.SortFunc(page, func(a, b Route) int { return strings.Compare(string(a.InstallationID), string(b.InstallationID)) })
	if f.page > 0 && len(page) > f.page {
		page = page[:f.page]
		next = string(page[f.page-1].InstallationID)
	}
	return page, next, f.err
}

func (f *fakeRoutes) change(c func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c()
}

// set puts a route in the place of the one of that name.
func (f *fakeRoutes) set(r Route) { f.change(func() { f.routes[r.Name] = r }) }

func (f *fakeRoutes) lookups(host string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[host]
}

// fakeLocal is a host with machines.
type fakeLocal struct {
	mu       sync.Mutex
	machines map[fleet.InstanceID]Here
}

func (f *fakeLocal) Here(id fleet.InstanceID) (Here, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	here, ok := f.machines[id]
	return here, ok
}

func (f *fakeLocal) set(id fleet.InstanceID, here Here) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.machines == nil {
		f.machines = make(map[fleet.InstanceID]Here)
	}
	f.machines[id] = here
}

// fakeWaker wakes the machines of a fakeLocal after a time.
type fakeWaker struct {
	local *fakeLocal
	takes time.Duration
	mu    sync.Mutex
	woken int
	err   error
	// instead does something else than to wake.
	instead func(ctx context.Context, route Route) (Woken, error)
}

func (f *fakeWaker) Wake(ctx context.Context, route Route) (Woken, error) {
	f.mu.Lock()
	f.woken++
	err, instead := f.err, f.instead
	f.mu.Unlock()
	if instead != nil {
		return instead(ctx, route)
	}
	if !wait(ctx, f.takes) {
		return Woken{}, ctx.Err()
	}
	if err != nil {
		return Woken{}, err
	}
	f.local.set(route.InstanceID, awake)
	return Woken{Route: route, Restore: f.takes / 2}, nil
}

func (f *fakeWaker) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.woken
}

func (f *fakeWaker) change(c func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c()
}

// recordedMetrics counts under "kind value".
type recordedMetrics struct {
	mu     sync.Mutex
	counts map[string]int
	phases map[Phase]time.Duration
}

func (m *recordedMetrics) add(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counts == nil {
		m.counts = make(map[string]int)
	}
	m.counts[key]++
}

func (m *recordedMetrics) Request(status int, _ time.Duration) {
	m.add("request " + http.StatusText(status))
}
func (m *recordedMetrics) Lookup(result string)  { m.add("lookup " + result) }
func (m *recordedMetrics) Wake(result string)    { m.add("wake " + result) }
func (m *recordedMetrics) Refused(reason string) { m.add("refused " + reason) }
func (m *recordedMetrics) Phase(phase Phase, elapsed time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phases == nil {
		m.phases = make(map[Phase]time.Duration)
	}
	m.phases[phase] = elapsed
}

func (m *recordedMetrics) count(key string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts[key]
}

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
