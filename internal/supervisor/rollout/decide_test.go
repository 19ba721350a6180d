package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

const noSoak = -time.Second

func TestSlotsRefillAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t, 200, fleet.RolloutSpec{Slots: 4, FirstWave: 50, Soak: noSoak})
	require.Len(t, s.step().Update, 4)
	require.Empty(t, s.decide().Update, "no slot is free")
	work := s.in(fleet.MemberRolling)
	s.finish(work[2])
	require.Empty(t, s.step().Update, "it has not passed its gate, and keeps its slot")
	s.pass(10 * time.Second)
	d := s.step()
	require.Equal(t, []fleet.InstallationID{work[2].InstallationID}, d.Done)
	require.Len(t, d.Update, 1, "in the same decision")
	s.fail(work[0], fleet.ReasonProvider)
	require.Len(t, s.decide().Update, 1, "failed counts as failed, and not as rolling")
}

func TestSlotsAsPercentage(t *testing.T) {
	t.Parallel()
	s := newScene(t, 60, fleet.RolloutSpec{SlotsPercent: 11, FirstWave: 50})
	s.Members[59].State = fleet.MemberGone
	require.Len(t, s.decide().Update, 7, "11 % of 59 is 6.49")
	s = newScene(t, 60, fleet.RolloutSpec{SlotsPercent: 0.1, FirstWave: 50})
	require.Len(t, s.decide().Update, 1, "one at least")
}

func TestBusyIsNeitherTouchedNorWaitedFor(t *testing.T) {
	t.Parallel()
	s := newScene(t, 40, fleet.RolloutSpec{FirstWave: 3, Soak: noSoak, Slots: 40})
	busy, gone := s.wave(0)[1], s.wave(0)[2]
	busy.Busy, gone.State = true, fleet.MemberGone
	s.roll(38)
	d := s.pass(time.Minute).decide()
	require.Equal(t, fleet.RolloutRunning, d.State, "the end waits a little for the busy")
	require.Equal(t, fleet.WaitMembers, d.Reason)
	require.Equal(t, BusyLook, d.Next, "it is seen soon that it is free")
	busy.Busy = false
	d = s.step()
	require.Equal(t, []fleet.InstallationID{busy.InstallationID}, d.Update, "it is taken at the end")
	busy.Busy, busy.OperationID, busy.State = true, "", fleet.MemberWaiting
	d = s.pass(busyGrace).decide()
	require.Equal(t, fleet.RolloutSucceeded, d.State, "but does not wait for ever")
	require.Contains(t, d.Detail, "38 of 39 installations have the new release, 1 were busy")
}

func TestHealthGate(t *testing.T) {
	t.Parallel()
	const passes, waits, back = "passes", "waits", "is put back"
	for name, test := range map[string]struct {
		after time.Duration
		with  func(s *scene, m *fleet.RolloutMember)
		want  string
	}{
		"too early":                {29 * time.Second, nil, waits},
		"healthy for long enough":  {30 * time.Second, nil, passes},
		"never looked at":          {time.Minute, func(_ *scene, m *fleet.RolloutMember) { m.ObservedAt = m.FinishedAt }, waits},
		"became good late":         {90 * time.Second, func(s *scene, m *fleet.RolloutMember) { m.GoodSince = s.Now.Add(-20 * time.Second) }, waits},
		"bad for a moment":         {time.Minute, func(s *scene, m *fleet.RolloutMember) { s.spoil(m) }, waits},
		"unknown":                  {2 * time.Minute, func(_ *scene, m *fleet.RolloutMember) { m.Health = fleet.HealthUnknown }, waits},
		"unknown past its time":    {3 * time.Minute, func(_ *scene, m *fleet.RolloutMember) { m.Health = fleet.HealthUnknown }, passes},
		"busy":                     {time.Minute, func(_ *scene, m *fleet.RolloutMember) { m.Busy = true }, waits},
		"fell asleep":              {time.Minute, func(_ *scene, m *fleet.RolloutMember) { m.Asleep = true }, passes},
		"bad at its deadline":      {150 * time.Second, func(s *scene, m *fleet.RolloutMember) { s.spoil(m) }, back},
		"bad from the beginning":   {4 * time.Minute, func(_ *scene, m *fleet.RolloutMember) { m.Health, m.BadSince = fleet.HealthUnhealthy, epoch }, back},
		"bad before it was begun":  {2 * time.Minute, func(_ *scene, m *fleet.RolloutMember) { m.Health, m.BadSince = fleet.HealthUnhealthy, epoch }, waits},
		"unknown after bad":        {9 * time.Minute, func(_ *scene, m *fleet.RolloutMember) { m.Health, m.BadSince = fleet.HealthUnknown, epoch }, waits},
		"the operation still runs": {9 * time.Minute, func(_ *scene, m *fleet.RolloutMember) { m.OperationID = "op" }, waits},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 40, fleet.RolloutSpec{HealthyFor: 30 * time.Second, HealthDeadline: 2 * time.Minute, FirstWave: 1})
			s.step()
			m := s.in(fleet.MemberRolling)[0]
			s.pass(time.Minute)
			s.finish(m)
			s.pass(test.after)
			if test.with != nil {
				test.with(s, m)
			}
			d := s.decide()
			got := waits
			switch {
			case len(d.Done) == 1:
				got = passes
			case len(d.RollBack) == 1:
				got = back
				require.NotEmpty(t, d.RollBack[0].Reason)
			}
			require.Equal(t, test.want, got)
			if got == waits {
				require.Positive(t, d.Next, "somebody has to look again")
			}
		})
	}
}

func TestNothingBeginsUnlessItRuns(t *testing.T) {
	t.Parallel()
	for _, state := range fleet.RolloutStates() {
		if state == fleet.RolloutRunning {
			continue
		}
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 100, fleet.RolloutSpec{Slots: 5, FirstWave: 20})
			s.step()
			work := s.in(fleet.MemberRolling)
			s.finish(work[0])
			s.fail(work[1], fleet.ReasonCrashLoop)
			s.pass(time.Hour)
			s.Rollout.State, s.Rollout.Reason, s.Rollout.Detail = state, fleet.ReasonMetric, "as it was"
			d := s.decide()
			require.Equal(t, state, d.State)
			require.Equal(t, "as it was", d.Detail)
			switch state {
			case fleet.RolloutPaused, fleet.RolloutHalted:
				require.Len(t, d.Done, 1, "what is under way comes to its end")
			case fleet.RolloutRollingBack:
				require.Empty(t, d.Done)
				require.Len(t, d.RollBack, 1)
			default:
				require.Equal(t, Decision{State: state, Reason: fleet.ReasonMetric, Detail: "as it was", Wave: d.Wave, WaveSince: d.WaveSince}, d)
			}
		})
	}
}

func TestRollBackPutsBackWhatWasTouched(t *testing.T) {
	t.Parallel()
	s := newScene(t, 60, fleet.RolloutSpec{Slots: 5, FirstWave: 20, Soak: noSoak})
	s.Members[3].Asleep = true
	s.roll(12)
	s.step()
	require.NotEmpty(t, s.in(fleet.MemberRolling))
	s.Rollout.State = fleet.RolloutRollingBack
	verified := s.in(fleet.MemberVerified)
	require.Len(t, verified, 1)
	busy := s.in(fleet.MemberDone)[0]
	busy.Busy = true
	d := s.step()
	require.Equal(t, fleet.RolloutRollingBack, d.State)
	require.Greater(t, len(d.RollBack), 5, "the way back has more slots than the way forward, and those under way keep theirs")
	require.Len(t, d.Recall, len(s.in(fleet.MemberRolling)), "what is under way is given up")
	require.NotEmpty(t, d.Recall)
	for _, id := range d.Recall {
		m := s.member(id)
		s.finish(m)
		m.State = fleet.MemberRolledBack
	}
	for range 20 {
		for i := range s.Members {
			if s.Members[i].OperationID != "" {
				s.finish(&s.Members[i])
			}
		}
		d = s.step()
		require.Empty(t, d.Done)
		if len(d.RollBack) == 0 {
			break
		}
	}
	require.Equal(t, fleet.RolloutRollingBack, d.State, "a busy one was touched, and has to be put back")
	busy.Busy = false
	require.Len(t, s.step().RollBack, 1)
	s.finish(busy)
	require.Equal(t, fleet.RolloutRolledBack, s.step().State)
	require.Empty(t, s.in(fleet.MemberDone))
	require.Equal(t, fleet.MemberRolledBack, verified[0].State, "a sleeper must not wake on it")
	require.Len(t, s.in(fleet.MemberRolledBack), 60-len(s.in(fleet.MemberWaiting)))
}

func TestRollBackIsUrgent(t *testing.T) {
	t.Parallel()
	s := newScene(t, 200, fleet.RolloutSpec{Slots: 1, FirstWave: 100, Soak: noSoak})
	for i := range s.Members[:100] {
		m := &s.Members[i]
		m.State, m.Attempts = fleet.MemberDone, 1
		s.finish(m)
	}
	s.Rollout.State = fleet.RolloutRollingBack
	rounds := 0
	for s.Rollout.State == fleet.RolloutRollingBack {
		rounds++
		s.step()
		for _, m := range s.in(fleet.MemberRollingBack) {
			s.finish(m)
			m.Health = fleet.HealthUnhealthy // which nothing waits for
		}
	}
	require.Equal(t, backRounds+1, rounds, "however few slots it has, everything is back after so many rounds")
}

func TestSoakBetweenWaves(t *testing.T) {
	t.Parallel()
	s := newScene(t, 2000, fleet.RolloutSpec{Soak: time.Hour})
	s.roll(10)
	d := s.step()
	require.Equal(t, fleet.WaitSoak, d.Reason)
	require.Zero(t, d.Wave)
	require.Equal(t, backstop, d.Next)
	require.Less(t, s.pass(56*time.Minute).decide().Next, 5*time.Minute)
	s.pass(-56 * time.Minute)
	unseen := s.wave(0)[0]
	s.pass(time.Hour)
	unseen.Health, unseen.ObservedAt = fleet.HealthUnknown, s.Now.Add(-30*time.Minute)
	require.Empty(t, s.step().Update, "one of the first few was out of sight for half of it")
	unseen.Health, unseen.ObservedAt = fleet.HealthHealthy, s.Now
	d = s.step()
	require.Equal(t, 1, d.Wave)
	require.Equal(t, s.Now, d.WaveSince)
	require.Len(t, d.Update, 30)
	s.roll(160)
	require.Equal(t, 2, s.Rollout.Wave)
	before := s.Now
	s.roll(1900)
	require.Less(t, s.Now.Sub(before), 2*time.Hour, "large waves flow")
	s.roll(2000)
	d = s.step()
	require.Equal(t, fleet.WaitSoak, d.Reason, "the last ones are watched as well")
	require.Equal(t, fleet.RolloutSucceeded, s.pass(time.Hour).step().State)
}

func TestWavesGrowWithEvidence(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1000, fleet.RolloutSpec{Soak: noSoak, FirstWave: 10, Slots: 500})
	require.Len(t, s.step().Update, 10)
	work := s.in(fleet.MemberRolling)
	for _, m := range work[:2] {
		s.finish(m)
	}
	d := s.pass(time.Minute).step()
	require.Len(t, d.Done, 2)
	require.Empty(t, d.Update, "two say too little for more than ten")
	for _, m := range work[2:4] {
		s.finish(m)
	}
	d = s.pass(time.Minute).step()
	require.Len(t, d.Update, 6, "4 × 4 may be begun, and 10 are")
	require.Equal(t, 1, s.Rollout.Wave)
}

func TestRingsInOrder(t *testing.T) {
	t.Parallel()
	short := 10 * time.Minute
	s := newScene(t, 60, fleet.RolloutSpec{Slots: 60, FirstWave: 60, Soak: time.Hour, Rings: []fleet.RolloutRing{
		{Labels: map[string]string{"tier": "pro"}, Soak: &short}, {Percent: 50}, {}}})
	ofRing := func(ring int) (members int, free *fleet.RolloutMember) {
		for i := range s.Members {
			if m := &s.Members[i]; m.Ring == ring {
				members++
				free = m
			}
		}
		return members, free
	}
	first, late := ofRing(0)
	late.Busy = true
	require.Len(t, s.step().Update, first-1)
	for _, m := range s.in(fleet.MemberRolling) {
		s.finish(m)
	}
	s.pass(time.Minute)
	s.step()
	require.Zero(t, s.pass(8*time.Minute).step().Ring)
	require.Equal(t, 1, s.pass(2*time.Minute).step().Ring, "after the ring's own soak")
	second, _ := ofRing(1)
	require.Len(t, s.in(fleet.MemberRolling), second)
	late.Busy = false
	require.Equal(t, []fleet.InstallationID{late.InstallationID}, s.step().Update, "it was busy when its ring was worked on")
	for _, m := range s.in(fleet.MemberRolling) {
		s.finish(m)
	}
	s.pass(time.Minute)
	s.step()
	require.Equal(t, 1, s.pass(58*time.Minute).step().Ring)
	require.Equal(t, 2, s.pass(2*time.Minute).step().Ring)
}

func TestMinimumOfSamples(t *testing.T) {
	t.Parallel()
	s := newScene(t, 20, fleet.RolloutSpec{Slots: 20, FirstWave: 20, Soak: noSoak, MinSamples: 5, Rings: []fleet.RolloutRing{{Percent: 50}, {}}})
	for i, m := range s.wave(0) {
		m.Busy = i >= 4
	}
	s.roll(4)
	require.Equal(t, 1, s.step().Ring, "four are all that can be had")
	s = newScene(t, 20, fleet.RolloutSpec{Slots: 20, FirstWave: 20, Soak: noSoak, MinSamples: 5, Rings: []fleet.RolloutRing{{Percent: 50}, {}}})
	for i, m := range s.wave(0) {
		m.Asleep = i >= 4
	}
	s.Rollout.Spec.VerifySlots = 1
	s.step()
	for _, m := range s.in(fleet.MemberRolling) {
		s.finish(m)
	}
	s.pass(time.Minute)
	require.Zero(t, s.step().Ring)
}

func TestLimitsHalt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spec   fleet.RolloutSpec
		failed int
		halted bool
	}{
		"as many as allowed":             {fleet.RolloutSpec{MaxFailures: 2}, 2, false},
		"more than allowed":              {fleet.RolloutSpec{MaxFailures: 2}, 3, true},
		"as many per cent as allowed":    {fleet.RolloutSpec{MaxFailuresPercent: 10}, 2, false},
		"more per cent than allowed":     {fleet.RolloutSpec{MaxFailuresPercent: 10}, 3, true},
		"no limit, for platform reasons": {fleet.RolloutSpec{}, 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.spec.FirstWave, test.spec.Slots = 20, 20
			s := newScene(t, 200, test.spec)
			s.step()
			for _, m := range s.in(fleet.MemberRolling)[:test.failed] {
				s.fail(m, fleet.ReasonProvider)
			}
			forced := *s
			d := s.step()
			if !test.halted {
				require.Equal(t, fleet.RolloutRunning, d.State)
				return
			}
			require.Equal(t, fleet.RolloutHalted, d.State)
			require.Equal(t, fleet.ReasonFailureLimit, d.Reason)
			require.Contains(t, d.Detail, "3 ")
			forced.Rollout.Forced, forced.Rollout.State = true, fleet.RolloutRunning
			require.Equal(t, fleet.RolloutRunning, forced.decide().State)
		})
	}
}

func TestAutomaticRollback(t *testing.T) {
	t.Parallel()
	s := newScene(t, 200, fleet.RolloutSpec{FirstWave: 20, Slots: 20, MaxFailures: 1, AutoRollback: true})
	s.step()
	work := s.in(fleet.MemberRolling)
	s.fail(work[0], fleet.ReasonProvider)
	s.fail(work[1], fleet.ReasonProvider)
	s.finish(work[2])
	d := s.step()
	require.Equal(t, fleet.RolloutRollingBack, d.State)
	require.Equal(t, fleet.ReasonFailureLimit, d.Reason)
	require.Equal(t, []PutBack{{ID: work[2].InstallationID}}, d.RollBack, "at once")
}

func TestMetricGate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reading *MetricReading
		state   fleet.RolloutState
		reason  fleet.Reason
	}{
		"not asked":            {nil, fleet.RolloutRunning, fleet.WaitMetric},
		"no answer":            {&MetricReading{At: epoch, Value: 9}, fleet.RolloutRunning, fleet.WaitMetric},
		"an old answer":        {&MetricReading{At: epoch.Add(-time.Hour), Answered: true, Value: 9, AboveSince: epoch.Add(-2 * time.Hour)}, fleet.RolloutRunning, fleet.WaitMetric},
		"at the limit":         {&MetricReading{At: epoch, Answered: true, Value: 2}, fleet.RolloutRunning, fleet.WaitMembers},
		"above it":             {&MetricReading{At: epoch, Answered: true, Value: 2.5, AboveSince: epoch.Add(-59 * time.Second)}, fleet.RolloutRunning, fleet.WaitMetric},
		"above it for so long": {&MetricReading{At: epoch, Answered: true, Value: 2.5, AboveSince: epoch.Add(-time.Minute)}, fleet.RolloutHalted, fleet.ReasonMetric},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 200, fleet.RolloutSpec{Metric: &fleet.MetricGate{URL: "http://p:9090", Query: "x", Max: 2, For: time.Minute}})
			s.Metric = test.reading
			d := s.decide()
			require.Equal(t, test.state, d.State)
			require.Equal(t, test.reason, d.Reason)
			require.Equal(t, test.reason == fleet.WaitMembers, len(d.Update) > 0)
			if test.reason == fleet.WaitMetric {
				require.Positive(t, d.Next)
			}
		})
	}
}

func TestProgressDeadline(t *testing.T) {
	t.Parallel()
	s := newScene(t, 200, fleet.RolloutSpec{FirstWave: 10, Slots: 10})
	s.step()
	work := s.in(fleet.MemberRolling)
	s.pass(20 * time.Minute)
	for _, m := range work[1:] {
		s.finish(m)
	}
	s.pass(time.Minute)
	s.step()
	require.Equal(t, fleet.RolloutRunning, s.pass(25*time.Minute).step().State, "something came to an end meanwhile")
	d := s.pass(10 * time.Minute).decide()
	require.Equal(t, fleet.RolloutHalted, d.State)
	require.Equal(t, fleet.ReasonNoProgress, d.Reason)

	s = newScene(t, 200, fleet.RolloutSpec{FirstWave: 10, Slots: 10, Soak: 5 * time.Hour})
	s.roll(10)
	require.Equal(t, fleet.RolloutRunning, s.pass(4*time.Hour).step().State, "to soak is to progress")
}

func TestSleepersAreVerified(t *testing.T) {
	t.Parallel()
	s := newScene(t, 60, fleet.RolloutSpec{FirstWave: 60, Slots: 2, VerifySlots: 3, Soak: noSoak})
	for i := range s.Members {
		s.Members[i].Asleep = i%2 == 0
		if s.Members[i].Asleep && s.Members[i].ClusterID == "west" {
			s.Members[i].Asleep = i%4 == 0
		}
	}
	s.NoClones = map[fleet.ClusterID]bool{"west": true}
	d := s.step()
	require.Len(t, d.Update, 2)
	require.Len(t, d.Verify, 3, "in slots of their own")
	require.NotEmpty(t, d.Unverifiable)
	for _, id := range d.Unverifiable {
		require.Equal(t, fleet.ClusterID("west"), s.member(id).ClusterID)
	}
	for _, m := range s.in(fleet.MemberVerifying) {
		s.finish(m)
	}
	require.Len(t, s.step().Verify, 3)

	woken := s.in(fleet.MemberUnverifiable)[0]
	woken.Asleep, woken.Health = false, fleet.HealthHealthy
	for _, m := range s.in(fleet.MemberRolling) {
		s.finish(m)
	}
	s.pass(time.Minute)
	moved := *s
	moved.Unverifiable = fleet.UnverifiableMove
	require.NotContains(t, moved.decide().Update, woken.InstallationID, "it woke on the new release")
	s.Rollout.Spec.Slots = 60
	require.Contains(t, s.decide().Update, woken.InstallationID, "it woke on its old release")
}

func TestSleeperThatWakesOnABadReleaseIsPutBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, 60, fleet.RolloutSpec{FirstWave: 60, Slots: 60})
	m := &s.Members[5]
	m.Asleep = true
	s.step()
	s.finish(m)
	require.Equal(t, fleet.MemberVerified, m.State)
	for _, other := range s.in(fleet.MemberRolling) {
		s.finish(other)
	}
	s.pass(time.Hour)
	m.Asleep = false
	s.spoil(m)
	d := s.pass(5 * time.Minute).decide()
	require.Equal(t, []PutBack{{ID: m.InstallationID, Reason: fleet.ReasonTurnedUnhealthy, Detail: d.RollBack[0].Detail}}, d.RollBack)
}

func TestBadBeforeComesLast(t *testing.T) {
	t.Parallel()
	s := newScene(t, 30, fleet.RolloutSpec{FirstWave: 30, Slots: 30, Soak: noSoak})
	bad := &s.Members[0]
	s.spoil(bad)
	s.pass(time.Minute)
	d := s.step()
	require.Len(t, d.Update, 29)
	require.NotContains(t, d.Update, bad.InstallationID)
	for _, m := range s.in(fleet.MemberRolling) {
		s.finish(m)
	}
	s.pass(time.Minute)
	require.Contains(t, s.step().Update, bad.InstallationID)
}

// All members of the first wave were deleted before they were judged: the second one
// waited for ever, because nothing had been judged.
func TestTheFirstWaveIsGone(t *testing.T) {
	t.Parallel()
	for name, begun := range map[string]bool{"before it was begun": false, "while it was in work": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 40, fleet.RolloutSpec{FirstWave: 3, Soak: -1})
			if begun {
				s.step()
			}
			for i := range s.Members {
				if m := &s.Members[i]; m.Wave == 0 {
					m.State, m.Health = fleet.MemberGone, ""
				}
			}
			require.Len(t, s.step().Update, 3, "as many as a first wave has")
			s.roll(12)
		})
	}
}
