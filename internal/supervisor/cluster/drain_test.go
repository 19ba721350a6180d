package cluster

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

var now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func member(name string, change func(*fleet.DrainMember)) fleet.DrainMember {
	m := fleet.DrainMember{InstallationID: fleet.InstallationID(name), Name: name, State: fleet.StateStable, MemoryMiB: 100, DiskMiB: 10}
	if change != nil {
		change(&m)
	}
	return m
}

func moving(m *fleet.DrainMember) { m.Busy = fleet.OperationMove }

func busy(m *fleet.DrainMember) { m.State, m.Busy = fleet.StateUpdateInProgress, fleet.OperationUpdate }

func stays(m *fleet.DrainMember) { m.Failures, m.Reason = 1, fleet.ReasonDataCannotMove }

func large(m *fleet.DrainMember) { m.MemoryMiB = 5000 }

func failed(times int, ago time.Duration, why fleet.Reason) func(*fleet.DrainMember) {
	return func(m *fleet.DrainMember) {
		m.Failures, m.Reason, m.Detail, m.FailedAt = times, why, "it said so", now.Add(-ago)
	}
}

// fixed is a store that shows one look.
type fixed struct {
	look fleet.DrainLook
	err  error
}

func (f fixed) LookAtDrain(context.Context, fleet.HostID, []fleet.InstallationID) (fleet.DrainLook, error) {
	return f.look, f.err
}

// crowd is a store with many members; it remembers what was asked.
type crowd struct {
	look  fleet.DrainLook
	asked [][]fleet.InstallationID
}

func (c *crowd) LookAtDrain(_ context.Context, _ fleet.HostID, known []fleet.InstallationID) (fleet.DrainLook, error) {
	c.asked = append(c.asked, known)
	look := c.look
	look.Members = slices.DeleteFunc(slices.Clone(c.look.Members), func(m fleet.DrainMember) bool {
		return known != nil && !slices.Contains(known, m.InstallationID)
	})
	return look, nil
}

func (c *crowd) step(t *testing.T, w *engine.Workflow) fleet.Outcome {
	t.Helper()
	out, err := w.Steps[0].Run(t.Context(), &fleet.Snapshot{Operation: fleet.Operation{ID: "op", ResourceID: "h1"}})
	require.NoError(t, err)
	return out
}

// All are looked at in the beginning, from time to time, and before nobody is
// said to be left; in between, those that move and those that are near.
func TestDrainLooksAtThoseThatMatter(t *testing.T) {
	t.Parallel()
	var all []fleet.DrainMember
	for i := range 300 {
		all = append(all, member(fmt.Sprintf("m%03d", i), func(m *fleet.DrainMember) { m.MemoryMiB = 1 }))
	}
	moving(&all[299])
	c := &crowd{look: lookAt(3, all...)}
	w := Drain(DrainOptions{Store: c})
	require.Len(t, c.step(t, w).Changes.Drain.Begin, 2)
	require.Nil(t, c.asked[0])

	moving(&c.look.Members[0])
	c.look.Members = slices.Delete(c.look.Members, 1, 2) // m001 has left
	out := c.step(t, w)
	require.Len(t, c.asked[1], 101)
	require.Contains(t, c.asked[1], fleet.InstallationID("m299"), "which was moving")
	require.Contains(t, out.Detail, "0 of 299 have left", "what was found at first is in the operation")
	require.Len(t, out.Changes.Drain.Begin, 1)
	require.Equal(t, fleet.InstallationID("m002"), out.Changes.Drain.Begin[0].InstallationID)

	c.look.Now = now.Add(time.Minute)
	c.step(t, w)
	require.Nil(t, c.asked[3], "after a while, all again")
	c.look.Members = nil // a hundred are missed with each look
	for range 2 {
		require.Equal(t, fleet.VerdictWait, c.step(t, w).Verdict)
	}
	require.Equal(t, fleet.VerdictAdvance, c.step(t, w).Verdict)
	require.Nil(t, c.asked[len(c.asked)-1])
}

func lookAt(atOnce int, members ...fleet.DrainMember) fleet.DrainLook {
	return fleet.DrainLook{Host: fleet.Host{ID: "h1", Name: "one", State: fleet.HostDraining, DrainOperationID: "op", DrainAtOnce: atOnce}, Members: members, Now: now,
		Others: []fleet.Host{{ID: "h2", State: fleet.HostUp, MemoryMiB: 1000, DiskMiB: 1000}, {ID: "h3", State: fleet.HostUp, MemoryMiB: 150, DiskMiB: 1000}}}
}

// step runs the drain's one step on a look.
func step(t *testing.T, s fixed, observed map[string]string) (fleet.Outcome, error) {
	t.Helper()
	w := Drain(DrainOptions{Store: s})
	require.True(t, w.Endless)
	return w.Steps[0].Run(t.Context(), &fleet.Snapshot{Operation: fleet.Operation{ID: "op", ResourceID: "h1", Observed: observed}})
}

func TestDrainDecides(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		look    fleet.DrainLook
		begins  []string
		verdict fleet.Verdict
		reason  fleet.Reason
		says    string
		over    bool
	}{
		"WithinTheLimit": {lookAt(2, member("a", moving), member("b", nil), member("c", nil)), []string{"b"}, fleet.VerdictWait, fleet.WaitMoves,
			"0 of 3 have left host one, 2 are moving", false},
		"NoMoreThanFit": {lookAt(99, member("a", large), member("b", nil), member("c", func(m *fleet.DrainMember) { m.MemoryMiB = 950 })), []string{"b"}, fleet.VerdictWait, fleet.WaitMoves,
			"2 find no other host with room", false},
		"WaitsForRoom": {lookAt(2, member("a", large)), nil, fleet.VerdictWait, fleet.WaitCapacity, "1 find no other host with room", false},
		"SleepersNeedDiskOnly": {lookAt(9, member("a", func(m *fleet.DrainMember) { m.State, m.MemoryMiB, m.DiskMiB = fleet.StateHibernating, 0, 1000 }),
			member("b", func(m *fleet.DrainMember) { m.State, m.MemoryMiB, m.DiskMiB = fleet.StateHibernating, 0, 1001 })), []string{"a"}, fleet.VerdictWait, fleet.WaitMoves, "", false},
		"BusyGoFirst": {lookAt(2, member("a", busy)), nil, fleet.VerdictWait, fleet.WaitMoves, "1 have other work under way", false},
		"BacksOff": {lookAt(2, member("a", failed(1, 9*time.Second, fleet.ReasonNotHealthy))), nil, fleet.VerdictWait, fleet.WaitBackoff,
			"1 failed; a (stable): not-healthy-in-time it said so", false},
		"TriesAgain":      {lookAt(2, member("a", failed(1, 11*time.Second, fleet.ReasonNotHealthy))), []string{"a"}, fleet.VerdictWait, fleet.WaitMoves, "", false},
		"BacksOffLonger":  {lookAt(2, member("a", failed(3, 39*time.Second, fleet.ReasonNotHealthy))), nil, fleet.VerdictWait, fleet.WaitBackoff, "", false},
		"NotForEver":      {lookAt(2, member("a", failed(60, 6*time.Minute, fleet.ReasonNotHealthy))), []string{"a"}, fleet.VerdictWait, fleet.WaitMoves, "", false},
		"LostTheRoom":     {lookAt(2, member("a", failed(4, time.Second, fleet.ReasonCapacity))), nil, fleet.VerdictWait, fleet.WaitCapacity, "", false},
		"DeletionFailed":  {lookAt(2, member("a", func(m *fleet.DrainMember) { m.State = fleet.StateDeletionFailed })), nil, fleet.VerdictWait, fleet.WaitMoves, "1 failed; a (deletion-failed)", false},
		"GoesOnWithRest":  {lookAt(2, member("a", stays), member("b", nil)), []string{"b"}, fleet.VerdictWait, fleet.WaitMoves, "1 stay, because their data can't be moved", false},
		"OnlyThoseStay":   {lookAt(2, member("a", stays), member("b", stays)), nil, fleet.VerdictFail, fleet.ReasonDataCannotMove, "2 stay", true},
		"Done":            {lookAt(2), nil, fleet.VerdictAdvance, "", "", true},
		"AtOnceIsAtLeast": {lookAt(0, member("a", nil), member("b", nil)), []string{"a"}, fleet.VerdictWait, fleet.WaitMoves, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := step(t, fixed{look: c.look}, nil)
			require.NoError(t, err)
			require.Equal(t, c.verdict, out.Verdict)
			require.Equal(t, c.reason, out.Reason, out.Detail)
			require.Contains(t, out.Detail, c.says)
			var begins []string
			if d := out.Changes.Drain; d != nil {
				require.Equal(t, c.over, d.Over)
				require.Equal(t, fleet.OperationID("op"), d.OperationID)
				for _, b := range d.Begin {
					require.NotEmpty(t, b.OperationID)
					begins = append(begins, string(b.InstallationID))
				}
			} else {
				require.False(t, c.over)
			}
			require.Equal(t, c.begins, begins)
			if c.verdict == fleet.VerdictWait {
				require.Positive(t, out.After)
			}
		})
	}
}

func TestDrainCountsFromTheMostThatItSaw(t *testing.T) {
	t.Parallel()
	out, err := step(t, fixed{look: lookAt(2, member("a", moving), member("b", moving))}, map[string]string{"total": "5"})
	require.NoError(t, err)
	require.Contains(t, out.Detail, "3 of 5 have left")
	require.Equal(t, "5", out.Changes.Observed["total"])
	out, err = step(t, fixed{look: lookAt(2, member("a", moving), member("b", moving))}, map[string]string{"total": "1"})
	require.NoError(t, err)
	require.Equal(t, "2", out.Changes.Observed["total"])
}

func TestDrainThatIsNoMore(t *testing.T) {
	t.Parallel()
	out, err := step(t, fixed{err: fleet.Errorf(fleet.KindNotFound, "no such host")}, nil)
	require.NoError(t, err)
	require.Equal(t, fleet.VerdictAdvance, out.Verdict)
	down := lookAt(2, member("a", nil))
	down.Host.State = fleet.HostDown
	another := lookAt(2, member("a", nil))
	another.Host.DrainOperationID = "another"
	for _, look := range []fleet.DrainLook{down, another} {
		out, err = step(t, fixed{look: look}, nil)
		require.NoError(t, err)
		require.Equal(t, fleet.VerdictFail, out.Verdict)
		require.Nil(t, out.Changes.Drain)
	}
	_, err = step(t, fixed{err: fleet.Errorf(fleet.KindUnavailable, "no database")}, nil)
	require.Error(t, err)
}
