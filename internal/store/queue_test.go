package store

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestFollowersAreCancelledWhereTheyDoNotFit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("hello")
	s := w.claimOne()
	hibernate := w.mustChange("hello", fleet.OperationHibernate)
	wake := w.mustChange("hello", fleet.OperationWake)
	require.Equal(t, []fleet.OperationKind{fleet.OperationHibernate, fleet.OperationWake}, wake.Installation.Queued)

	r := finish(s, fleet.StateCreationFailed)
	r.State, r.FailReason, r.Error, r.ToReason = fleet.OperationFailed, fleet.ReasonNotHealthy, "no answer", fleet.ReasonNotHealthy
	require.Empty(t, w.commit(r)[0].Next, "a hibernation does not follow a failed create")
	for _, id := range []fleet.OperationID{hibernate.Operation.ID, wake.Operation.ID} {
		op, err := w.Operation(context.Background(), id)
		require.NoError(t, err)
		require.Equal(t, fleet.OperationCancelled, op.State)
		require.Equal(t, fleet.ReasonPredecessor, op.FailReason)
		require.False(t, op.FinishedAt.IsZero())
	}
	v := w.installation("hello")
	require.Equal(t, fleet.StateCreationFailed, v.State)
	require.Equal(t, fleet.ReasonNotHealthy, v.StateReason)
	require.Empty(t, v.Queued)
	require.Empty(t, w.claim())

	// What fits does follow: an update mends a failed create.
	retry, err := w.change("hello", "")
	require.NoError(t, err)
	require.Equal(t, fleet.OperationCreate, retry.Operation.Kind)
	update := w.mustChange("hello", fleet.OperationUpdate)
	s = w.claimOne()
	r = finish(s, fleet.StateCreationFailed)
	r.State = fleet.OperationFailed
	require.Equal(t, update.Operation.ID, w.commit(r)[0].Next)
	require.Equal(t, fleet.StateUpdateRequested, w.installation("hello").State)
}

func TestDeletePreemptsEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.running("hello")
	update := w.mustChange("hello", fleet.OperationUpdate)
	s := w.claimOne()
	hibernate := w.mustChange("hello", fleet.OperationHibernate)
	del := w.mustChange("hello", fleet.OperationDelete)
	require.Equal(t, fleet.StateDeletionRequested, del.Installation.State)
	for _, id := range []fleet.OperationID{update.Operation.ID, hibernate.Operation.ID} {
		op, err := w.Operation(context.Background(), id)
		require.NoError(t, err)
		require.Equal(t, fleet.OperationCancelled, op.State)
		require.Equal(t, fleet.ReasonPreempted, op.FailReason)
	}
	require.True(t, w.commit(step(s, fleet.Changes{}))[0].Stale)
	again := w.mustChange("hello", fleet.OperationDelete)
	require.Equal(t, del.Operation.ID, again.Operation.ID, "a second delete joins the first")
	for _, kind := range []fleet.OperationKind{fleet.OperationUpdate, fleet.OperationWake, ""} {
		_, err := w.change("hello", kind)
		require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err), "%q", kind)
	}
}

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("hello")
	kinds := []fleet.OperationKind{fleet.OperationHibernate, fleet.OperationWake}
	for i := range maxQueued {
		w.mustChange("hello", kinds[i%2])
	}
	_, err := w.change("hello", kinds[maxQueued%2])
	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err))
	require.Contains(t, err.Error(), "wait for them")
	w.mustChange("hello", fleet.OperationDelete) // is always accepted
}

// What a request is answered in each state follows from the table.
func TestAcceptsByState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("hello")
	w.commit(finish(w.claimOne(), fleet.StateStable))
	for _, state := range fleet.States() {
		if state.Transient() || state == fleet.StateDeleted {
			continue
		}
		for _, kind := range append([]fleet.OperationKind{""}, fleet.InstallationOperations()...) {
			w.sqlExec(t, "DELETE FROM operation")
			w.sqlExec(t, "UPDATE installation SET state = $1", string(state))
			want := false
			for _, k := range fleet.Accepts(state) {
				want = want || k == kind
			}
			if kind == "" {
				_, want = fleet.RetryOf(state)
			}
			a, err := w.change("hello", kind)
			require.Equal(t, want, err == nil, "%q in %s: %v", kind, state, err)
			if err != nil {
				require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err))
				continue
			}
			require.Equal(t, a.Operation.Kind.RequestedState(), a.Installation.State)
		}
	}
}

func TestIfMatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.running("hello")
	c := fleet.Change{OperationID: newOperationID(), IDOrName: "hello", Kind: fleet.OperationUpdate, IfMatch: v.Version + 1}
	_, err := w.ChangeInstallation(context.Background(), c)
	require.Equal(t, fleet.KindStale, fleet.KindOf(err))
	require.Contains(t, err.Error(), "read it again")
	c.IfMatch = v.Version
	a, err := w.ChangeInstallation(context.Background(), c)
	require.NoError(t, err)
	require.Greater(t, a.Installation.Version, v.Version)

	// Of many with the same version, one wins.
	w.commit(finish(w.claimOne(), fleet.StateStable))
	v = w.installation("hello")
	won := 0
	for _, err := range together(8, func(i int) error {
		value := fmt.Sprint(i)
		_, err := w.ChangeInstallation(context.Background(), fleet.Change{OperationID: newOperationID(), IDOrName: "hello", Kind: fleet.OperationUpdate,
			IfMatch: v.Version, Env: map[string]*string{"A": &value}})
		return err
	}) {
		if err == nil {
			won++
			continue
		}
		require.Equal(t, fleet.KindStale, fleet.KindOf(err))
	}
	require.Equal(t, 1, won)
}

func TestKeysOfEveryVerb(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	v := w.running("hello")
	for _, kind := range []fleet.OperationKind{fleet.OperationUpdate, fleet.OperationRestart, fleet.OperationHibernate, fleet.OperationWake, fleet.OperationDelete} {
		c := fleet.Change{Key: fleet.IdempotencyKey{Key: string(kind), RequestHash: "h"}, OperationID: newOperationID(), IDOrName: "hello", Kind: kind}
		first, err := w.ChangeInstallation(ctx, c)
		require.NoError(t, err, kind)
		require.False(t, first.Replayed)
		replay := func() {
			again := c
			again.OperationID = newOperationID()
			a, err := w.ChangeInstallation(ctx, again)
			require.NoError(t, err, kind)
			require.True(t, a.Replayed)
			require.Equal(t, first.Operation.ID, a.Operation.ID)
			require.Equal(t, v.ID, a.Installation.ID)
		}
		replay()
		w.commit(finish(w.claimOne(), kind.DoneState()))
		replay() // also when it is done, and the installation gone
		c.Key.RequestHash = "another"
		_, err = w.ChangeInstallation(ctx, c)
		require.Equal(t, fleet.KindConflict, fleet.KindOf(err))
	}
	w.create("hello") // the name is free: the key still names the first
	a, err := w.ChangeInstallation(ctx, fleet.Change{Key: fleet.IdempotencyKey{Key: "delete", RequestHash: "h"}, OperationID: newOperationID(), IDOrName: "hello", Kind: fleet.OperationDelete})
	require.NoError(t, err)
	require.Equal(t, v.ID, a.Installation.ID)
	require.Equal(t, fleet.StateCreationRequested, w.installation("hello").State)
}

func TestKeysOfClusters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	key := func(k string) fleet.IdempotencyKey { return fleet.IdempotencyKey{Key: k, RequestHash: "h"} }
	in := fleet.NewCluster{Key: key("create"), ID: fleet.ClusterID(fleet.NewID()), OperationID: newOperationID(), Name: "second", Provider: fleet.ProviderSim}
	first, err := w.CreateCluster(ctx, in)
	require.NoError(t, err)
	require.False(t, first.Replayed)
	del, err := w.DeleteCluster(ctx, "second", key("delete"))
	require.NoError(t, err)
	joined, err := w.DeleteCluster(ctx, "second", key("joined"))
	require.NoError(t, err)
	require.Equal(t, del.Operation.ID, joined.Operation.ID)
	s := w.claimOne()
	w.commit(fleet.Result{OperationID: s.Operation.ID, Epoch: s.Operation.Epoch, ClusterID: s.Cluster.ID, State: fleet.OperationSucceeded,
		Step: "last", StepNumber: 1, StepsTotal: 1, Done: "last", From: string(s.Cluster.State), To: string(fleet.ClusterDeleted)})

	in.ID, in.OperationID = fleet.ClusterID(fleet.NewID()), newOperationID()
	again, err := w.CreateCluster(ctx, in)
	require.NoError(t, err)
	require.True(t, again.Replayed)
	require.Equal(t, first.ID, again.ID)
	require.Equal(t, first.Operation.ID, again.Operation.ID, "the first request's operation, not the last one")
	for _, k := range []string{"delete", "joined"} {
		c, err := w.DeleteCluster(ctx, "second", key(k))
		require.NoError(t, err, k)
		require.True(t, c.Replayed)
		require.Equal(t, del.Operation.ID, c.Operation.ID)
	}
	_, err = w.DeleteCluster(ctx, "second", key("new"))
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	_, err = w.DeleteCluster(ctx, "second", fleet.IdempotencyKey{Key: "delete", RequestHash: "other"})
	require.Equal(t, fleet.KindConflict, fleet.KindOf(err))
}

// No table allows it, so no workflow may write it.
func TestCommitRefusesWhatNoTableAllows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("hello")
	s := w.claimOne()
	_, err := w.Commit(context.Background(), []fleet.Result{finish(s, fleet.StateHibernating)})
	require.Equal(t, fleet.KindInternal, fleet.KindOf(err))
	require.Contains(t, err.Error(), `no transition leads from "creation-in-progress" to "hibernating"`)
	require.Equal(t, fleet.StateCreationInProgress, w.installation("hello").State)
	w.commit(finish(s, fleet.StateStable))
}

// The API used to read the installation before each patch to bound the
// environment, and two patches at once could pass the bound together.
func TestPatchBoundsTheEnvironment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("hello")
	half := strings.Repeat("x", fleet.MaxEnvironment/2)
	patch := func(name string) error {
		_, err := w.ChangeInstallation(t.Context(), fleet.Change{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: "hello",
			Kind: fleet.OperationUpdate, Env: map[string]*string{name: &half}})
		return err
	}
	require.NoError(t, patch("A"))
	err := patch("B")
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	v, err := w.Installation(t.Context(), "", "hello")
	require.NoError(t, err)
	require.Len(t, v.Env, 1)
}
