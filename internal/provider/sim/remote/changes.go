package remote

import (
	"context"
	"slices"
	"sync"
	"time"

	"dormouse/internal/fleet"
)

const (
	// pollTime is how long a poll waits for a change.
	pollTime = 20 * time.Second
	// afterPoll is how long a client counts as there without polling or calling.
	afterPoll = 5 * time.Second
	// maxQueue is how many changes are kept for a client that does not fetch them.
	maxQueue = 100_000
)

// hub brings each change to the client that waits for it.
type hub struct {
	mu      sync.Mutex
	clients map[string]*listener
	// callers are the last clients that called about an instance.
	callers map[fleet.InstanceID]*listener
	now     func() time.Time
}

// listener is a client that wants signals.
type listener struct {
	queue []fleet.InstanceID
	// wake has room for one.
	wake chan struct{}
	// polls are under way; seen is when the last one, or a call, ended.
	polls int
	seen  time.Time
}

func newHub(now func() time.Time) *hub {
	return &hub{clients: map[string]*listener{}, callers: map[fleet.InstanceID]*listener{}, now: now}
}

// called notes that a client called about an instance.
func (h *hub) called(client string, id fleet.InstanceID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.listener(client)
	l.seen = h.now()
	if id != "" {
		h.callers[id] = l
	}
}

// forget is called for an instance that is no more.
func (h *hub) forget(id fleet.InstanceID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.callers, id)
}

func (h *hub) listener(client string) *listener {
	l := h.clients[client]
	if l == nil {
		l = &listener{wake: make(chan struct{}, 1), seen: h.now()}
		h.clients[client] = l
	}
	return l
}

// changed brings a change to whom it concerns; it never blocks.
func (h *hub) changed(id fleet.InstanceID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reap()
	if l := h.callers[id]; l != nil && h.there(l) {
		l.push(id)
		return
	}
	for _, l := range h.clients {
		l.push(id)
	}
}

func (h *hub) there(l *listener) bool { return l.polls > 0 || h.now().Sub(l.seen) < afterPoll }

// reap forgets clients that have gone, and gives what they left to the others.
func (h *hub) reap() {
	var left []fleet.InstanceID
	for name, l := range h.clients {
		if !h.there(l) {
			left = append(left, l.queue...)
			delete(h.clients, name)
		}
	}
	for _, l := range h.clients {
		l.push(left...)
	}
}

func (l *listener) push(ids ...fleet.InstanceID) {
	if len(ids) == 0 {
		return
	}
	l.queue = append(l.queue, ids...)
	if over := len(l.queue) - maxQueue; over > 0 {
		l.queue = slices.Delete(l.queue, 0, over)
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// poll returns the changes for a client as soon as there are any, or none after
// pollTime. Where ctx ends, the client has gone.
func (h *hub) poll(ctx context.Context, client string) []fleet.InstanceID {
	h.mu.Lock()
	l := h.listener(client)
	l.polls++
	h.reap()
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		l.polls--
		if l.seen = h.now(); ctx.Err() != nil {
			l.seen = time.Time{}
		}
	}()
	timeout := time.NewTimer(pollTime)
	defer timeout.Stop()
	for {
		h.mu.Lock()
		ids := l.queue
		l.queue = nil
		h.mu.Unlock()
		if len(ids) > 0 {
			return ids
		}
		select {
		case <-l.wake:
		case <-timeout.C:
			return nil
		case <-ctx.Done():
			return nil // what comes now waits for the next poll, or for others
		}
	}
}
