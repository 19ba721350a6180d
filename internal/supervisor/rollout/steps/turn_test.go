package steps

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// slowStore tells when somebody looks, and lets them go on when it is told.
type slowStore struct {
	looking chan struct{}
	leave   chan struct{}
	inside  atomic.Int32
	most    atomic.Int32
}

func (s *slowStore) LookAtRollout(context.Context, fleet.RolloutID, fleet.RolloutKnown) (fleet.RolloutLook, error) {
	s.most.Store(max(s.most.Load(), s.inside.Add(1)))
	defer s.inside.Add(-1)
	s.looking <- struct{}{}
	<-s.leave
	return fleet.RolloutLook{Rollout: fleet.Rollout{ID: "r", State: fleet.RolloutPaused}, Whole: true, Now: time.Now()}, nil
}

// After a verb the same process began the next run while the last one was still
// looking: both wrote what is remembered of the members, and a map of it.
func TestTwoRunsOfOneRolloutTakeTurns(t *testing.T) {
	t.Parallel()
	s := &slowStore{looking: make(chan struct{}, 2), leave: make(chan struct{})}
	run := Workflow(Options{Store: s}).Steps[0].Run
	snap := &fleet.Snapshot{Now: time.Now()}
	snap.Operation.ResourceID = "r"
	ends := make(chan error, 3)
	for range 2 {
		go func() { _, err := run(t.Context(), snap); ends <- err }()
	}
	<-s.looking
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := run(ctx, snap)
	require.ErrorIs(t, err, context.Canceled, "who is overtaken waits for nobody")
	close(s.leave)
	for range 2 {
		require.NoError(t, <-ends)
	}
	require.EqualValues(t, 1, s.most.Load())
}
