package engine

import (
	"context"
	"time"

	"dormouse/internal/fleet"
)

// slots are tickets for the steps that run at once.
type slots struct {
	all, bulk chan struct{}
}

func newSlots(n int) slots {
	return slots{make(chan struct{}, n), make(chan struct{}, max(1, n*3/4))}
}

// take waits for a slot; false where ctx ended first. Bulk work needs a ticket of its
// own kind besides, so that it never waits for a slot that interactive work could have.
func (s slots) take(ctx context.Context, class fleet.Class) bool {
	if class == fleet.ClassBulk && !take(ctx, s.bulk) {
		return false
	}
	if take(ctx, s.all) {
		return true
	}
	if class == fleet.ClassBulk {
		<-s.bulk
	}
	return false
}

func take(ctx context.Context, tickets chan struct{}) bool {
	select {
	case tickets <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s slots) give(class fleet.Class) {
	<-s.all
	if class == fleet.ClassBulk {
		<-s.bulk
	}
}

// lookAhead is for how long the operations at hand should keep the slots busy:
// about as long as a commit and a claim take.
const lookAhead = 20 * time.Millisecond

// pace knows how long steps take.
type pace struct {
	mean  time.Duration
	known bool
}

// took adds one step's time to a mean that forgets the old ones.
func (p *pace) took(d time.Duration) {
	if !p.known {
		p.mean, p.known = d, true
		return
	}
	p.mean += (d - p.mean) / 16
}

// window is how many operations should be at hand: one for each slot, and where
// steps are quicker than commits, what the slots work off while those go on, up to
// a batch. Without that, a process of few slots commits as few outcomes at once,
// and many processes of few slots cost more statements than one of many.
func (p *pace) window(slots int) int {
	if !p.known || slots >= batchSize {
		return slots
	}
	ahead := batchSize
	if p.mean > lookAhead/time.Duration(batchSize) {
		ahead = int(time.Duration(slots) * lookAhead / p.mean)
	}
	return min(max(slots, ahead), batchSize)
}
