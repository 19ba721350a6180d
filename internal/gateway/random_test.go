package gateway

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// chance is a random machine with its visitors, and what must hold at any moment.
type chance struct {
	*world
	mu       sync.Mutex
	r        *rand.Rand
	inFlight int
	quiet    bool // between Quiesce and Release
	asleep   bool
	waking   int
	broken   string
}

func (c *chance) wrong(format string, args ...any) {
	if c.broken == "" {
		c.broken = fmt.Sprintf(format, args...)
	}
}

func (c *chance) below(limit time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(c.r.Int64N(int64(limit)))
}

func (c *chance) oneIn(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.r.IntN(n) == 0
}

// wake is the Waker: it takes a while, fails at times, and is never called twice at once.
func (c *chance) wake(ctx context.Context, route Route) (Woken, error) {
	c.mu.Lock()
	if c.waking++; c.waking > 1 {
		c.wrong("two wakes at once")
	}
	c.mu.Unlock()
	wait(ctx, c.below(time.Second))
	fails := c.oneIn(8)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waking--
	if c.quiet {
		c.wrong("a wake in the quiet")
	}
	if fails {
		return Woken{}, errors.New("chance")
	}
	c.asleep = false
	c.local.set(route.InstanceID, awake)
	return Woken{Route: route}, nil
}

// visit comes, stays a while, and leaves; or gives up waiting.
func (c *chance) visit(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond+c.below(20*time.Second))
	defer cancel()
	h := head("acme.localhost")
	switch {
	case c.oneIn(4):
		h = upgrade()
	case c.oneIn(4):
		h = head("acme.localhost", "User-Agent: probe")
	case c.oneIn(4):
		h = head("acme.localhost", browser)
	}
	pass, _ := c.Enter(ctx, h)
	if pass == nil {
		return
	}
	c.mu.Lock()
	c.inFlight++
	if c.quiet || c.asleep {
		c.wrong("let in while it was quiet (%v) or asleep (%v)", c.quiet, c.asleep)
	}
	c.mu.Unlock()
	timer := time.NewTimer(c.below(30 * time.Second))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-pass.Break:
		wait(t.Context(), c.below(100*time.Millisecond)) // it takes the engine a moment
	}
	c.mu.Lock()
	c.inFlight--
	c.mu.Unlock()
	pass.Done(http.StatusOK, nil)
}

// hibernate closes the door and saves the machine, unless somebody comes.
func (c *chance) hibernate(t *testing.T) {
	yield := c.oneIn(2)
	q, err := c.Quiesce(t.Context(), c.acme.InstallationID, QuiesceOptions{Yield: yield, IdleFor: c.below(10 * time.Second)})
	if err != nil {
		return
	}
	c.mu.Lock()
	c.quiet = true
	if c.inFlight > 0 || c.waking > 0 {
		c.wrong("quiet with %d in flight and %d wakes", c.inFlight, c.waking)
	}
	c.mu.Unlock()
	timer := time.NewTimer(c.below(500 * time.Millisecond))
	defer timer.Stop()
	arrived := q.Arrived()
	if !yield {
		arrived = nil
	}
	saved := false
	select {
	case <-arrived:
	case <-timer.C:
		saved = true
	}
	c.mu.Lock()
	if saved {
		c.asleep = true
		c.local.set(c.acme.InstanceID, sleeping)
	}
	c.quiet = false
	c.mu.Unlock()
	q.Release()
}

// Visitors, hibernations, changes and an unsteady database in any order: what
// the package promises holds at any moment, and nothing is left in the end.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			c := &chance{world: newWorld(t, Options{WakesPerHour: -1, SourceWakesPerHour: -1, MaxHeldEach: 2}), r: rand.New(rand.NewPCG(seed, 1)), asleep: true}
			c.acme.Wake = fleet.WakeRules{UserAgents: []string{"probe"}}
			c.routes.set(c.acme)
			c.waker.change(func() { c.waker.instead = c.wake })
			var all sync.WaitGroup
			for range 300 {
				wait(t.Context(), c.below(2*time.Second))
				switch {
				case c.oneIn(8):
					all.Go(func() { c.hibernate(t) })
				case c.oneIn(12):
					c.Changed(c.acme.InstallationID)
				case c.oneIn(30):
					down := c.oneIn(2)
					c.routes.change(func() {
						if c.routes.err = nil; down {
							c.routes.err = errors.New("no database")
						}
					})
				default:
					all.Go(func() { c.visit(t) })
				}
			}
			all.Wait()
			synctest.Wait()
			require.Empty(t, c.broken, "seed %d", seed)
			require.Zero(t, c.Load())
			require.Zero(t, c.heldBytes.Load())
			d := c.door(c.acme.InstallationID)
			require.Zero(t, d.held)
			require.Zero(t, d.inFlight())
			require.Nil(t, d.closing)
			require.NotZero(t, d.wakes, "it did sleep")
			// Whatever was: a visitor is served in the end.
			c.waker.change(func() { c.waker.instead = nil })
			time.Sleep(2 * time.Minute)
			require.Nil(t, c.visitAcme(t))
		})
	}
}
