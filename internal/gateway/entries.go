package gateway

import (
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// entry is what is known of one installation. It does not change: another
// takes its place.
type entry struct {
	route Route
	rules *rules
	// at is when Routes said so; zero is long ago.
	at time.Time
	// changes is what they were when it was asked for.
	changes uint64
	// here: All listed it.
	here bool
	// replaced: the book has another by now. asking: it will be asked for in the background.
	replaced, asking atomic.Bool
}

// replace puts the same route with another time. The lock is held.
func (b *book) replace(e *entry, at time.Time) {
	b.set(e, &entry{route: e.route, rules: e.rules, at: at, changes: e.changes, here: e.here})
}

// answered says how a route came.
type answered struct {
	at      time.Time
	changes uint64 // as they were when it was asked for
	here    bool   // by All
}

// put enters a route, and returns its entry.
func (b *book) put(route Route, how answered) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.byID[route.InstallationID]
	e := &entry{route: route, at: how.at, changes: how.changes, here: how.here}
	if old != nil && old.changes > how.changes {
		// This answer was on its way for longer: it says no more than that it is here.
		e.route, e.at, e.changes = old.route, old.at, old.changes
	}
	if changed, ok := b.changedAt.get(route.InstallationID); ok && changed > e.changes {
		e.at = time.Time{}
	}
	if old != nil {
		e.here = e.here || old.here
		if e.here == old.here && reflect.DeepEqual(old.route, e.route) {
			e.route, e.rules = old.route, old.rules
			b.set(old, e)
			return e
		}
	}
	e.rules = newRules(e.route.Wake)
	b.set(old, e)
	b.news()
	if len(b.byID) > maxRoutes {
		b.evict(e)
	}
	return e
}

// evict makes room for an entry: one that is not here goes first. The lock is held.
func (b *book) evict(newest *entry) {
	var goes *entry
	for _, other := range b.byID {
		if other == newest {
			continue
		}
		if goes = other; !other.here {
			break
		}
	}
	b.set(goes, nil)
}

// set puts an entry in the place of another; either may be nil. The lock is held.
func (b *book) set(old, e *entry) {
	if old != nil {
		old.replaced.Store(true)
		for _, host := range b.hosts(old.route) {
			if b.byHost[host] == old {
				delete(b.byHost, host)
			}
		}
		delete(b.byID, old.route.InstallationID)
	}
	if e != nil {
		b.byID[e.route.InstallationID] = e
		for _, host := range b.hosts(e.route) {
			b.byHost[host] = e
			b.unknown.remove(host)
		}
	}
}

// hosts returns the names under which an installation is reached. One under our
// own domain is the installation's of that name, whoever else claims it.
func (b *book) hosts(route Route) []string {
	hosts := []string{strings.ToLower(route.Name) + b.suffix}
	for _, name := range route.DNSNames {
		if name = strings.ToLower(name); !strings.HasSuffix(name, b.suffix) {
			hosts = append(hosts, name)
		}
	}
	return hosts
}

// without takes a name from an entry, or the entry from the book if it is its
// own name. The lock is held.
func (b *book) without(e *entry, host string) {
	if host == b.hosts(e.route)[0] {
		b.set(e, nil)
		return
	}
	other := &entry{route: e.route, rules: e.rules, changes: e.changes, here: e.here}
	other.route.DNSNames = slices.DeleteFunc(slices.Clone(e.route.DNSNames), func(name string) bool {
		return strings.EqualFold(name, host)
	})
	b.set(e, other)
}

// drop removes an entry, unless another has taken its place.
func (b *book) drop(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byID[e.route.InstallationID] == e {
		b.set(e, nil)
		b.news()
	}
}
