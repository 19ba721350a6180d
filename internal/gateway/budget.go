package gateway

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxSources bounds the networks whose wakes are counted. One that is forgotten
// begins anew; the budget of each installation holds all the same.
const maxSources = 10000

// newBudget allows perHour in an hour, all at once where they were saved up;
// below 0 is unbounded.
func newBudget(perHour int) *rate.Limiter {
	if perHour < 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(float64(perHour)/3600), perHour)
}

// spend takes one out of a budget, or returns how long it takes until there is one.
func spend(l *rate.Limiter, now time.Time) (wait time.Duration) {
	r := l.ReserveN(now, 1)
	if !r.OK() {
		return time.Hour // it allows none at all
	}
	wait = r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// budgets are the budgets of networks.
type budgets struct {
	perHour int
	mu      sync.Mutex
	each    recent[netip.Prefix, *rate.Limiter]
}

func newBudgets(limit, perHour int) *budgets {
	return &budgets{perHour: perHour, each: newRecent[netip.Prefix, *rate.Limiter](limit)}
}

func (b *budgets) spend(source netip.Prefix, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.each.get(source)
	if !ok {
		l = newBudget(b.perHour)
		b.each.put(source, l)
	}
	return spend(l, now)
}

// sourceOf returns the network that a client's wakes are counted under: what
// one household or office has.
func sourceOf(client netip.Addr) netip.Prefix {
	client = client.Unmap().WithZone("")
	bits := 24
	if client.Is6() {
		bits = 56
	}
	source, err := client.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address: all such clients together
	}
	return source
}
