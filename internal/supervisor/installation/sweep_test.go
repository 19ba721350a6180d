package installation

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestSweepIdleCostsOneStatement(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	for n := range 7 {
		name := fmt.Sprintf("t%d", n)
		w.serve(name)
		v := volumeID(fleet.InstallationID("i-" + name))
		w.place.volumes[v] = fleet.VolumeStatus{ID: v, CreatedAt: w.clock.Now().Add(-time.Hour)}
	}
	r := w.sweep()
	require.Empty(t, r.Findings)
	require.Equal(t, []int{7, 7, 7, 0}, []int{r.Listed, r.ListedVolumes, r.Expected, r.Broken})
	require.Equal(t, map[string]int{"instances": 1}, w.store.calls)
	require.Zero(t, w.place.observed)
}

func TestSweepReapsAStrayAfterTheGrace(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	// Names of which one begins as another does: an ID is matched whole.
	w.serve("a")
	w.serve("abc")
	w.machine("x-ab", "i-ab", fleet.PowerOn, 10*time.Minute-time.Second)
	f := w.only(w.sweep())
	require.Equal(t, FindingStray, f.Kind)
	require.Equal(t, ActionWait, f.Action)
	require.Empty(t, w.place.deleted)
	w.clock.advance(time.Second)
	f = w.only(w.sweep())
	require.Equal(t, ActionDeleted, f.Action)
	require.Equal(t, []string{"x-ab"}, w.place.deleted)
	require.Equal(t, []fleet.Epoch{1001}, w.place.epochs)
	require.Empty(t, w.sweep().Findings)
}

func TestSweepStrayWithoutAnAgeWaitsFromWhenItWasSeen(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serve("a")
	w.place.machines["y"] = fleet.InstanceStatus{ID: "y", Power: fleet.PowerOff}
	require.Equal(t, ActionWait, w.only(w.sweep()).Action)
	w.clock.advance(9 * time.Minute)
	require.Equal(t, ActionWait, w.only(w.sweep()).Action)
	w.clock.advance(time.Minute)
	require.Equal(t, ActionDeleted, w.only(w.sweep()).Action)
}

func TestSweepFencedReaperLetsGo(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serve("a")
	w.machine("y", "i-y", fleet.PowerOn, time.Hour)
	w.place.fail["delete"] = fleet.Errorf(fleet.KindFenced, "a higher epoch was seen")
	r := w.sweep()
	require.Equal(t, ActionNone, w.only(r).Action)
	require.Zero(t, r.Failed())
	require.Contains(t, w.place.machines, fleet.InstanceID("y"))
}

func TestSweepOneFailureDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serve("a")
	w.machine("y", "i-y", fleet.PowerOn, time.Hour)
	v := fleet.VolumeID("v-gone")
	w.place.volumes[v] = fleet.VolumeStatus{ID: v, CreatedAt: w.clock.Now().Add(-time.Hour)}
	w.store.deleted[v] = true
	w.place.fail["delete"] = fleet.Errorf(fleet.KindUnavailable, "busy")
	r := w.sweep()
	require.Len(t, r.Findings, 2)
	require.Contains(t, r.Findings[0].Err, "deleting instance y: busy")
	require.Equal(t, ActionDeleted, r.Findings[1].Action)
	require.Equal(t, 1, r.Failed())
}

func TestSweepVolumes(t *testing.T) {
	t.Parallel()
	old := 25 * time.Hour
	for name, test := range map[string]struct {
		age     time.Duration
		row     bool // a live row, of an installation that has no instance
		deleted bool // the row says deleted
		want    Action
	}{
		"LiveRow":           {age: old, row: true, want: ""},
		"DeletedRow":        {age: 10 * time.Minute, deleted: true, want: ActionDeleted},
		"DeletedRowYoung":   {age: 9 * time.Minute, deleted: true, want: ActionWait},
		"NoRow":             {age: old, want: ActionDeleted},
		"NoRowOlderThanVMs": {age: time.Hour, want: ActionWait},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newSweepWorld(t)
			w.serve("a")
			w.place.volumes["v"] = fleet.VolumeStatus{ID: "v", SizeMiB: 64, CreatedAt: w.clock.Now().Add(-test.age)}
			w.store.deleted["v"] = test.deleted
			if test.row {
				w.store.volumes = []fleet.ExpectedVolume{{ID: "v"}}
			}
			r := w.sweep()
			if test.want == "" {
				require.Empty(t, r.Findings)
				return
			}
			require.Equal(t, test.want, w.only(r).Action)
			require.Equal(t, test.want != ActionDeleted, len(w.place.volumes) == 1)
			if test.want == ActionDeleted {
				last := w.logs.AllEntries()
				loud := false
				for _, e := range last {
					loud = loud || e.Level == logrus.ErrorLevel && e.Data["volume"] == "v"
				}
				require.True(t, loud, "data is never deleted quietly")
			}
		})
	}
}

func TestSweepManyUnknownVolumesAreNeverDeleted(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serve("a")
	for n := range 4 {
		v := fleet.VolumeID(fmt.Sprintf("v%d", n))
		w.place.volumes[v] = fleet.VolumeStatus{ID: v, CreatedAt: w.clock.Now().Add(-48 * time.Hour)}
	}
	for range 3 {
		r := w.sweep()
		require.Contains(t, r.Brake, "4 of 4 volumes are unknown to the database, more than 3")
		require.Equal(t, 4, r.Count(ActionHeld))
		w.clock.advance(2 * time.Minute)
	}
	require.Len(t, w.place.volumes, 4)
}

func TestSweepBringsALostMachineBack(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serve("a")
	lost := w.serve("b")
	delete(w.place.machines, lost)
	r := w.sweep()
	f := w.only(r)
	require.Equal(t, FindingLost, f.Kind)
	require.Equal(t, ActionRestart, f.Action)
	require.Equal(t, "b", f.InstallationName)
	require.Equal(t, 1, r.Broken)
	require.Len(t, w.store.changes, 1)
	c := w.store.changes[0]
	require.Equal(t, fleet.OperationRestart, c.Kind)
	require.Equal(t, "i-b", c.IDOrName)
	require.EqualValues(t, 7, c.IfMatch)
	require.True(t, fleet.ValidID(string(c.OperationID)))
	require.Equal(t, 1, w.wakes)
}

func TestSweepLeavesAlone(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*fleet.ExpectedInstance){
		"OperationActive": func(r *fleet.ExpectedInstance) { r.OperationActive = true },
		"JustWritten":     func(r *fleet.ExpectedInstance) { r.Rested = 29 * time.Second },
		"Hibernating": func(r *fleet.ExpectedInstance) {
			r.State, r.Power, r.Serving = fleet.StateHibernating, fleet.PowerOff, false
		},
		"CrashLooping": func(r *fleet.ExpectedInstance) { r.State, r.Power = fleet.StateCrashLooping, fleet.PowerOff },
		"NotServing":   func(r *fleet.ExpectedInstance) { r.Serving = false },
		"Planned":      func(r *fleet.ExpectedInstance) { r.Power = fleet.PowerPlanned },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newSweepWorld(t)
			w.serve("a")
			id := w.serve("b")
			row := w.store.rows[id]
			change(&row)
			w.store.rows[id] = row
			delete(w.place.machines, id)
			require.Empty(t, w.sweep().Findings)
			require.Empty(t, w.store.changes)
		})
	}
}

func TestSweepDecidesByASecondLook(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serve("a")
	id := w.serve("b")
	// The list lacks it without saying so; the machine is there.
	w.place.hidden = map[fleet.InstanceID]bool{id: true}
	f := w.only(w.sweep())
	require.Equal(t, FindingDrift, f.Kind)
	require.Contains(t, f.Detail, "but it is on")
	require.Empty(t, w.store.changes)
	// The provider can't be asked.
	w.place.fail["observe"] = fleet.Errorf(fleet.KindUnavailable, "no answer")
	r := w.sweep()
	require.Equal(t, 1, r.Failed())
	require.Empty(t, w.store.changes)
	// The installation has changed since the rows were read.
	delete(w.place.fail, "observe")
	delete(w.place.machines, id)
	w.sweeper.o.Store = &sweepRacingStore{w.store}
	require.Equal(t, ActionNone, w.only(w.sweep()).Action)
	require.Empty(t, w.store.changes)
}

// sweepRacingStore has an operation begin between the two reads.
type sweepRacingStore struct{ *sweepFakeStore }

func (s *sweepRacingStore) InstancePlace(ctx context.Context, id fleet.InstanceID) (fleet.Snapshot, error) {
	snap, err := s.sweepFakeStore.InstancePlace(ctx, id)
	snap.Operation.ID = "begun meanwhile"
	return snap, err
}

func TestSweepRecordsHowItEnded(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serve("a")
	id := w.serve("b")
	exit := fleet.Exit{Reason: fleet.ReasonCrashLoop, Code: 3, LastLines: []string{"no such file"}}
	w.end(id, &exit)
	f := w.only(w.sweep())
	require.Equal(t, FindingOff, f.Kind)
	require.Equal(t, ActionRecorded, f.Action)
	require.Contains(t, f.Detail, "no such file")
	require.Equal(t, sweepExit{exit, fleet.StateCrashLooping}, w.store.exits[id])
	require.Empty(t, w.store.changes)
}

func TestSweepStopsTheSecondMachine(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serve("a")
	serving := w.serve("b")
	w.machine("y", "i-b", fleet.PowerOn, time.Minute) // younger than the grace: it can't wait
	r := w.sweep()
	f := w.only(r)
	require.Equal(t, FindingDouble, f.Kind)
	require.Equal(t, ActionStopped, f.Action)
	require.Equal(t, []string{"y"}, w.place.stopped)
	require.Equal(t, []fleet.Epoch{1001}, w.place.epochs)
	require.Equal(t, fleet.PowerOn, w.place.machines[serving].Power)
	// Off, it waits for its grace as any stray.
	require.Equal(t, ActionWait, w.only(w.sweep()).Action)
}

// TestSweepLeavesAClone: it is on beside the machine that serves and is no
// second one; only one that is left over is removed, after the grace.
func TestSweepLeavesAClone(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serve("b")
	w.machine("y", "i-b", fleet.PowerOn, time.Minute)
	clone := w.place.machines["y"]
	clone.Clone = true
	w.place.machines["y"] = clone
	f := w.only(w.sweep())
	require.Equal(t, FindingStray, f.Kind)
	require.Equal(t, ActionWait, f.Action)
	require.Empty(t, w.place.stopped)
	clone.CreatedAt = clone.CreatedAt.Add(-time.Hour)
	w.place.machines["y"] = clone
	w.sweep()
	require.NotContains(t, w.place.machines, fleet.InstanceID("y"))
}

func TestSweepStopsTheSecondMachineBeforeTheFirstIsStarted(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	id := w.serve("b")
	w.end(id, nil)
	other := fleet.ExpectedInstance{ID: "y", InstallationID: "i-b", InstallationName: "b", HostID: "h1", Power: fleet.PowerOff, State: fleet.StateStable}
	w.store.rows["y"] = other
	w.machine("y", "i-b", fleet.PowerOn, time.Hour)
	r := w.sweep()
	require.Equal(t, []string{"y"}, w.place.stopped)
	require.Empty(t, w.store.changes)
	require.Equal(t, 1, r.Count(ActionWait))
	require.Equal(t, ActionRestart, w.only(w.sweep()).Action)
}

func TestSweepDoubleIsLeftToAnOperation(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	id := w.serve("b")
	row := w.store.rows[id]
	row.OperationActive = true
	w.store.rows[id] = row
	w.store.rows["y"] = fleet.ExpectedInstance{ID: "y", InstallationID: "i-b", Power: fleet.PowerPending, OperationActive: true}
	w.machine("y", "i-b", fleet.PowerOn, time.Minute)
	require.Empty(t, w.sweep().Findings)
	require.Empty(t, w.place.stopped)
}

func TestSweepDriftIsRecordedAndSaidOnce(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	id := w.serve("b")
	row := w.store.rows[id]
	row.State, row.Power, row.Serving = fleet.StateHibernating, fleet.PowerOff, false
	w.store.rows[id] = row
	for range 2 {
		f := w.only(w.sweep())
		require.Equal(t, FindingDrift, f.Kind)
		require.Contains(t, f.Detail, "hibernating")
		require.Equal(t, ActionNone, f.Action)
	}
	require.Equal(t, fleet.PowerOn, w.place.machines[id].Power)
	said := 0
	for _, e := range w.logs.AllEntries() {
		if e.Message == "the provider and the database differ" {
			said++
		}
	}
	require.Equal(t, 1, said)
}

func TestSweepPartialListConcludesNothingFromAbsence(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	for n := range 3 {
		w.serve(fmt.Sprintf("t%d", n))
	}
	delete(w.place.machines, "x-t1") // really gone, but who knows
	w.machine("a-stray", "i-s", fleet.PowerOn, time.Hour)
	w.place.fail["list-2"] = fleet.Errorf(fleet.KindThrottled, "too many requests")
	r := w.sweep()
	require.Contains(t, r.Partial, "page 2: too many requests")
	f := w.only(r)
	require.Equal(t, FindingStray, f.Kind, "presence is proof")
	require.Equal(t, ActionDeleted, f.Action)
	require.Empty(t, w.store.changes)

	w.place.fail["list"] = fleet.Errorf(fleet.KindUnavailable, "down")
	_, err := w.sweeper.Sweep(context.Background(), w.cluster)
	require.ErrorIs(t, err, errNothingListed)
	require.Empty(t, w.store.changes)
}

func TestSweepOtherHostsMachinesAreNotMissed(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t, func(o *SweeperOptions) {
		place := o.Places[fleet.ProviderSim]
		place.Local = true
		o.Places, o.Hosts = map[fleet.ProviderKind]Place{fleet.ProviderSim: place}, []fleet.HostID{"h1"}
	})
	w.serve("a")
	id := w.serve("b")
	row := w.store.rows[id]
	row.HostID = "h2"
	w.store.rows[id] = row
	delete(w.place.machines, id)
	r := w.sweep()
	require.Empty(t, r.Findings)
	require.Equal(t, 1, r.Expected)
}

func TestSweepContainsPanics(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serve("a")
	id := w.serve("b")
	delete(w.place.machines, id)
	w.place.boom = true
	r := w.sweep()
	require.Contains(t, w.only(r).Err, "panic: boom")
}

func TestSweepRoundGoesOnAfterAnError(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serve("a")
	draining := fleet.Cluster{ID: "c3", Name: "going", Provider: fleet.ProviderSim, State: fleet.ClusterDeletionRequested}
	elsewhere := fleet.Cluster{ID: "c4", Name: "elsewhere", Provider: fleet.ProviderKVM, State: fleet.ClusterStable}
	second := fleet.Cluster{ID: "c5", Name: "second", Provider: fleet.ProviderSim, State: fleet.ClusterStable}
	for _, c := range []fleet.Cluster{draining, elsewhere, second} {
		w.store.clusters = append(w.store.clusters, fleet.ClusterView{Cluster: c})
	}
	w.store.fail, w.store.failures = errors.New("torn connection"), 1
	require.ErrorContains(t, w.sweeper.Round(context.Background()), "listing the clusters to sweep: torn connection")
	w.sweeper.o.Store = &sweepTornStore{sweepFakeStore: w.store, torn: 1}
	err := w.sweeper.Round(context.Background())
	require.ErrorContains(t, err, "sweeping cluster local: torn")
	require.Equal(t, 1, w.store.calls["instances"], "the second cluster was swept all the same, and no other")
}

// sweepTornStore fails the first reads of the rows.
type sweepTornStore struct {
	*sweepFakeStore
	torn int
}

func (s *sweepTornStore) ExpectedInstances(ctx context.Context, id fleet.ClusterID) ([]fleet.ExpectedInstance, error) {
	if s.torn > 0 {
		s.torn--
		return nil, errors.New("torn")
	}
	return s.sweepFakeStore.ExpectedInstances(ctx, id)
}

func TestSweepRun(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serve("a")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.sweeper.Run(ctx) }()
	armed := func() {
		require.Eventually(t, func() bool { return w.clock.waiting() == 1 }, 10*time.Second, time.Millisecond)
	}
	armed()
	w.clock.advance(50 * time.Second)
	require.Zero(t, w.store.statements(), "the first round waits about a minute")
	w.clock.advance(20 * time.Second)
	armed()
	require.Equal(t, 2, w.store.statements(), "the clusters, and one statement per cluster")
	w.clock.advance(time.Minute)
	require.Equal(t, 2, w.store.statements())
	w.clock.advance(90 * time.Second)
	armed()
	require.Equal(t, 4, w.store.statements())
	cancel()
	require.NoError(t, <-done)
	require.Zero(t, w.clock.waiting())
}
