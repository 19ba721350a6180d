package providertest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// suspend lets an instance sleep and wake, where the provider can.
func (s *suite) suspend(t *testing.T) {
	if _, ok := s.p.(Suspender); !ok {
		return
	}
	spec := specAt(s.h.Spec(t, "sleeper"), 3)
	z := &sleeper{suite: s, spec: spec, epoch: spec.Epoch}
	if s.volumes != nil {
		volume := s.volumeSpec(spec)
		ref := volumeRef(volume)
		s.cleanUpVolume(t, ref)
		_, err := s.volumes.EnsureVolume(t.Context(), volume)
		require.NoError(t, err)
		z.spec.Volume = &ref
	}
	s.cleanUp(t, refOf(spec))
	chain(t,
		step{"Refused", z.refused},
		step{"CalledOff", z.calledOff},
		step{"SleepAndWake", z.sleepAndWake},
		step{"Cold", z.cold},
		step{"EnsureWakes", z.ensureWakes},
		step{"PowerOffEndsIt", z.powerOffEndsIt},
		step{"DeleteASleeper", z.deleteSleeper},
	)
}

// sleeper is the instance of suspend.
type sleeper struct {
	*suite
	spec  fleet.InstanceSpec
	epoch fleet.Epoch
}

func (z *sleeper) ref() fleet.InstanceRef { return at(refOf(z.spec), z.epoch) }

func (z *sleeper) call(ctx context.Context, ref fleet.InstanceRef, mode fleet.SuspendMode) (fleet.InstanceStatus, error) {
	return z.p.(Suspender).Suspend(ctx, ref, fleet.SuspendOptions{Mode: mode})
}

// asleep puts it to sleep, which is then seen from everywhere.
func (z *sleeper) asleep(t *testing.T, mode fleet.SuspendMode) fleet.InstanceStatus {
	t.Helper()
	answer, err := z.call(t.Context(), z.ref(), mode)
	require.NoError(t, err)
	if answer.Power == fleet.PowerPending {
		answer = z.await(t, z.ref(), "asleep", func(st fleet.InstanceStatus) bool { return st.Asleep })
	}
	seen, err := z.p.Observe(t.Context(), z.ref())
	require.NoError(t, err)
	listed, ok := z.list(t)[z.spec.ID]
	require.True(t, ok)
	for _, st := range []fleet.InstanceStatus{answer, seen, listed} {
		require.Equal(t, fleet.PowerOff, st.Power)
		require.True(t, st.Asleep)
		require.Nil(t, st.Exit, "it has not ended, it sleeps")
		require.NotNil(t, st.Saved)
		require.Contains(t, []fleet.SleepTier{fleet.TierWarm, fleet.TierPacked, fleet.TierCold}, st.Saved.Tier)
		require.NotZero(t, st.Saved.At)
	}
	return seen
}

// awake checks one that runs again, with what it had written.
func (z *sleeper) awake(t *testing.T, st fleet.InstanceStatus, slept fleet.InstanceStatus) {
	t.Helper()
	require.True(t, running(st))
	require.False(t, st.Asleep)
	require.Nil(t, st.Saved)
	require.False(t, st.Woken, "it was asked for by epoch")
	if slept.Saved.Tier == fleet.TierCold {
		require.Equal(t, fleet.StartBooted, st.Start)
	} else {
		require.Equal(t, fleet.StartResumed, st.Start, "%s", st.ColdReason)
		require.Empty(t, st.ColdReason)
	}
	if z.h.Read != nil && z.spec.Volume != nil {
		require.Equal(t, volumeData, z.h.Read(t, st))
	}
}

func (z *sleeper) refused(t *testing.T) {
	_, err := z.call(t.Context(), z.ref(), "")
	requireKind(t, err, fleet.KindNotFound)
	st := z.ensure(t, z.spec)
	require.False(t, st.Asleep)
	require.Equal(t, fleet.StartBooted, st.Start)
	if z.h.Write != nil && z.spec.Volume != nil {
		z.h.Write(t, st, volumeData)
	}
	_, err = z.call(t.Context(), at(z.ref(), z.epoch-1), "")
	requireKind(t, err, fleet.KindFenced)
	_, err = z.call(t.Context(), z.ref(), "half")
	requireKind(t, err, fleet.KindInvalid)
	z.await(t, z.ref(), "healthy", running)
}

func (z *sleeper) calledOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := z.call(ctx, z.ref(), "")
	require.Error(t, err)
	st := z.await(t, z.ref(), "healthy", running)
	require.False(t, st.Asleep)
}

func (z *sleeper) sleepAndWake(t *testing.T) {
	z.epoch++
	slept := z.asleep(t, fleet.SuspendMemory)
	require.Equal(t, slept.Saved, z.asleep(t, "").Saved, "asleep twice is asleep")
	_, err := z.call(t.Context(), at(z.ref(), z.epoch-1), "")
	requireKind(t, err, fleet.KindFenced)
	if z.h.Reopen != nil {
		z.p = z.h.Reopen(t)
		z.volumes, _ = z.p.(Volumes)
		slept = z.asleep(t, "")
	}
	z.awake(t, z.power(t, z.ref(), fleet.PowerOn), slept)
}

func (z *sleeper) cold(t *testing.T) {
	slept := z.asleep(t, fleet.SuspendCold)
	require.Equal(t, fleet.TierCold, slept.Saved.Tier)
	z.awake(t, z.power(t, z.ref(), fleet.PowerOn), slept)
}

func (z *sleeper) ensureWakes(t *testing.T) {
	slept := z.asleep(t, "")
	z.awake(t, z.ensure(t, specAt(z.spec, z.epoch)), slept)
}

func (z *sleeper) powerOffEndsIt(t *testing.T) {
	z.asleep(t, "")
	st := z.power(t, z.ref(), fleet.PowerOff)
	require.False(t, st.Asleep)
	require.Nil(t, st.Saved)
	_, err := z.call(t.Context(), z.ref(), "")
	requireKind(t, err, fleet.KindConflict)
	st = z.power(t, z.ref(), fleet.PowerOn)
	require.Equal(t, fleet.StartBooted, st.Start)
}

func (z *sleeper) deleteSleeper(t *testing.T) {
	z.asleep(t, "")
	z.epoch++
	z.deleteInstance(t, z.ref())
}
