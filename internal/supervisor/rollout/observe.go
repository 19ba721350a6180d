package rollout

import (
	"time"

	"dormouse/internal/fleet"
)

// patiences are for how long an installation must have been answering badly for
// that to count. The more of the answers are bad for a moment only, the longer.
var patiences = [...]time.Duration{4 * time.Minute, 8 * time.Minute, 15 * time.Minute, 30 * time.Minute}

// impatience is which part of the installations may be in a short spell of bad
// answers for each patience but the last to do.
var impatience = [len(patiences) - 1]float64{0.01, 0.05, 0.15}

// The part of the untouched that may look bad before the observer is doubted,
// of all and of one cluster, and how many that are at least.
const (
	doubtShare        = 0.06
	doubtClusterShare = 0.15
	doubtLeast        = 3
	// leftoverShare of all members may be bad and untouched at any time: at the
	// end, those are most of what is left untouched.
	leftoverShare = 0.03
	// chronicShare: so many have been bad since before the rollout that there is
	// nothing to compare with.
	chronicShare = 0.3
	// chronicFor is for how long before the rollout began.
	chronicFor = time.Hour
	// unseenShare may be out of sight before the observer is taken to be broken.
	unseenShare = 0.25
)

// answers counts what untouched installations last answered.
type answers struct {
	good, chronic int
	// members are all that are awake, those touched included; unseen of them used
	// to give an answer and give none now; wellOnOld are on the old release and
	// well, for the first time or again.
	members, unseen, wellOnOld int
	// bad counts those that have been bad for as long as each patience.
	bad [len(patiences)]int
}

func (a *answers) add(run time.Duration, bad bool) {
	if !bad {
		a.good++
		return
	}
	for i, p := range patiences {
		if run >= p {
			a.bad[i]++
		}
	}
}

// control is the comparison group: members that were not begun.
type control struct {
	patience time.Duration
	// grade is the index of patience in patiences.
	grade    int
	all      answers
	clusters map[fleet.ClusterID]*answers
}

// Observed notes an answer about a member's health. One good answer among bad
// ones ends nothing: two in a row do, for an observer can be wrong.
func Observed(m *fleet.RolloutMember, answer fleet.HealthState, at time.Time) {
	m.Health, m.ObservedAt = answer, at
	switch answer {
	case fleet.HealthHealthy:
		if m.GoodSince.IsZero() {
			m.GoodSince = at
		} else {
			m.BadSince = time.Time{}
		}
	case fleet.HealthUnhealthy:
		if m.BadSince.IsZero() {
			m.BadSince = at
		}
		m.GoodSince = time.Time{}
	}
}

// badRun is for how long a member has been answering badly without a break, as
// far as it was seen. What it ran before its last operation ended does not count.
func badRun(m *fleet.RolloutMember) time.Duration {
	if m.BadSince.IsZero() {
		return 0
	}
	since := m.BadSince
	if since.Before(m.FinishedAt) {
		since = m.FinishedAt
	}
	return max(0, m.ObservedAt.Sub(since))
}

// observe counts the answers of the control group, and chooses the patience.
func observe(v *View) *control {
	c := &control{clusters: map[fleet.ClusterID]*answers{}}
	short := 0
	var last *answers
	var lastID fleet.ClusterID
	chronicSince := v.Rollout.CreatedAt.Add(-chronicFor)
	for i := range v.Members {
		m := &v.Members[i]
		if m.Asleep || m.Busy || m.OperationID != "" || m.State == fleet.MemberGone {
			continue
		}
		bad := !m.BadSince.IsZero()
		var run time.Duration
		if bad {
			run = badRun(m)
		}
		if m.Health == fleet.HealthUnhealthy && run < patiences[0] {
			short++
		}
		if last == nil || m.ClusterID != lastID {
			lastID = m.ClusterID
			if last = c.clusters[lastID]; last == nil {
				last = &answers{}
				c.clusters[lastID] = last
			}
		}
		c.all.members++
		last.members++
		if m.Health != fleet.HealthHealthy && m.Health != fleet.HealthUnhealthy {
			if bad || !m.GoodSince.IsZero() {
				c.all.unseen++
				last.unseen++
			}
			continue
		}
		old := m.State == fleet.MemberWaiting || m.State == fleet.MemberFailed || m.State == fleet.MemberRolledBack
		if old && m.Health == fleet.HealthHealthy {
			last.wellOnOld++
		}
		if m.State != fleet.MemberWaiting {
			continue
		}
		if bad && m.BadSince.Before(chronicSince) {
			c.all.chronic++
			last.chronic++
			continue
		}
		c.all.add(run, bad)
		last.add(run, bad)
	}
	for c.grade < len(impatience) && float64(short) > impatience[c.grade]*float64(c.all.members)+1 {
		c.grade++
	}
	c.patience = patiences[c.grade]
	return c
}

// doubtful tells whether so many of the untouched look bad that what is seen
// of the others says nothing about the release: the brake.
func (c *control) doubtful() bool {
	return c.all.doubtful(c.grade, doubtShare) || c.all.chronic >= doubtLeast && float64(c.all.chronic) > chronicShare*float64(c.all.members)
}

// blind tells whether the observer has lost sight of so many that to begin
// anything would be to begin it blindly.
func (a *answers) blind() bool {
	return a.unseen >= doubtLeast && float64(a.unseen) > unseenShare*float64(a.members)
}

// doubtfulIn tells whether one cluster is in doubt or out of sight.
func (c *control) doubtfulIn(id fleet.ClusterID) bool {
	a := c.clusters[id]
	return a != nil && (a.blind() || a.doubtful(c.grade, doubtClusterShare))
}

func (a *answers) known(grade int) int { return a.good + a.bad[grade] }

func (a *answers) doubtful(grade int, share float64) bool {
	bad := a.bad[grade]
	return bad >= doubtLeast && float64(bad) > share*float64(a.known(grade)) && float64(bad) > leftoverShare*float64(a.members)
}
