package installation

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func (w *sweepWorld) serveMany(n int) []fleet.InstanceID {
	ids := make([]fleet.InstanceID, n)
	for i := range n {
		ids[i] = w.serve(fmt.Sprintf("t%03d", i))
	}
	return ids
}

func TestSweepBrakeLimit(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		expected, lost int
		brake          string
	}{
		{10, 3, ""},
		{10, 4, "4 of 10 machines that should be on look broken, more than 3"},
		{50, 10, ""},
		{50, 11, "11 of 50 machines that should be on look broken, more than 10"},
		{3, 3, "the provider lists nothing at all, and 3 machines should be on"},
		{1, 1, "the provider lists nothing at all, and 1 machines should be on"},
	} {
		t.Run(fmt.Sprintf("%dOf%d", test.lost, test.expected), func(t *testing.T) {
			t.Parallel()
			w := newSweepWorld(t)
			for _, id := range w.serveMany(test.expected)[:test.lost] {
				delete(w.place.machines, id)
			}
			r := w.sweep()
			require.Equal(t, test.lost, r.Broken)
			require.Contains(t, r.Brake, test.brake)
			if test.brake == "" {
				require.Empty(t, r.Brake)
				require.Equal(t, test.lost, r.Count(ActionRestart))
				return
			}
			require.Equal(t, test.lost, r.Count(ActionHeld))
			require.Empty(t, w.store.changes)
			require.Zero(t, w.place.observed)
		})
	}
}

func TestSweepBrakeHoldsEverything(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	for _, id := range w.serveMany(10)[:4] {
		delete(w.place.machines, id)
	}
	w.machine("y", "i-y", fleet.PowerOn, time.Hour)
	w.place.volumes["v"] = fleet.VolumeStatus{ID: "v", CreatedAt: w.clock.Now().Add(-time.Hour)}
	w.store.deleted["v"] = true
	r := w.sweep()
	require.Equal(t, 6, r.Count(ActionHeld))
	require.Empty(t, w.place.deleted)
}

func TestSweepBrakeIsReleasedByTheNextPass(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	ids := w.serveMany(20)
	for _, id := range ids[:6] {
		delete(w.place.machines, id)
	}
	require.NotEmpty(t, w.sweep().Brake)
	w.clock.advance(30 * time.Second)
	require.NotEmpty(t, w.sweep().Brake, "a pass right behind it confirms nothing")
	// One has come back by itself, another is new.
	w.machine(ids[0], "i-t000", fleet.PowerOn, 0)
	delete(w.place.machines, ids[10])
	w.clock.advance(90 * time.Second)
	r := w.sweep()
	require.Empty(t, r.Brake)
	require.Equal(t, 4, r.Count(ActionRestart), "as many as the limit")
	require.Equal(t, 2, r.Count(ActionHeld))
	for _, c := range w.store.changes {
		require.NotEqual(t, "i-t010", c.IDOrName, "what broke only now has not been confirmed")
	}
}

func TestSweepBrakeForgetsWhatHealed(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	ids := w.serveMany(10)
	// A broken observer: nothing is listed, once.
	w.place.hidden = map[fleet.InstanceID]bool{}
	for _, id := range ids {
		w.place.hidden[id] = true
	}
	require.Contains(t, w.sweep().Brake, "10 of 10")
	w.place.hidden = nil
	w.clock.advance(2 * time.Minute)
	require.Empty(t, w.sweep().Findings)
	w.clock.advance(2 * time.Minute)
	for _, id := range ids[:5] {
		delete(w.place.machines, id)
	}
	require.NotEmpty(t, w.sweep().Brake, "it begins anew")
	require.Empty(t, w.store.changes)
}

func TestSweepABrokenListAloneNeverRestarts(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.place.hidden = map[fleet.InstanceID]bool{}
	for _, id := range w.serveMany(10) {
		w.place.hidden[id] = true
	}
	for range 4 {
		w.sweep()
		w.clock.advance(2 * time.Minute)
	}
	require.Empty(t, w.store.changes, "the second look shows that they are on")
}

func TestSweepBrakeOnStrays(t *testing.T) {
	t.Parallel()
	w := newSweepWorld(t)
	w.serveMany(2)
	// As after a restore of an old database.
	for n := range 5 {
		w.machine(fleet.InstanceID(fmt.Sprintf("y%d", n)), "", fleet.PowerOn, time.Hour)
	}
	r := w.sweep()
	require.Contains(t, r.Brake, "5 of 7 machines have no row, more than 3")
	require.Empty(t, w.place.deleted)
	w.clock.advance(2 * time.Minute)
	r = w.sweep()
	require.Empty(t, r.Brake)
	require.Equal(t, 3, r.Count(ActionDeleted))
}
