package steps

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// A list that takes long held up the rollout, whose slots were empty meanwhile.
func TestTheObserverIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	answer, lists, listed := make(chan error), 0, make(chan struct{})
	o := NewObserver(func(context.Context, fleet.ClusterID) (map[fleet.InstallationID]fleet.HealthState, error) {
		lists++
		if err := <-answer; err != nil {
			return nil, err
		}
		return map[fleet.InstallationID]fleet.HealthState{"a": fleet.HealthHealthy}, nil
	}, func(f func(context.Context)) { go func() { f(ctx); listed <- struct{}{} }() })
	for range 3 {
		h, err := o.Health(ctx, "c")
		require.NoError(t, err)
		require.Empty(t, h.Of, "nothing is known yet")
	}
	answer <- nil
	<-listed
	require.Equal(t, 1, lists, "one list at a time")
	h, err := o.Health(ctx, "c")
	require.NoError(t, err)
	require.Equal(t, fleet.HealthHealthy, h.Of["a"])
	require.Positive(t, h.Age)

	// A provider that does not answer leaves what is known.
	o.clusters["c"].askedAt = o.clusters["c"].askedAt.Add(-healthEvery)
	_, err = o.Health(ctx, "c")
	require.NoError(t, err)
	answer <- errors.New("it is away")
	<-listed
	later, err := o.Health(ctx, "c")
	require.Error(t, err)
	require.Equal(t, fleet.HealthHealthy, later.Of["a"])
	require.Greater(t, later.Age, h.Age)
}
