package rollout

import (
	"slices"
	"time"

	"dormouse/internal/fleet"
)

// maxLevel is how often at most the new release is put on one member.
const maxLevel = 4

// family tells failures by when they came: one that shows when the release
// starts is to be compared with all that started, one that came later with those watched for as long.
type family int

const (
	familyBoot family = iota
	familyLater
	families
)

// kind tells failures by what else could explain them.
type kind int

const (
	// kindRelease: the program failed, or answered badly, and the old release is back.
	kindRelease kind = iota
	// kindNow: the new release is on it, and it answers badly at this moment, or
	// did so until it began to be put back.
	kindNow
	// kindPlatform: the operation failed for a reason that is the platform's as a rule.
	kindPlatform
	// kindSick: the old release is back, and it is no better.
	kindSick
	// kindAsleep: on a clone of a sleeper, of which it isn't known how the old
	// release would have done.
	kindAsleep
	kinds
)

// tally counts what is known of one stratum, of one cluster, or of all members.
type tally struct {
	// resolved failed, and are sound on another attempt; they are in passed too.
	resolved [families]int
	// passed are the members that the new release started on, soaked how many
	// of them were watched for a soak, in parts.
	passed, soaked float64
	// controlGood and controlBad members have the old release, and answer so now.
	controlGood, controlBad int
}

// failure is what one member tells against the release.
type failure struct {
	family family
	kind   kind
	// level is how often the new release failed on it, up to maxLevel.
	level int
	// pending: another attempt will tell more.
	pending bool
	// cluster and strata are numbers in the evidence.
	cluster int
	strata  []int32
}

// in tells whether the failed member is in a stratum.
func (x *failure) in(id int32) bool { return slices.Contains(x.strata, id) }

// evidence is what all members tell.
type evidence struct {
	failed []failure
	all    tally
	// strata is nil where nothing failed. clusters has the tally of each cluster.
	strata   *strata
	clusters []tally
}

// For how long a member must be sound on another attempt for its failure to have
// been something else's: as long as a soak where it failed late, and less where at the start.
const resolvedAfter = 20 * time.Minute

// sickAfter is for how long the old release must be no better to be sure of it,
// and giveUpAfter for how long to wait for a member to recover at all.
const (
	sickAfter   = 30 * time.Minute
	giveUpAfter = 2 * time.Hour
)

// platformReasons are why operations fail whatever the release.
func platformReason(r fleet.Reason) bool {
	switch r {
	case fleet.ReasonProvider, fleet.ReasonCapacity, fleet.ReasonNoAddress, fleet.ReasonHostLost, fleet.ReasonInUse, fleet.ReasonPreempted,
		fleet.ReasonPredecessor, fleet.ReasonPanic, fleet.ReasonDeadline, fleet.ReasonQuarantined, fleet.ReasonCheckFailed, fleet.ReasonVolumeTooSmall:
		return true
	}
	return false
}

// failureOf returns what member i tells against the release, if anything.
func (c *census) failureOf(i int) (failure, bool) {
	m, s := &c.v.Members[i], c.stand[i]
	f := failure{level: m.Strikes}
	switch s {
	case standFaulty:
		f.kind, f.pending = kindNow, true
		f.level++ // this one is not counted yet
		if c.late(m) {
			f.family = familyLater
		}
	case standOld:
		f.pending = c.retryable(m)
	case standWorking, standProving, standSound:
		if f.level < 1 || s == standSound && c.resolved(m) {
			return f, false
		}
		f.pending = true
		if m.State == fleet.MemberRollingBack {
			f.kind = kindNow // until it is seen how the old release does
		}
	default:
		return f, false
	}
	f.level = min(max(f.level, 1), maxLevel)
	if s != standFaulty {
		f.family = familyOf(m)
	}
	switch {
	case m.Asleep:
		f.kind = kindAsleep
	case f.kind == kindNow:
	case platformReason(m.Reason):
		f.kind = kindPlatform
	case s == standOld && c.sick(m):
		f.kind = kindSick
	}
	return f, true
}

// late tells whether a faulty member failed later than at the start.
func (c *census) late(m *fleet.RolloutMember) bool {
	return m.BadSince.Sub(m.FinishedAt) > resolvedAfter/2
}

// resolved tells whether a member that failed before has been sound for long enough since.
func (c *census) resolved(m *fleet.RolloutMember) bool {
	need := c.soaks[min(m.Ring, len(c.soaks)-1)]
	if m.Reason != fleet.ReasonTurnedUnhealthy {
		need = min(need, resolvedAfter)
	}
	left := need - c.v.Now.Sub(m.FinishedAt)
	if m.Asleep || c.exposure(m) >= need || left <= -need {
		return true
	}
	c.wake(max(left, 15*time.Second))
	return false
}

// sick tells whether the old release is back and answers badly as well.
func (c *census) sick(m *fleet.RolloutMember) bool {
	return !m.Asleep && m.Health == fleet.HealthUnhealthy && badRun(m) >= c.control.patience
}

// retryable tells whether another attempt on a member that failed is worth
// while, now or when it has recovered.
func (c *census) retryable(m *fleet.RolloutMember) bool {
	most := maxLevel
	if m.Asleep {
		most = 2
	}
	if m.Strikes >= most {
		return false
	}
	since := c.v.Now.Sub(m.FinishedAt)
	return since < sickAfter || !c.sick(m) && since < giveUpAfter
}

// gather collects the evidence.
func (c *census) gather() *evidence {
	var e evidence
	var members []int
	for i := range c.v.Members {
		if f, ok := c.failureOf(i); ok {
			members = append(members, i)
			e.failed = append(e.failed, f)
		} else if c.isResolved(i) {
			c.resolvedCount++
			if c.v.Members[i].Strikes > 0 {
				c.cleared = append(c.cleared, c.v.Members[i].InstallationID)
			}
		}
	}
	slices.Sort(c.cleared)
	if len(members) == 0 {
		return &e
	}
	e.strata = newStrata(c.v.Members, members)
	e.clusters = make([]tally, e.strata.clusters)
	next := 0
	for i := range c.v.Members {
		if c.stand[i] == standGone || c.stand[i] == standAside {
			continue
		}
		ids := e.strata.of(i)
		cluster := int(e.strata.clusterOf[ids[0]])
		bad := next < len(members) && members[next] == i
		if bad {
			e.failed[next].cluster, e.failed[next].strata = cluster, ids
			next++
		}
		told, any := c.tells(i, bad)
		if !any {
			continue
		}
		e.all.add(&told)
		e.clusters[cluster].add(&told)
		for _, id := range ids {
			if id >= 0 {
				e.strata.tallies[id].add(&told)
			}
		}
	}
	return &e
}

// isResolved tells, of a member that is no failure now, whether it was one.
func (c *census) isResolved(i int) bool {
	return c.stand[i] == standSound && c.v.Members[i].Attempts > 1
}

// familyOf is the family of a member's last recorded failure.
func familyOf(m *fleet.RolloutMember) family {
	if m.Reason == fleet.ReasonTurnedUnhealthy {
		return familyLater
	}
	return familyBoot
}

// tells is the tally of member i alone; false is nothing.
func (c *census) tells(i int, failed bool) (t tally, any bool) {
	m := &c.v.Members[i]
	switch c.stand[i] {
	case standWaiting, standOld:
		switch {
		case m.Asleep || m.Busy || m.Health == fleet.HealthUnknown:
			return t, false
		case m.BadSince.IsZero():
			t.controlGood = 1
		case badRun(m) >= c.control.patience:
			t.controlBad = 1
		}
		return t, true
	case standSound:
		if failed {
			return t, false
		}
		t.passed, t.soaked = 1, c.soakedPart(i)
		if c.isResolved(i) {
			t.resolved[familyOf(m)] = 1
		}
		return t, true
	}
	return t, false
}

func (t *tally) add(o *tally) {
	for f := range families {
		t.resolved[f] += o.resolved[f]
	}
	t.passed += o.passed
	t.soaked += o.soaked
	t.controlGood += o.controlGood
	t.controlBad += o.controlBad
}

// soakedPart is how much of a soak member i was watched for.
func (c *census) soakedPart(i int) float64 {
	if c.stand[i] != standSound || c.v.Members[i].Asleep {
		return 0
	}
	m := &c.v.Members[i]
	soak := c.soaks[min(m.Ring, len(c.soaks)-1)]
	if e := c.exposure(m); e < soak {
		return float64(e) / float64(soak)
	}
	return 1
}
