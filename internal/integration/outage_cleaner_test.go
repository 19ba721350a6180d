package integration

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/installation"
)

// The sweep runs without a pause, and with no time of grace, while everything is
// being made, changed, put to sleep, woken and deleted. What is in use stays.
func TestOutageTheCleanerRemovesWhatIsInUse(t *testing.T) {
	t.Parallel()
	p := newSweepPlane(t)
	s := p.site(t)
	sweeper := installation.NewSweeper(installation.SweeperOptions{
		Store: p.store, Places: p.places, Clock: s.clock, Log: p.log, Grace: 1, VolumeGrace: 1, Settle: 1,
		Endings: installation.NewEndings(p.store, p.store, p.engine.Wake, s.clock, p.log),
	})
	// It does remove: these belong to nobody.
	_, err := s.sim.EnsureVolume(t.Context(), fleet.VolumeSpec{ID: "stray-volume", InstallationID: "nobody", ClusterID: s.cluster.ID, Epoch: s.epoch(), SizeMiB: 8})
	require.NoError(t, err)
	_, err = s.sim.Ensure(t.Context(), fleet.InstanceSpec{ID: "stray", InstallationID: "nobody", ClusterID: s.cluster.ID, Epoch: s.epoch(), MemoryMiB: 64})
	require.NoError(t, err)
	stop := make(chan struct{})
	var sweeping sync.WaitGroup
	passes, reports := 0, []installation.Report{}
	sweeping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			r, err := sweeper.Sweep(t.Context(), s.cluster)
			if err != nil {
				t.Error(err)
				return
			}
			passes++
			if len(r.Findings) > 0 {
				reports = append(reports, r)
			}
		}
	})
	views := s.create(24)
	made := s.volumes()
	value := "2"
	at(len(views), func(i int) {
		for _, ch := range []fleet.Change{{Kind: fleet.OperationUpdate, Env: map[string]*string{"A": &value}}, {Kind: fleet.OperationHibernate}, {Kind: fleet.OperationWake}, {Kind: fleet.OperationRestart}} {
			ch.OperationID, ch.IDOrName = newOp(), string(views[i].ID)
			if _, err := s.store.ChangeInstallation(t.Context(), ch); err != nil {
				t.Error(err)
			}
		}
		s.engine.Wake()
	})
	for i, v := range views {
		require.Eventually(t, func() bool {
			got, err := s.store.Installation(t.Context(), "", string(v.ID))
			require.NoError(t, err)
			return got.State == fleet.StateStable && got.Operation.Kind == fleet.OperationRestart && got.Operation.State == fleet.OperationSucceeded
		}, time.Minute, 5*time.Millisecond, "%d", i)
	}
	close(stop)
	sweeping.Wait()
	require.Greater(t, passes, 20, "it swept all the while")
	require.NotEmpty(t, reports, "the strays were found")
	may := []string{"stray", "stray-volume"}
	for _, v := range views { // it may have been listed, and replaced by the update before the rows were read
		may = append(may, string(v.Instance.ID))
	}
	for _, r := range reports {
		for _, f := range r.Findings {
			require.Contains(t, may, string(f.InstanceID)+string(f.VolumeID), "%+v", f)
		}
	}
	for _, v := range views {
		got, err := s.store.Installation(t.Context(), "", string(v.ID))
		require.NoError(t, err)
		require.NotEqual(t, v.Instance.ID, got.Instance.ID, "%s was updated", v.Name)
		require.Equal(t, fleet.PowerOn, s.power(got.Instance.ID), "%s runs", v.Name)
	}
	require.Len(t, made, len(views))
	require.Equal(t, made, s.volumes(), "each volume is the one that it was, with its data")
	t.Logf("%d passes, %d of them with findings: %s", passes, len(reports), findings(reports))
}

// volumes are those of the site by ID, with when they were made.
func (s *sweepSite) volumes() map[fleet.VolumeID]time.Time {
	s.t.Helper()
	all, err := s.sim.ListVolumes(s.t.Context(), s.cluster.ID)
	require.NoError(s.t, err)
	made := map[fleet.VolumeID]time.Time{}
	for _, v := range all {
		if v.ID != "stray-volume" {
			made[v.ID] = v.CreatedAt
		}
	}
	return made
}

func findings(reports []installation.Report) string {
	n := map[string]int{}
	for _, r := range reports {
		for _, f := range r.Findings {
			n[string(f.Kind)+" "+string(f.Action)]++
		}
	}
	return fmt.Sprint(n)
}

// Retention removes what is old while it is being read and followed: what an
// installation shows, the key of a request that is repeated, a rollout's work.
func TestOutageRetentionRemovesWhatIsInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.start(setup{})
	c := w.newCase(scenario{name: "old", end: "stable"})
	w.finished(c.create(nil, "web"))
	last := c.ask(fleet.OperationRestart, nil)
	w.finished(last)
	w.shift(365 * 24 * time.Hour)
	key := fleet.IdempotencyKey{Key: "again", RequestHash: "h"}
	change := fleet.Change{Key: key, OperationID: newOp(), IDOrName: c.id, Kind: fleet.OperationHibernate}
	first, err := w.store.ChangeInstallation(w.ctx, change)
	require.NoError(t, err)
	removed, err := w.store.Prune(w.ctx, 24*time.Hour, 1_000_000)
	require.NoError(t, err)
	require.NotZero(t, removed)
	change.OperationID = newOp()
	second, err := w.store.ChangeInstallation(w.ctx, change)
	require.NoError(t, err)
	require.True(t, second.Replayed)
	require.Equal(t, first.Operation.ID, second.Operation.ID)
	w.wake()
	w.finished(first.Operation.ID)
	w.shift(2 * 365 * 24 * time.Hour)
	_, err = w.store.Prune(w.ctx, 24*time.Hour, 1_000_000)
	require.NoError(t, err)
	v, err := w.store.Installation(w.ctx, "", c.id)
	require.NoError(t, err)
	require.Equal(t, first.Operation.ID, v.Operation.ID, "the last one is shown, however old")
	w.finished(c.ask(fleet.OperationWake, nil))
	e.stop()
	require.Equal(t, "stable", c.state())
}
