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
	if ctx.Err() != nil { // else a select with a free ticket would draw lots
		return false
	}
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

// pace knows how long steps and commits take; means that forget what is long ago.
type pace struct {
	step, commit mean
}

// newPace takes a commit for what it is on a usual disk, until the first is measured.
func newPace() pace { return pace{commit: mean{d: 4 * time.Millisecond}} }

type mean struct {
	d     time.Duration
	known bool
}

func (m *mean) add(d time.Duration) {
	if !m.known {
		m.d, m.known = d, true
		return
	}
	m.d += (d - m.d) / 16
}

// leastAhead is for how long the operations at hand should keep the slots busy, at
// the least; as long as three commits where those are slow.
const leastAhead = 20 * time.Millisecond

// window is how many operations should be at hand: one for each slot, and as many as
// the slots work off while the next ones are claimed and committed, up to two batches
// more: one is committed while the other is gathered.
// Without that, a process of few slots commits as few outcomes at once where steps are
// quick, and many processes of few slots cost more statements than one of many; and
// where steps are slow, the slots are idle from one claim to the next.
func (p *pace) window(slots int) int {
	if !p.step.known {
		return slots
	}
	ahead, step := max(leastAhead, 3*p.commit.d), max(p.step.d, time.Microsecond)
	return slots + min(int(time.Duration(slots)*ahead/step), committers*batchSize)
}
