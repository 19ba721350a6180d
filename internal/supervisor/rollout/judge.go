package rollout

import (
	"fmt"
	"math"
)

// The judge is a sequential Bayes factor. Against "what fails, fails for other
// reasons, as ever" it weighs "the release is bad for a share of the members" and
// "… of the members of one stratum", for several shares. Multiplicity is in the
// weights: half for all members, half divided among the strata. Were the
// background as assumed, a good release would come above haltOdds at any time
// with a probability of at most 1 / haltOdds (Ville's inequality).
//
// The background is not known before, so one failure on a member is weak
// evidence, and the judge does not rest on it: it makes the experiment. A member
// that failed has its old release back; if it is well on that, the new one is put
// on it again. To fail again, with the old one well in between, is a chance
// of backgroundAgain for what fails for other reasons, and next to certain where the
// release is to blame. Those that pass the second time are counted, and
// tell how high the background is.
//
// Many can fail at once for one reason that is not the release: a platform or an
// observer that breaks. That explains any number of failures, but only of one
// moment. So the judge weighs against that too: that something hit an unknown
// part of the members when they were first begun, or hits a part of all at
// this moment, the untouched included. Failures that come again count against
// the first, untouched members that are well against the second.
const (
	// background is the part of operations or soaks that fail for other reasons,
	// to begin with, and backgroundWorth how many observed ones that is worth.
	background      = 0.01
	backgroundWorth = 50
	backgroundAgain = 0.1
	// Operations that fail for the platform's reasons.
	platformBackground = 0.1
	platformAgain      = 0.3
	// sickIfBad is the chance that a release which is bad for a member leaves it
	// bad when the old one is back.
	sickIfBad = 0.1

	// outage is the chance that something hit many at once, for each of the two moments.
	outage = 0.05

	haltOdds     = 200
	suspectOdds  = 1.5
	overallShare = 0.5
)

// sharesOverall and sharesStratum are for which part the release may be bad.
var (
	sharesOverall = [...]float64{0.03, 0.1, 0.3, 0.97}
	sharesStratum = [...]float64{0.3, 0.97}
)

// verdict is what the judge says.
type verdict struct {
	// odds are the Bayes factor, potential what it would be if all attempts that are
	// due or under way failed.
	odds, potential float64
	// where is "all", or the stratum that speaks most against the release.
	where  string
	detail string
	// pending: there are attempts that will tell more.
	pending bool
}

// bad tells whether the release is to blame.
func (v verdict) bad() bool { return v.odds >= haltOdds }

// suspicious tells whether to wait for what attempts say before more is begun.
func (v verdict) suspicious() bool {
	return v.pending && v.odds >= suspectOdds
}

// judge weighs the evidence.
func (c *census) judge() verdict {
	all, strata := c.gather()
	if strata == nil {
		return verdict{where: "all"}
	}
	base := (background*backgroundWorth + float64(c.resolvedCount)) / (backgroundWorth + all.passed)
	base = max(base, background)
	v := verdict{where: "all"}
	for f := range families {
		for level := range all.pending[f] {
			v.pending = v.pending || all.pending[f][level] > 0
		}
	}
	odds := newMixture()
	potential := newMixture()
	weigh := func(t *tally, shares []float64, weight float64, name func() string) {
		for f := range families {
			for _, share := range shares {
				w := math.Log(weight / float64(len(shares)) / float64(families))
				if odds.add(w + t.logOdds(f, share, base, false)) {
					v.where, v.detail = name(), t.String()
				}
				potential.add(w + t.logOdds(f, share, base, true))
			}
		}
	}
	weigh(&all, sharesOverall[:], overallShare, func() string { return "all" })
	each := (1 - overallShare) / float64(len(strata.names))
	for id := range strata.tallies {
		if strata.tallies[id].failures() == 0 {
			continue // it says next to nothing for the release's being bad there
		}
		weigh(&strata.tallies[id], sharesStratum[:], each, strata.names[id].String)
	}
	v.odds, v.potential = odds.value(), potential.value()
	return v
}

// logOdds is the logarithm of how much likelier a tally is if the release is bad
// for that share than if it is not. With potential, it is what it would be
// if all attempts that are due or under way failed.
func (t *tally) logOdds(f family, share, base float64, potential bool) float64 {
	base = max(base, float64(t.controlBad)/float64(t.controlBad+t.controlGood+1))
	good := t.passed
	if f == familyLater {
		good = t.soaked
	}
	// past and now are the log odds of what failed before and fails now. pastHit and
	// nowHit are what they would be had a first failure been sure to come.
	var past, now, rest, pastHit, nowHit float64
	var pastCount, nowCount int
	term := func(n int, background float64) float64 {
		return float64(n) * math.Log((share+(1-share)*background)/background)
	}
	release, platform := base, platformBackground
	before, platformBefore := 1.0, 1.0
	for level := 1; level <= maxLevel; level++ {
		released, faulty := t.failed[f][kindRelease][level], t.failed[f][kindNow][level]
		if potential {
			released, faulty = t.potential(f, level), 0
		}
		platforms, asleep := t.failed[f][kindPlatform][level], t.failed[f][kindAsleep][level]
		past += term(released, release) + term(platforms, platform) + term(asleep, base)
		now += term(faulty, release)
		rest += float64(t.failed[f][kindSick][level]) * math.Log((share*sickIfBad+(1-share)*base)/base)
		pastHit += float64(released)*math.Log(share/before) + float64(platforms)*math.Log(share/platformBefore) + float64(asleep)*math.Log(share)
		nowHit += float64(faulty) * math.Log(share/before)
		pastCount += released + platforms + asleep
		nowCount += faulty
		before, platformBefore = release, platform
		release *= backgroundAgain
		platform *= platformAgain
	}
	rest += good * math.Log1p(-share)
	pastHit -= hit(pastCount, good)
	nowHit -= hit(nowCount, good+float64(t.controlGood))
	// Four ways in which the release is not to blame: neither outage, one, the other, both.
	sum := newMixture()
	sum.add(-(past + now + rest))
	sum.add(math.Log(outage) - (pastHit + now + rest))
	sum.add(math.Log(outage) - (past + nowHit + rest))
	sum.add(2*math.Log(outage) - (pastHit + nowHit + rest))
	return -sum.log()
}

// potential is how many members would have failed as often as level, if all
// attempts that are due or under way failed.
func (t *tally) potential(f family, level int) int {
	at := func(level int) (stay, move int) {
		n := t.failed[f][kindRelease][level] + t.failed[f][kindNow][level]
		if level < maxLevel {
			move = min(n, t.pending[f][level])
		}
		return n - move, move
	}
	stay, _ := at(level)
	_, came := at(level - 1)
	return stay + came
}

// hit is the log-likelihood of an outage that hit n and spared others, with
// every share that it can have had as likely as any other.
func hit(n int, spared float64) float64 {
	if n == 0 {
		return 0
	}
	a, _ := math.Lgamma(float64(n) + 1)
	b, _ := math.Lgamma(spared + 1)
	c, _ := math.Lgamma(float64(n) + spared + 2)
	return a + b - c
}

func (t *tally) failures() int {
	n := 0
	for f := range families {
		for k := range kinds {
			for _, members := range t.failed[f][k] {
				n += members
			}
		}
	}
	return n
}

// String tells a tally in words.
func (t *tally) String() string {
	var once, again, now int
	for f := range families {
		for k := range kinds {
			for level, n := range t.failed[f][k] {
				once += n
				if level > 1 {
					again += n
				}
				if k == kindNow {
					now += n
				}
			}
		}
	}
	s := fmt.Sprintf("%d of %d failed", once, once+int(t.passed))
	if again > 0 {
		s += fmt.Sprintf(", %d of them again when the release was put on them once more", again)
	}
	if now > 0 && t.controlGood > 0 {
		s += fmt.Sprintf(", while %d that have the old release are well", t.controlGood)
	}
	return s
}

// String names a stratum for people.
func (s stratum) String() string {
	switch s.dimension {
	case dimensionMemory:
		return fmt.Sprintf("memory %d MiB", s.number)
	case dimensionCluster:
		return "cluster " + s.value
	}
	return s.dimension + "=" + s.value
}

// mixture sums likelihoods in the logarithm.
type mixture struct{ most, sum float64 }

func newMixture() *mixture { return &mixture{most: math.Inf(-1)} }

// add tells whether this is the largest so far.
func (m *mixture) add(l float64) bool {
	if l > m.most {
		m.sum = m.sum*math.Exp(m.most-l) + 1
		m.most = l
		return true
	}
	m.sum += math.Exp(l - m.most)
	return false
}

func (m *mixture) log() float64 { return m.most + math.Log(m.sum) }

func (m *mixture) value() float64 {
	if m.sum == 0 {
		return 0
	}
	return math.Exp(min(m.log(), 600))
}
