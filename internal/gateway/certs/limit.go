package certs

import (
	"fmt"
	"sync"
	"time"
)

// limiter bounds attempts: an authority that is asked too often refuses everybody.
type limiter struct {
	perName time.Duration
	perHour int

	mu     sync.Mutex
	names  map[string]time.Time // the last attempt
	recent []time.Time          // of the last hour, the oldest first
}

func newLimiter(perName time.Duration, perHour int) *limiter {
	return &limiter{perName: perName, perHour: perHour, names: make(map[string]time.Time)}
}

// attempt counts one, or says why there can't be one now.
func (l *limiter) attempt(name string, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.recent) > 0 && now.Sub(l.recent[0]) >= time.Hour {
		l.recent = l.recent[1:]
	}
	for other, at := range l.names {
		if now.Sub(at) >= l.perName {
			delete(l.names, other)
		}
	}
	if at, ok := l.names[name]; ok {
		return fmt.Errorf("a certificate for %s was asked for %s ago: wait until %s have passed", name, now.Sub(at).Round(time.Second), l.perName)
	}
	if len(l.recent) >= l.perHour {
		return fmt.Errorf("%d certificates were asked for within an hour: wait, or raise the limit", l.perHour)
	}
	l.names[name] = now
	l.recent = append(l.recent, now)
	return nil
}
