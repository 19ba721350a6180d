package providertest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// clone checks throw-away copies, where the provider can make them.
func (s *suite) clone(t *testing.T) {
	cloner, ok := s.p.(Cloner)
	if !ok {
		return
	}
	spec := specAt(s.h.Spec(t, "sleeper"), 3)
	c := &cloned{suite: s, cloner: cloner, spec: spec}
	if s.volumes != nil {
		c.volume = s.volumeSpec(spec)
		s.cleanUpVolume(t, volumeRef(c.volume))
		_, err := s.volumes.EnsureVolume(t.Context(), c.volume)
		require.NoError(t, err)
		ref := volumeRef(c.volume)
		c.spec.Volume = &ref
	}
	s.cleanUp(t, refOf(spec))
	c.copy = specAt(s.h.Spec(t, "copy"), 3)
	c.copy.InstallationID, c.copy.Volume = c.spec.InstallationID, c.spec.Volume
	s.cleanUp(t, refOf(c.copy))
	chain(t, []step{
		{"CloneOfASleeper", c.make},
		{"CloneTwiceIsOne", c.twice},
		{"CloneIsNoInstance", c.apart},
		{"CloneIsFenced", c.fence},
		{"CloneBesideItsOriginal", c.beside},
		{"CloneOffAndOn", c.offAndOn},
		{"CloneDeleted", c.delete},
	}...)
}

// cloned is an installation that has been cloned.
type cloned struct {
	*suite
	cloner     Cloner
	spec, copy fleet.InstanceSpec
	volume     fleet.VolumeSpec
	made       fleet.InstanceStatus
}

// make has something written, put to sleep and cloned.
func (c *cloned) make(t *testing.T) {
	st := c.ensure(t, c.spec)
	if c.h.Write != nil && c.spec.Volume != nil {
		c.h.Write(t, st, volumeData)
	}
	c.power(t, refOf(c.spec), fleet.PowerOff)
	base, _ := c.signals.seen(c.copy.ID)
	answer, err := c.cloner.Clone(t.Context(), c.copy)
	require.NoError(t, err)
	require.Equal(t, c.copy.ID, answer.ID)
	require.Contains(t, []fleet.Power{fleet.PowerOn, fleet.PowerPending}, answer.Power)
	c.made = c.settle(t, refOf(c.copy), answer, base, "healthy", running)
	require.True(t, c.made.Clone)
	require.Equal(t, c.copy.InstallationID, c.made.InstallationID)
	c.both(t, fleet.PowerOff, fleet.PowerOn)
}

// both checks that the sleeper and its clone are there, and told apart.
func (c *cloned) both(t *testing.T, original, clone fleet.Power) {
	t.Helper()
	listed := c.list(t)
	require.Len(t, listed, 2)
	require.False(t, listed[c.spec.ID].Clone)
	require.Equal(t, original, listed[c.spec.ID].Power)
	require.True(t, listed[c.copy.ID].Clone)
	require.Equal(t, clone, listed[c.copy.ID].Power)
}

func (c *cloned) twice(t *testing.T) {
	st, err := c.cloner.Clone(t.Context(), c.copy)
	require.NoError(t, err)
	require.Equal(t, c.made.ProviderRef, st.ProviderRef)
	require.True(t, c.made.CreatedAt.Equal(st.CreatedAt))
	c.both(t, fleet.PowerOff, fleet.PowerOn)
}

// apart checks that a clone is never taken for an instance, or made of one.
func (c *cloned) apart(t *testing.T) {
	_, err := c.p.Ensure(t.Context(), c.copy)
	requireKind(t, err, fleet.KindConflict)
	_, err = c.cloner.Clone(t.Context(), c.spec)
	requireKind(t, err, fleet.KindConflict)
	c.both(t, fleet.PowerOff, fleet.PowerOn)
}

func (c *cloned) fence(t *testing.T) {
	_, err := c.cloner.Clone(t.Context(), specAt(c.copy, 2))
	requireKind(t, err, fleet.KindFenced)
	_, err = c.p.Power(t.Context(), at(refOf(c.copy), 2), fleet.PowerOff)
	requireKind(t, err, fleet.KindFenced)
	requireKind(t, c.p.Delete(t.Context(), at(refOf(c.copy), 2)), fleet.KindFenced)
	c.both(t, fleet.PowerOff, fleet.PowerOn)
}

// beside wakes the original while its clone is on: the volume is free, and has
// what was written, not what was written to the copy.
func (c *cloned) beside(t *testing.T) {
	if c.h.Read != nil && c.spec.Volume != nil {
		require.Equal(t, volumeData, c.h.Read(t, c.made), "the copy has it too")
		c.h.Write(t, c.made, "written to the copy")
	}
	if c.volumes != nil {
		grown := c.volume
		grown.SizeMiB++
		_, err := c.volumes.EnsureVolume(t.Context(), grown)
		require.NoError(t, err, "a clone does not use the volume")
	}
	if c.givesWay() {
		c.requireGaveWay(t)
		c.power(t, refOf(c.copy), fleet.PowerOn)
	}
	st := c.power(t, refOf(c.spec), fleet.PowerOn)
	require.False(t, st.Clone)
	if c.h.Read != nil && c.spec.Volume != nil {
		require.Equal(t, volumeData, c.h.Read(t, st))
	}
	if !c.givesWay() {
		c.both(t, fleet.PowerOn, fleet.PowerOn)
		return
	}
	c.requireGaveWay(t)
	_, err := c.p.Power(t.Context(), refOf(c.copy), fleet.PowerOn)
	requireKind(t, err, fleet.KindConflict)
	c.both(t, fleet.PowerOn, fleet.PowerOff)
	c.power(t, refOf(c.spec), fleet.PowerOff)
	c.power(t, refOf(c.copy), fleet.PowerOn)
}

// givesWay tells whether the clone is on the volume itself.
func (c *cloned) givesWay() bool { return c.h.ClonesGiveWay && c.spec.Volume != nil }

// requireGaveWay checks that the clone was killed, and says why.
func (c *cloned) requireGaveWay(t *testing.T) {
	t.Helper()
	st, err := c.p.Observe(t.Context(), refOf(c.copy))
	require.NoError(t, err)
	require.True(t, st.Clone)
	require.Equal(t, fleet.PowerOff, st.Power)
	require.NotNil(t, st.Exit)
	require.Equal(t, fleet.ReasonGaveWay, st.Exit.Reason)
}

func (c *cloned) offAndOn(t *testing.T) {
	original := fleet.PowerOn
	if c.givesWay() {
		original = fleet.PowerOff
	}
	require.True(t, c.power(t, refOf(c.copy), fleet.PowerOff).Clone)
	c.both(t, original, fleet.PowerOff)
	c.power(t, refOf(c.copy), fleet.PowerOn)
	c.both(t, original, fleet.PowerOn)
}

func (c *cloned) delete(t *testing.T) {
	c.deleteInstance(t, refOf(c.copy))
	require.NoError(t, c.p.Delete(t.Context(), refOf(c.copy)), "deleting twice is harmless")
	_, err := c.cloner.Clone(t.Context(), specAt(c.copy, 2))
	requireKind(t, err, fleet.KindFenced)
	c.requireGone(t, refOf(c.copy))
	if c.volumes != nil {
		_, ok := c.volumeOf(t, c.volume.ID)
		require.True(t, ok, "deleting a clone leaves the volume")
	}
	c.deleteInstance(t, refOf(c.spec))
	if c.volumes == nil {
		return
	}
	// A clone that is left over does not hold the volume either.
	_, err = c.cloner.Clone(t.Context(), c.copy)
	require.NoError(t, err)
	require.NoError(t, c.volumes.DeleteVolume(t.Context(), volumeRef(c.volume)))
	c.deleteInstance(t, refOf(c.copy))
}
