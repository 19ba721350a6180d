package rollout

import (
	"cmp"
	"math"
	"slices"

	"dormouse/internal/fleet"
)

// growth is how much larger a wave makes the part of a ring that was begun.
const growth = 4

// Plan gives each member its Ring, Wave and Order and returns them sorted by
// these. Order numbers the whole plan from 0.
//
// The same members give the same plan, in whatever order they come: ties are
// broken by a hash of the ID. The first two waves of each ring are drawn over all
// sizes, clusters and values of labels, awake and asleep; later ones are random,
// and each makes what was begun at least twice as many. Members that are busy or
// answer badly now come late: they would prove little. If most answer badly it is
// rather the observer, and they are taken as they come.
func Plan(spec fleet.RolloutSpec, members []fleet.RolloutMember) []fleet.RolloutMember {
	p := newPlanner(members)
	var plan []fleet.RolloutMember
	for ring, pool := range p.rings(spec) {
		done := 0
		for wave, bound := range waveBounds(spec.FirstWave, len(pool), len(members)) {
			drawn := pool[done:]
			if wave < 2 {
				drawn = p.draw(pool[:done], pool[done:], bound-done)
				copy(pool[done:], drawn)
			}
			for _, i := range drawn[:bound-done] {
				m := p.members[i]
				m.Ring, m.Wave, m.Order = ring, wave, len(plan)
				plan = append(plan, m)
			}
			done = bound
		}
	}
	return plan
}

// waveBounds returns how many members of a ring have been begun after each of its waves.
func waveBounds(first, ring, group int) []int {
	if ring == 0 {
		return nil
	}
	if first <= 0 {
		first = max(firstWaveLeast, int(firstWaveShare*float64(group)))
	}
	second := int(secondWaveShare * float64(group))
	bounds := []int{min(first, ring)}
	for done := bounds[0]; done < ring; bounds = append(bounds, done) {
		next := growth * done
		if len(bounds) == 1 && second > done {
			next = min(next, second)
		} else if 2*next > ring {
			next = ring // what would be left does not even double
		}
		done = min(next, ring)
	}
	return bounds
}

// planner holds the members in the order of their hashes, and what strata they are in.
type planner struct {
	members []fleet.RolloutMember
	strata  [][]int32
	// share is how large a part of the members each stratum has.
	share []float64
	// fewBad: most of those awake answer well, so that the others can be left for later.
	fewBad bool
}

func newPlanner(members []fleet.RolloutMember) *planner {
	p := &planner{members: slices.Clone(members)}
	type keyed struct {
		hash uint64
		at   int
	}
	keys := make([]keyed, len(members))
	for i, m := range members {
		keys[i] = keyed{hashID(m.InstallationID), i}
	}
	slices.SortFunc(keys, func(a, b keyed) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(members[a.at].InstallationID, members[b.at].InstallationID))
	})
	for i, k := range keys {
		p.members[i] = members[k.at]
	}
	bad, awake := 0, 0
	for i := range members {
		if !members[i].Asleep {
			awake++
		}
		if !members[i].BadSince.IsZero() {
			bad++
		}
	}
	p.fewBad = 2*bad <= awake
	p.stratify()
	return p
}

// stratify numbers the strata. A sleeper is in other strata than those awake.
func (p *planner) stratify() {
	keys := labelKeys(p.members)
	ids := map[stratum]int32{}
	p.strata = make([][]int32, len(p.members))
	flat := make([]int32, 0, len(p.members)*(2+len(keys)))
	for i := range p.members {
		m := &p.members[i]
		from := len(flat)
		add := func(s stratum) {
			s.asleep = m.Asleep
			id, ok := ids[s]
			if !ok {
				id = int32(len(ids))
				ids[s] = id
				p.share = append(p.share, 0)
			}
			p.share[id] += 1 / float64(len(p.members))
			flat = append(flat, id)
		}
		add(stratum{dimension: dimensionMemory, number: m.MemoryMiB})
		add(stratum{dimension: dimensionCluster, value: string(m.ClusterID)})
		for _, key := range keys {
			if v, ok := m.Labels[key]; ok {
				add(stratum{dimension: key, value: v})
			}
		}
		p.strata[i] = flat[from:len(flat):len(flat)]
	}
}

// rings returns the members of each ring, in the order in which they are begun
// but for the first waves.
func (p *planner) rings(spec fleet.RolloutSpec) [][]int {
	rest := make([]int, len(p.members))
	for i := range rest {
		rest[i] = i
	}
	rings := make([][]int, max(1, len(spec.Rings)))
	for r := range spec.Rings[:max(0, len(spec.Rings)-1)] {
		rings[r], rest = p.take(spec.Rings[r], rest)
	}
	rings[len(rings)-1] = rest
	for _, ring := range rings {
		slices.SortStableFunc(ring, func(a, b int) int { return cmp.Compare(p.late(a), p.late(b)) })
	}
	return rings
}

// late is 1 for a member that would prove little in an early wave, and 2 for one that is gone.
func (p *planner) late(i int) int {
	m := &p.members[i]
	switch {
	case m.State == fleet.MemberGone:
		return 2
	case m.Busy, p.fewBad && !m.BadSince.IsZero():
		return 1
	}
	return 0
}

// take splits the members into those that a ring takes and the others.
func (p *planner) take(ring fleet.RolloutRing, from []int) (taken, rest []int) {
	if ring.Percent > 0 {
		n := min(len(from), max(1, int(math.Round(ring.Percent*float64(len(p.members))/100))))
		drawn := p.draw(nil, from, n)
		return slices.Clone(drawn[:n]), slices.Clone(drawn[n:])
	}
	listed := map[string]bool{}
	for _, name := range ring.Installations {
		listed[name] = true
	}
	for _, i := range from {
		m := &p.members[i]
		matches := len(ring.Labels) == 0 && len(listed) == 0 || listed[m.Name] || listed[string(m.InstallationID)]
		if len(ring.Labels) > 0 {
			matches = true
			for key, value := range ring.Labels {
				if have, ok := m.Labels[key]; !ok || have != value {
					matches = false
				}
			}
		}
		if matches {
			taken = append(taken, i)
		} else {
			rest = append(rest, i)
		}
	}
	return taken, rest
}

// hashID spreads IDs evenly (FNV-1a, and the finaliser of splitmix64 over it,
// because IDs of one moment differ in few characters).
func hashID(id fleet.InstallationID) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
