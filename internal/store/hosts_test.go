package store

import (
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// A machine that belonged to a cluster which was deleted kept that cluster's
// row: a cluster made anew on it had no host, and no create ever fitted.
func TestHostsGoWithTheirClusterAndComeBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	host := w.cluster.Hosts[0]
	_, err := w.DeleteCluster(ctx, "local", fleet.IdempotencyKey{})
	require.NoError(t, err)
	s := w.claimOne()
	stale := fleet.Result{OperationID: s.Operation.ID, Epoch: s.Operation.Epoch - 1, ClusterID: s.Cluster.ID, State: fleet.OperationSucceeded,
		Step: "confirm-empty", StepNumber: 1, StepsTotal: 1, Done: "confirm-empty", From: string(s.Cluster.State), To: string(fleet.ClusterDeleted)}
	require.True(t, w.commit(stale)[0].Stale)
	c, err := w.Cluster(ctx, string(s.Cluster.ID))
	require.NoError(t, err)
	require.Len(t, c.Hosts, 1, "a stale result forgets nothing")
	done := stale
	done.Epoch = s.Operation.Epoch
	require.False(t, w.commit(done)[0].Stale)
	c, err = w.Cluster(ctx, string(s.Cluster.ID))
	require.NoError(t, err)
	require.Empty(t, c.Hosts)

	_, err = w.CreateCluster(ctx, fleet.NewCluster{ID: fleet.ClusterID(fleet.NewID()), OperationID: fleet.OperationID(fleet.NewID()),
		Name: "local", Provider: fleet.ProviderSim})
	require.NoError(t, err)
	s = w.claimOne()
	w.commit(fleet.Result{OperationID: s.Operation.ID, Epoch: s.Operation.Epoch, ClusterID: s.Cluster.ID, State: fleet.OperationSucceeded,
		Step: "check", StepNumber: 1, StepsTotal: 1, Done: "check", From: string(s.Cluster.State), To: string(fleet.ClusterStable),
		Changes: fleet.Changes{Check: &fleet.CheckReport{Hosts: []fleet.Host{host}}}})
	c, err = w.Cluster(ctx, "local")
	require.NoError(t, err)
	require.Len(t, c.Hosts, 1)
}

// A second cluster on a machine took the host from the first, whose installations were held there.
func TestAHostStaysInItsCluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host("h1")
	other := w.newCluster("other", fleet.Host{ID: h.ID, Name: "h1", State: fleet.HostUp, MemoryMiB: 1})
	require.Empty(t, other.Hosts)
	require.Equal(t, h, w.host("h1"))
}

// What a check is compared with is all of its cluster's hosts, those that take nothing included.
func TestACheckSeesHostsThatTakeNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sqlExec(t, "UPDATE host SET state = 'cordoned'")
	_, err := w.CheckCluster(t.Context(), fleet.CheckCluster{OperationID: newOperationID(), IDOrName: "local"})
	require.NoError(t, err)
	s := w.claimOne()
	require.Len(t, s.Hosts, 1)
	require.Equal(t, fleet.HostCordoned, s.Hosts[0].State)
}

// A cluster changes between every read and write: who asks is told so, and not that something is broken.
func TestAClusterThatChangesAllTheTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sqlExec(t, `CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
		CREATE TRIGGER planted BEFORE UPDATE ON cluster FOR EACH ROW EXECUTE FUNCTION planted()`)
	_, err := w.CheckCluster(t.Context(), fleet.CheckCluster{OperationID: newOperationID(), IDOrName: "local"})
	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err), "%v", err)
	_, err = w.DeleteCluster(t.Context(), "local", fleet.IdempotencyKey{})
	require.Equal(t, fleet.KindStale, fleet.KindOf(err), "%v", err)
	require.Zero(t, w.count(t, "SELECT count(*) FROM operation WHERE state = 'active'"))
}
