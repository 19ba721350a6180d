package gateway

import (
	"context"
	"net/http"
	"time"
)

// hold lets a visitor wait until a channel is closed. It returns why the
// visitor waits no more, or nil where that channel was closed.
func (d *door) hold(ctx context.Context, v *visit, until <-chan struct{}) *refusal {
	g := d.g
	limit := g.o.HoldTime
	if v.browser {
		limit = min(limit, g.o.PageAfter)
		if left := v.waitsFor.takes - time.Since(v.waitsFor.begun); left > g.o.PageAfter {
			return waitingPage(v.entry.route)
		}
	}
	if why := d.holdOne(v); why != nil {
		return why
	}
	defer d.letGo(v)
	v.held = true
	timer := time.NewTimer(limit - time.Since(v.begin))
	defer timer.Stop()
	select {
	case <-until:
		return nil
	case <-ctx.Done():
		return gone()
	case <-timer.C:
		if v.browser {
			return waitingPage(v.entry.route)
		}
		return &refusal{status: http.StatusServiceUnavailable, reason: "hold-time", title: "This workspace is waking up",
			detail: "It takes longer than a request is held.", retryAfter: soon}
	}
}

// holdOne counts a visitor among those who wait, if there is room.
func (d *door) holdOne(v *visit) *refusal {
	g := d.g
	full := func(reason, detail string) *refusal {
		return &refusal{status: http.StatusServiceUnavailable, reason: reason, title: "This workspace is waking up", detail: detail, retryAfter: soon}
	}
	held, size := g.held.Add(1), g.heldBytes.Add(v.size())
	d.mu.Lock()
	d.held++
	each := d.held
	d.mu.Unlock()
	var why *refusal
	switch {
	case each > g.o.MaxHeldEach:
		why = full("held-each", "Too many requests wait for it already.")
	case held > int64(g.o.MaxHeld) || size > g.o.MaxHeldBytes:
		why = full("held-all", "Too many requests wait already.")
	default:
		return nil
	}
	d.letGo(v)
	return why
}

func (d *door) letGo(v *visit) {
	d.mu.Lock()
	d.held--
	d.mu.Unlock()
	d.g.held.Add(-1)
	d.g.heldBytes.Add(-v.size())
}

// size is what is kept of a visitor who waits: the head alone, as no body is read meanwhile.
func (v *visit) size() int64 { return int64(v.head.Size) }

// gone is for a visitor who has gone: nobody reads it.
func gone() *refusal {
	return &refusal{status: http.StatusServiceUnavailable, reason: "client-gone", title: "Try again in a moment"}
}
