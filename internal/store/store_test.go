package store

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestCreateClaimCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	require.Len(t, w.cluster.Hosts, 1)
	require.Equal(t, fleet.ClusterStable, w.cluster.State)

	a := w.create("hello")
	v, err := w.Installation(ctx, "", "hello")
	require.NoError(t, err)
	require.Equal(t, a.Installation.ID, v.ID)
	require.Equal(t, fleet.StateCreationRequested, v.State)
	require.Equal(t, "web@1", v.PackageRef)

	s := w.claimOne()
	require.Equal(t, fleet.StateCreationInProgress, s.Installation.State)
	require.Len(t, s.Hosts, 1)
	host := s.Hosts[0]
	c := w.commit(fleet.Result{OperationID: s.Operation.ID, Epoch: s.Operation.Epoch, InstallationID: s.Installation.ID, State: fleet.OperationActive,
		Step: "start", StepNumber: 2, StepsTotal: 2, Done: "prepare", Keep: true, DueMillis: 15000,
		Changes: fleet.Changes{Hold: &fleet.Hold{HostID: host.ID, MemoryMiB: 128, DiskMiB: 100}, Address: host.ID,
			Instances: []fleet.Instance{{ID: "x1", InstallationID: s.Installation.ID, Role: fleet.RoleApplication, HostID: host.ID, Power: fleet.PowerPlanned}},
			Volume:    &fleet.Volume{ID: "v1", InstallationID: s.Installation.ID, Role: fleet.RoleApplication, HostID: host.ID}}})
	require.False(t, c[0].Stale)
	require.NotNil(t, c[0].Lease)
	require.Equal(t, "10.77.0.2", c[0].Lease.Address)
	require.Equal(t, "52:54:0a:4d:00:02", c[0].Lease.MAC)

	stale := finish(s, fleet.StateStable)
	stale.Epoch--
	require.True(t, w.commit(stale)[0].Stale)

	require.False(t, w.commit(finish(s, fleet.StateStable))[0].Stale)
	v, err = w.Installation(ctx, "acme", "hello")
	require.NoError(t, err)
	require.Equal(t, fleet.StateStable, v.State)
	require.EqualValues(t, 128, v.HeldMemoryMiB)
	require.Len(t, v.Operation.Steps, 2)
	_, err = w.Installation(ctx, "other", "hello")
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	views, err := w.ListInstallations(ctx, fleet.InstallationQuery{Page: fleet.Page{Limit: 10}, Owner: "acme", Cluster: "local", State: fleet.StateStable})
	require.NoError(t, err)
	require.Len(t, views, 1)
	cl, err := w.Cluster(ctx, "local")
	require.NoError(t, err)
	require.EqualValues(t, 128, cl.Hosts[0].MemoryHeldMiB)
}

func TestCapacityIsNeverPromisedTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 9 {
		w.create(fmt.Sprintf("i%d", i))
	}
	var results []fleet.Result
	for _, s := range w.claim() {
		results = append(results, fleet.Result{OperationID: s.Operation.ID, Epoch: s.Operation.Epoch, InstallationID: s.Installation.ID,
			State: fleet.OperationActive, Step: "next", StepNumber: 2, Ran: 1, Done: "prepare", Keep: true, DueMillis: 1000,
			Changes: fleet.Changes{Hold: &fleet.Hold{HostID: s.Hosts[0].ID, MemoryMiB: 200, DiskMiB: 10}, Address: s.Hosts[0].ID}})
	}
	var got, capacity, address int
	for _, c := range w.commit(results...) {
		switch {
		case c.Denied == fleet.WaitCapacity:
			capacity++
		case c.Denied == fleet.WaitAddress:
			address++
		case c.Lease != nil:
			got++
		}
	}
	// 1000 MiB of memory, and a /29 has five addresses beside the host's own.
	require.Equal(t, []int{5, 4, 0}, []int{got, capacity, address})
	cl, err := w.Cluster(context.Background(), "local")
	require.NoError(t, err)
	require.EqualValues(t, 1000, cl.Hosts[0].MemoryHeldMiB)
}

func TestQueueAndPreempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.create("hello")
	s := w.claimOne()
	env := "1"
	ch := func(kind fleet.OperationKind) (fleet.Accepted, error) {
		c := fleet.Change{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: "hello", Kind: kind}
		if kind == fleet.OperationUpdate {
			c.Env = map[string]*string{"A": &env}
		}
		return w.ChangeInstallation(ctx, c)
	}
	up, err := ch(fleet.OperationUpdate)
	require.NoError(t, err)
	require.Equal(t, fleet.OperationQueued, up.Operation.State)
	require.Equal(t, fleet.StateCreationInProgress, up.Installation.State)
	up2, err := ch(fleet.OperationUpdate)
	require.NoError(t, err)
	require.Equal(t, up.Operation.ID, up2.Operation.ID)
	hib, err := ch(fleet.OperationHibernate)
	require.NoError(t, err)
	require.NotEqual(t, up.Operation.ID, hib.Operation.ID)
	_, err = ch(fleet.OperationRestart)
	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err))
	require.Equal(t, []fleet.OperationKind{fleet.OperationUpdate, fleet.OperationHibernate}, hib.Installation.Queued)

	c := w.commit(finish(s, fleet.StateStable))
	require.Equal(t, up.Operation.ID, c[0].Next)
	v, err := w.Installation(ctx, "", "hello")
	require.NoError(t, err)
	require.Equal(t, fleet.StateUpdateRequested, v.State)
	s = w.claimOne()
	require.Equal(t, "1", s.Installation.Env["A"])

	del, err := ch(fleet.OperationDelete)
	require.NoError(t, err)
	require.Equal(t, fleet.OperationActive, del.Operation.State)
	require.True(t, w.commit(finish(s, fleet.StateStable))[0].Stale, "the update was pre-empted")
	s2 := w.claimOne()
	require.Greater(t, s2.Operation.Epoch, s.Operation.Epoch)
	w.commit(finish(s2, fleet.StateDeleted))
	_, err = w.Installation(ctx, "", "hello")
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	w.create("hello")
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	in := w.request("hello")
	in.Key = fleet.IdempotencyKey{Key: "k", RequestHash: "h"}
	a, err := w.CreateInstallation(ctx, in)
	require.NoError(t, err)
	again := w.request("hello")
	again.Key = in.Key
	b, err := w.CreateInstallation(ctx, again)
	require.NoError(t, err)
	require.True(t, b.Replayed)
	require.Equal(t, a.Operation.ID, b.Operation.ID)
	again.Key.RequestHash = "other"
	_, err = w.CreateInstallation(ctx, again)
	require.Equal(t, fleet.KindConflict, fleet.KindOf(err))
	_, err = w.CreateInstallation(ctx, w.request("hello"))
	require.Equal(t, fleet.KindConflict, fleet.KindOf(err))
	require.Contains(t, err.Error(), "exists already")

	del := fleet.Change{Key: fleet.IdempotencyKey{Key: "d", RequestHash: "h"}, OperationID: "o1", IDOrName: "hello", Kind: fleet.OperationDelete}
	_, err = w.ChangeInstallation(ctx, del)
	require.NoError(t, err)
	w.commit(finish(w.claimOne(), fleet.StateDeleted))
	r, err := w.ChangeInstallation(ctx, del)
	require.NoError(t, err)
	require.True(t, r.Replayed)
}
