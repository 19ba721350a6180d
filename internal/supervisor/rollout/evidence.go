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
	// kindRelease: the program failed, and the old release is back.
	kindRelease kind = iota
	// kindUnready: it did not become healthy, and is well on the old release.
	kindUnready
	// kindTurned: it answered badly until it was put back, and is well on the old release.
	kindTurned
	// kindNow: the new release is on it, and it answers badly at this moment.
	kindNow
	// kindUnseen: it answered badly until it began to be put back, and has not been
	// seen to be well since. What it would answer now with the new release nobody knows.
	kindUnseen
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
	// controlGood members have the old release, and are well now.
	controlGood int
	// untroubled, on either release, have been well since before others were put back.
	untroubled int
}

// failure is what one member tells against the release.
type failure struct {
	family family
	kind   kind
	// level is how often the new release failed on it, up to maxLevel.
	level int
	// pending: another attempt will tell more.
	pending bool
	// at is when it answered badly, where it was put back for that and it is known.
	at time.Time
	// member, cluster and strata are numbers in the view and in the index.
	member, cluster int
	strata          []int32
}

// in tells whether the failed member is in a stratum.
func (x *failure) in(id int32) bool { return slices.Contains(x.strata, id) }

// evidence is what all members tell.
type evidence struct {
	failed []failure
	all    tally
	// clusters and strata are by their numbers in the index, which is nil where nothing failed.
	clusters, strata []tally
	index            *Index
	// total is how many strata there are in the dimensions that failed members have.
	total int
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

// failureOf returns what a member tells against the release, if anything.
func (c *census) failureOf(m *fleet.RolloutMember, s standing) (failure, bool) {
	f := failure{level: m.Strikes}
	switch s {
	case standFaulty:
		f.kind, f.pending = kindNow, true
		if c.late(m) {
			f.family = familyLater
		}
		if f.level++; f.family != familyOf(m) || platformReason(m.Reason) {
			f.level = 1 // what failed before failed otherwise
		}
	case standOld:
		f.pending = c.retryable(m)
	case standWorking, standProving, standSound:
		if f.level < 1 || s == standSound && c.acquits(m) {
			return f, false
		}
		f.pending = true
		if m.State == fleet.MemberRollingBack {
			f.kind, f.at = kindUnseen, m.StartedAt // until it is seen how the old release does
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
	case f.kind != kindRelease:
	case platformReason(m.Reason):
		f.kind = kindPlatform
	case s == standOld && c.sick(m):
		f.kind = kindSick
	case healthReason(m.Reason):
		if f.kind = kindUnready; m.Reason == fleet.ReasonTurnedUnhealthy {
			f.kind = kindTurned
		}
		if s == standOld {
			f.at = m.StartedAt
			if !seenWell(m) {
				f.kind = kindUnseen
			}
		}
	}
	return f, true
}

// late tells whether a faulty member failed later than at the start.
func (c *census) late(m *fleet.RolloutMember) bool {
	return m.BadSince.Sub(m.FinishedAt) > resolvedAfter/2
}

// acquits tells whether a member that failed before has been sound for long enough since.
func (c *census) acquits(m *fleet.RolloutMember) bool {
	need := c.soaks[min(m.Ring, len(c.soaks)-1)]
	switch {
	case platformReason(m.Reason):
		return true // an operation failed, and now one has succeeded
	case m.Reason != fleet.ReasonTurnedUnhealthy:
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

// seenWell tells whether the old release that is back has been seen to be well.
func seenWell(m *fleet.RolloutMember) bool {
	return m.Health == fleet.HealthHealthy && !m.ObservedAt.Before(m.FinishedAt)
}

// healthReason tells whether answers, and not the end of a program, are why a member failed.
func healthReason(r fleet.Reason) bool {
	return r == fleet.ReasonNotHealthy || r == fleet.ReasonTurnedUnhealthy
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

// weigh notes what member i tells.
func (c *census) weigh(i int) {
	m, fact := &c.v.Members[i], &c.facts[i]
	if f, bad := c.failureOf(m, fact.stand); bad {
		f.member = i
		c.failed = append(c.failed, f)
		if fact.stand != standOld {
			return
		}
	}
	switch fact.stand {
	case standWaiting, standOld:
		if !m.Asleep && !m.Busy && m.Health == fleet.HealthHealthy {
			fact.tells = tellsControlGood
		}
	case standSound:
		if !m.Asleep && !m.Busy && m.Health == fleet.HealthUnhealthy {
			return // it may be about to fail
		}
		fact.tells, fact.soaked = tellsPassed, c.soakedPart(m)
		if m.Attempts < 2 {
			return
		}
		c.resolved++
		if m.Strikes > 0 {
			c.cleared = append(c.cleared, m.InstallationID)
		}
		if fact.tells = tellsResolvedBoot; familyOf(m) == familyLater {
			fact.tells = tellsResolvedLater
		}
	}
}

// gather collects the evidence.
func (c *census) gather() *evidence {
	e := &evidence{failed: c.failed}
	if len(e.failed) == 0 {
		return e
	}
	if e.index = c.v.Index; !e.index.fits(c.v.Members) {
		e.index = indexFor(c.v.Members, e.failed)
	}
	e.clusters = make([]tally, len(e.index.clusters))
	e.strata = make([]tally, len(e.index.names))
	then := e.then()
	for i := range c.facts {
		fact := &c.facts[i]
		if fact.tells == tellsNothing {
			continue
		}
		ids := e.index.of(i)
		cluster := &e.clusters[e.index.clusterOf[ids[0]]]
		e.all.add(fact)
		cluster.add(fact)
		if m := &c.v.Members[i]; !m.Asleep && m.Health == fleet.HealthHealthy && !m.GoodSince.IsZero() && !m.GoodSince.After(then) {
			e.all.untroubled++
			cluster.untroubled++
		}
		for _, id := range ids {
			if id >= 0 {
				e.strata[id].add(fact)
			}
		}
	}
	for i := range e.failed {
		x := &e.failed[i]
		x.strata = e.index.of(x.member)
		x.cluster = int(e.index.clusterOf[x.strata[0]])
	}
	e.total = e.index.total(c.v.Members, e.failed)
	return e
}

// then returns the moment at which those that were put back for what they answered were
// bad, zero where it isn't known. It is the median: others that fail at any time do not move it.
func (e *evidence) then() time.Time {
	var times []time.Time
	for i := range e.failed {
		if at := e.failed[i].at; !at.IsZero() {
			times = append(times, at)
		}
	}
	if len(times) == 0 {
		return time.Time{}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times[len(times)/2]
}

func (t *tally) add(f *fact) {
	switch f.tells {
	case tellsControlGood:
		t.controlGood++
		return
	case tellsResolvedBoot:
		t.resolved[familyBoot]++
	case tellsResolvedLater:
		t.resolved[familyLater]++
	}
	t.passed++
	t.soaked += float64(f.soaked)
}

// familyOf is the family of a member's last recorded failure.
func familyOf(m *fleet.RolloutMember) family {
	if m.Reason == fleet.ReasonTurnedUnhealthy {
		return familyLater
	}
	return familyBoot
}

// soakedPart is which part of a soak a sound member was watched for.
func (c *census) soakedPart(m *fleet.RolloutMember) float32 {
	soak := c.soaks[min(m.Ring, len(c.soaks)-1)]
	if m.Asleep {
		return 0
	}
	if e := c.exposure(m); e < soak {
		return float32(e) / float32(soak)
	}
	return 1
}
