package rollout

import "math"

// cell counts the failures of one stratum in one cluster.
type cell struct {
	cluster int
	counts  [kinds][maxLevel + 1]int
}

// cells are the failures of one family: of all members first, then of each stratum.
type cells [][]cell

// cells counts the failures of a family. With potential they are as they would
// be if all attempts that are due or under way failed.
func (e *evidence) cells(f family, potential bool) cells {
	out := make(cells, 1+len(e.strata))
	add := func(at int, x *failure, kind kind, level int) {
		for i := range out[at] {
			if out[at][i].cluster == x.cluster {
				out[at][i].counts[kind][level]++
				return
			}
		}
		c := cell{cluster: x.cluster}
		c.counts[kind][level] = 1
		out[at] = append(out[at], c)
	}
	for i := range e.failed {
		x := &e.failed[i]
		if x.family != f {
			continue
		}
		kind, level := x.kind, x.level
		if potential && x.pending && level < maxLevel && kind <= kindUnseen {
			kind, level = kindRelease, level+1
		}
		add(0, x, kind, level)
		for _, id := range x.strata {
			if id >= 0 {
				add(1+int(id), x, kind, level)
			}
		}
	}
	return out
}

// chances are how likely one failure is for other reasons: whole, and what
// is left of that if an accident made it fail once.
func (k kind) chances(level int, base float64) (whole, rest float64) {
	again := backgroundAgain
	switch k {
	case kindSick, kindAsleep:
		return base, 1
	case kindPlatform:
		base, again = platformBackground, platformAgain
	}
	rest = math.Pow(again, float64(level-1))
	return base * rest, rest
}

// moments are those of which an accident can be: when members were first
// begun, when those that were put back answered badly, or now.
type moment int

const (
	past moment = iota
	then
	now
	moments
)

// story is when an accident would have to be, or have been, to explain those
// failures of which that is open.
type story struct{ unready, unseen moment }

// stories are how it can have been: what did not become healthy was hit when it was begun,
// or with those that ran; of what hit those not seen to be well since, nobody knows whether it goes on.
var stories = [...]story{{past, then}, {past, now}, {then, then}}

// moment is when an accident would have to be, or have been, to explain a failure.
func (s *story) moment(k kind) moment {
	switch k {
	case kindUnready:
		return s.unready
	case kindTurned:
		return then
	case kindUnseen, kindSick:
		return s.unseen
	case kindNow:
		return now
	}
	return past
}

// accidents are what could have hit many at one moment: nothing, something
// everywhere, or something in one cluster of those where any failed.
type accidents struct {
	// logs are log-likelihoods relative to nothing, with the chances in them:
	// of everywhere, and of each cell of all members.
	all      float64
	clusters []float64
}

// odds returns how much likelier the evidence of one family is if the release
// is bad than if it is not, and in which stratum (or -1) that is most so.
//
// Everything is a sum over how high the background may be, what accidents there
// may have been, and what the release may be bad for.
func (e *evidence) odds(f family, potential bool) (float64, int) {
	cells := e.cells(f, potential)
	if len(cells[0]) == 0 {
		return 0, -1
	}
	bad, good := newMixture(), newMixture()
	best, most := -1, math.Inf(-1)
	stories := cells.stories()
	for b, base := range backgrounds {
		ordinary := math.Log(backgroundWeights[b]/float64(len(stories))) + e.ordinary(f, cells[0], base)
		for i := range stories {
			s := &stories[i]
			var accident [moments]accidents
			norm := ordinary
			for m := range moments {
				accident[m] = e.accidents(f, m, s, cells[0], base)
				norm += accident[m].log(nil, 0)
			}
			good.add(norm)
			weigh := func(at int, shares []float64, weight float64) {
				for _, share := range shares {
					l := ordinary + math.Log(weight/float64(len(shares))) + e.given(f, at, share, base, s, cells, &accident)
					if bad.add(l); l > most {
						best, most = at-1, l
					}
				}
			}
			weigh(0, sharesOverall[:], overallShare)
			each := (1 - overallShare) / float64(e.total)
			for at := 1; at < len(cells); at++ {
				if len(cells[at]) > 0 {
					weigh(at, sharesStratum[:], each)
				}
			}
		}
	}
	return math.Exp(min(bad.log()-good.log(), 600)), best
}

// stories are those that differ for these failures.
func (c cells) stories() []story {
	for i := range c[0] {
		for _, k := range []kind{kindUnready, kindUnseen, kindSick} {
			if c[0][i].counts[k] != [maxLevel + 1]int{} {
				return stories[:]
			}
		}
	}
	return stories[:1]
}

// tally returns that of all (0) or of a stratum.
func (e *evidence) tally(at int) *tally {
	if at == 0 {
		return &e.all
	}
	return &e.strata[at-1]
}

// sound is how many members have shown that a failure of this family does not come.
func (t *tally) sound(f family) float64 {
	if f == familyLater {
		return t.soaked
	}
	return t.passed
}

// ordinary is the log-likelihood of the evidence if nothing is wrong and the
// background is so high.
func (e *evidence) ordinary(f family, all []cell, base float64) float64 {
	resolved := float64(e.all.resolved[f])
	sum := max(0, e.all.sound(f)-resolved)*math.Log1p(-base) + resolved*math.Log(base)
	for i := range all {
		for k := range kinds {
			for level, n := range all[i].counts[k] {
				if n > 0 {
					whole, _ := k.chances(level, base)
					sum += float64(n) * math.Log(whole)
				}
			}
		}
	}
	return sum
}

// given is the log-likelihood of the evidence, relative to ordinary, if the release
// is bad for a share of a stratum, summed over the accidents.
func (e *evidence) given(f family, at int, share, base float64, s *story, cells cells, accident *[moments]accidents) float64 {
	sum := e.tally(at).sound(f) * math.Log1p(-share)
	// explained is by how much less those in a cluster tell if an accident explains them.
	var explained [moments][]float64
	for m := range moments {
		explained[m] = make([]float64, len(cells[0]))
	}
	for i := range cells[at] {
		c := &cells[at][i]
		scope := 0
		for cells[0][scope].cluster != c.cluster {
			scope++
		}
		for k := range kinds {
			for level, n := range c.counts[k] {
				if n == 0 {
					continue
				}
				chance := 1.0
				if k == kindSick {
					chance = sickIfBad
				}
				whole, rest := k.chances(level, base)
				tells := float64(n) * math.Log((share*chance+(1-share)*whole)/whole)
				sum += tells
				explained[s.moment(k)][scope] += float64(n)*math.Log((share+(1-share)*rest)/rest) - tells
			}
		}
	}
	for m := range moments {
		total := 0.0
		for _, x := range explained[m] {
			total += x
		}
		sum += accident[m].log(explained[m], total)
	}
	return sum
}

// accidents weighs what could have hit those that failed at a moment.
func (e *evidence) accidents(f family, m moment, s *story, all []cell, base float64) accidents {
	weigh := func(t *tally, cells []cell, chance float64) float64 {
		hits, sum := 0, math.Log(chance)
		for i := range cells {
			for k := range kinds {
				if s.moment(k) != m {
					continue
				}
				for level, n := range cells[i].counts[k] {
					if n > 0 {
						whole, rest := k.chances(level, base)
						hits += n
						sum += float64(n) * math.Log(rest/whole)
					}
				}
			}
		}
		if hits == 0 {
			return math.Inf(-1)
		}
		spared := t.sound(f)
		switch n := t.resolved[f]; m {
		case past:
			// Those that passed another attempt are good, but were hit as well.
			hits += n
			sum -= float64(n) * math.Log(base)
			spared = max(0, spared-float64(n))
		case then:
			// Others that were hit may have recovered before they were put back. No more
			// are held against the accident than against the release.
			spared = min(spared, float64(t.untroubled))
		case now:
			spared += float64(t.controlGood)
		}
		return sum + hit(hits, spared)
	}
	a := accidents{all: weigh(&e.all, all, accident), clusters: make([]float64, len(all))}
	for i := range all {
		a.clusters[i] = math.Inf(-1)
		if n := len(e.clusters); n > 1 {
			a.clusters[i] = weigh(&e.clusters[all[i].cluster], all[i:i+1], accident/float64(n))
		}
	}
	return a
}

// log is the logarithm of the sum over the accidents, if each adds so much.
func (a *accidents) log(clusters []float64, all float64) float64 {
	sum := newMixture()
	sum.add(0)
	sum.add(a.all + all)
	for i, l := range a.clusters {
		if clusters != nil {
			l += clusters[i]
		}
		sum.add(l)
	}
	return sum.log()
}

// hit is the log-likelihood of an accident that hit n and spared others. Every share
// that it can have had is as likely as any other, but for those that the release
// may be bad for: to fail once must not speak against the release only because it is
// thought of with other shares than the accident is.
func hit(n int, spared float64) float64 {
	a, _ := math.Lgamma(float64(n) + 1)
	b, _ := math.Lgamma(spared + 1)
	c, _ := math.Lgamma(float64(n) + spared + 2)
	sum := newMixture()
	sum.add(a + b - c)
	for _, share := range sharesOverall {
		sum.add(float64(n)*math.Log(share) + spared*math.Log1p(-share) - math.Log(float64(len(sharesOverall))))
	}
	return sum.log() - math.Ln2
}

// mixture sums likelihoods in the logarithm.
type mixture struct{ most, sum float64 }

func newMixture() mixture { return mixture{most: math.Inf(-1)} }

func (m *mixture) add(l float64) {
	switch {
	case math.IsInf(l, -1):
	case l > m.most:
		m.sum = m.sum*math.Exp(m.most-l) + 1
		m.most = l
	default:
		m.sum += math.Exp(l - m.most)
	}
}

// log is the logarithm of the sum.
func (m *mixture) log() float64 { return m.most + math.Log(m.sum) }
