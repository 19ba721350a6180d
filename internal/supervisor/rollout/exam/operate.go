package exam

import (
	"math"
	"time"

	"dormouse/internal/fleet"
)

// What an operation on an installation comes to.
type ending struct {
	at time.Duration
	// failed is the reason why it failed; empty where it succeeded.
	failed fleet.Reason
	// healthy: the last answer that it had was a good one.
	healthy bool
	// isNew: the new release is on it.
	isNew bool
	// unverifiable: no clone could be tried.
	unverifiable bool
	// waits is since when it only waits for health, and goesBack since when it puts
	// the old release back of itself, which runs again at old. An operation that is
	// given up goes back at waits, not before.
	waits, goesBack, old time.Duration
}

// lookEvery is how often an operation asks for the health of what it starts.
const lookEvery = 2 * time.Second

// calls is how long n calls to the provider take.
func (w *world) calls(t *tenant, n int) time.Duration {
	var d time.Duration
	for range n {
		t.starts++
		d += w.call.at(t.dice.roll(diceCall, t.starts))
	}
	return d
}

// boots is how long the program takes to be up.
func (w *world) boots(t *tenant, isNew bool) time.Duration {
	t.starts++
	d := w.boot.at(t.dice.roll(diceBoot, t.starts))
	if isNew {
		d = seconds(d.Seconds() * w.newBoot)
	}
	return d
}

// shows tells whether the defect shows in the start that is under way.
func (w *world) shows(t *tenant) bool {
	return t.affected && t.dice.roll(diceShows, t.starts) < orElse(w.release.Defect.Chance, 1)
}

// restarted ends the spells that a new start ends.
func (w *world) restarted(t *tenant, at time.Duration) {
	for n := t.cured; n < len(t.spells) && t.spells[n].from <= at; n++ {
		if t.dice.roll(diceCure, n) < w.release.Background.RestartCures {
			t.cured = n + 1
		}
	}
}

// wake starts a sleeper on the release that it is to have.
func (w *world) wake(i int, at time.Duration, isNew bool) ending {
	t := &w.tenants[i]
	at += w.calls(t, 2)
	t.badAt = never
	t.upAt = at + w.boots(t, isNew)
	if isNew && w.shows(t) {
		switch w.release.Defect.Kind {
		case DefectCrash:
			t.badAt = at
		case DefectSlow:
			t.upAt += t.delay
		case DefectLate:
			t.badAt = t.upAt + t.delay
		}
	}
	return ending{at: t.upAt, healthy: t.well(t.upAt), isNew: isNew}
}

// update puts the new release on an installation, and the old one back where it fails.
func (w *world) update(i int, at, deadline time.Duration) ending {
	t := &w.tenants[i]
	if t.failsOnce {
		t.failsOnce = false
		e := w.restore(i, at+w.calls(t, 2), deadline)
		e.failed = w.reason(t)
		return e
	}
	at += w.calls(t, 4)
	w.restarted(t, at)
	boot := w.boots(t, true)
	up := at + boot
	e := ending{isNew: true, waits: at, goesBack: never}
	limit := at + deadline
	if w.shows(t) {
		switch d := w.release.Defect; d.Kind {
		case DefectCrash:
			// It is started again a few times before that counts.
			e = w.restore(i, at+boot/2+10*time.Second, deadline)
			e.waits, e.failed = at, fleet.ReasonCrashLoop
			return e
		case DefectSlow:
			up += t.delay
		case DefectLate:
			t.badAt = up + t.delay
		}
	}
	seen, ok := w.seesHealthy(i, at, up, limit)
	if !ok {
		e = w.restore(i, limit, deadline)
		e.waits, e.failed = at, fleet.ReasonNotHealthy
		return e
	}
	// Where that answer was wrong, it is not up yet, and will be seen not to be.
	t.upAt = up
	e.at, e.healthy = seen+w.calls(t, 1), true
	return e
}

// restore puts the old release back after a failure; it is done whether or not it
// is seen to be well up to its deadline.
func (w *world) restore(i int, at, deadline time.Duration) ending {
	e := w.goBack(i, at)
	seen, ok := w.seesHealthy(i, e.old, e.old, e.old+deadline)
	if !ok {
		seen = e.old + deadline
	}
	e.at, e.healthy = seen, ok
	return e
}

// goBack puts the old release back and waits for nothing.
func (w *world) goBack(i int, at time.Duration) ending {
	t := &w.tenants[i]
	e := ending{waits: at, goesBack: at}
	at += w.calls(t, 3)
	w.restarted(t, at)
	t.badAt = never
	t.upAt = at + w.boots(t, false)
	e.at, e.old = t.upAt, t.upAt
	return e
}

// giveUp is what becomes of an update under way that is recalled: it goes back as
// soon as nobody is calling the provider for it.
func (w *world) giveUp(i int, e ending, at time.Duration) ending {
	at = max(at, e.waits) + lookEvery
	switch {
	case e.goesBack <= at:
		e.at = min(e.at, max(at, e.old))
		return e
	case e.goesBack == never && e.at <= at:
		return e // it has succeeded
	}
	return w.goBack(i, at)
}

// giveUpClone is what becomes of the trial of a clone that is recalled.
func (w *world) giveUpClone(i int, e ending, at time.Duration) ending {
	e.at = min(e.at, max(at, e.waits)+lookEvery+w.calls(&w.tenants[i], 1))
	return e
}

// verify tries the new release on a clone of a sleeper.
func (w *world) verify(i int, at, deadline time.Duration) ending {
	t := &w.tenants[i]
	e := ending{unverifiable: !t.verifiable}
	if e.unverifiable {
		e.at = at + w.calls(t, 1)
		return e
	}
	if t.failsOnce {
		t.failsOnce = false
		e.at, e.failed = at+w.calls(t, 2), w.reason(t)
		return e
	}
	at += w.calls(t, 3)
	boot := w.boots(t, true)
	e.waits = at
	up, limit := at+boot, at+deadline
	if w.shows(t) {
		switch w.release.Defect.Kind {
		case DefectCrash:
			e.at, e.failed = at+boot/2+10*time.Second, fleet.ReasonCrashLoop
			return e
		case DefectSlow:
			up += t.delay
		case DefectLate:
			// It is thrown away before that.
		}
	}
	seen, ok := w.seesHealthy(i, at, up, limit)
	e.at, e.healthy = seen+w.calls(t, 1), true
	if !ok {
		e.at, e.failed = limit, fleet.ReasonNotHealthy
	}
	return e
}

// seesHealthy is when an operation that began to look at from gets its first good
// answer, if it does up to limit; up is when there could first be one.
func (w *world) seesHealthy(i int, from, up, limit time.Duration) (time.Duration, bool) {
	t := &w.tenants[i]
	if wrong := w.release.Observer.Wrong; wrong > 0 && up > from {
		// Looks until the first wrong answer while it is not up.
		t.starts++
		n := math.Log(1-t.dice.roll(diceLook, t.starts)) / math.Log(1-min(wrong, 0.999999))
		if at := from + time.Duration(min(n, 1e6))*lookEvery + lookEvery; at < up && at <= limit && !w.out(t, at) {
			return at, true
		}
	}
	at := up
	for range 100 {
		if at > limit {
			return 0, false
		}
		next := at
		for n, s := range t.spells {
			if n >= t.cured && next >= s.from && next < s.to {
				next = s.to
			}
		}
		if t.chronic && next >= t.chronicAt {
			return 0, false
		}
		for n := range w.outages {
			if o := &w.outages[n]; next >= o.from && next < o.to && w.hits(n, t) {
				next = o.to
			}
		}
		if next == at {
			return at, true
		}
		at = next
	}
	return 0, false
}

// hits tells whether an outage is one for an installation.
func (w *world) hits(n int, t *tenant) bool {
	o := &w.outages[n]
	return (o.cluster == "" || o.cluster == t.cluster) && (o.share == 1 || t.dice.roll(diceOutage, n) < o.share)
}

func (w *world) out(t *tenant, at time.Duration) bool {
	for n := range w.outages {
		if o := &w.outages[n]; at >= o.from && at < o.to && w.hits(n, t) {
			return true
		}
	}
	return false
}

// reason is why an operation fails that has nothing to do with the release.
func (w *world) reason(t *tenant) fleet.Reason {
	if r := w.release.Background.Reason; r != "" {
		return fleet.Reason(r)
	}
	switch u := t.dice.roll(diceReason); {
	case u < 0.6:
		return fleet.ReasonProvider
	case u < 0.75:
		return fleet.ReasonDeadline
	case u < 0.9:
		return fleet.ReasonNotHealthy
	}
	return fleet.ReasonProgramExited
}
