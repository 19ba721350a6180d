package store

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// A clone leaves the sleeper as it is, and gives way to whatever else is asked for.
func TestCloneOfASleeper(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.running("hello")
	clone := func() (fleet.Accepted, error) {
		return w.ChangeInstallation(context.Background(), fleet.Change{OperationID: newOperationID(), IDOrName: "hello", Kind: fleet.OperationClone,
			Observed: map[string]string{fleet.ObservedTimeToLive: "1m0s"}})
	}
	_, err := clone()
	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err), "it is awake")
	w.mustChange("hello", fleet.OperationHibernate)
	_, err = clone()
	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err), "it is being worked on")
	w.commit(finish(w.claimOne(), fleet.StateHibernating))
	before := w.installation("hello")

	a, err := clone()
	require.NoError(t, err)
	require.Equal(t, []any{fleet.OperationClone, fleet.OperationActive, fleet.StateHibernating, before.AsleepSince},
		[]any{a.Operation.Kind, a.Operation.State, a.Installation.State, a.Installation.AsleepSince})
	require.Equal(t, 1, w.count(t, "SELECT count(*) FROM event WHERE operation_id = $1 AND kind = 'installation.requested'", a.Operation.ID))
	s := w.claimOne()
	require.Equal(t, []any{fleet.OperationClone, fleet.StateHibernating, "1m0s"}, []any{s.Operation.Kind, s.Installation.State, s.Operation.Observed[fleet.ObservedTimeToLive]})
	end := finish(s, "")
	end.Follow = nil
	require.False(t, w.commit(end)[0].Stale)
	require.Equal(t, fleet.StateHibernating, w.installation("hello").State)

	first, err := clone()
	require.NoError(t, err)
	second, err := clone()
	require.NoError(t, err, "another one takes its place")
	woken := w.mustChange("hello", fleet.OperationWake)
	for id, want := range map[fleet.OperationID]fleet.OperationState{first.Operation.ID: fleet.OperationCancelled, second.Operation.ID: fleet.OperationCancelled, woken.Operation.ID: fleet.OperationActive} {
		op, err := w.Operation(context.Background(), id)
		require.NoError(t, err)
		require.Equal(t, want, op.State)
	}
}
