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
	working, proving      int
	// judged have come to an end, whichever. live have the new release, and
	// mature of them have been watched for long enough.
	judged, live, mature int
}

// census is one look at all members.
type census struct {
	v       *View
	control *control
	// doubt: the brake is on.
	doubt bool
	stand []standing
	rings [][]waveCount
	// soaks are how long each ring is watched.
	soaks []time.Duration
	// members are those not gone.
	members, begun, failures int
	// slotsUsed counts members in work, those that pass the gate now included.
	slotsUsed, verifyUsed int
	hung                  int
	// retrying are in work not for the first time; resolvedCount failed once and are
	// sound on the new release now: what ailed them was not the release.
	retrying, resolvedCount int
	done                    []fleet.InstallationID
	next                    time.Duration
}

// wake asks for a decision after d at the latest.
func (c *census) wake(d time.Duration) {
	d = max(d, time.Second)
	if c.next == 0 || d < c.next {
		c.next = d
	}
}

func takeCensus(v *View) *census {
	c := &census{v: v, control: observe(v), stand: make([]standing, len(v.Members))}
	c.doubt = c.control.doubtful()
	rings := max(1, len(v.Rollout.Spec.Rings))
	c.rings = make([][]waveCount, rings)
	c.soaks = make([]time.Duration, rings)
	for r := range c.soaks {
		c.soaks[r] = soak(v.Rollout.Spec, r)
	}
	for i := range v.Members {
		m := &v.Members[i]
		s := c.classify(m)
		c.stand[i] = s
		if s != standGone {
			c.count(m, s)
		}
	}
	slices.Sort(c.done)
	return c
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
	if !m.BadSince.IsZero() && !m.ObservedAt.Before(m.FinishedAt) {
		if run := badRun(m); run >= c.control.patience {
			if c.doubt || c.control.doubtfulIn(m.ClusterID) {
				return standDoubted
			}
			return standFaulty
		} else {
			c.wake(c.control.patience - run)
		}
	}
	if m.State == fleet.MemberRolling {
		if !c.passes(m) {
			return standProving
		}
		c.done = append(c.done, m.InstallationID)
	}
	return standSound
}

// passes tells whether a member has passed the health gate: it has answered well
// for HealthyFor, or nothing is known of it for longer than it may take.
func (c *census) passes(m *fleet.RolloutMember) bool {
	spec := &c.v.Rollout.Spec
	since := m.GoodSince
	if since.Before(m.FinishedAt) {
		since = m.FinishedAt
	}
	seen := m.ObservedAt.After(m.FinishedAt) || spec.HealthyFor == 0
	if m.Health == fleet.HealthHealthy && m.BadSince.IsZero() && seen {
		left := spec.HealthyFor - c.v.Now.Sub(since)
		if left <= 0 {
			return true
		}
		c.wake(left)
		return false
	}
	left := spec.HealthyFor + spec.HealthDeadline - c.v.Now.Sub(m.FinishedAt)
	if left <= 0 && m.BadSince.IsZero() {
		return true
	}
	c.wake(max(left, 10*time.Second))
	return false
}

// exposure is for how long a member has been seen to be well on the new release.
func (c *census) exposure(m *fleet.RolloutMember) time.Duration {
	until := m.ObservedAt
	if !m.BadSince.IsZero() {
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
	if m.BadSince.IsZero() && c.exposure(m) >= soak {
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
	switch s {
	case standWorking, standProving:
		if s == standProving {
			w.live++
		}
		if m.Attempts > 1 {
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
