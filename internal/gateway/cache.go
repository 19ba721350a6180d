package gateway

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"dormouse/internal/fleet"
)

const (
	// freshFor is how long an answer of Routes is used without asking again.
	freshFor = time.Second
	// lookupTimeout bounds one question to Routes.
	lookupTimeout = 2 * time.Second
	// notYetFor is freshFor of a route that leads nowhere yet.
	notYetFor = 50 * time.Millisecond
	// maxRoutes and maxUnknown bound what is remembered. They are apart, so that
	// somebody who guesses names does not push real ones out.
	maxRoutes  = 20000
	maxUnknown = 2000
	// maxLookups bounds the questions asked at once.
	maxLookups = 32
)

// cache remembers the answers of Routes.
type cache struct {
	routes  Routes
	metrics Metrics
	clock   func() time.Time
	flights singleflight.Group
	slots   chan struct{}

	mu      sync.Mutex
	known   recent
	unknown recent
}

func newCache(routes Routes, metrics Metrics, clock func() time.Time) *cache {
	return &cache{routes: routes, metrics: metrics, clock: clock, slots: make(chan struct{}, maxLookups),
		known: newRecent(maxRoutes), unknown: newRecent(maxUnknown)}
}

// answer is what Routes said of one name, and when.
type answer struct {
	name  string
	route Route
	at    time.Time
}

// fresh is how long an answer is used without asking again. One that leads
// nowhere yet is asked for sooner: the workspace may be about to serve.
func (a answer) fresh() time.Duration {
	if a.route.Address == "" {
		return notYetFor
	}
	return freshFor
}

// route returns an installation's route. One that is out of date is returned
// where Routes can't be asked.
func (c *cache) route(ctx context.Context, name string) (Route, error) {
	c.mu.Lock()
	old, known := c.known.get(name)
	absent, unknown := c.unknown.get(name)
	c.mu.Unlock()
	now := c.clock()
	if known && now.Sub(old.at) < old.fresh() {
		return old.route, nil
	}
	if unknown && now.Sub(absent.at) < freshFor {
		return Route{}, notFound(name)
	}
	select {
	case result := <-c.flights.DoChan(name, func() (any, error) { return c.lookUp(name) }):
		if result.Err != nil {
			return Route{}, result.Err
		}
		return result.Val.(Route), nil
	case <-ctx.Done():
		return Route{}, ctx.Err()
	}
}

// again returns a route that is newer than the one just used, which led nowhere:
// it is looked up even within a second, but not more than every 50 ms.
func (c *cache) again(ctx context.Context, name string) (Route, error) {
	c.mu.Lock()
	if old, known := c.known.get(name); known && c.clock().Sub(old.at) >= 50*time.Millisecond {
		old.at = time.Time{}
		c.known.put(old)
	}
	c.mu.Unlock()
	return c.route(ctx, name)
}

func notFound(name string) error {
	return fleet.Errorf(fleet.KindNotFound, "no installation is named %s", name)
}

// lookUp asks Routes, for all who wait for that name: none of their contexts
// ends it.
func (c *cache) lookUp(name string) (Route, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	var route Route
	var err error
	select {
	case c.slots <- struct{}{}:
		route, err = c.routes.Route(ctx, name)
		<-c.slots
	case <-ctx.Done():
		err = errors.New("too many lookups at once")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	switch {
	case err == nil:
		c.metrics.Lookup("found")
		c.unknown.remove(name)
		c.known.put(answer{name: name, route: route, at: now})
		return route, nil
	case fleet.KindOf(err) == fleet.KindNotFound:
		c.metrics.Lookup("unknown")
		c.known.remove(name)
		c.unknown.put(answer{name: name, at: now})
		return Route{}, err
	}
	c.metrics.Lookup("failed")
	old, known := c.known.get(name)
	if !known {
		return Route{}, err
	}
	// For as long again, so that each request does not wait for the next failure.
	old.at = now
	c.known.put(old)
	return old.route, nil
}

// recent is a bounded map that forgets what was used longest ago.
type recent struct {
	limit   int
	entries map[string]*list.Element
	order   *list.List // of answer, the most recently used first
}

func newRecent(limit int) recent {
	return recent{limit: limit, entries: make(map[string]*list.Element), order: list.New()}
}

func (r recent) get(name string) (answer, bool) {
	element, ok := r.entries[name]
	if !ok {
		return answer{}, false
	}
	r.order.MoveToFront(element)
	return element.Value.(answer), true
}

func (r recent) put(a answer) {
	r.remove(a.name)
	r.entries[a.name] = r.order.PushFront(a)
	if len(r.entries) > r.limit {
		r.remove(r.order.Back().Value.(answer).name)
	}
}

func (r recent) remove(name string) {
	if element, ok := r.entries[name]; ok {
		r.order.Remove(element)
		delete(r.entries, name)
	}
}
