package rollout

import (
	"slices"

	"dormouse/internal/fleet"
)

// strata numbers the strata that members are in, in the dimensions that failed
// members have, and counts the evidence of each.
type strata struct {
	names   []stratum
	tallies []tally
	// total is how many of them there are, those dropped left out.
	total int
	// width numbers a member, its cluster's first; -1 is none.
	ids   []int32
	width int
	// clusterOf numbers the clusters from 0, by the numbers of their strata.
	clusterOf []int32
	clusters  int
}

// newStrata numbers the strata of all members.
func newStrata(members []fleet.RolloutMember, failed []int) *strata {
	var keys []string
	for _, i := range failed {
		for key := range members[i].Labels {
			if at, ok := slices.BinarySearch(keys, key); !ok {
				keys = slices.Insert(keys, at, key)
			}
		}
	}
	x := &strata{width: 2 + len(keys)}
	x.ids = make([]int32, len(members)*x.width)
	var memory numbering[int]
	var clusters numbering[fleet.ClusterID]
	labels := make([]numbering[string], len(keys))
	for i := range members {
		m := &members[i]
		if m.State == fleet.MemberGone {
			continue
		}
		ids := x.of(i)
		ids[0] = clusters.of(x, m.ClusterID, func() stratum { return stratum{dimension: dimensionCluster, value: string(m.ClusterID)} })
		ids[1] = memory.of(x, m.MemoryMiB, func() stratum { return stratum{dimension: dimensionMemory, number: m.MemoryMiB} })
		for k, key := range keys {
			ids[2+k] = -1
			if len(labels[k].values) > maxValues {
				continue
			}
			if value, ok := m.Labels[key]; ok {
				ids[2+k] = labels[k].of(x, value, func() stratum { return stratum{dimension: key, value: value} })
			}
		}
	}
	x.clusterOf = make([]int32, len(x.names))
	for _, id := range clusters.ids {
		x.clusterOf[id] = int32(x.clusters)
		x.clusters++
	}
	x.total = len(x.names)
	for k := range labels {
		if n := len(labels[k].values); n > maxValues {
			x.drop(2 + k)
			x.total -= n
		}
	}
	x.tallies = make([]tally, len(x.names))
	return x
}

// of returns the numbers of the strata of member i, its cluster's first; -1 is none.
func (x *strata) of(i int) []int32 { return x.ids[i*x.width : (i+1)*x.width] }

// drop forgets a dimension that has too many values.
func (x *strata) drop(at int) {
	for i := at; i < len(x.ids); i += x.width {
		x.ids[i] = -1
	}
}

// numbering gives the values of one dimension the numbers of their strata.
type numbering[K comparable] struct {
	values []K
	ids    []int32
	// by is for when there are many.
	by map[K]int32
}

// few is up to how many values are found faster by looking at all.
const few = 8

func (n *numbering[K]) of(x *strata, value K, name func() stratum) int32 {
	if n.by == nil {
		for i, v := range n.values {
			if v == value {
				return n.ids[i]
			}
		}
	} else if id, ok := n.by[value]; ok {
		return id
	}
	id := int32(len(x.names))
	x.names = append(x.names, name())
	n.values, n.ids = append(n.values, value), append(n.ids, id)
	if n.by != nil {
		n.by[value] = id
	} else if len(n.values) > few {
		n.by = make(map[K]int32, 4*few)
		for i, v := range n.values {
			n.by[v] = n.ids[i]
		}
	}
	return id
}
