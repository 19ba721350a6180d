package main

import (
	"time"

	"dormouse/internal/guest"
)

// The restart policies, as the configuration names them.
const (
	restartAlways    = "always"
	restartOnFailure = "on-failure"
	restartNever     = "never"
)

const (
	// firstDelay is short, because most programs that end once come back at once.
	firstDelay = 100 * time.Millisecond
	// maxDelay keeps a program that needs something that is away (a database) from
	// being late by more than half a minute when it is back.
	maxDelay = 30 * time.Second
	// steadyAfter is how long a run must last for the trouble before it to be
	// forgotten: longer than maxDelay, so that waiting alone never counts as running.
	steadyAfter = 60 * time.Second
	// loopEnds ends within loopWindow are a crash loop: five tries with the
	// delays between them (1.5 s in all) outlast a short hiccup, while a program that is simply wrong is told
	// about within seconds. A program that needs longer than the window for them is slowed by the delay instead.
	loopEnds   = 5
	loopWindow = 60 * time.Second
)

// ending is how a run of the program ended.
type ending struct {
	// code is -1 where a signal ended it.
	code   int
	signal string
	// ran is how long it ran.
	ran time.Duration
	at  time.Time
}

func (e ending) ok() bool { return e.code == 0 && e.signal == "" }

// verdict is what follows from an ending.
type verdict struct {
	// gone is why it is not started again; empty where it is, after delay.
	gone  string
	delay time.Duration
}

// restarts decides what follows when the program ends. It is pure: time comes in
// with the ending.
type restarts struct {
	policy string
	delay  time.Duration
	// ends are the latest ends, at most loopEnds of them.
	ends []time.Time
	// count is how often the program has been started again.
	count int
}

func (r *restarts) ended(e ending) verdict {
	if r.policy == restartNever || (r.policy == restartOnFailure && e.ok()) {
		return verdict{gone: guest.GoneExited}
	}
	if e.ran >= steadyAfter {
		r.delay, r.ends = 0, nil
	}
	r.ends = append(r.ends, e.at)
	if len(r.ends) > loopEnds {
		r.ends = r.ends[1:]
	}
	if len(r.ends) == loopEnds && e.at.Sub(r.ends[0]) <= loopWindow {
		return verdict{gone: guest.GoneCrashLoop}
	}
	switch {
	case r.delay == 0:
		r.delay = firstDelay
	default:
		r.delay = min(2*r.delay, maxDelay)
	}
	r.count++
	return verdict{delay: r.delay}
}
