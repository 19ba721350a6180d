package sim_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

func TestTotals(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{LedgerSize: -1}, nil)
	a, b := newSpec(cluster.ID, "a"), newSpec(cluster.ID, "b")
	for range 2 {
		_, err := p.Ensure(t.Context(), a)
		require.NoError(t, err)
	}
	_, err := p.Ensure(t.Context(), b)
	require.NoError(t, err)
	_, err = p.Power(t.Context(), refOf(b), fleet.PowerOff)
	require.NoError(t, err)
	_, err = p.Clone(t.Context(), newSpec(cluster.ID, "c"))
	require.NoError(t, err)
	_, err = p.EnsureVolume(t.Context(), fleet.VolumeSpec{ID: "v", ClusterID: cluster.ID, SizeMiB: 1, Epoch: 1})
	require.NoError(t, err)
	_, err = p.Observe(t.Context(), refOf(newSpec(cluster.ID, "none")))
	kind(t, fleet.KindNotFound, err)
	cluster.Settings = map[string]string{"fault.lost_answer": "1"}
	require.NoError(t, p.Configure(cluster))
	kind(t, fleet.KindUnavailable, p.Delete(t.Context(), refOf(a)))

	require.Empty(t, p.Ledger(), "it counts, and keeps nothing")
	got := p.Totals()
	require.WithinDuration(t, time.Now(), got.Since, time.Minute)
	require.Equal(t, uint64(8), got.Calls)
	require.Equal(t, sim.CallTotals{Calls: 3, Effects: map[sim.Effect]uint64{sim.EffectCreated: 2}, Faults: map[sim.Fault]uint64{}, Errors: map[fleet.ErrorKind]uint64{}},
		got.ByCall[sim.CallEnsure])
	require.Equal(t, map[sim.Effect]uint64{sim.EffectCreated: 4, sim.EffectPowered: 1, sim.EffectDeleted: 1}, got.Effects)
	require.Equal(t, map[sim.Fault]uint64{sim.FaultLostAnswer: 1}, got.Faults)
	require.Equal(t, map[fleet.ErrorKind]uint64{fleet.KindNotFound: 1, fleet.KindUnavailable: 1}, got.Errors)
	require.Equal(t, sim.Made{Instances: 2, Clones: 1, InstancesDeleted: 1, Volumes: 1}, got.Made)
	require.Equal(t, sim.Present{Clusters: 1, Instances: 1, Clones: 1, Volumes: 1}, got.Present)
}

// TestDuplicatesAreCounted, also by a simulator that has been started again and
// compacted its files since.
func TestDuplicatesAreCounted(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	options := sim.Options{Dir: t.TempDir(), CompactBytes: 1, Clock: clock}
	p, cluster := start(t, options, nil)
	spec := newSpec(cluster.ID, "a")
	ensure := func(spec fleet.InstanceSpec) {
		t.Helper()
		_, err := p.Ensure(t.Context(), spec)
		require.NoError(t, err)
	}
	remove := func(spec fleet.InstanceSpec) { require.NoError(t, p.Delete(t.Context(), refOf(spec))) }
	ensure(spec)
	ensure(spec)
	ensure(newSpec(cluster.ID, "another installation"))
	database := newSpec(cluster.ID, "another role")
	database.InstallationID, database.Role = spec.InstallationID, fleet.RoleDatabase
	ensure(database)
	clone := newSpec(cluster.ID, "a clone beside it")
	clone.InstallationID = spec.InstallationID
	_, err := p.Clone(t.Context(), clone)
	require.NoError(t, err)
	unborn := newSpec(cluster.ID, "deleted before it was there")
	remove(unborn)
	ensure(unborn)
	require.Zero(t, p.Totals().Duplicates())

	second := newSpec(cluster.ID, "second")
	second.InstallationID = spec.InstallationID
	ensure(second)
	ensure(second)
	require.Equal(t, []fleet.InstanceID{second.ID}, p.Totals().DoubleIDs, "two at once are counted once")
	remove(spec)
	p = reopen(t, p, options, cluster)
	ensure(spec)
	require.Equal(t, []fleet.InstanceID{second.ID, spec.ID}, p.Totals().DoubleIDs)
	require.Equal(t, []fleet.InstanceID{spec.ID}, p.Totals().RecreatedIDs)

	// A worker that comes after the tombstone has gone is caught as well.
	remove(second)
	clock.advance(2 * time.Hour)
	remove(newSpec(cluster.ID, "so that tombstones are pruned"))
	second.InstallationID = "elsewhere"
	ensure(second)
	want := p.Totals().Made
	require.Equal(t, uint64(2), want.Recreated)
	require.Equal(t, uint64(4), want.Duplicates())
	p = reopen(t, p, options, cluster)
	require.Equal(t, want, p.Totals().Made)
	require.Zero(t, p.Totals().Calls, "calls are counted anew")
}

func TestLeaks(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{}, nil)
	known, leaked, clone := newSpec(cluster.ID, "a"), newSpec(cluster.ID, "b"), newSpec(cluster.ID, "c")
	for _, spec := range []fleet.InstanceSpec{known, leaked} {
		_, err := p.Ensure(t.Context(), spec)
		require.NoError(t, err)
	}
	_, err := p.Clone(t.Context(), clone)
	require.NoError(t, err)
	for _, id := range []fleet.VolumeID{"v", "w"} {
		_, err = p.EnsureVolume(t.Context(), fleet.VolumeSpec{ID: id, ClusterID: cluster.ID, SizeMiB: 1, Epoch: 1})
		require.NoError(t, err)
	}
	leaks, err := p.Leaks(sim.Known{Instances: []fleet.InstanceID{known.ID, "gone"}, Volumes: []fleet.VolumeID{"w", "x"}})
	require.NoError(t, err)
	require.Equal(t, sim.Leaks{
		Instances: []fleet.InstanceID{leaked.ID}, Clones: []fleet.InstanceID{clone.ID}, Volumes: []fleet.VolumeID{"v"},
		MissingInstances: []fleet.InstanceID{"gone"}, MissingVolumes: []fleet.VolumeID{"x"},
	}, leaks)
	require.NoError(t, p.Close())
	_, err = p.Leaks(sim.Known{})
	kind(t, fleet.KindUnavailable, err)
}
