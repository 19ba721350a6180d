package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"dormouse/internal/fleet"
)

const (
	// refreshAfter is how long changes are gathered before the routes are asked
	// for in the background, and reloadAfter how often all are loaded at most.
	refreshAfter = time.Second
	reloadAfter  = 5 * time.Second
	// loadTimeout bounds the question for one page of all routes.
	loadTimeout = 5 * time.Second
)

// errBusy is of too many who ask for names; it says nothing of Routes.
var errBusy = errors.New("too many lookups at once")

// ask asks Routes for one name. The contexts of those who wait do not end it.
func (b *book) ask(host string) (*entry, error) {
	ctx, cancel := context.WithTimeout(b.g.life, lookupTimeout)
	defer cancel()
	how := answered{changes: b.changesNow()}
	var route Route
	var err error
	select {
	case b.slots <- struct{}{}:
		route, err = b.routes.Route(ctx, host)
		<-b.slots
	case <-ctx.Done():
		err = errBusy
	}
	how.at = time.Now()
	if err == nil && !slices.Contains(b.hosts(route), host) {
		err = notFound(host) // somebody claims a name under our domain that is not theirs
	}
	switch {
	case err == nil:
		b.g.metrics.Lookup("found")
		b.up()
		return b.put(route, how), nil
	case fleet.KindOf(err) == fleet.KindNotFound:
		b.g.metrics.Lookup("unknown")
		b.up()
		b.mu.Lock()
		defer b.mu.Unlock()
		if e := b.byHost[host]; e != nil {
			b.without(e, host)
			b.news()
		}
		b.unknown.put(host, how.at)
		return nil, notFound(host)
	}
	b.g.metrics.Lookup("failed")
	if err != errBusy {
		b.down()
	}
	return nil, err
}

// lookUp asks Routes, and returns what the book has where it can't answer.
func (b *book) lookUp(host string) (*entry, error) {
	e, err := b.ask(host)
	if err == nil || fleet.KindOf(err) == fleet.KindNotFound {
		return e, err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if e := b.byHost[host]; e != nil {
		e.asking.Store(false)
		return e, nil
	}
	return nil, err
}

// down notes that Routes does not answer: for a moment the book is used as it
// is, so that each request does not wait for the next failure.
func (b *book) down() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.downUntil = time.Now().Add(downFor)
	if !b.outage {
		b.outage = true
		b.g.log.Warn("routes can't be asked: the gateway goes on with its own copy")
	}
	signal(b.reload)
}

func (b *book) isDown(now time.Time) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return now.Before(b.downUntil)
}

// up notes that Routes answers.
func (b *book) up() {
	b.mu.RLock()
	outage := b.outage
	b.mu.RUnlock()
	if !outage {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outage, b.downUntil = false, time.Time{}
	b.g.log.Info("routes can be asked again")
	signal(b.reload)
}

// loadAll asks for all routes of the hosts here. What was one of them and is no
// more leaves the book.
func (b *book) loadAll(ctx context.Context) error {
	began := time.Now()
	listed := make(map[fleet.InstallationID]bool)
	for after := ""; ; {
		how := answered{changes: b.changesNow(), here: true}
		page, cancel := context.WithTimeout(ctx, loadTimeout)
		routes, next, err := b.routes.All(page, after)
		cancel()
		if err != nil {
			return fleet.Errorf(fleet.KindUnavailable, "loading all routes: %w", err)
		}
		how.at = time.Now()
		for _, route := range routes {
			if len(listed) == maxRoutes {
				b.g.log.Warnf("there are more than %d installations here: the rest is asked for one by one", maxRoutes)
				next = ""
				break
			}
			listed[route.InstallationID] = true
			b.put(route, how)
		}
		if next == "" || next == after {
			break
		}
		after = next
	}
	b.mu.Lock()
	var gone []*entry
	for id, e := range b.byID {
		if e.here && !listed[id] && e.at.Before(began) {
			gone = append(gone, e)
		}
	}
	b.mu.Unlock()
	for _, e := range gone {
		b.drop(e)
	}
	return nil
}

// keepLoaded loads all routes at the start, after outages, and when an
// installation changed that is not in the book, until ctx ends.
func (b *book) keepLoaded(ctx context.Context) {
	for failed := false; ; {
		err := b.loadAll(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !failed {
				b.g.log.WithError(err).Warn("loading the routes: trying again")
			}
			b.down()
		case err == nil:
			b.up()
		}
		failed = err != nil
		if !wait(ctx, reloadAfter) {
			return
		}
		if failed {
			continue
		}
		select {
		case <-b.reload:
		case <-ctx.Done():
			return
		}
	}
}

// keepFresh asks for what changed, in the background, until ctx ends: the copy
// on the disk is to be of use although nobody has come since.
func (b *book) keepFresh(ctx context.Context) {
	for {
		select {
		case <-b.refresh:
		case <-ctx.Done():
			return
		}
		if !wait(ctx, refreshAfter) {
			return
		}
		b.mu.Lock()
		due := slices.Collect(maps.Keys(b.due))
		clear(b.due)
		b.mu.Unlock()
		for _, id := range due {
			e := b.known(id)
			if e == nil || b.fresh(e, time.Now()) {
				continue
			}
			host := b.hosts(e.route)[0]
			_, _, _ = b.flights.Do(host, func() (any, error) { return b.lookUp(host) }) // else when somebody comes
			if b.isDown(time.Now()) {
				break // all are loaded afterwards
			}
		}
	}
}

// wait returns after a time, or false when ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
