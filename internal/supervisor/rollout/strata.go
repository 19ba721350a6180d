package rollout

import (
	"cmp"
	"fmt"
	"slices"

	"dormouse/internal/fleet"
)

// stratum is a value that a part of the members shares: a size, a cluster or a label.
type stratum struct {
	// dimension is the label's key, or one of the constants.
	dimension string
	value     string
	number    int
	asleep    bool
}

// No label's key has a space in it.
const (
	dimensionMemory  = "memory MiB"
	dimensionCluster = "in cluster"
)

// maxValues is how many values a label may have for its values to be strata: a
// label that names the tenant divides nothing.
const maxValues = 40

// labelKeys returns the keys of labels that divide the members, sorted.
func labelKeys(members []fleet.RolloutMember) []string {
	values := map[string]map[string]struct{}{}
	for i := range members {
		for key, value := range members[i].Labels {
			seen := values[key]
			if seen == nil {
				seen = map[string]struct{}{}
				values[key] = seen
			}
			if len(seen) <= maxValues {
				seen[value] = struct{}{}
			}
		}
	}
	var keys []string
	for key, seen := range values {
		if len(seen) <= maxValues {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// smallDraw is up to how many members are drawn one by one for coverage; of
// more than that a systematic sample covers what there is.
const smallDraw = 2000

// draw returns from with n members in front that represent all strata, what was
// drawn before counted in. Members that come late are drawn only where the others are too few.
func (p *planner) draw(before, from []int, n int) []int {
	if n >= len(from) {
		return from
	}
	from = slices.Clone(from)
	slices.SortStableFunc(from, func(a, b int) int { return cmp.Compare(p.late(a), p.late(b)) })
	fit := slices.IndexFunc(from, func(i int) bool { return p.late(i) > 0 })
	if fit < 0 {
		fit = len(from)
	}
	if n >= fit {
		return from
	}
	cells := p.cells(from[:fit])
	var drawn []int
	if n > smallDraw {
		drawn = systematic(cells, fit, n)
	} else {
		drawn = p.cover(before, cells, n)
	}
	taken := make(map[int]bool, n)
	for _, i := range drawn {
		taken[i] = true
	}
	for _, i := range from {
		if !taken[i] {
			drawn = append(drawn, i)
		}
	}
	return drawn
}

// cells groups members that are in the same strata, in the order of their first ones.
func (p *planner) cells(from []int) [][]int {
	var cells [][]int
	at := map[string]int{}
	var key []byte
	for _, i := range from {
		key = key[:0]
		for _, s := range p.strata[i] {
			key = append(key, byte(s), byte(s>>8), byte(s>>16))
		}
		c, ok := at[string(key)]
		if !ok {
			c = len(cells)
			at[string(key)] = c
			cells = append(cells, nil)
		}
		cells[c] = append(cells[c], i)
	}
	return cells
}

// systematic takes every so-manieth of the members in the order of their cells.
func systematic(cells [][]int, of, n int) []int {
	drawn := make([]int, 0, n)
	seen := 0
	for _, cell := range cells {
		for _, i := range cell {
			if seen++; seen*n/of > len(drawn) {
				drawn = append(drawn, i)
			}
		}
	}
	return drawn
}

// cover draws n members, each from the cell that the drawn represent least: a
// stratum that has none counts most, then one that has one, then those with less
// than their share. Those awake count more: they go on telling after they were begun.
func (p *planner) cover(before []int, cells [][]int, n int) []int {
	have := make([]int, len(p.share))
	for _, i := range before {
		for _, s := range p.strata[i] {
			have[s]++
		}
	}
	size := float64(len(before) + n)
	next := make([]int, len(cells))
	drawn := make([]int, 0, n)
	for len(drawn) < n {
		best, most := -1, 0.0
		for c, cell := range cells {
			if next[c] == len(cell) {
				continue
			}
			i := cell[next[c]]
			gain := 0.0
			for _, s := range p.strata[i] {
				switch fair := p.share[s] * size; {
				case have[s] == 0:
					gain += 1
				case have[s] == 1:
					gain += 0.4
				default:
					gain += 0.1 * (fair - float64(have[s])) / (fair + 1)
				}
			}
			if p.members[i].Asleep {
				gain /= 2
			}
			if best < 0 || gain > most {
				best, most = c, gain
			}
		}
		i := cells[best][next[best]]
		next[best]++
		for _, s := range p.strata[i] {
			have[s]++
		}
		drawn = append(drawn, i)
	}
	return drawn
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
