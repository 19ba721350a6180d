package providertest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// otherHost is a host that is not the one on which specs are; false where there is none.
func (s *suite) otherHost(t *testing.T, but fleet.HostID) (fleet.HostID, bool) {
	t.Helper()
	report, err := s.p.Check(t.Context(), s.h.Cluster)
	require.NoError(t, err)
	for _, h := range report.Hosts {
		if h.ID != but && (but != "" || h.ID != report.Hosts[0].ID) {
			return h.ID, true
		}
	}
	return "", false
}

// move takes the volume of an instance to another host, where the provider can.
func (s *suite) move(t *testing.T) {
	mover, ok := s.p.(VolumeMover)
	if !ok || s.volumes == nil {
		return
	}
	spec := specAt(s.h.Spec(t, "mover"), 3)
	to, ok := s.otherHost(t, spec.HostID)
	if !ok {
		t.Log("providertest: this cluster has one host; nothing is checked about volumes that move")
		return
	}
	volume := s.volumeSpec(spec)
	ref := volumeRef(volume)
	s.cleanUpVolume(t, ref)
	_, err := s.volumes.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
	spec.Volume = &ref
	s.cleanUp(t, refOf(spec))
	st := s.ensure(t, spec)
	if s.h.Write != nil {
		s.h.Write(t, st, volumeData)
	}
	move := func(epoch fleet.Epoch) error {
		moved := ref
		moved.Epoch = epoch
		_, err := mover.MoveVolume(t.Context(), moved, to)
		return err
	}
	requireKind(t, move(3), fleet.KindConflict) // while in use
	s.power(t, refOf(spec), fleet.PowerOff)
	require.NoError(t, move(4))
	require.NoError(t, move(4), "moved twice is moved once")
	requireKind(t, move(3), fleet.KindFenced)
	listed, ok := s.volumeOf(t, volume.ID)
	require.True(t, ok)
	require.Equal(t, volume.SizeMiB, listed.SizeMiB)

	next := specAt(s.h.Spec(t, "moved"), 4)
	next.InstallationID, next.HostID = spec.InstallationID, to
	there := ref
	there.HostID, there.Epoch = to, 4
	next.Volume = &there
	s.cleanUp(t, refOf(next))
	st = s.ensure(t, next)
	if s.h.Read != nil {
		require.Equal(t, volumeData, s.h.Read(t, st), "its data came along")
	}
	missing := ref
	missing.ID, missing.Epoch = fleet.VolumeID(fleet.NewID()), 4
	_, err = mover.MoveVolume(t.Context(), missing, to)
	requireKind(t, err, fleet.KindNotFound)
}
