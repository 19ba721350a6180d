package providertest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// volumeSpec is the spec of the volume of an instance.
func (s *suite) volumeSpec(of fleet.InstanceSpec) fleet.VolumeSpec {
	return fleet.VolumeSpec{
		ID: fleet.VolumeID(fleet.DeriveID("volume", string(of.InstallationID))), InstallationID: of.InstallationID,
		ClusterID: of.ClusterID, HostID: of.HostID, Epoch: of.Epoch, SizeMiB: s.h.volumeMiB(),
	}
}

func volumeRef(spec fleet.VolumeSpec) fleet.VolumeRef {
	return fleet.VolumeRef{ID: spec.ID, ClusterID: spec.ClusterID, HostID: spec.HostID, Epoch: spec.Epoch}
}

// volumeOf finds a volume in the list.
func (s *suite) volumeOf(t *testing.T, id fleet.VolumeID) (fleet.VolumeStatus, bool) {
	t.Helper()
	all, err := s.volumes.ListVolumes(t.Context(), s.h.Cluster.ID)
	require.NoError(t, err)
	var found fleet.VolumeStatus
	var times int
	for _, v := range all {
		if v.ID == id {
			found = v
			times++
		}
	}
	require.LessOrEqual(t, times, 1, "a volume is listed once")
	return found, times == 1
}

// cleanUpVolume deletes a volume when t ends, also where t failed.
func (s *suite) cleanUpVolume(t *testing.T, ref fleet.VolumeRef) {
	t.Cleanup(func() {
		ref.Epoch = cleanUpEpoch
		if err := s.volumes.DeleteVolume(context.WithoutCancel(t.Context()), ref); err != nil {
			t.Errorf("cleaning up volume %s: %v", ref.ID, err)
		}
	})
}

// volumeLife checks a volume that no instance uses.
func (s *suite) volumeLife(t *testing.T) {
	if s.volumes == nil {
		return
	}
	ctx := t.Context()
	spec := s.volumeSpec(s.h.Spec(t, "volume"))
	spec.Epoch = 3
	ref := volumeRef(spec)
	s.cleanUpVolume(t, ref)

	first, err := s.volumes.EnsureVolume(ctx, spec)
	require.NoError(t, err)
	require.Equal(t, spec.ID, first.ID)
	require.Equal(t, spec.SizeMiB, first.SizeMiB)
	require.NotZero(t, first.CreatedAt)
	second, err := s.volumes.EnsureVolume(ctx, spec)
	require.NoError(t, err)
	require.Equal(t, first.ProviderRef, second.ProviderRef)
	require.True(t, first.CreatedAt.Equal(second.CreatedAt), "ensured twice is one volume")
	listed, ok := s.volumeOf(t, spec.ID)
	require.True(t, ok)
	require.Equal(t, first.SizeMiB, listed.SizeMiB)

	grown := spec
	grown.SizeMiB, grown.Epoch = 2*spec.SizeMiB, 4
	st, err := s.volumes.EnsureVolume(ctx, grown)
	require.NoError(t, err)
	require.Equal(t, grown.SizeMiB, st.SizeMiB)

	shrunk := grown
	shrunk.SizeMiB = spec.SizeMiB
	_, err = s.volumes.EnsureVolume(ctx, shrunk)
	requireKind(t, err, fleet.KindInvalid, fleet.KindPermanent)
	listed, ok = s.volumeOf(t, spec.ID)
	require.True(t, ok)
	require.Equal(t, grown.SizeMiB, listed.SizeMiB)

	// Epoch 4 has been seen.
	stale := grown
	stale.Epoch = 3
	_, err = s.volumes.EnsureVolume(ctx, stale)
	requireKind(t, err, fleet.KindFenced)
	requireKind(t, s.volumes.DeleteVolume(ctx, ref), fleet.KindFenced)

	ref.Epoch = 4
	require.NoError(t, s.volumes.DeleteVolume(ctx, ref))
	require.NoError(t, s.volumes.DeleteVolume(ctx, ref), "deleting twice is harmless")
	_, ok = s.volumeOf(t, spec.ID)
	require.False(t, ok)
	_, err = s.volumes.EnsureVolume(ctx, stale)
	requireKind(t, err, fleet.KindFenced)

	ref.ID = fleet.VolumeID(fleet.NewID())
	require.NoError(t, s.volumes.DeleteVolume(ctx, ref), "deleting what never was is harmless")
}
