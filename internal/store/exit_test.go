package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// waitTime and tick are for what another process or connection does.
const (
	waitTime = 30 * time.Second
	tick     = 5 * time.Millisecond
)

func TestObserveExit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	v := w.running("hello")
	exit := fleet.Exit{Reason: fleet.ReasonProgramExited, Code: 3, At: time.Now().UTC().Truncate(time.Second), LastLines: []string{"fatal: no"}}
	_, err := w.ObserveExit(ctx, v.Instance.ID, exit, fleet.StateStable)
	require.Equal(t, fleet.KindInternal, fleet.KindOf(err))
	for _, id := range []fleet.InstanceID{"none", ""} {
		done, err := w.ObserveExit(ctx, id, exit, fleet.StateExited)
		require.NoError(t, err)
		require.False(t, done)
	}

	w.mustChange("hello", fleet.OperationUpdate)
	done, err := w.ObserveExit(ctx, v.Instance.ID, exit, fleet.StateExited)
	require.NoError(t, err)
	require.False(t, done, "an operation is at work")
	w.commit(finish(w.claimOne(), fleet.StateStable))

	done, err = w.ObserveExit(ctx, v.Instance.ID, exit, fleet.StateCrashLooping)
	require.NoError(t, err)
	require.True(t, done)
	after := w.installation("hello")
	require.Equal(t, fleet.StateCrashLooping, after.State)
	require.Equal(t, fleet.ReasonProgramExited, after.StateReason)
	require.Equal(t, "the program ended with exit code 3; its last line was: fatal: no", after.StateDetail)
	require.Empty(t, after.RunningPackageID)
	require.Equal(t, v.VerifiedPackageID, after.VerifiedPackageID)
	require.Equal(t, v.HeldMemoryMiB, after.HeldMemoryMiB)
	require.Equal(t, fleet.PowerOff, after.Instance.Power)
	require.False(t, after.Instance.Serving)
	require.Empty(t, after.Instance.Endpoints)
	require.Equal(t, exit, *after.Instance.Exit)
	require.Greater(t, after.Version, v.Version)
	require.Zero(t, w.count(t, "SELECT count(*) FROM volume WHERE attached_instance_id IS NOT NULL"))
	require.Equal(t, 1, w.count(t, "SELECT count(*) FROM event WHERE data ->> 'to' = 'crash-looping'"))

	done, err = w.ObserveExit(ctx, v.Instance.ID, exit, fleet.StateExited)
	require.NoError(t, err)
	require.False(t, done, "it is recorded already")
	restart, err := w.change("hello", "")
	require.NoError(t, err)
	require.Equal(t, fleet.OperationRestart, restart.Operation.Kind)
}

// An exit and a request at the same moment: one of them goes first, and the
// request is never lost.
func TestObserveExitRacesRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	v := w.running("hello")
	for range 30 {
		var done bool
		errs := together(2, func(i int) (err error) {
			if i == 0 {
				done, err = w.ObserveExit(ctx, v.Instance.ID, fleet.Exit{Reason: fleet.ReasonProgramExited}, fleet.StateExited)
			} else {
				_, err = w.change("hello", fleet.OperationRestart)
			}
			return err
		})
		require.NoError(t, errs[0])
		require.NoError(t, errs[1])
		s := w.claimOne()
		require.Equal(t, done, !s.Instances[0].Serving)
		on := s.Instances[0]
		on.Power, on.Serving, on.Exit = fleet.PowerOn, true, nil
		r := finish(s, fleet.StateStable)
		r.Changes = fleet.Changes{Instances: []fleet.Instance{on}, Running: &w.pkg.ID}
		w.commit(r)
		v = w.installation("hello")
		require.Equal(t, fleet.StateStable, v.State)
	}
}

func TestExpectedAndRoute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	v := w.running("hello")
	w.create("planned")
	w.mustChange("hello", fleet.OperationUpdate)

	instances, err := w.ExpectedInstances(ctx, w.cluster.ID)
	require.NoError(t, err)
	require.Len(t, instances, 1)
	x := instances[0]
	require.Less(t, x.Rested, time.Minute)
	w.sqlExec(t, `CREATE OR REPLACE FUNCTION dormouse_now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT now() + interval ''40 min'''`)
	later, err := w.ExpectedInstances(ctx, w.cluster.ID)
	require.NoError(t, err)
	require.InDelta(t, 40, (later[0].Rested - x.Rested).Minutes(), 1, "this process's clock was taken for the database's")
	require.Equal(t, fleet.ExpectedInstance{ID: v.Instance.ID, InstallationID: v.ID, InstallationName: "hello", HostID: v.HeldHostID,
		ProviderRef: v.Instance.ProviderRef, Power: fleet.PowerOn, Serving: true, OperationActive: true, State: fleet.StateUpdateRequested, Rested: x.Rested}, x)
	volumes, err := w.ExpectedVolumes(ctx, w.cluster.ID)
	require.NoError(t, err)
	require.Len(t, volumes, 1)
	require.Equal(t, v.Instance.ID, volumes[0].AttachedInstanceID)
	require.Equal(t, 100, volumes[0].SizeMiB)
	require.True(t, volumes[0].OperationActive)
	instances, err = w.ExpectedInstances(ctx, "another")
	require.NoError(t, err)
	require.Empty(t, instances)

	route, err := w.Route(ctx, "hello")
	require.NoError(t, err)
	require.Equal(t, fleet.Route{InstallationID: v.ID, Name: "hello", State: fleet.StateUpdateRequested, Address: "10.77.0.2:80",
		InstanceID: v.Instance.ID, ClusterID: v.ClusterID, HostID: v.HeldHostID}, route, "its first HTTP port")
	route, err = w.Route(ctx, "planned")
	require.NoError(t, err)
	require.Empty(t, route.Address)
	_, err = w.Route(ctx, "none")
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
}

func TestNextEpochRises(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("hello")
	claimed := w.claimOne().Operation.Epoch
	first, err := w.NextEpoch(context.Background())
	require.NoError(t, err)
	second, err := w.NextEpoch(context.Background())
	require.NoError(t, err)
	require.True(t, claimed < first && first < second, "%d %d %d", claimed, first, second)
}

func TestPrune(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	in := w.request("hello")
	in.Key = fleet.IdempotencyKey{Key: "old", RequestHash: "h"}
	_, err := w.CreateInstallation(ctx, in)
	require.NoError(t, err)
	w.commit(finish(w.claimOne(), fleet.StateStable))
	for range 5 {
		w.mustChange("hello", fleet.OperationRestart)
		w.commit(finish(w.claimOne(), fleet.StateStable))
	}
	w.mustChange("hello", fleet.OperationHibernate)
	w.mustChange("hello", fleet.OperationWake)
	const month = 30 * 24 * time.Hour
	n, err := w.Prune(ctx, month, 1000)
	require.NoError(t, err)
	require.Zero(t, n, "nothing is old")

	w.sqlExec(t, "UPDATE operation SET created_at = created_at - interval '31 days', finished_at = finished_at - interval '31 days'")
	w.sqlExec(t, "UPDATE event SET at = at - interval '31 days' WHERE id <= 4")
	w.sqlExec(t, "UPDATE idempotency_key SET created_at = created_at - interval '25 hours'")
	events := w.count(t, "SELECT count(*) FROM event")
	n, err = w.Prune(ctx, month, 3)
	require.NoError(t, err)
	require.EqualValues(t, 3, n, "no more than asked for")
	n, err = w.Prune(ctx, month, 1000)
	require.NoError(t, err)
	require.EqualValues(t, 2+6, n)
	require.Equal(t, events-4, w.count(t, "SELECT count(*) FROM event"))
	require.Zero(t, w.count(t, "SELECT count(*) FROM idempotency_key"))
	require.Equal(t, 2, w.count(t, "SELECT count(*) FROM operation WHERE resource_type = 'installation'"), "the open ones stay")
	require.Equal(t, 1, w.count(t, "SELECT count(*) FROM operation WHERE resource_type = 'cluster'"), "a resource's newest stays")
	require.NotNil(t, w.installation("hello").Operation)
}

// The newest operations of many resources, which stay, are not in the way.
func TestPrunePassesWhatStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.load(3000)
	n, err := w.Prune(context.Background(), 24*time.Hour, 1_000_000)
	require.NoError(t, err)
	require.EqualValues(t, 0, n, "finished today")
	w.sqlExec(t, "UPDATE operation SET finished_at = finished_at - interval '9 days'")
	n, err = w.Prune(context.Background(), 24*time.Hour, 1_000_000)
	require.NoError(t, err)
	require.Greater(t, n, int64(2900))
	require.Zero(t, w.count(t, "SELECT count(*) FROM operation WHERE generation = 1 AND resource_type = 'installation'"))
}

func TestListFilters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.newCluster("second")
	for i := range 12 {
		in := w.request(fmt.Sprintf("i%02d", i))
		in.ID = fleet.InstallationID(bulkID(i)) // IDs made in one millisecond have no order
		in.ClusterName = []string{"local", "second"}[i%2]
		in.Owner = []string{"acme", "globex", "initech"}[i%3]
		in.Labels = map[string]string{"tier": fmt.Sprint(i % 4)}
		_, err := w.CreateInstallation(ctx, in)
		require.NoError(t, err)
	}
	names := func(q fleet.InstallationQuery) (names []string) {
		if q.Limit == 0 {
			q.Limit = 100
		}
		views, err := w.ListInstallations(ctx, q)
		require.NoError(t, err)
		require.NotNil(t, views)
		for _, v := range views {
			names = append(names, v.Name)
			require.Equal(t, fleet.OperationCreate, v.Operation.Kind)
			require.Equal(t, v.Name, v.Operation.ResourceName)
			require.Equal(t, []fleet.Port{{Number: 80, Protocol: fleet.ProtocolHTTP}}, v.Ports)
		}
		return names
	}
	require.Len(t, names(fleet.InstallationQuery{}), 12)
	require.Equal(t, []string{"i01", "i04", "i07", "i10"}, names(fleet.InstallationQuery{Owner: "globex"}))
	require.Equal(t, []string{"i01", "i03", "i05", "i07", "i09", "i11"}, names(fleet.InstallationQuery{Cluster: "second"}))
	require.Equal(t, []string{"i01", "i07"}, names(fleet.InstallationQuery{Cluster: "second", Owner: "globex"}))
	require.Equal(t, []string{"i02", "i06", "i10"}, names(fleet.InstallationQuery{Labels: map[string]string{"tier": "2"}}))
	require.Len(t, names(fleet.InstallationQuery{State: fleet.StateCreationRequested}), 12)
	require.Empty(t, names(fleet.InstallationQuery{State: fleet.StateStable}))
	require.Empty(t, names(fleet.InstallationQuery{Cluster: "none"}))
	var all []string
	for after := ""; ; {
		views, err := w.ListInstallations(ctx, fleet.InstallationQuery{Page: fleet.Page{After: after, Limit: 5}, State: fleet.StateCreationRequested})
		require.NoError(t, err)
		for _, v := range views {
			all, after = append(all, v.Name), string(v.ID)
		}
		if len(views) < 5 {
			break
		}
	}
	require.Equal(t, names(fleet.InstallationQuery{}), all, "page by page")

	_, err := w.ListOperations(ctx, fleet.OperationQuery{Limit: 5, State: "'; DROP TABLE operation"})
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	ops, err := w.ListOperations(ctx, fleet.OperationQuery{Limit: 5, State: fleet.OperationActive, Resource: "i03"})
	require.NoError(t, err)
	require.Len(t, ops, 1)
}
