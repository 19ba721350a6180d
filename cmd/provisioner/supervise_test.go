package main

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stoppedClock stands still; its one timer goes off when time is moved past it.
type stoppedClock struct {
	mu    sync.Mutex
	now   time.Time
	at    time.Time
	f     func()
	asked chan time.Duration
}

func (c *stoppedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *stoppedClock) AfterFunc(d time.Duration, f func()) (stop func()) {
	c.mu.Lock()
	c.at, c.f = c.now.Add(d), f
	c.mu.Unlock()
	c.asked <- d
	return func() {}
}

func (c *stoppedClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	if c.f != nil && !c.now.Before(c.at) {
		c.f()
		c.f = nil
	}
}

// A process that was down for a week, or stopped for ten hours, runs what it
// has missed once.
func TestOutageAMissedScheduleIsCaughtUpOnce(t *testing.T) {
	t.Parallel()
	clock := &stoppedClock{asked: make(chan time.Duration, 1)}
	runs := make(chan int, 100)
	n := 0
	broken := errors.New("the database is away")
	done := make(chan error, 1)
	waits := []time.Duration{time.Hour, time.Hour, time.Minute, time.Hour}
	go func() {
		done <- repeat(t.Context(), clock, func(context.Context) (time.Duration, error) {
			if n == len(waits) {
				return 0, broken
			}
			n++
			runs <- n
			return waits[n-1], nil
		})
	}()
	next := func(run int, wait time.Duration) {
		t.Helper()
		require.Equal(t, run, <-runs)
		require.Equal(t, wait, <-clock.asked)
		require.Empty(t, runs, "it ran once")
	}
	next(1, time.Hour) // at the start, however long it was down
	clock.pass(10*time.Hour + 30*time.Minute)
	next(2, time.Hour) // ten were missed
	clock.pass(59 * time.Minute)
	require.Empty(t, runs)
	clock.pass(time.Minute)
	next(3, time.Minute) // there is more to do
	clock.pass(time.Minute)
	next(4, time.Hour)
	clock.pass(time.Hour)
	require.ErrorIs(t, <-done, broken)
}
