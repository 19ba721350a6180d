package gateway

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"dormouse/internal/fleet"
)

const (
	// lookupTimeout bounds one question to Routes.
	lookupTimeout = 2 * time.Second
	// patience is how long a request waits for an answer of Routes where the book
	// has an older one.
	patience = time.Second
	// unknownFor is how long a name that Routes does not know is not asked for again.
	unknownFor = time.Second
	// downFor is how long nothing that the book has is asked for after Routes failed,
	// unless loadAll, which is tried more often, finds that it answers again.
	downFor = 15 * time.Second
	// unsettledFor is how long a route is fresh that leads nowhere and is not asleep.
	unsettledFor = time.Second
	// againAfter is how soon a route may be asked for again that led nowhere.
	againAfter = 50 * time.Millisecond
	// maxRoutes and maxUnknown bound what is remembered. They are apart, so that
	// somebody who guesses names does not push real ones out.
	maxRoutes  = 20000
	maxUnknown = 2000
	// maxLookups bounds the questions asked at once.
	maxLookups = 32
)

// book is what is known of the routes.
type book struct {
	g       *Gateway
	routes  Routes
	suffix  string
	flights singleflight.Group
	slots   chan struct{}
	// wrote, reload and refresh are signals with room for one: the routes have
	// changed; all should be loaded; some were changed.
	wrote, reload, refresh chan struct{}

	mu      sync.RWMutex
	byID    map[fleet.InstallationID]*entry
	byHost  map[string]*entry
	unknown recent[string, time.Time]
	// asked are the hidden sleepers that were lately asked for, as an unknown name is.
	asked recent[string, time.Time]
	// changes counts the calls of Changed; changedAt has the last of each
	// installation, so that an answer that is older is not taken for fresh.
	changes   uint64
	changedAt recent[fleet.InstallationID, uint64]
	// due are the installations that are to be asked for in the background.
	due map[fleet.InstallationID]bool
	// downUntil is when Routes may be asked again for what the book has.
	downUntil time.Time
	outage    bool
}

func newBook(g *Gateway) *book {
	b := &book{
		g: g, routes: g.o.Routes, suffix: g.suffix, slots: make(chan struct{}, maxLookups),
		wrote: make(chan struct{}, 1), reload: make(chan struct{}, 1), refresh: make(chan struct{}, 1),
		byID: make(map[fleet.InstallationID]*entry), byHost: make(map[string]*entry),
		unknown: newRecent[string, time.Time](maxUnknown), asked: newRecent[string, time.Time](maxUnknown),
		changedAt: newRecent[fleet.InstallationID, uint64](maxRoutes), due: make(map[fleet.InstallationID]bool),
	}
	for _, r := range g.readBook() {
		b.put(r.Route, answered{here: r.Here})
	}
	return b
}

// signal sends where nothing is waiting to be received yet.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// news says that routes have changed, to who writes them down and who opens ports.
func (b *book) news() {
	signal(b.wrote)
	signal(b.g.ports.changed)
}

// fresh tells whether an entry is used without asking.
func (b *book) fresh(e *entry, now time.Time) bool {
	limit := b.g.o.FreshFor
	if e.route.Address == "" && e.route.State != fleet.StateHibernating {
		limit = min(limit, unsettledFor)
	}
	return now.Sub(e.at) < limit
}

// find returns the entry of a host name. One that is out of date is returned
// where Routes can't be asked.
func (b *book) find(ctx context.Context, host string) (*entry, error) {
	now := time.Now()
	b.mu.RLock()
	e, down := b.byHost[host], now.Before(b.downUntil)
	b.mu.RUnlock()
	if e != nil && (down || b.fresh(e, now)) {
		return e, nil
	}
	if e != nil && b.g.settledHere(e.route) {
		// What runs or sleeps here is served whatever the database does.
		if e.asking.CompareAndSwap(false, true) {
			b.askSoon(e.route.InstallationID)
		}
		return e, nil
	}
	if e == nil && b.lately(&b.unknown, host, now) {
		return nil, notFound(host)
	}
	var enough <-chan time.Time
	if e != nil {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case result := <-b.flights.DoChan(host, func() (any, error) { return b.lookUp(host) }):
		if result.Err != nil {
			return nil, result.Err
		}
		return result.Val.(*entry), nil
	case <-enough:
		return e, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// lately tells whether a name is in a list of those that were asked for within unknownFor.
func (b *book) lately(list *recent[string, time.Time], host string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, ok := list.get(host)
	return ok && now.Sub(at) < unknownFor
}

// pretend asks for a name as often as for one that is not known, so that a
// sleeper that hides can't be told by the time that the answer takes. It
// returns what a name that is not known would be answered.
func (b *book) pretend(ctx context.Context, host string) error {
	if !b.lately(&b.asked, host, time.Now()) {
		select {
		case result := <-b.flights.DoChan("hidden "+host, func() (any, error) { return b.ask(host) }):
			if result.Err != nil {
				return result.Err
			}
			b.mu.Lock()
			b.asked.put(host, time.Now())
			b.mu.Unlock()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return notFound(host)
}

func notFound(host string) error {
	return fleet.Errorf(fleet.KindNotFound, "no installation is reached at %s", host)
}

// known returns the entry of an installation, as it is in the book; nil where
// there is none.
func (b *book) known(id fleet.InstallationID) *entry {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.byID[id]
}

// again has a route asked for that led nowhere, even if it is fresh.
func (b *book) again(id fleet.InstallationID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.byID[id]; e != nil && time.Since(e.at) >= againAfter {
		b.replace(e, time.Time{})
	}
}

// changed marks an installation's route as out of date.
func (b *book) changed(id fleet.InstallationID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes++
	b.changedAt.put(id, b.changes)
	e := b.byID[id]
	if e == nil {
		signal(b.reload) // it may be one that is new here
		return
	}
	b.replace(e, time.Time{})
	for _, host := range b.hosts(e.route) {
		b.flights.Forget(host)
	}
	if e.here {
		b.due[id] = true
		signal(b.refresh)
	}
}

// woken enters the route that a wake has led to. What was asked for before is
// older; what changed since the wake began may be newer.
func (b *book) woken(route Route, changes uint64) {
	b.mu.Lock()
	how := answered{at: time.Now()}
	if changed, ok := b.changedAt.get(route.InstallationID); ok && changed > changes {
		how.at = time.Time{}
	}
	b.changes++
	b.changedAt.put(route.InstallationID, b.changes)
	how.changes = b.changes
	b.mu.Unlock()
	b.put(route, how)
}

// changesNow returns how often Changed was called.
func (b *book) changesNow() uint64 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.changes
}

// askSoon has an installation asked for in the background.
func (b *book) askSoon(id fleet.InstallationID) {
	b.mu.Lock()
	b.due[id] = true
	b.mu.Unlock()
	signal(b.refresh)
}
