package outage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"dormouse/e2e/harness"
)

// visitor comes to a tenant again and again.
type visitor struct {
	env  *harness.Environment
	name string

	mu sync.Mutex
	// restarting: nobody may be listening just now.
	restarting bool
	visits     int
	refused    int
	failed     []string
	lastOK     time.Time
	gap        time.Duration
}

// visit visits until ctx ends. Only while the provisioner is restarted may it find
// nobody listening, or a connection that ends.
func (v *visitor) visit(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		v.mu.Lock()
		restarting := v.restarting
		v.mu.Unlock()
		began := time.Now()
		a, err := v.env.Visit(ctx, v.name, "GET", "/api/info", "")
		if ctx.Err() != nil {
			return
		}
		v.mu.Lock()
		v.visits++
		switch {
		case err == nil && a.Status == 200:
			if !v.lastOK.IsZero() {
				v.gap = max(v.gap, began.Sub(v.lastOK))
			}
			v.lastOK = time.Now()
		case err != nil && (restarting || v.restarting) && isAway(err):
			v.refused++
		default:
			v.failed = append(v.failed, fmt.Sprintf("%s: %d %.200s %v", began.UTC().Format(time.RFC3339Nano), a.Status, a.Body, err))
		}
		v.mu.Unlock()
	}
}

func isAway(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || contains(err, "EOF")
}

func (v *visitor) restart(now bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.restarting = now
}
