package sim_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

func TestSuspend(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{}, nil)
	spec := newSpec(cluster.ID, "tenant")
	on, err := p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, fleet.StartBooted, on.Start)
	ref := refOf(spec)

	_, err = p.EndSleep(t.Context(), ref)
	require.Equal(t, fleet.ReasonVisited, fleet.ReasonOf(err), "it is awake")

	for range 2 { // the second time it sleeps already
		st, err := p.Suspend(t.Context(), ref, fleet.SuspendOptions{})
		require.NoError(t, err)
		require.Equal(t, fleet.PowerOff, st.Power)
		require.True(t, st.Asleep)
		require.Equal(t, fleet.TierWarm, st.Saved.Tier)
	}
	st, err := p.Power(t.Context(), ref, fleet.PowerOn)
	require.NoError(t, err)
	require.Equal(t, fleet.StartResumed, st.Start)
	require.False(t, st.Asleep)
	require.Nil(t, st.Saved)

	st, err = p.Suspend(t.Context(), ref, fleet.SuspendOptions{Mode: fleet.SuspendCold})
	require.NoError(t, err)
	require.Equal(t, fleet.TierCold, st.Saved.Tier)
	st, err = p.Power(t.Context(), ref, fleet.PowerOn)
	require.NoError(t, err)
	require.Equal(t, fleet.StartBooted, st.Start)

	// An end of sleep keeps nothing, nor does switching off.
	for _, end := range []func() (fleet.InstanceStatus, error){
		func() (fleet.InstanceStatus, error) { return p.EndSleep(t.Context(), ref) },
		func() (fleet.InstanceStatus, error) { return p.Power(t.Context(), ref, fleet.PowerOff) },
	} {
		_, err = p.Suspend(t.Context(), ref, fleet.SuspendOptions{})
		require.NoError(t, err)
		st, err = end()
		require.NoError(t, err)
		require.Equal(t, fleet.PowerOff, st.Power)
		require.False(t, st.Asleep)
		st, err = p.Power(t.Context(), ref, fleet.PowerOn)
		require.NoError(t, err)
		require.Equal(t, fleet.StartBooted, st.Start)
	}

	old := ref
	old.Epoch--
	_, err = p.Suspend(t.Context(), old, fleet.SuspendOptions{})
	require.Equal(t, fleet.KindFenced, fleet.KindOf(err))
	_, err = p.EndSleep(t.Context(), old)
	require.Equal(t, fleet.KindFenced, fleet.KindOf(err))
}

func TestNothingSleeps(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{}, map[string]string{"sleep": "false"})
	spec := newSpec(cluster.ID, "tenant")
	_, err := p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	_, err = p.Suspend(t.Context(), refOf(spec), fleet.SuspendOptions{})
	require.Equal(t, fleet.ReasonCannotSleep, fleet.ReasonOf(err))
}
