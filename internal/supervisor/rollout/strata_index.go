package rollout

import (
	"slices"

	"dormouse/internal/fleet"
)

// Index numbers the strata of a rollout's members. It spares Decide the most
// expensive part of its work, and changes nothing else.
type Index struct {
	members []fleet.InstallationID
	// keys are the labels that the members are numbered by.
	keys  []string
	names []stratum
	// values are how many each dimension has: clusters, sizes, then the keys in
	// order; 0 is of a label that divides nothing.
	values []int
	// ids has a row for each member, a column for each dimension; -1 is none.
	ids []int32
	// clusterOf numbers the clusters from 0, by the numbers of their strata;
	// clusters is the other way round.
	clusterOf []int32
	clusters  []int32
}

// NewIndex makes an index of members, for every View that has the same members in
// the same order. It holds their sizes, clusters and labels as they are now.
func NewIndex(members []fleet.RolloutMember) *Index {
	x := index(members, labelKeys(members))
	x.members = make([]fleet.InstallationID, len(members))
	for i := range members {
		x.members[i] = members[i].InstallationID
	}
	return x
}

// indexFor makes an index with the dimensions that failed members have: others can't matter.
func indexFor(members []fleet.RolloutMember, failed []failure) *Index {
	var keys []string
	for _, x := range failed {
		for key := range members[x.member].Labels {
			if at, ok := slices.BinarySearch(keys, key); !ok {
				keys = slices.Insert(keys, at, key)
			}
		}
	}
	return index(members, keys)
}

func index(members []fleet.RolloutMember, keys []string) *Index {
	x := &Index{keys: keys, values: make([]int, 2+len(keys))}
	x.ids = make([]int32, len(members)*len(x.values))
	var memory numbering[int]
	var clusters numbering[fleet.ClusterID]
	labels := make([]numbering[string], len(keys))
	for i := range members {
		m := &members[i]
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
	x.clusters = clusters.ids
	x.clusterOf = make([]int32, len(x.names))
	for n, id := range clusters.ids {
		x.clusterOf[id] = int32(n)
	}
	x.values[0], x.values[1] = len(clusters.values), len(memory.values)
	for k := range labels {
		if x.values[2+k] = len(labels[k].values); x.values[2+k] > maxValues {
			x.drop(2 + k)
		}
	}
	return x
}

// fits tells whether an index is of these members.
func (x *Index) fits(members []fleet.RolloutMember) bool {
	if x == nil || len(x.members) != len(members) {
		return false
	}
	for i := range members {
		if members[i].InstallationID != x.members[i] {
			return false
		}
	}
	return true
}

// of returns the numbers of the strata of member i, its cluster's first; -1 is none.
func (x *Index) of(i int) []int32 { return x.ids[i*len(x.values) : (i+1)*len(x.values)] }

// drop forgets a dimension that has too many values.
func (x *Index) drop(at int) {
	x.values[at] = 0
	for i := at; i < len(x.ids); i += len(x.values) {
		x.ids[i] = -1
	}
}

// total is how many strata there are in the dimensions that failed members have.
func (x *Index) total(members []fleet.RolloutMember, failed []failure) int {
	n := x.values[0] + x.values[1]
	for k, key := range x.keys {
		if slices.ContainsFunc(failed, func(f failure) bool { _, ok := members[f.member].Labels[key]; return ok }) {
			n += x.values[2+k]
		}
	}
	return n
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

func (n *numbering[K]) of(x *Index, value K, name func() stratum) int32 {
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
