package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"dormouse/internal/fleet"
)

// together runs f n times at once and returns the errors in order.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		wg.Go(func() { <-begin; errs[i] = f(i) })
	}
	close(begin)
	wg.Wait()
	return errs
}

func TestConcurrentChangesAreNotLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.running("hello")
	one := "1"
	for _, err := range together(8, func(i int) error {
		for j := range 25 {
			_, err := w.ChangeInstallation(context.Background(), fleet.Change{OperationID: newOperationID(), IDOrName: "hello",
				Kind: fleet.OperationUpdate, Env: map[string]*string{fmt.Sprintf("K%d_%d", i, j): &one}})
			if err != nil {
				return err
			}
		}
		return nil
	}) {
		require.NoError(t, err)
	}
	v := w.installation("hello")
	require.Len(t, v.Env, 200)
	require.EqualValues(t, 201, v.Generation)
	require.Equal(t, 1, w.count(t, "SELECT count(*) FROM operation WHERE kind = 'update' AND state = 'active'"))
	require.LessOrEqual(t, w.count(t, "SELECT count(*) FROM operation WHERE kind = 'update'"), 2, "later ones join the one that waits")
	require.Equal(t, 0, w.count(t, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
}

// This used to answer "the name is taken" to those who came a moment late.
func TestSameCreateAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	answers := make([]fleet.Accepted, 16)
	for _, err := range together(16, func(i int) (err error) {
		in := w.request("hello")
		in.Key = fleet.IdempotencyKey{Key: "k", RequestHash: "h"}
		answers[i], err = w.CreateInstallation(context.Background(), in)
		return err
	}) {
		require.NoError(t, err)
	}
	replayed := 0
	for _, a := range answers {
		require.Equal(t, answers[0].Operation.ID, a.Operation.ID)
		require.Equal(t, answers[0].Installation.ID, a.Installation.ID)
		if a.Replayed {
			replayed++
		}
	}
	require.Equal(t, 15, replayed)
	require.Equal(t, 1, w.count(t, "SELECT count(*) FROM installation"))
}

func TestSameClusterAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ids := make([]fleet.ClusterID, 16)
	for _, err := range together(16, func(i int) error {
		c, err := w.CreateCluster(context.Background(), fleet.NewCluster{Key: fleet.IdempotencyKey{Key: "k", RequestHash: "h"},
			ID: fleet.ClusterID(fleet.NewID()), OperationID: newOperationID(), Name: "second", Provider: fleet.ProviderSim})
		ids[i] = c.ID
		return err
	}) {
		require.NoError(t, err)
	}
	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
}

func TestSameNameAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	won := 0
	for _, err := range together(16, func(int) error {
		_, err := w.CreateInstallation(context.Background(), w.request("hello"))
		return err
	}) {
		if err == nil {
			won++
			continue
		}
		require.Equal(t, fleet.KindConflict, fleet.KindOf(err))
		require.Contains(t, err.Error(), "exists already")
	}
	require.Equal(t, 1, won)
}

// Whoever wins, no installation is left on a cluster or a package that is gone.
func TestDeletionsRaceCreates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	for round := range 20 {
		name, ref := fmt.Sprintf("c%d", round), fmt.Sprintf("p%d", round)
		cluster := w.newCluster(name)
		pkg := w.newPackage(ref, "1")
		in := w.request(fmt.Sprintf("other%d", round))
		in.ClusterName = "local"
		other, err := w.CreateInstallation(ctx, in)
		require.NoError(t, err)
		errs := together(6, func(i int) error {
			switch i {
			case 0:
				_, err := w.DeleteCluster(ctx, name, fleet.IdempotencyKey{})
				return err
			case 1:
				return w.DeletePackage(ctx, ref)
			case 2:
				_, err := w.ChangeInstallation(ctx, fleet.Change{OperationID: newOperationID(), IDOrName: string(other.Installation.ID), Kind: fleet.OperationUpdate, PackageRef: &ref})
				return err
			}
			in := w.request(fmt.Sprintf("i%d-%d", round, i))
			in.ClusterName, in.PackageRef = name, ref
			if i == 3 {
				in.PackageRef = "web"
			}
			if i == 4 {
				in.ClusterName = "local"
			}
			_, err := w.CreateInstallation(ctx, in)
			return err
		})
		for i, err := range errs {
			require.NotEqual(t, fleet.KindInternal, fleet.KindOf(err), "%d: %v", i, err)
		}
		c, err := w.Cluster(ctx, string(cluster.ID))
		require.NoError(t, err)
		require.Equal(t, errs[0] == nil, c.State == fleet.ClusterDeletionRequested)
		if errs[0] == nil {
			require.Zero(t, w.count(t, "SELECT count(*) FROM installation WHERE cluster_id = $1", cluster.ID))
			s, err := w.Claim(ctx, claimRequest("w1"))
			require.NoError(t, err)
			require.NotEmpty(t, s)
		} else {
			require.Positive(t, w.count(t, "SELECT count(*) FROM installation WHERE cluster_id = $1", cluster.ID))
			w.claim()
		}
		gone := w.count(t, "SELECT count(*) FROM package WHERE id = $1 AND deleted_at IS NOT NULL", pkg.ID)
		users := w.count(t, "SELECT count(*) FROM installation WHERE package_id = $1", pkg.ID)
		require.Equal(t, errs[1] == nil, gone == 1)
		require.False(t, gone == 1 && users > 0, "a package is gone that %d installations want", users)
	}
}

// A request that comes in at the very moment at which the work before it ends
// must neither be lost nor be left waiting behind nothing.
func TestFollowersAreNeverLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	const lanes, rounds = 4, 500
	for i := range lanes {
		w.create(fmt.Sprintf("i%d", i))
	}
	for _, s := range w.claim() {
		w.commit(finish(s, fleet.StateStable))
	}
	var asked, worked atomic.Int64
	done := make(chan struct{})
	var requests, workers errgroup.Group
	for i := range lanes {
		requests.Go(func() error {
			for j := range rounds {
				kind := fleet.OperationUpdate
				if j%3 == 2 {
					kind = fleet.OperationRestart
				}
				_, err := w.change(fmt.Sprintf("i%d", i), kind)
				if err != nil && fleet.KindOf(err) != fleet.KindNotAccepted {
					return err
				}
				asked.Add(1)
			}
			return nil
		})
	}
	workOff := func(worker fleet.WorkerID) (int, error) {
		snaps, err := w.Claim(ctx, claimRequest(worker))
		if err != nil {
			return 0, err
		}
		for _, s := range snaps {
			c, err := w.Commit(ctx, []fleet.Result{finish(s, fleet.StateStable)})
			if err != nil {
				return 0, err
			}
			if !c[0].Stale {
				worked.Add(1)
			}
		}
		return len(snaps), nil
	}
	for i := range 2 {
		workers.Go(func() error {
			for {
				n, err := workOff(fleet.WorkerID(fmt.Sprintf("w%d", i)))
				if err != nil {
					return err
				}
				select {
				case <-done:
					if n == 0 {
						return nil
					}
				default:
				}
			}
		})
	}
	err := requests.Wait()
	close(done)
	require.NoError(t, err)
	require.NoError(t, workers.Wait())
	for n := 1; n > 0; { // what a claim left because a commit was at it
		n, err = workOff("last")
		require.NoError(t, err)
	}
	require.Zero(t, w.count(t, "SELECT count(*) FROM operation WHERE state IN ('active', 'queued')"), "left behind")
	require.Equal(t, lanes, w.count(t, "SELECT count(*) FROM installation WHERE state = 'stable'"))
	require.EqualValues(t, lanes*rounds, asked.Load())
	require.Greater(t, worked.Load(), int64(lanes), "nothing was worked on meanwhile")
	require.Equal(t, 0, w.count(t, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
}

// A delete locks an installation and then its operation, a claim the other way
// round: they used to deadlock.
func TestDeleteRacesClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	done := make(chan struct{})
	var g errgroup.Group
	g.Go(func() error {
		for {
			select {
			case <-done:
				return nil
			default:
			}
			if _, err := w.Claim(ctx, claimRequest("w1")); err != nil {
				return err
			}
		}
	})
	errs := together(4, func(i int) error {
		for j := range 50 {
			name := fmt.Sprintf("i%d-%d", i, j)
			if _, err := w.CreateInstallation(ctx, w.request(name)); err != nil {
				return err
			}
			if _, err := w.change(name, fleet.OperationDelete); err != nil {
				return err
			}
		}
		return nil
	})
	close(done)
	require.NoError(t, g.Wait())
	for _, err := range errs {
		require.NoError(t, err)
	}
	w.claim()
	require.Equal(t, 200, w.count(t, "SELECT count(*) FROM operation WHERE kind = 'delete' AND state = 'active' AND epoch > 0"))
	require.Equal(t, 200, w.count(t, "SELECT count(*) FROM operation WHERE kind = 'create' AND state = 'cancelled'"))
	require.Equal(t, 0, w.count(t, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
}
