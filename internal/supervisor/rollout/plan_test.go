package rollout

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func shuffled[T any](seed uint64, list []T) []T {
	out := slices.Clone(list)
	rand.New(rand.NewPCG(seed, 1)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// sizes returns how many members each wave of each ring has.
func sizes(plan []fleet.RolloutMember) [][]int {
	var rings [][]int
	for _, m := range plan {
		for len(rings) <= m.Ring {
			rings = append(rings, nil)
		}
		for len(rings[m.Ring]) <= m.Wave {
			rings[m.Ring] = append(rings[m.Ring], 0)
		}
		rings[m.Ring][m.Wave]++
	}
	return rings
}

func TestPlanDoesNotDependOnOrder(t *testing.T) {
	t.Parallel()
	spec := fleet.RolloutSpec{Rings: []fleet.RolloutRing{{Labels: map[string]string{"tier": "pro"}}, {Percent: 10}, {}}}
	members := fleetOf(997)
	plan := Plan(spec, members)
	for seed := range uint64(5) {
		require.Equal(t, plan, Plan(spec, shuffled(seed, members)))
	}
	require.Len(t, plan, len(members))
	for i, m := range plan {
		require.Equal(t, i, m.Order)
	}
	require.Zero(t, members[0].Order+members[1].Order, "the argument stays as it is")
}

func TestPlanWavesGrow(t *testing.T) {
	t.Parallel()
	for n, want := range map[int][]int{
		0: nil, 1: {1}, 2: {2}, 3: {3}, 20: {3, 17}, 200: {3, 1, 12, 48, 136}, 2000: {10, 30, 120, 480, 1360}, 10000: {50, 150, 600, 2400, 6800},
	} {
		plan := Plan(fleet.RolloutSpec{}, fleetOf(n))
		if n == 0 {
			require.Empty(t, plan)
			continue
		}
		require.Equal(t, [][]int{want}, sizes(plan), "%d members", n)
	}
	require.Equal(t, [][]int{{25, 75, 300}}, sizes(Plan(fleet.RolloutSpec{FirstWave: 25}, fleetOf(400))))
}

func TestPlanRings(t *testing.T) {
	t.Parallel()
	members := fleetOf(600)
	spec := fleet.RolloutSpec{Rings: []fleet.RolloutRing{
		{Installations: []string{"tenant-7", string(members[9].InstallationID), "nobody"}},
		{Labels: map[string]string{"tier": "pro"}},
		{Percent: 10},
		{Labels: map[string]string{"tier": "nowhere"}}, // takes the rest all the same
	}}
	byRing := map[int][]fleet.RolloutMember{}
	for _, m := range Plan(spec, members) {
		byRing[m.Ring] = append(byRing[m.Ring], m)
	}
	require.Len(t, byRing[0], 2)
	for _, m := range byRing[1] {
		require.Equal(t, "pro", m.Labels["tier"])
	}
	require.InDelta(t, 200, len(byRing[1]), 2)
	require.Len(t, byRing[2], 60)
	east := 0
	for _, m := range byRing[2] {
		require.NotEqual(t, "pro", m.Labels["tier"])
		if m.ClusterID == "east" {
			east++
		}
	}
	require.InDelta(t, 30, east, 5, "a percentage is drawn over all clusters")
	require.Len(t, byRing[3], 600-60-2-len(byRing[1]))
}

func TestFirstWaveHasEveryStratum(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		members := fleetOf(2000)
		for i := range members {
			m := &members[i]
			// Some sizes and clusters are rare.
			m.MemoryMiB = 64 << min(4, int(r.ExpFloat64()))
			m.ClusterID = fleet.ClusterID(fmt.Sprintf("cluster-%d", min(4, int(r.ExpFloat64()*1.2))))
			m.Labels = map[string]string{"tier": []string{"a", "b", "c", "d"}[min(3, int(r.ExpFloat64()))], "tenant": m.Name}
			m.Asleep = r.IntN(4) == 0
		}
		want, got, awake := map[string]bool{}, map[string]bool{}, 0
		values := func(m fleet.RolloutMember) []string {
			return []string{fmt.Sprint(m.MemoryMiB), string(m.ClusterID), m.Labels["tier"]}
		}
		for _, m := range members {
			for _, v := range values(m) {
				want[v] = true
			}
		}
		for _, m := range Plan(fleet.RolloutSpec{}, members) {
			if m.Wave > 0 {
				break
			}
			if !m.Asleep {
				awake++
				for _, v := range values(m) {
					got[v] = true
				}
			}
		}
		require.Equal(t, want, got, "seed %d", seed)
		require.GreaterOrEqual(t, awake, 6)
		require.Less(t, awake, 10, "sleepers are tried as well")
	}
}

// Else the first waves were sleepers only, of which nobody sees how they do.
func TestPlanDoubtsTheObserver(t *testing.T) {
	t.Parallel()
	members := fleetOf(300)
	for i := range members {
		if members[i].Asleep = i%4 == 0; !members[i].Asleep {
			members[i].BadSince = epoch
		}
	}
	awake := 0
	for _, m := range Plan(fleet.RolloutSpec{FirstWave: 10}, members)[:10] {
		if !m.Asleep {
			awake++
		}
	}
	require.GreaterOrEqual(t, awake, 6)
}

func TestPlanTakesTheDoubtfulLate(t *testing.T) {
	t.Parallel()
	members := fleetOf(300)
	for i := range members {
		switch i % 3 {
		case 0:
			members[i].Busy = true
		case 1:
			members[i].BadSince = epoch
		}
	}
	plan := Plan(fleet.RolloutSpec{}, members)
	for _, m := range plan[:100] {
		require.True(t, !m.Busy && m.BadSince.IsZero(), "%s comes early", m.Name)
	}
}
