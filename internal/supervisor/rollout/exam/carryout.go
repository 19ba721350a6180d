package exam

import (
	"container/heap"
	"fmt"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/rollout"
)

func (p *player) time(at time.Duration) time.Time { return p.begin.Add(at) }

func (p *player) schedule(at time.Duration, n int, what func()) {
	heap.Push(&p.agenda, event{at: at, who: n, what: what})
}

// carryOut does what a decision says, as the workflows would.
func (p *player) carryOut(d *rollout.Decision) {
	deadline := p.view.Rollout.Spec.HealthDeadline
	for _, id := range d.Done {
		p.view.Members[p.at[id]].State = fleet.MemberDone
		p.view.Rollout.ProgressAt = p.time(p.now)
	}
	for _, id := range d.Cleared {
		p.view.Members[p.at[id]].Strikes = 0
	}
	for _, id := range d.Unverifiable {
		p.view.Members[p.at[id]].State = fleet.MemberUnverifiable
	}
	for _, ids := range [][]fleet.InstallationID{d.Update, d.Retry} {
		for _, id := range ids {
			n := p.at[id]
			p.start(n, fleet.MemberRolling).Attempts++
			p.expect(n, p.update(p.tenantOf[n], p.now, deadline), p.updated)
		}
	}
	for _, id := range d.Verify {
		n := p.at[id]
		p.start(n, fleet.MemberVerifying).Attempts++
		p.expect(n, p.verify(p.tenantOf[n], p.now, deadline), p.verified)
	}
	for _, back := range d.RollBack {
		n := p.at[back.ID]
		m := &p.view.Members[n]
		e := ending{at: p.now + p.calls(&p.tenants[p.tenantOf[n]], 1)}
		if !m.Asleep {
			e = p.goBack(p.tenantOf[n], p.now)
		}
		if m = p.start(n, fleet.MemberRollingBack); back.Reason != "" {
			m.Strikes++
			m.Reason, m.Detail = back.Reason, back.Detail
		}
		p.expect(n, e, p.wentBack)
	}
	for _, id := range d.Recall {
		p.recall(p.at[id])
	}
}

// recall gives up what is under way on a member, once.
func (p *player) recall(n int) {
	u := &p.under[n]
	if u.recalled {
		return
	}
	u.recalled = true
	before, e := u.ending, ending{}
	if p.view.Members[n].State == fleet.MemberVerifying {
		e = p.giveUpClone(p.tenantOf[n], before, p.now)
	} else {
		e = p.giveUp(p.tenantOf[n], before, p.now)
	}
	if e != before {
		p.expect(n, e, p.wentBack)
	}
}

// under is what is under way on a member, or was last.
type under struct {
	ending
	// round tells an operation that was given up from the one that counts.
	round    int
	recalled bool
	// heldFrom is since when somebody else has, or had, the member in hand, and held
	// for how long that was since the halt.
	heldFrom, held time.Duration
}

// hold gives a member into somebody else's hands.
func (p *player) hold(n int) {
	p.view.Members[n].Busy = true
	p.under[n].heldFrom = p.now
}

// free takes it back.
func (p *player) free(n int) {
	u := &p.under[n]
	p.view.Members[n].Busy = false
	if p.halted {
		u.held += p.now - max(u.heldFrom, p.haltedAt)
	}
}

// expect has an operation under way come to an end.
func (p *player) expect(n int, e ending, what func(int, ending)) {
	u := &p.under[n]
	u.ending = e
	u.round++
	round := u.round
	p.schedule(e.at, n, func() {
		if u.round == round {
			what(n, e)
		}
	})
}

// wentBack ends an operation that put the old release back, without having waited for health.
func (p *player) wentBack(n int, e ending) {
	e.failed = ""
	p.end(n, fleet.MemberRolledBack, e)
	if p.halted {
		p.result.Back = max(p.result.Back, p.now-p.haltedAt-p.under[n].held)
	}
	if m := &p.view.Members[n]; !m.Asleep {
		p.lookAt(n)
	}
}

// start begins an operation on a member.
func (p *player) start(n int, state fleet.MemberState) *fleet.RolloutMember {
	m := &p.view.Members[n]
	m.State, m.OperationID, m.StartedAt, m.FinishedAt = state, "under way", p.time(p.now), time.Time{}
	p.under[n].recalled = false
	return m
}

// end ends an operation with what it saw last.
func (p *player) end(n int, state fleet.MemberState, e ending) {
	m := &p.view.Members[n]
	if m.State == fleet.MemberGone {
		return
	}
	now := p.time(p.now)
	m.State, m.OperationID, m.FinishedAt, m.ObservedAt = state, "", now, now
	p.view.Rollout.ProgressAt = now
	if e.failed != "" {
		m.Reason = e.failed
		m.Strikes++
		if p.trace != nil {
			fmt.Fprintf(p.trace, "%-9s failed: %s\n", p.now.Round(time.Second), p.truth(m.InstallationID))
		}
	}
	m.BadSince, m.GoodSince = time.Time{}, time.Time{}
	switch {
	case m.Asleep:
		m.Health = fleet.HealthUnknown
	case e.healthy:
		m.Health, m.GoodSince = fleet.HealthHealthy, now
	default:
		m.Health, m.BadSince = fleet.HealthUnhealthy, now
	}
}

func (p *player) updated(n int, e ending) {
	if e.failed != "" {
		p.end(n, fleet.MemberFailed, e)
		return
	}
	p.end(n, fleet.MemberRolling, e)
	// It is looked at closely until it has passed the gate.
	p.schedule(p.now+p.view.Rollout.Spec.HealthyFor, n, func() {
		if p.view.Members[n].State == fleet.MemberRolling {
			p.lookAt(n)
		}
	})
}

func (p *player) verified(n int, e ending) {
	switch {
	case e.unverifiable:
		p.end(n, fleet.MemberUnverifiable, e)
	case e.failed != "":
		p.end(n, fleet.MemberFailed, e)
	default:
		p.end(n, fleet.MemberVerified, e)
	}
}

// look asks after every installation that is awake and in nobody's hands. It
// tells whether an answer changed.
func (p *player) look() bool {
	changed := false
	for n := range p.view.Members {
		m := &p.view.Members[n]
		if m.Asleep || m.OperationID != "" || m.State == fleet.MemberGone || m.Busy {
			continue
		}
		changed = p.lookAt(n) || changed
	}
	return changed
}

func (p *player) lookAt(n int) bool {
	m := &p.view.Members[n]
	if m.OperationID != "" || m.State == fleet.MemberGone {
		return false
	}
	now := p.time(p.now)
	health := p.answer(p.tenantOf[n], p.now)
	changed := health != m.Health
	rollout.Observed(m, health, now)
	return changed
}

// churn schedules what others do with installations meanwhile.
func (p *player) churn() {
	c := p.release.Churn
	hours := orElse(c.Hours, 8) * 60
	for n := range p.view.Members {
		t := &p.tenants[p.tenantOf[n]]
		if u := t.dice.roll(diceBusy); u < c.Busy {
			p.schedule(minutes(hours*t.dice.roll(diceBusyAt)), n, func() { p.busy(n, minutes(5*t.dice.roll(diceBusyAt, 1))) })
		}
		if t.dice.roll(diceGone) < c.Gone {
			p.schedule(minutes(hours*t.dice.roll(diceGone, 1)), n, func() { p.remove(n) })
		}
		if t.asleep && t.dice.roll(diceWake) < c.Wakes {
			p.schedule(minutes(hours*t.dice.roll(diceWake, 1)), n, func() { p.wakeUp(n) })
		}
	}
}

// busy has somebody else work on a member for a time, after what is under way.
func (p *player) busy(n int, d time.Duration) {
	m := &p.view.Members[n]
	if m.OperationID != "" {
		p.schedule(p.now+time.Minute, n, func() { p.busy(n, d) })
		return
	}
	p.hold(n)
	p.schedule(p.now+d, n, func() { p.free(n) })
}

func (p *player) remove(n int) {
	m := &p.view.Members[n]
	if m.OperationID != "" {
		p.schedule(p.now+time.Minute, n, func() { p.remove(n) })
		return
	}
	m.State = fleet.MemberGone
}

// wakeUp wakes a sleeper on the release that it is to have.
func (p *player) wakeUp(n int) {
	m := &p.view.Members[n]
	if m.OperationID != "" || m.Busy {
		p.schedule(p.now+time.Minute, n, func() { p.wakeUp(n) })
		return
	}
	if m.State == fleet.MemberGone || !m.Asleep {
		return
	}
	p.hold(n)
	e := p.wake(p.tenantOf[n], p.now, m.State == fleet.MemberVerified)
	p.schedule(p.now+max(0, min(e.at-p.now, 2*time.Minute)), n, func() {
		p.free(n)
		m.Asleep = false
		if m.State == fleet.MemberVerified {
			m.FinishedAt = p.time(p.now)
		}
		p.lookAt(n)
	})
}
