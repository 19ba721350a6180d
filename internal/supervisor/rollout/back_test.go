package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// Members on which the old release could not be put back were left so, and the
// rollout ended as rolled back.
func TestRollBackDoesNotEndWhileSomethingIsNotBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, 20, fleet.RolloutSpec{FirstWave: 4, Slots: 4})
	s.step()
	work := s.in(fleet.MemberRolling)
	for _, m := range work[:2] {
		s.finish(m)
	}
	s.pass(time.Minute)
	s.step()
	s.fail(work[2], fleet.ReasonProvider)
	s.fail(work[3], fleet.ReasonProvider)
	work[3].Behind = true // its way back failed as well
	s.Rollout.State = fleet.RolloutRollingBack
	d := s.step()
	require.ElementsMatch(t, []PutBack{{ID: work[0].InstallationID}, {ID: work[1].InstallationID}, {ID: work[3].InstallationID}}, d.RollBack)
	s.finish(work[1])
	s.finish(work[3])
	stuck := work[0]
	stuck.State, stuck.Reason, stuck.OperationID, stuck.Behind, work[3].Behind = fleet.MemberFailed, fleet.ReasonNotPutBack, "", true, false
	ended := *s
	d = ended.decide()
	require.Equal(t, fleet.RolloutHalted, d.State)
	require.Equal(t, fleet.ReasonNotPutBack, d.Reason)
	require.Empty(t, d.RollBack, "not again and again by itself")
	stuck.Reason = fleet.ReasonRolledBack // somebody asked for it
	require.Equal(t, []PutBack{{ID: stuck.InstallationID}}, s.decide().RollBack)
	stuck.Reason, stuck.Behind = fleet.ReasonNotPutBack, false // or has mended it
	require.Equal(t, fleet.RolloutRolledBack, s.decide().State)
}
