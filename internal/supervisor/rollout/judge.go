package rollout

import "fmt"

// The judge is a sequential Bayes factor. Against "what fails, fails for other
// reasons, as ever" it weighs "the release is bad for a share of the members" and
// "… of the members of one stratum", for several shares. Multiplicity is in the
// weights: half for all members, half divided among the strata. Were the
// background as assumed, a good release would come above haltOdds at any time
// with a probability of at most 1 / haltOdds (Ville's inequality).
//
// The background is not known before: the weights are summed over how high it may
// be. So one failure on a member is weak evidence, and the judge does not rest on it: it makes the experiment. A member
// that failed has its old release back; if it is well on that, the new one is put
// on it again. To fail again, with the old one well in between, is a chance
// of backgroundAgain for what fails for other reasons, and next to certain where the
// release is to blame. Those that pass the second time are counted, and
// tell how high the background is.
//
// Many can fail at once for one reason that is not the release: a platform or an
// observer that breaks, everywhere or in one cluster. So the judge weighs the
// evidence under each of these accidents, by how likely it makes the accident
// itself: that something hit an unknown part of the members when they were first
// begun, or hit a part of all at the time when some were put back for what they
// answered, or hits a part at this moment, the untouched included. Failures
// that come again speak against the first two, members that were well throughout
// against the second, untouched members that are well against the third.
// Only those are put back that a slot is found for: that others, as bad at that time,
// recovered with the new release on speaks for the accident, not against it.
const (
	backgroundAgain = 0.1
	// Operations that fail for the platform's reasons.
	platformBackground = 0.1
	platformAgain      = 0.3
	// sickIfBad is the chance that a release which is bad for a member leaves it
	// bad when the old one is back.
	sickIfBad = 0.1
	// accident is the chance of each of the accidents, everywhere, and as
	// much again for one in some cluster.
	accident = 0.05

	haltOdds     = 200
	suspectOdds  = 1.5
	overallShare = 0.5
)

// backgrounds are the parts of operations, or of soaks, that may fail for other
// reasons, and backgroundWeights how likely each is.
var (
	backgrounds       = [...]float64{0.005, 0.01, 0.02, 0.04, 0.08}
	backgroundWeights = [...]float64{0.2, 0.3, 0.25, 0.15, 0.1}
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
	e := c.gather()
	v := verdict{where: "all"}
	if len(e.failed) == 0 {
		return v
	}
	for _, f := range e.failed {
		v.pending = v.pending || f.pending
	}
	strongest := -1
	for f := range families {
		odds, which := e.odds(f, false)
		if odds > v.odds {
			strongest = which
		}
		v.odds += odds / float64(families)
		odds, _ = e.odds(f, true)
		v.potential += odds / float64(families)
	}
	if strongest >= 0 {
		v.where = e.index.names[strongest].String()
	}
	v.detail = e.detail(strongest)
	return v
}

// detail tells in words what speaks against the release in a stratum, or -1 for all.
func (e *evidence) detail(id int) string {
	t := &e.all
	if id >= 0 {
		t = &e.strata[id]
	}
	var once, again, now int
	for _, f := range e.failed {
		if id >= 0 && !f.in(int32(id)) {
			continue
		}
		once++
		if f.level > 1 {
			again++
		}
		if f.kind == kindNow {
			now++
		}
	}
	s := fmt.Sprintf("%d of %d failed", once, once+int(t.passed))
	if again > 0 {
		s += fmt.Sprintf(", %d of them again when it was put on once more", again)
	}
	if now > 0 && t.controlGood > 0 {
		s += fmt.Sprintf(", while %d that have the old release are well", t.controlGood)
	}
	return s
}
