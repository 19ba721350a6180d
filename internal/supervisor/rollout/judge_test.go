package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// begun is a scene whose first wave has the new release since a minute, and is done.
func begun(t *testing.T, n int) *scene {
	t.Helper()
	s := newScene(t, n, fleet.RolloutSpec{})
	s.step()
	s.pass(time.Minute)
	for _, m := range s.in(fleet.MemberRolling) {
		s.finish(m)
	}
	s.pass(time.Minute)
	s.step()
	require.NotEmpty(t, s.in(fleet.MemberDone))
	return s
}

func TestFailuresOfOneMomentDoNotConvict(t *testing.T) {
	t.Parallel()
	s := newScene(t, 2000, fleet.RolloutSpec{})
	s.step()
	s.pass(time.Minute)
	for _, m := range s.in(fleet.MemberRolling) {
		s.fail(m, fleet.ReasonCrashLoop)
	}
	d := s.step()
	require.Equal(t, fleet.RolloutRunning, d.State, "whatever hit ten at once may not have been the release")
	require.Equal(t, fleet.WaitEvidence, d.Reason)
	require.Empty(t, d.Retry, "the old release has not been seen to be well yet")

	d = s.pass(cureFor).step()
	require.Len(t, d.Retry, retriesLeast, "a few show whether it is")
	require.Empty(t, d.Update)
	for _, m := range s.in(fleet.MemberRolling) {
		s.fail(m, fleet.ReasonCrashLoop)
	}
	d = s.step()
	require.Equal(t, fleet.RolloutHalted, d.State)
	require.Equal(t, fleet.ReasonJudgedBad, d.Reason)
	require.Contains(t, d.Detail, "the release is bad for all: 10 of 10 failed, 3 of them again")
}

func TestThoseThatPassTheSecondTimeAcquit(t *testing.T) {
	t.Parallel()
	s := newScene(t, 2000, fleet.RolloutSpec{})
	s.step()
	for _, m := range s.in(fleet.MemberRolling) {
		s.fail(m, fleet.ReasonNotHealthy)
	}
	s.pass(cureFor)
	cleared := 0
	for range 200 {
		d := s.step()
		require.Equal(t, fleet.RolloutRunning, d.State)
		cleared += len(d.Cleared)
		if len(d.Update) > 0 {
			break
		}
		for _, m := range s.in(fleet.MemberRolling) {
			if m.OperationID != "" {
				s.finish(m)
			}
		}
		s.pass(3 * time.Minute)
	}
	require.Equal(t, 10, cleared)
	require.Len(t, s.in(fleet.MemberRolling), 30, "the next wave has begun")
	for _, m := range s.wave(0) {
		require.Zero(t, m.Strikes)
		require.Equal(t, 2, m.Attempts)
	}
}

func TestBadLaterWhileTheUntouchedAreWell(t *testing.T) {
	t.Parallel()
	s := begun(t, 2000)
	s.pass(time.Hour)
	for _, m := range s.wave(0)[:9] {
		s.spoil(m)
	}
	require.Equal(t, fleet.RolloutRunning, s.pass(3*time.Minute).step().State, "one bad answer is not much")
	d := s.pass(2 * time.Minute).step()
	require.Equal(t, fleet.RolloutHalted, d.State, "the untouched are well at this moment: it is not the observer")
	require.Contains(t, d.Detail, "9 of 10 failed, while 1990 that have the old release are well")
}

func TestBrake(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spoils func(m *fleet.RolloutMember) bool
		held   bool
	}{
		"everybody":               {func(*fleet.RolloutMember) bool { return true }, true},
		"one cluster":             {func(m *fleet.RolloutMember) bool { return m.ClusterID == "east" }, true},
		"a tenth":                 {func(m *fleet.RolloutMember) bool { return m.Order%10 == 0 }, true},
		"as many as fail anyway":  {func(m *fleet.RolloutMember) bool { return m.Order%50 == 13 }, false},
		"only those begun, badly": {func(m *fleet.RolloutMember) bool { return m.Wave == 0 && m.Order < 3 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := begun(t, 2000)
			s.pass(30 * time.Minute)
			for i := range s.Members {
				if test.spoils(&s.Members[i]) {
					s.spoil(&s.Members[i])
				}
			}
			d := s.pass(5 * time.Minute).step()
			require.Equal(t, fleet.RolloutRunning, d.State)
			require.Equal(t, test.held, d.Reason == fleet.WaitObserver, "%s", d.Detail)
			if test.held {
				require.Empty(t, d.RollBack, "nobody is put back on the word of an observer in doubt")
				// When it is over, it goes on as if nothing had been.
				s.pass(20 * time.Minute)
				for i := range s.Members {
					if m := &s.Members[i]; !m.BadSince.IsZero() {
						m.Health, m.BadSince, m.GoodSince = fleet.HealthHealthy, time.Time{}, s.Now
					}
				}
				d = s.step()
				require.Equal(t, fleet.WaitSoak, d.Reason)
				require.Zero(t, d.Evidence.Odds)
			}
		})
	}
}

func TestBlindObserverHolds(t *testing.T) {
	t.Parallel()
	s := begun(t, 2000)
	s.pass(3 * time.Hour)
	blind := *s
	for i := range s.Members {
		s.Members[i].Health = fleet.HealthUnknown
	}
	d := s.decide()
	require.Equal(t, fleet.WaitObserver, d.Reason)
	require.Empty(t, d.Update)
	for i := range blind.Members {
		blind.Members[i].Health = fleet.HealthHealthy
	}
	require.NotEmpty(t, blind.decide().Update)
}

func TestFaultOfOneStratum(t *testing.T) {
	t.Parallel()
	s := newScene(t, 2000, fleet.RolloutSpec{})
	s.step()
	for round := 0; ; round++ {
		require.Less(t, round, 20)
		for _, m := range s.in(fleet.MemberRolling) {
			if m.OperationID != "" && m.MemoryMiB == 512 {
				s.fail(m, fleet.ReasonCrashLoop)
			} else if m.OperationID != "" {
				s.finish(m)
			}
		}
		s.pass(2 * time.Minute)
		if d := s.step(); d.State != fleet.RolloutRunning {
			require.Contains(t, d.Detail, "memory 512 MiB")
			require.Equal(t, 10, d.Evidence.Begun)
			return
		}
	}
}

// bad leads a member through failures on the new release, well on the old one
// in between, until the rollout halts or nothing more is tried.
func bad(t *testing.T, s *scene, m *fleet.RolloutMember, reason fleet.Reason) Decision {
	t.Helper()
	var d Decision
	for range 60 {
		if m.OperationID != "" {
			s.fail(m, reason)
		}
		d = s.step()
		if d.State != fleet.RolloutRunning {
			return d
		}
		s.pass(5 * time.Minute)
	}
	return d
}

func TestExperimentOnOneTenant(t *testing.T) {
	t.Parallel()
	s := newScene(t, 2000, fleet.RolloutSpec{})
	s.step()
	for _, m := range s.in(fleet.MemberRolling)[1:] {
		s.finish(m)
	}
	m := s.wave(0)[0]
	d := bad(t, s, m, fleet.ReasonCrashLoop)
	require.Equal(t, fleet.RolloutHalted, d.State, "old: well, new: bad, again and again")
	require.GreaterOrEqual(t, m.Attempts, 3)

	s = newScene(t, 2000, fleet.RolloutSpec{})
	s.step()
	for _, m := range s.in(fleet.MemberRolling)[1:] {
		s.finish(m)
	}
	m = s.wave(0)[0]
	s.fail(m, fleet.ReasonCrashLoop)
	s.spoil(m)
	s.pass(5 * time.Minute)
	d = s.step()
	require.Equal(t, fleet.RolloutRunning, d.State)
	s.pass(sickAfter)
	d = s.step()
	require.Empty(t, d.Retry, "the old release is no better")
	require.Equal(t, fleet.WaitSoak, d.Reason, "it was not the release's fault, and is not waited for")
}

func TestPlatformReasonsWeighLittle(t *testing.T) {
	t.Parallel()
	odds := map[fleet.Reason]float64{}
	for _, reason := range []fleet.Reason{fleet.ReasonProvider, fleet.ReasonCrashLoop} {
		s := newScene(t, 2000, fleet.RolloutSpec{})
		s.step()
		for i, m := range s.in(fleet.MemberRolling) {
			if s.finish(m); i == 0 {
				s.fail(m, reason)
			}
		}
		odds[reason] = s.pass(time.Minute).decide().Evidence.Odds
	}
	require.Greater(t, odds[fleet.ReasonCrashLoop], 3*odds[fleet.ReasonProvider])
}

func TestRetriesAreFewUntilTheyPass(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1000, fleet.RolloutSpec{FirstWave: 100, Slots: 100})
	s.step()
	for i, m := range s.in(fleet.MemberRolling) {
		if s.finish(m); i%2 == 0 {
			s.fail(m, fleet.ReasonProvider)
		}
	}
	s.pass(cureFor)
	var attempts []int
	for range 40 {
		d := s.step()
		if len(d.Retry) > 0 {
			attempts = append(attempts, len(d.Retry))
		}
		for _, m := range s.in(fleet.MemberRolling) {
			if m.OperationID != "" {
				s.finish(m)
			}
		}
		s.pass(3 * time.Minute)
	}
	require.Equal(t, 3, attempts[0])
	require.Greater(t, attempts[len(attempts)-1], 10, "%v", attempts)
}

func TestForcedGoesOn(t *testing.T) {
	t.Parallel()
	s := begun(t, 2000)
	s.pass(3 * time.Hour)
	for _, m := range s.wave(0) {
		s.spoil(m)
	}
	s.pass(5 * time.Minute)
	halted := *s
	require.Equal(t, fleet.RolloutHalted, halted.decide().State)
	s.Rollout.Forced = true
	d := s.step()
	require.Equal(t, fleet.RolloutRunning, d.State)
	require.NotEmpty(t, d.RollBack, "those that are bad are put back all the same")
	require.Greater(t, d.Evidence.Odds, float64(haltOdds), "and it is shown")
}

func TestWithoutComparisonFewArePutBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, 100, fleet.RolloutSpec{FirstWave: 100, Slots: 100, Soak: time.Hour})
	s.roll(100)
	s.pass(30 * time.Minute)
	for i := range s.Members {
		s.spoil(&s.Members[i])
	}
	d := s.pass(5 * time.Minute).step()
	require.Equal(t, fleet.RolloutRunning, d.State, "nobody is left to compare with")
	require.Len(t, d.RollBack, 2*putBackLeast, "a few of each cluster")
	// The observer is broken: they look no better on the old release.
	for _, m := range s.in(fleet.MemberRollingBack) {
		s.finish(m)
		s.spoil(m)
	}
	d = s.pass(5 * time.Minute).step()
	require.Equal(t, fleet.RolloutRunning, d.State)
	require.Len(t, d.RollBack, 2*putBackLeast, "and no more than that at once")
}

// An outage of the observer when all had the release: many were put back before it was
// over. Those of them that were not seen at once when it was, because the observer
// gave no answer, were held to be bad on the release at a moment when the others were well on the old one.
func TestWhoWasPutBackInAnOutageDoesNotConvict(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		// back, unseen and bad are how many of ten were put back, are not seen since, and are bad on the release.
		back, unseen, bad int
		state             fleet.RolloutState
	}{
		"well on both since":         {3, 0, 0, fleet.RolloutRunning},
		"some are unseen":            {3, 1, 0, fleet.RolloutRunning},
		"all are back, some unseen":  {10, 1, 0, fleet.RolloutRunning},
		"well on the old one only":   {3, 0, 7, fleet.RolloutHalted},
		"well on the old one mostly": {3, 0, 5, fleet.RolloutHalted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 400, fleet.RolloutSpec{}).roll(400)
			s.Rollout.State = fleet.RolloutRunning
			s.pass(2 * time.Hour)
			begins := s.Now
			s.pass(20 * time.Minute)
			for i := range s.Members {
				m, n := &s.Members[i], i%10
				m.Health, m.GoodSince, m.BadSince = fleet.HealthHealthy, s.Now, time.Time{}
				if n < test.back {
					m.State, m.Attempts, m.Strikes, m.Reason = fleet.MemberRolledBack, 1, 1, fleet.ReasonTurnedUnhealthy
					m.StartedAt, m.FinishedAt = begins.Add(5*time.Minute), begins.Add(6*time.Minute)
				}
				if n < test.unseen {
					m.Health, m.BadSince, m.GoodSince = fleet.HealthUnknown, m.FinishedAt, time.Time{}
				}
				if n >= test.back && n < test.back+test.bad {
					m.Health, m.BadSince, m.GoodSince = fleet.HealthUnhealthy, begins, time.Time{}
				}
			}
			d := s.decide()
			require.Equal(t, test.state, d.State, "%g %s", d.Evidence.Odds, d.Detail)
		})
	}
}
