package providertest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// rival returns the spec of another instance of the same installation, on the same volume.
func (l *lived) rival(t *testing.T, name string) fleet.InstanceSpec {
	t.Helper()
	spec := l.h.Spec(t, name)
	spec.InstallationID, spec.Volume = l.spec.InstallationID, l.spec.Volume
	l.cleanUp(t, refOf(spec))
	return spec
}

// volumeInUse checks that a volume has one running instance at most.
func (l *lived) volumeInUse(t *testing.T) {
	if l.volumes == nil {
		return
	}
	rival := l.rival(t, "rival")
	_, err := l.p.Ensure(t.Context(), rival)
	requireKind(t, err, fleet.KindConflict)
	requireKind(t, l.volumes.DeleteVolume(t.Context(), volumeRef(l.volume)), fleet.KindConflict)
	_, err = l.volumes.EnsureVolume(t.Context(), l.volume)
	require.NoError(t, err, "ensuring it as it is changes nothing")
	grown := l.volume
	grown.SizeMiB++
	_, err = l.volumes.EnsureVolume(t.Context(), grown)
	requireKind(t, err, fleet.KindConflict)
	l.deleteInstance(t, refOf(rival))
	l.observed(t, fleet.PowerOn)
}

// successor gives the volume of the stopped instance to another, as an update does.
func (l *lived) successor(t *testing.T) {
	if l.volumes == nil {
		return
	}
	next := l.rival(t, "successor")
	st := l.ensure(t, next)
	l.data(t, st)
	_, err := l.p.Power(t.Context(), l.ref(), fleet.PowerOn)
	requireKind(t, err, fleet.KindConflict)
	_, err = l.p.Ensure(t.Context(), specAt(l.spec, l.epoch))
	requireKind(t, err, fleet.KindConflict)
	l.deleteInstance(t, refOf(next))
	l.observed(t, fleet.PowerOff)
}

func (l *lived) volumeOutlives(t *testing.T) {
	if l.volumes == nil {
		return
	}
	st, ok := l.volumeOf(t, l.volume.ID)
	require.True(t, ok, "deleting an instance leaves its volume")
	require.Equal(t, l.volume.SizeMiB, st.SizeMiB)
	require.True(t, l.volumeCreated.Equal(st.CreatedAt))
	require.NoError(t, l.volumes.DeleteVolume(t.Context(), volumeRef(l.volume)))
}
