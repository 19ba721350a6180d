package gateway

import (
	"context"
	"sync"
	"time"

	"dormouse/internal/fleet"
)

// QuiesceOptions say how an installation is made quiet.
type QuiesceOptions struct {
	// Yield: it gives way to visitors, those who are there and those who come.
	Yield bool
	// IdleFor is how long nobody must have come, with Yield.
	IdleFor time.Duration
	// Grace is how long what is in flight may take to end before it is broken
	// off; 0 is 10 s. Upgraded connections and plain TCP are broken off at once.
	Grace time.Duration
}

// Quiet is the time in which nothing reaches an installation. Whoever comes is
// held until Release.
type Quiet struct {
	d        *door
	yield    bool
	begun    time.Time
	arrived  chan struct{}
	arriving sync.Once
	released chan struct{}
	release  sync.Once
}

// Arrived is closed when somebody has come, with QuiesceOptions.Yield only: then
// the machine should not go to sleep, if that can be helped.
func (q *Quiet) Arrived() <-chan struct{} { return q.arrived }

func (q *Quiet) arrive() {
	if q.yield {
		q.arriving.Do(func() { close(q.arrived) })
	}
}

// Release opens the door again: who was held goes on to a machine that runs, and
// wakes one that sleeps. It may be called more than once.
func (q *Quiet) Release() {
	q.release.Do(func() {
		// Its route is from before.
		q.d.g.book.changed(q.d.id)
		q.d.mu.Lock()
		q.d.closing = nil
		q.d.mend()
		q.d.mu.Unlock()
		close(q.released)
	})
}

// visited is the error of a Quiet that gave way.
func visited(format string, args ...any) error {
	err := fleet.Errorf(fleet.KindConflict, format, args...)
	err.Reason = fleet.ReasonVisited
	return err
}

// Quiesce keeps visitors from an installation, waits for those who are there,
// and returns when nothing is in flight. The caller must call Release. With
// Yield it is refused with KindConflict and ReasonVisited where anything is open
// that keeps the installation awake, or the last of it was less than IdleFor
// ago. KindConflict too where it is being made quiet already. Where ctx ends
// first, its error is returned and the door is open again.
func (g *Gateway) Quiesce(ctx context.Context, id fleet.InstallationID, o QuiesceOptions) (*Quiet, error) {
	orDefault(&o.Grace, 10*time.Second)
	q := &Quiet{yield: o.Yield, begun: time.Now(), arrived: make(chan struct{}), released: make(chan struct{})}
	for {
		q.d = g.door(id)
		again, err := q.begin(o)
		if err != nil {
			return nil, err
		}
		if !again {
			break
		}
	}
	if err := q.drain(ctx, o.Grace); err != nil {
		q.Release()
		return nil, err
	}
	return q, nil
}

// begin closes the door, or says why not; again where it was the wrong one.
func (q *Quiet) begin(o QuiesceOptions) (again bool, err error) {
	d := q.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return true, nil
	}
	if d.closing != nil {
		return false, fleet.Errorf(fleet.KindConflict, "it is being kept from visitors already: try again when that has ended")
	}
	if o.Yield {
		if n := d.keepingAwake(); n > 0 {
			return false, visited("%d requests or connections are open", n)
		}
		if d.waking != nil || d.held > 0 {
			return false, visited("somebody is waiting for it")
		}
		if since := time.Since(d.lastVisit()); since < o.IdleFor {
			return false, visited("somebody came %s ago", since.Round(time.Second))
		}
	}
	d.closing = q
	d.breakOff(1)
	return false, nil
}

// drain waits until nothing is in flight: not even a wake.
func (q *Quiet) drain(ctx context.Context, grace time.Duration) error {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	d := q.d
	for {
		d.mu.Lock()
		var wait <-chan struct{}
		switch {
		case d.waking != nil && d.waking.tier != tierPending: // what somebody else brings up may wait for us
			wait = d.waking.done
		case d.inFlight() > 0:
			if d.drained == nil {
				d.drained = make(chan struct{})
			}
			wait = d.drained
		}
		if wait == nil {
			// A machine that sleeps would never hear that they are closed, and keep its ends open.
			d.g.closeIdle(d.keyText)
		}
		d.mu.Unlock()
		if wait == nil {
			return nil
		}
		select {
		case <-wait:
		case <-timer.C:
			d.mu.Lock()
			d.breakOff(0)
			d.mu.Unlock()
		case <-q.arrived:
			return visited("somebody came")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
