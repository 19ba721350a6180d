package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway/wire"
)

// After a wake that failed, none is tried for firstRetry, and twice as long
// after each further one, up to lastRetry: a machine that can't come up is not
// started in a tight loop.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// waking is a wake under way.
type waking struct {
	begun time.Time
	// tier is how it slept; tierPending where it did not sleep, and it is only
	// waited for who brings it up. Such a one is no wake to those who count them.
	tier fleet.SleepTier
	// done is closed when it has ended, in whichever way.
	done chan struct{}
}

// expectation is what is known of how long a visitor will wait.
type expectation struct {
	begun time.Time
	// takes is how long such a thing took lately; 0 is unknown, and short.
	takes time.Duration
}

// atOnce is what is waited for where there is nothing to be waited for.
var atOnce = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// wakeFor begins a wake for a visitor, unless one is under way or there may be
// none. The lock is held.
func (d *door) wakeFor(v *visit, c condition) (*wire.Pass, <-chan struct{}, *refusal) {
	now := time.Now()
	w := d.waking
	switch {
	case w != nil && now.Sub(w.begun) > d.g.o.WakeTime:
		return nil, nil, notWoken("It has been waking up for too long.", shortly)
	case w == nil && now.Before(d.retryAt):
		why := *d.failure
		why.retryAfter = d.retryAt.Sub(now)
		return nil, nil, &why
	case w == nil:
		if c.standing == asleep {
			if why := d.afford(v, now); why != nil {
				return nil, nil, why
			}
		}
		w = d.wake(v, c, now)
	}
	v.waitsFor = expectation{begun: w.begun, takes: d.g.pace.of(w.tier)}
	return nil, w.done, nil
}

// afford takes a wake out of the budgets. The lock is held.
func (d *door) afford(v *visit, now time.Time) *refusal {
	perHour := v.entry.route.Wake.WakesPerHour
	orDefault(&perHour, d.g.o.WakesPerHour)
	if d.budget == nil || d.perHour != perHour {
		d.budget, d.perHour = newBudget(perHour), perHour
	}
	// The source's first: what is refused for it takes nothing from the installation.
	if wait := d.g.sources.spend(v.source(), now); wait > 0 {
		return &refusal{status: http.StatusTooManyRequests, reason: "source-budget", title: "Too many sleeping workspaces woken",
			detail: "Your network has woken as many workspaces as it may for now.", retryAfter: wait}
	}
	if wait := spend(d.budget, now); wait > 0 {
		return &refusal{status: http.StatusServiceUnavailable, reason: "wake-budget", title: "This workspace is asleep",
			detail: "It has been woken as often as it may be for now.", retryAfter: wait}
	}
	return nil
}

// wake begins a wake. The lock is held.
func (d *door) wake(v *visit, c condition, now time.Time) *waking {
	w := &waking{begun: now, tier: c.tier, done: make(chan struct{})}
	if c.standing == pending {
		w.tier = tierPending
	}
	d.waking = w
	if w.tier != tierPending {
		v.woke = true
		d.wakes++
		d.g.metrics.Phase(PhaseQueue, now.Sub(v.begin))
	}
	route := v.entry.route
	d.g.wakes.Go(func() { d.runWake(w, route) })
	return w
}

// runWake asks the Waker, and lets go those who wait.
func (d *door) runWake(w *waking, route Route) {
	ctx, cancel := context.WithTimeout(d.g.life, d.g.o.WakeTime)
	defer cancel()
	changes := d.g.book.changesNow()
	woken, err := d.askWaker(ctx, route)
	result := WakeServed
	if err != nil && ctx.Err() != nil {
		result = WakeLate
	} else if err != nil {
		result = WakeFailed
	}
	if err == nil {
		if woken.Route.InstallationID != d.id {
			woken.Route = route // it says nothing new
		}
		d.g.book.woken(woken.Route, changes)
	}
	d.mu.Lock()
	if err == nil {
		if c := d.g.condition(woken.Route, 0); c.standing == asleep || c.standing == pending {
			result, err = WakeFailed, errors.New("it was woken, and does not serve")
		}
	}
	d.waking = nil
	d.generation++
	if err == nil {
		d.failures, d.retryAt, d.failure = 0, time.Time{}, nil
	} else {
		d.failures++
		d.failure = failureOf(err)
		if w.tier == tierPending {
			d.failure.title = refusalOf(route, "").title
		} else {
			d.failed++
		}
		d.retryAt = time.Now().Add(max(retryIn(d.failures), d.failure.retryAfter))
	}
	d.mu.Unlock()
	d.account(w, woken, result)
	if err != nil && d.g.life.Err() == nil {
		d.g.log.WithError(err).WithField("installation", route.Name).Warn("waking for a visitor")
		d.g.book.again(d.id)
	}
	close(w.done)
}

// account tells how a wake went.
func (d *door) account(w *waking, woken Woken, result string) {
	took := time.Since(w.begun)
	if result == WakeServed {
		d.g.pace.took(w.tier, took)
	}
	if w.tier == tierPending {
		return
	}
	d.g.metrics.Wake(result)
	if result != WakeServed {
		return
	}
	if woken.Restore > 0 {
		d.g.metrics.Phase(PhaseRestore, woken.Restore)
	}
	d.g.metrics.Phase(PhaseReady, took-woken.Restore)
}

// askWaker keeps a fault of the Waker to this one wake.
func (d *door) askWaker(ctx context.Context, route Route) (woken Woken, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("the waker panicked: %v", fault)
		}
	}()
	return d.g.o.Waker.Wake(ctx, route)
}

func retryIn(failures int) time.Duration {
	return min(firstRetry<<min(failures-1, 10), lastRetry)
}

// failureOf says to visitors why a wake failed, without anything from inside.
func failureOf(err error) *refusal {
	var e *fleet.Error
	why := notWoken("It could not be woken.", 0)
	if !errors.As(err, &e) {
		return why
	}
	why.retryAfter = min(e.RetryAfter, lastRetry)
	switch e.Kind {
	case fleet.KindCapacity:
		why.detail = "There is no room to wake it right now."
	case fleet.KindUnavailable, fleet.KindThrottled:
		why.detail = "It can't be woken right now."
	}
	return why
}

func notWoken(detail string, retryAfter time.Duration) *refusal {
	return &refusal{status: http.StatusServiceUnavailable, reason: "not-woken", title: "This workspace did not wake up", detail: detail, retryAfter: retryAfter}
}
