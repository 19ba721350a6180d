package rollout

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

var epoch = time.Date(2026, 11, 3, 4, 5, 6, 0, time.FixedZone("odd", 5*3600+45*60))

// fleetOf returns n healthy members: three sizes, two clusters, two tiers, and
// a label that is of no use because everybody has another value of it.
func fleetOf(n int) []fleet.RolloutMember {
	members := make([]fleet.RolloutMember, n)
	for i := range members {
		members[i] = fleet.RolloutMember{
			InstallationID: fleet.InstallationID(fleet.DeriveID("member", fmt.Sprint(i))), Name: fmt.Sprintf("tenant-%d", i),
			ClusterID: fleet.ClusterID([]string{"east", "west"}[i%2]), MemoryMiB: []int{64, 128, 512}[i/2%3],
			Labels: map[string]string{"tier": []string{"free", "free", "pro"}[i/6%3], "owner": fmt.Sprint(i)},
			State:  fleet.MemberWaiting, Health: fleet.HealthHealthy, GoodSince: epoch.Add(-24 * time.Hour), ObservedAt: epoch,
		}
	}
	return members
}

// scene is a rollout that a test leads where it wants it.
type scene struct {
	View
	t *testing.T
}

// newScene plans a rollout over n members; it runs, and nothing was begun.
func newScene(t *testing.T, n int, spec fleet.RolloutSpec) *scene {
	t.Helper()
	spec, err := Normalise(spec, n)
	require.NoError(t, err)
	return &scene{t: t, View: View{Rollout: fleet.Rollout{ID: "r", Spec: spec, State: fleet.RolloutRunning, CreatedAt: epoch},
		Members: Plan(spec, fleetOf(n)), Now: epoch}}
}

// decide decides, and sees that it is as it must always be.
func (s *scene) decide() Decision {
	s.t.Helper()
	d := Decide(s.View)
	require.Empty(s.t, violations(s.View, d))
	return d
}

// pass lets time pass; everybody goes on answering as before.
func (s *scene) pass(d time.Duration) *scene {
	s.Now = s.Now.Add(d)
	for i := range s.Members {
		s.Members[i].ObservedAt = s.Now
	}
	return s
}

func (s *scene) member(id fleet.InstallationID) *fleet.RolloutMember {
	i := slices.IndexFunc(s.Members, func(m fleet.RolloutMember) bool { return m.InstallationID == id })
	require.GreaterOrEqual(s.t, i, 0)
	return &s.Members[i]
}

// apply does what a decision says; what it begins stays in work.
func (s *scene) apply(d Decision) *scene {
	r := &s.Rollout
	r.State, r.Reason, r.Detail, r.Ring, r.Wave, r.WaveSince = d.State, d.Reason, d.Detail, d.Ring, d.Wave, d.WaveSince
	begin := func(id fleet.InstallationID, state fleet.MemberState) *fleet.RolloutMember {
		m := s.member(id)
		m.State, m.OperationID, m.StartedAt, m.FinishedAt = state, "op", s.Now, time.Time{}
		return m
	}
	for _, id := range d.Done {
		s.member(id).State = fleet.MemberDone
		r.ProgressAt = s.Now
	}
	for _, id := range d.Cleared {
		s.member(id).Strikes = 0
	}
	for _, id := range d.Unverifiable {
		s.member(id).State = fleet.MemberUnverifiable
	}
	for _, id := range slices.Concat(d.Update, d.Retry) {
		begin(id, fleet.MemberRolling).Attempts++
	}
	for _, id := range d.Verify {
		begin(id, fleet.MemberVerifying).Attempts++
	}
	for _, p := range d.RollBack {
		if m := begin(p.ID, fleet.MemberRollingBack); p.Reason != "" {
			m.Strikes++
			m.Reason, m.Detail = p.Reason, p.Detail
		}
	}
	return s
}

// step decides and applies.
func (s *scene) step() Decision {
	s.t.Helper()
	d := s.decide()
	s.apply(d)
	return d
}

// finish ends an operation well: the member is healthy from now on, on whichever release.
func (s *scene) finish(m *fleet.RolloutMember) {
	switch m.State {
	case fleet.MemberVerifying:
		m.State = fleet.MemberVerified
	case fleet.MemberRollingBack:
		m.State = fleet.MemberRolledBack
	}
	m.OperationID, m.FinishedAt, m.ObservedAt = "", s.Now, s.Now
	m.BadSince, m.GoodSince, m.Health = time.Time{}, s.Now, fleet.HealthHealthy
	if m.Asleep {
		m.GoodSince, m.Health = time.Time{}, fleet.HealthUnknown
	}
}

// fail ends an operation badly; the old release is back and well.
func (s *scene) fail(m *fleet.RolloutMember, reason fleet.Reason) {
	s.finish(m)
	m.State, m.Reason = fleet.MemberFailed, reason
	m.Strikes++
}

// spoil has a member answer badly from now on.
func (s *scene) spoil(m *fleet.RolloutMember) {
	m.Health, m.BadSince, m.GoodSince, m.ObservedAt = fleet.HealthUnhealthy, s.Now, time.Time{}, s.Now
}

// in returns the members in a state, in the order of the plan.
func (s *scene) in(state fleet.MemberState) []*fleet.RolloutMember {
	var list []*fleet.RolloutMember
	for i := range s.Members {
		if s.Members[i].State == state {
			list = append(list, &s.Members[i])
		}
	}
	return list
}

// wave returns the members of a wave of the first ring.
func (s *scene) wave(n int) []*fleet.RolloutMember {
	var list []*fleet.RolloutMember
	for i := range s.Members {
		if s.Members[i].Wave == n && s.Members[i].Ring == 0 {
			list = append(list, &s.Members[i])
		}
	}
	return list
}

// roll brings the rollout on until so many members are done, all well.
func (s *scene) roll(done int) *scene {
	s.t.Helper()
	for range 1000 {
		if len(s.in(fleet.MemberDone))+len(s.in(fleet.MemberVerified)) >= done {
			return s
		}
		d := s.step()
		require.Equal(s.t, fleet.RolloutRunning, d.State, d.Detail)
		s.pass(time.Minute)
		for i := range s.Members {
			if s.Members[i].OperationID != "" {
				s.finish(&s.Members[i])
			}
		}
		s.pass(time.Minute)
		if len(d.Update)+len(d.Verify)+len(d.Done) == 0 {
			s.pass(max(d.Next, 0))
		}
	}
	s.t.Fatalf("only %d of %d members became done: %s %s", len(s.in(fleet.MemberDone)), done, s.Rollout.Reason, s.Rollout.Detail)
	return nil
}

// violations tells which of the rules that hold for every decision one breaks.
func violations(v View, d Decision) []string {
	var broken []string
	add := func(format string, args ...any) { broken = append(broken, fmt.Sprintf(format, args...)) }
	members := map[fleet.InstallationID]*fleet.RolloutMember{}
	rolling, verifying, live := 0, 0, 0
	for i := range v.Members {
		m := &v.Members[i]
		members[m.InstallationID] = m
		switch m.State {
		case fleet.MemberRolling, fleet.MemberRollingBack:
			rolling++
		case fleet.MemberVerifying:
			verifying++
		}
		if m.State != fleet.MemberGone {
			live++
		}
	}
	seen := map[fleet.InstallationID]string{}
	touch := func(list string, ids []fleet.InstallationID, from ...fleet.MemberState) {
		for _, id := range ids {
			m := members[id]
			switch {
			case m == nil:
				add("%s: nobody is called %s", list, id)
			case seen[id] != "":
				add("%s is in %s and in %s", id, seen[id], list)
			case m.Busy:
				add("%s is busy and in %s", id, list)
			case m.OperationID != "":
				add("%s is in work and in %s", id, list)
			case !slices.Contains(from, m.State):
				add("%s is %s and in %s", id, m.State, list)
			}
			seen[id] = list
		}
	}
	back := make([]fleet.InstallationID, len(d.RollBack))
	for i, p := range d.RollBack {
		back[i] = p.ID
		if m := members[p.ID]; m != nil && m.State == fleet.MemberRolling {
			rolling-- // it keeps its slot
		}
	}
	touch("update", d.Update, fleet.MemberWaiting, fleet.MemberUnverifiable)
	touch("verify", d.Verify, fleet.MemberWaiting, fleet.MemberFailed, fleet.MemberRolledBack)
	touch("retry", d.Retry, fleet.MemberFailed, fleet.MemberRolledBack)
	touch("roll back", back, fleet.MemberRolling, fleet.MemberDone, fleet.MemberVerified, fleet.MemberUnverifiable)
	touch("unverifiable", d.Unverifiable, fleet.MemberWaiting)
	recalled := 0
	for _, id := range d.Recall {
		m := members[id]
		if m == nil || m.State != fleet.MemberRolling && m.State != fleet.MemberVerifying || seen[id] != "" {
			add("%s can't be recalled", id)
		} else if m.State == fleet.MemberRolling {
			recalled++
		}
	}
	if len(d.Recall) > 0 && d.State != fleet.RolloutRollingBack {
		add("members are recalled while it is %s", d.State)
	}
	for _, id := range d.Done {
		if m := members[id]; m == nil || m.State != fleet.MemberRolling || m.OperationID != "" || seen[id] != "" {
			add("%s can't be done", id)
		}
	}
	begun := len(d.Update) + len(d.Retry) + len(d.RollBack)
	// Members that were in work when the slots became fewer may be more than there are slots.
	most := slots(v.Rollout.Spec, live)
	if d.State == fleet.RolloutRollingBack {
		most = max(backTimes*most, live/backRounds+1)
		rolling -= recalled
	}
	if begun > 0 && rolling-len(d.Done)+begun > most {
		add("%d in work with %d slots", rolling-len(d.Done)+begun, most)
	}
	if most := v.Rollout.Spec.VerifySlots; len(d.Verify) > 0 && verifying+len(d.Verify) > most {
		add("%d being verified with %d slots", verifying+len(d.Verify), most)
	}
	for _, id := range slices.Concat(d.Update, d.Retry) {
		if m := members[id]; m != nil && m.Asleep {
			add("%s sleeps and is updated", id)
		}
	}
	for _, id := range d.Verify {
		if m := members[id]; m != nil && !m.Asleep {
			add("%s is awake and verified", id)
		}
	}
	if (v.Rollout.State != fleet.RolloutRunning || d.State != fleet.RolloutRunning) && len(d.Update)+len(d.Verify)+len(d.Retry)+len(d.Unverifiable) > 0 {
		add("something is begun while %s → %s", v.Rollout.State, d.State)
	}
	switch from := v.Rollout.State; {
	case d.State == from:
	case from == fleet.RolloutRunning && (d.State == fleet.RolloutHalted || d.State == fleet.RolloutRollingBack || d.State == fleet.RolloutSucceeded || d.State == fleet.RolloutRolledBack):
	case from == fleet.RolloutRollingBack && d.State == fleet.RolloutRolledBack:
	default:
		add("%s → %s", from, d.State)
	}
	if d.State == fleet.RolloutHalted && d.Reason == "" {
		add("halted without a reason")
	}
	if d.Ring < v.Rollout.Ring || d.Ring == v.Rollout.Ring && d.Wave < v.Rollout.Wave {
		add("back from ring %d, wave %d to ring %d, wave %d", v.Rollout.Ring, v.Rollout.Wave, d.Ring, d.Wave)
	}
	if d.Next < 0 {
		add("the next decision is in the past")
	}
	return broken
}
