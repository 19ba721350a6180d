package providertest

import (
	"sync"

	"dormouse/internal/fleet"
)

// signals counts what came through OnChange, by instance.
type signals struct {
	mu      sync.Mutex
	counts  map[fleet.InstanceID]int
	changed chan struct{}
}

func newSignals() *signals {
	return &signals{counts: map[fleet.InstanceID]int{}, changed: make(chan struct{})}
}

// onChange is given to the provider.
func (s *signals) onChange(id fleet.InstanceID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[id]++
	close(s.changed)
	s.changed = make(chan struct{})
}

// seen returns how many signals came for an instance, and a channel that is
// closed by the next signal for any.
func (s *signals) seen(id fleet.InstanceID) (count int, next <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[id], s.changed
}
