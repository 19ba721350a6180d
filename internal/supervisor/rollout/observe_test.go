package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestOneGoodAnswerAmongBadOnesEndsNothing(t *testing.T) {
	t.Parallel()
	var m fleet.RolloutMember
	at := func(minute int) time.Time { return epoch.Add(time.Duration(minute) * time.Minute) }
	for minute, answer := range []fleet.HealthState{fleet.HealthHealthy, fleet.HealthUnhealthy, fleet.HealthHealthy, fleet.HealthUnhealthy, fleet.HealthUnknown} {
		Observed(&m, answer, at(minute))
	}
	require.Equal(t, at(1), m.BadSince)
	require.Zero(t, m.GoodSince)
	require.Equal(t, at(4), m.ObservedAt)
	Observed(&m, fleet.HealthHealthy, at(5))
	require.Equal(t, at(1), m.BadSince, "it may have been wrong")
	Observed(&m, fleet.HealthHealthy, at(6))
	require.Zero(t, m.BadSince)
	require.Equal(t, at(5), m.GoodSince)
}

// An outage that began with the rollout had all waves but the last passed over.
func TestAWaveThatLooksBadForAMomentIsNotPassedOver(t *testing.T) {
	t.Parallel()
	s := newScene(t, 2000, fleet.RolloutSpec{})
	for i := range s.Members {
		s.spoil(&s.Members[i])
	}
	s.pass(time.Minute)
	d := s.step()
	require.Equal(t, fleet.WaitObserver, d.Reason)
	require.Empty(t, d.Update)
	require.Zero(t, d.Wave)
	d = s.pass(time.Hour).step()
	require.Equal(t, fleet.WaitObserver, d.Reason, "the brake is on")
	s.pass(time.Minute)
	for i := range s.Members {
		Observed(&s.Members[i], fleet.HealthHealthy, s.Now)
		Observed(&s.Members[i], fleet.HealthHealthy, s.Now)
	}
	d = s.step()
	require.Len(t, d.Update, 10)
	require.Zero(t, d.Wave)
}

func TestAWaveThatAnswersBadlyIsNotLeft(t *testing.T) {
	t.Parallel()
	s := begun(t, 2000)
	s.pass(3 * time.Hour)
	for _, m := range s.in(fleet.MemberDone)[:3] {
		s.spoil(m)
	}
	d := s.pass(time.Minute).decide()
	require.Equal(t, fleet.WaitSoak, d.Reason, "%s", d.Detail)
	require.Zero(t, d.Wave)
	for _, m := range s.in(fleet.MemberDone)[:2] {
		m.Health, m.BadSince, m.GoodSince = fleet.HealthHealthy, time.Time{}, s.Now
	}
	require.Equal(t, 1, s.decide().Wave)
}

// Whatever could explain that most of the first wave failed, the next does not
// begin until trying again has told more.
func TestAWaveOfWhichManyFailedIsNotLeft(t *testing.T) {
	t.Parallel()
	s := newScene(t, 2000, fleet.RolloutSpec{})
	s.step()
	s.pass(time.Minute)
	for i, m := range s.in(fleet.MemberRolling) {
		if s.finish(m); i < 3 {
			s.fail(m, fleet.ReasonProvider) // which is weak evidence
		}
	}
	d := s.pass(time.Minute).step()
	require.Equal(t, fleet.WaitEvidence, d.Reason)
	require.Empty(t, d.Update)
}
