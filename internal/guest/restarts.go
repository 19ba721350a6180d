package guest

import "time"

// The restart policies, as the configuration names them.
const (
	RestartAlways    = "always"
	RestartOnFailure = "on-failure"
	RestartNever     = "never"
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
	// LoopEnds ends within loopWindow are a crash loop: five tries with the
	// delays between them (1.5 s in all) outlast a short hiccup, while a program that is simply wrong is told
	// about within seconds. A program that needs longer than the window for them is slowed by the delay instead.
	LoopEnds   = 5
	loopWindow = 60 * time.Second
)

// Ending is how a run of the program ended.
type Ending struct {
	// Code is -1 where a signal ended it.
	Code   int
	Signal string
	// Ran is how long it ran, until At.
	Ran time.Duration
	At  time.Time
}

func (e Ending) ok() bool { return e.Code == 0 && e.Signal == "" }

// Verdict is what follows from an ending.
type Verdict struct {
	// Gone is why it is not started again; empty where it is, after Delay.
	Gone  string
	Delay time.Duration
}

// Restarts decides what follows when the program ends. It is pure: time comes in
// with the ending.
type Restarts struct {
	// Policy is RestartAlways, RestartOnFailure or RestartNever.
	Policy string
	// Count is how often the program has been started again.
	Count int

	delay time.Duration
	// ends are the latest ends, at most LoopEnds of them.
	ends []time.Time
}

// Ended says what follows, and counts the start that does.
func (r *Restarts) Ended(e Ending) Verdict {
	if r.Policy == RestartNever || (r.Policy == RestartOnFailure && e.ok()) {
		return Verdict{Gone: GoneExited}
	}
	if e.Ran >= steadyAfter {
		r.delay, r.ends = 0, nil
	}
	r.ends = append(r.ends, e.At)
	if len(r.ends) > LoopEnds {
		r.ends = r.ends[1:]
	}
	if len(r.ends) == LoopEnds && e.At.Sub(r.ends[0]) <= loopWindow {
		return Verdict{Gone: GoneCrashLoop}
	}
	switch {
	case r.delay == 0:
		r.delay = firstDelay
	default:
		r.delay = min(2*r.delay, maxDelay)
	}
	r.Count++
	return Verdict{Delay: r.delay}
}
