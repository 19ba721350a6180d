package api

import (
	"time"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// wireRollout shows a rollout, with its pace as of now.
func wireRollout(v *RolloutView, now time.Time) client.Rollout {
	out := client.Rollout{
		ID: string(v.ID), GroupID: string(v.GroupID), Group: v.GroupName,
		FromRevision: int64(v.From), ToRevision: int64(v.To),
		State: string(v.State), Reason: string(v.Reason), Detail: v.Detail,
		Ring: v.Ring, Wave: v.Wave, WaveSince: v.WaveSince, ProgressAt: v.ProgressAt, Forced: v.Forced,
		Total: v.Total, Rings: wireRings(v), Failures: wireMembers(v.Failures), Spec: wireSpec(v.Spec),
		Version: v.Version, CreatedAt: v.CreatedAt, FinishedAt: v.FinishedAt,
	}
	for _, c := range v.Counts {
		count(&out.Counts, c)
	}
	out.RatePerMinute, out.SecondsLeft = pace(v, out.Counts, now)
	if v.Operation != nil {
		op := wireOperation(v.Operation)
		out.Operation = &op
		if out.Detail == "" && !v.State.Finished() {
			out.Detail = op.WaitDetail // while it runs, what it waits for stands there
		}
	}
	return out
}

func wireRolloutSummary(r *fleet.Rollout) client.RolloutSummary {
	return client.RolloutSummary{
		ID: string(r.ID), GroupID: string(r.GroupID), Group: r.GroupName, FromRevision: int64(r.From), ToRevision: int64(r.To),
		State: string(r.State), Reason: string(r.Reason), Detail: r.Detail, Version: r.Version, CreatedAt: r.CreatedAt, FinishedAt: r.FinishedAt,
	}
}

// wireRings lists every ring of the rollout, those without members too.
func wireRings(v *RolloutView) []client.RingStatus {
	names := ringNames(v.Spec)
	out := make([]client.RingStatus, len(names))
	for i, name := range names {
		out[i].Name = name
	}
	for _, c := range v.Counts {
		if c.Ring >= 0 && c.Ring < len(out) {
			out[c.Ring].Total += count(&out[c.Ring].Counts, c)
		}
	}
	return out
}

// ringNames are the names of the rings in order; without any there is one of all.
func ringNames(spec fleet.RolloutSpec) []string {
	if len(spec.Rings) == 0 {
		return []string{"all"}
	}
	names := make([]string, len(spec.Rings))
	for i, r := range spec.Rings {
		names[i] = r.Name
	}
	return names
}

// count adds members to the counts, and returns how many it added: those that
// are gone count nowhere.
func count(to *client.RolloutCounts, c fleet.RolloutRingCount) int {
	switch c.State {
	case fleet.MemberWaiting:
		to.Waiting += c.N
	case fleet.MemberRolling:
		to.Rolling += c.N
	case fleet.MemberVerifying:
		to.Verifying += c.N
	case fleet.MemberDone:
		to.Done += c.N
	case fleet.MemberVerified:
		to.AsleepVerified += c.N
	case fleet.MemberUnverifiable:
		to.Unverifiable += c.N
	case fleet.MemberFailed:
		to.Failed += c.N
	case fleet.MemberRollingBack:
		to.RollingBack += c.N
	case fleet.MemberRolledBack:
		to.RolledBack += c.N
	default:
		return 0
	}
	return c.N
}

// pace is how many members came to their end in a minute, on the average since
// the rollout began, and how many seconds the others take at that rate; nil
// where nothing can be said. Going back is no progress of that kind.
func pace(v *RolloutView, c client.RolloutCounts, now time.Time) (rate, left *float64) {
	if v.State == fleet.RolloutRollingBack || v.State == fleet.RolloutRolledBack {
		return nil, nil
	}
	from, until := v.CreatedAt, now
	if v.Operation != nil && !v.Operation.StartedAt.IsZero() {
		from = v.Operation.StartedAt
	}
	switch {
	case !v.FinishedAt.IsZero():
		until = v.FinishedAt
	case v.State != fleet.RolloutRunning && !v.ProgressAt.IsZero():
		until = v.ProgressAt
	}
	ended := c.Done + c.AsleepVerified + c.Unverifiable + c.Failed + c.RolledBack
	minutes := until.Sub(from).Minutes()
	if ended == 0 || minutes <= 0 {
		return nil, nil
	}
	perMinute := float64(ended) / minutes
	if open := c.Waiting + c.Rolling + c.Verifying; v.State == fleet.RolloutRunning && open > 0 {
		seconds := float64(open) / perMinute * 60
		left = &seconds
	}
	return &perMinute, left
}

func wireMembers(all []fleet.RolloutMember) []client.RolloutMember {
	out := make([]client.RolloutMember, len(all))
	for i, m := range all {
		out[i] = client.RolloutMember{
			InstallationID: string(m.InstallationID), Name: m.Name, Ring: m.Ring, Wave: m.Wave,
			FromRevision: int64(m.From), ClusterID: string(m.ClusterID), MemoryMiB: m.MemoryMiB, Labels: m.Labels,
			State: string(m.State), Reason: string(m.Reason), Detail: m.Detail,
			Attempts: m.Attempts, OperationID: string(m.OperationID), Asleep: m.Asleep, Busy: m.Busy,
			Health: string(m.Health), BadSince: m.BadSince, GoodSince: m.GoodSince, ObservedAt: m.ObservedAt, StartedAt: m.StartedAt, FinishedAt: m.FinishedAt,
		}
	}
	return out
}

func wireSpec(s fleet.RolloutSpec) client.RolloutSpec {
	out := client.RolloutSpec{
		FirstWave: s.FirstWave, Slots: s.Slots, SlotsPercent: s.SlotsPercent, VerifySlots: s.VerifySlots,
		HealthyFor: wireDuration(s.HealthyFor), HealthDeadline: wireDuration(s.HealthDeadline), Soak: wireDuration(s.Soak),
		MinSamples: s.MinSamples, MaxFailures: s.MaxFailures, MaxFailuresPercent: s.MaxFailuresPercent,
		AutoRollback: s.AutoRollback, ProgressDeadline: wireDuration(s.ProgressDeadline),
	}
	for _, r := range s.Rings {
		ring := client.RolloutRing{Name: r.Name, Labels: r.Labels, Installations: r.Installations, Percent: r.Percent}
		if r.Soak != nil {
			ring.Soak = r.Soak.String()
		}
		out.Rings = append(out.Rings, ring)
	}
	if g := s.Metric; g != nil {
		out.Metric = &client.MetricGate{URL: g.URL, Query: g.Query, Max: g.Max, For: wireDuration(g.For)}
	}
	return out
}

// wireDuration writes a duration as Go does; "" where none was set.
func wireDuration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return max(d, 0).String() // below 0 is noSoak
}

// wirePlan shows what a rollout would do with these members, in their planned order.
func wirePlan(r fleet.Rollout, members []fleet.RolloutMember) client.RolloutPlan {
	out := client.RolloutPlan{
		GroupID: string(r.GroupID), Group: r.GroupName, FromRevision: int64(r.From), ToRevision: int64(r.To), Spec: wireSpec(r.Spec),
	}
	for _, name := range ringNames(r.Spec) {
		out.Rings = append(out.Rings, client.PlannedRing{Name: name, Waves: []int{}, FirstWave: []string{}})
	}
	for _, m := range members {
		if m.Ring < 0 || m.Ring >= len(out.Rings) || m.Wave < 0 {
			continue
		}
		ring := &out.Rings[m.Ring]
		for len(ring.Waves) <= m.Wave {
			ring.Waves = append(ring.Waves, 0)
		}
		ring.Waves[m.Wave]++
		ring.Total++
		out.Total++
		if m.Wave == 0 {
			ring.FirstWave = append(ring.FirstWave, m.Name)
		}
		if m.Asleep {
			ring.Asleep++
			out.Asleep++
		}
	}
	return out
}
