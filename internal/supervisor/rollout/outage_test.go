package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// Every process was down for a night. What had been in work until then was held
// to have been in work all night, and the rollout halted as soon as somebody looked.
func TestANightInWhichNobodyLookedIsNoLackOfProgress(t *testing.T) {
	t.Parallel()
	v := newScene(t, 200, fleet.RolloutSpec{}).View
	for i := range v.Members[:3] {
		m := &v.Members[i]
		m.State, m.OperationID, m.Attempts, m.StartedAt = fleet.MemberRolling, "op", 1, epoch
	}
	night := epoch.Add(8 * time.Hour)
	v.Now, v.WatchedSince = night, night
	require.Equal(t, fleet.RolloutRunning, Decide(v).State)
	v.Now = night.Add(v.Rollout.Spec.ProgressDeadline + time.Second)
	d := Decide(v)
	require.Equal(t, []any{fleet.RolloutHalted, fleet.ReasonNoProgress}, []any{d.State, d.Reason})
}

// A member that nobody can see soaks for twice as long; a night in which nobody
// looked counted as that.
func TestANightInWhichNobodyLookedIsNoSoakOfTheUnseen(t *testing.T) {
	t.Parallel()
	v := newScene(t, 200, fleet.RolloutSpec{}).View
	for i := range v.Members[:3] {
		m := &v.Members[i]
		m.State, m.Attempts, m.StartedAt, m.FinishedAt = fleet.MemberDone, 1, epoch, epoch
		m.Health, m.GoodSince, m.ObservedAt = fleet.HealthUnknown, time.Time{}, time.Time{}
	}
	night := epoch.Add(8 * time.Hour)
	v.Now, v.WatchedSince = night, night
	d := Decide(v)
	require.Equal(t, []any{fleet.WaitSoak, 0}, []any{d.Reason, d.Wave})
	// Seen to be well now, and done all night: it has soaked.
	for i := range v.Members[:3] {
		v.Members[i].Health, v.Members[i].ObservedAt = fleet.HealthHealthy, night
	}
	require.NotZero(t, Decide(v).Wave)
}
