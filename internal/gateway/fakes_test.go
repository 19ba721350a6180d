package gateway

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"dormouse/internal/fleet"
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
		if slices.ContainsFunc(r.DNSNames, func(name string) bool { return strings.EqualFold(name, host) }) {
			route, ok = r, true
		}
	}
	if name, ours := strings.CutSuffix(host, "."+f.domain); ours && f.routes[name].Name != "" {
		route, ok = f.routes[name], true
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

func (f *fakeRoutes) All(ctx context.Context, after string) (page []Route, next string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[""]++
	if gate := f.gate; gate != nil {
		f.mu.Unlock()
		select {
		case <-gate:
		case <-ctx.Done():
		}
		f.mu.Lock()
		if ctx.Err() != nil {
			return nil, "", ctx.Err()
		}
	}
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
