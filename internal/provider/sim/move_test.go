package sim_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// TestMoveVolume, also by a simulator that has been started again.
func TestMoveVolume(t *testing.T) {
	t.Parallel()
	options := sim.Options{Dir: t.TempDir()}
	p, cluster := start(t, options, map[string]string{"hosts": "2", "disk_mib": "100"})
	first, second := sim.HostID(cluster.ID, 0), sim.HostID(cluster.ID, 1)
	volume := fleet.VolumeSpec{ID: "v", InstallationID: "i", ClusterID: cluster.ID, HostID: first, SizeMiB: 60, Epoch: 1}
	_, err := p.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
	spec := newSpec(cluster.ID, "i")
	spec.InstallationID, spec.HostID, spec.Volume, spec.Epoch = "i", first, &fleet.VolumeRef{ID: "v"}, 1
	move := func(to fleet.HostID, epoch fleet.Epoch) error {
		_, err := p.MoveVolume(t.Context(), fleet.VolumeRef{ID: "v", ClusterID: cluster.ID, HostID: first, Epoch: epoch}, to)
		return err
	}
	last := func() sim.Entry { all := p.Ledger(); return all[len(all)-1] }

	_, err = p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	kind(t, fleet.KindConflict, move(second, 2)) // it is in use
	require.NoError(t, move(first, 2), "where it is already")
	_, err = p.Power(t.Context(), fleet.InstanceRef{ID: spec.ID, ClusterID: cluster.ID, Epoch: 2}, fleet.PowerOff)
	require.NoError(t, err)
	kind(t, fleet.KindFenced, move(second, 1))
	kind(t, fleet.KindInvalid, move("nowhere", 2))
	require.NoError(t, move(second, 3))
	require.Equal(t, sim.EffectMoved, last().Effect)
	require.Equal(t, sim.CallMoveVolume, last().Call)
	require.NoError(t, move(second, 3), "twice is once")
	require.Equal(t, sim.EffectNone, last().Effect)
	require.NoError(t, move(second, 4))
	require.Equal(t, sim.EffectEpoch, last().Effect)
	kind(t, fleet.KindFenced, move(first, 3))

	// What lies elsewhere can't run on it, and its room is taken there and free here.
	_, err = p.Power(t.Context(), fleet.InstanceRef{ID: spec.ID, ClusterID: cluster.ID, Epoch: 4}, fleet.PowerOn)
	kind(t, fleet.KindInvalid, err)
	p = reopen(t, p, options, cluster)
	other := fleet.VolumeSpec{ID: "w", InstallationID: "j", ClusterID: cluster.ID, HostID: first, SizeMiB: 60, Epoch: 1}
	_, err = p.EnsureVolume(t.Context(), other)
	require.NoError(t, err)
	kind(t, fleet.KindCapacity, move(first, 5))
	other.ID, other.HostID = "x", second
	_, err = p.EnsureVolume(t.Context(), other)
	kind(t, fleet.KindCapacity, err)

	there := spec
	there.ID, there.HostID, there.Epoch = "there", second, 4
	_, err = p.Ensure(t.Context(), there)
	require.NoError(t, err)

	require.NoError(t, p.Delete(t.Context(), fleet.InstanceRef{ID: "there", ClusterID: cluster.ID, Epoch: 5}))
	require.NoError(t, p.DeleteVolume(t.Context(), fleet.VolumeRef{ID: "v", ClusterID: cluster.ID, Epoch: 5}))
	kind(t, fleet.KindFenced, move(first, 4)) // a late call brings nothing back
	kind(t, fleet.KindNotFound, move(first, 5))
}

func TestMoveVolumeMeetsFaults(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{}, map[string]string{"hosts": "2"})
	_, err := p.EnsureVolume(t.Context(), fleet.VolumeSpec{ID: "v", ClusterID: cluster.ID, SizeMiB: 1, Epoch: 1})
	require.NoError(t, err)
	cluster.Settings["fault.lost_answer"] = "1"
	require.NoError(t, p.Configure(cluster))
	_, err = p.MoveVolume(t.Context(), fleet.VolumeRef{ID: "v", ClusterID: cluster.ID, Epoch: 1}, sim.HostID(cluster.ID, 1))
	kind(t, fleet.KindUnavailable, err)
	require.Equal(t, uint64(1), p.Totals().Effects[sim.EffectMoved], "it was moved all the same")
}
