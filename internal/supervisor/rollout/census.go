package rollout

import (
	"slices"
	"time"

	"dormouse/internal/fleet"
)

// standing is where a member is, as far as a decision goes.
type standing uint8

const (
	standGone standing = iota
	// standWaiting: it was not begun.
	standWaiting
	// standWorking: an operation of the rollout is under way.
	standWorking
	// standProving: the operation has succeeded, and the health gate is not passed yet.
	standProving
	// standSound: the new release is on it, or proven for it, and nothing bad is known.
	standSound
	// standFaulty: the new release is on it, and it answers badly.
	standFaulty
	// standDoubted: it answers badly, but so do the untouched.
	standDoubted
	// standOld: it was begun, and the old release is back.
	standOld
	// standAside: it sleeps, and can't be verified.
	standAside
)

// waveCount counts the members of one wave by what they mean for its progress.
type waveCount struct {
	members int
	// free are waiting and may be begun now; postponed are waiting and answer
	// badly; busy are waiting and in somebody else's hands.
	free, postponed, busy int
	// unsure of those postponed have not answered badly for long enough for that to count.
	unsure           int
	working, proving int
	// judged have come to an end, whichever. live have the new release, and
	// mature of them have been watched for long enough.
	judged, live, mature int
	// answering of those live are awake and give an answer; ailing answer badly at this moment.
	answering, ailing int
}

// census is one look at all members.
type census struct {
	v       *View
	control *control
	// doubt: the brake is on.
	doubt bool
	facts []fact
	// waiting may be begun, as far as their state goes; faulty are bad on the new
	// release, old have the old one back, backing are being given it: numbers of members.
	waiting, faulty, old, backing []int
	// failed are the failures, in the order of the members.
	failed []failure
	rings  [][]waveCount
	// soaks are how long each ring is watched.
	soaks []time.Duration
	// members are those not gone.
	members, begun, failures int
	// slotsUsed counts members in work, those that pass the gate now included.
	slotsUsed, verifyUsed int
	hung                  int
	// retrying are in work not for the first time; resolved failed once and are
	// sound on the new release now: what ailed them was not the release.
	retrying, resolved int
	done, cleared      []fleet.InstallationID
	next               time.Duration
}

// fact is what one member adds to the evidence.
type fact struct {
	stand standing
	tells telling
	// soaked is which part of a soak it was watched for.
	soaked float32
}

// telling is what a member that did not fail tells.
type telling uint8

const (
	tellsNothing telling = iota
	// It has the old release and is well.
	tellsControlGood
	// The new release is on it, for the first time or after a failure of a family.
	tellsPassed
	tellsResolvedBoot
	tellsResolvedLater
)

// wake asks for a decision after d at the latest.
func (c *census) wake(d time.Duration) {
	d = max(d, time.Second)
	if c.next == 0 || d < c.next {
		c.next = d
	}
}

func takeCensus(v *View) *census {
	c := &census{v: v, control: observe(v), facts: make([]fact, len(v.Members))}
	c.doubt = c.control.doubtful()
	rings := max(1, len(v.Rollout.Spec.Rings))
	c.rings = make([][]waveCount, rings)
	c.soaks = make([]time.Duration, rings)
	for r := range c.soaks {
		c.soaks[r] = soak(v.Rollout.Spec, r)
	}
	for i := range v.Members {
		c.take(i)
	}
	slices.Sort(c.done)
	slices.Sort(c.cleared)
	return c
}

// take takes one member in.
func (c *census) take(i int) {
	m := &c.v.Members[i]
	s := c.classify(m)
	c.facts[i].stand = s
	switch s {
	case standGone:
		return
	case standWaiting:
		if !m.Busy {
			c.waiting = append(c.waiting, i)
		}
	case standFaulty:
		c.faulty = append(c.faulty, i)
	case standOld:
		c.old = append(c.old, i)
	case standWorking:
		if m.State == fleet.MemberRollingBack {
			c.backing = append(c.backing, i)
		}
	}
	c.count(m, s)
	c.weigh(i)
}

// classify tells where a member stands, and lists it in done if it passes the gate now.
func (c *census) classify(m *fleet.RolloutMember) standing {
	switch m.State {
	case fleet.MemberGone:
		return standGone
	case fleet.MemberWaiting:
		return standWaiting
	case fleet.MemberFailed, fleet.MemberRolledBack:
		return standOld
	case fleet.MemberVerifying, fleet.MemberRollingBack:
		return standWorking
	case fleet.MemberUnverifiable:
		switch {
		case m.Asleep:
			return standAside
		case c.v.Unverifiable != fleet.UnverifiableMove:
			return standWaiting // it woke on its old release
		}
	case fleet.MemberRolling:
		if m.OperationID != "" || m.FinishedAt.IsZero() {
			return standWorking
		}
	}
	if m.Busy || m.Asleep { // nothing can be said of it now
		if m.State == fleet.MemberRolling && m.Busy {
			return standProving
		}
		if m.State == fleet.MemberRolling {
			c.done = append(c.done, m.InstallationID)
		}
		return standSound
	}
	if c.bad(m) {
		if c.doubt || c.control.doubtfulIn(m.ClusterID) {
			return standDoubted
		}
		return standFaulty
	}
	if m.State == fleet.MemberRolling {
		if !c.passes(m) {
			return standProving
		}
		c.done = append(c.done, m.InstallationID)
	}
	return standSound
}

// bad tells whether a member answers badly on the new release, and has for long
// enough for that to count or past the time that its gate gives it.
func (c *census) bad(m *fleet.RolloutMember) bool {
	if m.Health != fleet.HealthUnhealthy || m.BadSince.IsZero() || m.ObservedAt.Before(m.FinishedAt) {
		return false
	}
	left := c.control.patience - badRun(m)
	if m.State == fleet.MemberRolling {
		spec := &c.v.Rollout.Spec
		left = min(left, spec.HealthyFor+spec.HealthDeadline-c.v.Now.Sub(m.FinishedAt))
	}
	if left > 0 {
		c.wake(left)
	}
	return left <= 0
}

// passes tells whether a member has passed the health gate: it has answered well
// for HealthyFor, or nothing is known of it for longer than it may take.
func (c *census) passes(m *fleet.RolloutMember) bool {
	spec := &c.v.Rollout.Spec
	since := m.GoodSince
	if since.Before(m.FinishedAt) {
		since = m.FinishedAt
	}
	if m.Health == fleet.HealthHealthy && m.BadSince.IsZero() {
		// It must have been seen to be well at the end of that time as well.
		if m.ObservedAt.Sub(since) >= spec.HealthyFor {
			return true
		}
		c.wake(max(spec.HealthyFor-c.v.Now.Sub(since), 5*time.Second))
		return false
	}
	left := spec.HealthyFor + spec.HealthDeadline - c.v.Now.Sub(m.FinishedAt)
	if left <= 0 && m.BadSince.IsZero() {
		return true
	}
	c.wake(max(left, 10*time.Second))
	return false
}

// exposure is for how long a member has been seen on the new release, and was
// not seen to be bad for longer than a moment.
func (c *census) exposure(m *fleet.RolloutMember) time.Duration {
	until := m.ObservedAt
	if !m.BadSince.IsZero() && badRun(m) >= c.control.patience {
		until = m.BadSince
	}
	if until.After(c.v.Now) {
		until = c.v.Now
	}
	return max(0, until.Sub(m.FinishedAt))
}

// mature tells whether a sound member has been watched for as long as its ring asks.
func (c *census) mature(m *fleet.RolloutMember) bool {
	soak := c.soaks[min(m.Ring, len(c.soaks)-1)]
	if soak == 0 || m.Asleep {
		return true
	}
	if c.exposure(m) >= soak {
		return true
	}
	left := soak - c.v.Now.Sub(m.FinishedAt)
	if left <= -soak && c.v.Now.Sub(c.v.WatchedSince) >= 2*soak && m.BadSince.IsZero() {
		return true // nobody can see it, and it had twice the time
	}
	if left <= 0 {
		left = 15 * time.Second
	}
	c.wake(left)
	return false
}

func (c *census) wave(ring, wave int) *waveCount {
	ring = min(max(ring, 0), len(c.rings)-1)
	wave = max(wave, 0)
	for len(c.rings[ring]) <= wave {
		c.rings[ring] = append(c.rings[ring], waveCount{})
	}
	return &c.rings[ring][wave]
}

func (c *census) count(m *fleet.RolloutMember, s standing) {
	w := c.wave(m.Ring, m.Wave)
	w.members++
	c.members++
	switch m.State {
	case fleet.MemberVerifying:
		c.verifyUsed++
	case fleet.MemberRolling, fleet.MemberRollingBack:
		c.slotsUsed++
	}
	if s == standWaiting {
		switch {
		case m.Busy:
			w.busy++
		case !m.Asleep && badRun(m) > 0:
			w.postponed++
			if badRun(m) < c.control.patience {
				w.unsure++
			}
		default:
			w.free++
		}
		return
	}
	if s == standAside {
		w.judged++
		return
	}
	c.begun++
	if s != standWorking && s != standOld && !m.Asleep && !m.Busy {
		switch m.Health {
		case fleet.HealthUnhealthy:
			w.ailing++
			w.answering++
		case fleet.HealthHealthy:
			w.answering++
		}
	}
	switch s {
	case standWorking, standProving:
		if s == standProving {
			w.live++
		}
		if m.Strikes > 0 {
			c.retrying++
			w.judged++ // its first attempt has come to an end
			return
		}
		if s == standProving {
			w.proving++
		} else if m.State != fleet.MemberRollingBack {
			w.working++
			if d := c.v.Rollout.Spec.ProgressDeadline; d > 0 && c.v.Now.Sub(m.StartedAt) > d {
				c.hung++
			}
		}
	case standSound, standDoubted:
		w.judged++
		w.live++
		if s == standSound && c.mature(m) {
			w.mature++
		}
	case standFaulty, standOld:
		w.judged++
		c.failures++
	}
}
