package gateway

import (
	"sync"
	"time"

	"dormouse/internal/fleet"
)

// tierPending is the pace of what somebody else brings up.
const tierPending fleet.SleepTier = "pending"

// pace is how long wakes took lately, by tier: a moving average in which each
// one counts a quarter.
type pace struct {
	mu      sync.Mutex
	average map[fleet.SleepTier]time.Duration
}

// of returns what a wake is expected to take. Before there was one, it is what
// such a wake takes on a small machine; one that is made anew takes longer than
// anybody should stare at nothing.
func (p *pace) of(tier fleet.SleepTier) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d, ok := p.average[tier]; ok {
		return d
	}
	switch tier {
	case fleet.TierWarm:
		return 300 * time.Millisecond
	case fleet.TierPacked:
		return time.Second
	case fleet.TierCold:
		return 3 * time.Second
	}
	return 2 * time.Second
}

func (p *pace) took(tier fleet.SleepTier, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.average == nil {
		p.average = make(map[fleet.SleepTier]time.Duration)
	}
	if old, ok := p.average[tier]; ok {
		d = old + (d-old)/4
	}
	p.average[tier] = d
}
