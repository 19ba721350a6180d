package main

import (
	"sync"
	"time"
)

// gatherGap is the least time between two calls: a NOTIFY takes a lock at commit
// that the whole server shares, so that one for each accepted request would
// cost as much as the request.
const gatherGap = 200 * time.Millisecond

// gather makes one call of many. The first is made at once, and none is lost:
// one more follows for all that came in meanwhile.
type gather struct {
	mu      sync.Mutex
	pending bool
	last    time.Time
}

// do has f called soon, in another goroutine.
func (g *gather) do(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pending {
		return
	}
	g.pending = true
	time.AfterFunc(gatherGap-time.Since(g.last), func() {
		g.mu.Lock()
		g.pending, g.last = false, time.Now()
		g.mu.Unlock()
		f()
	})
}
