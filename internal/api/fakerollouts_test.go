package api

import (
	"context"
	"slices"
	"strings"

	"dormouse/internal/fleet"
)

// The part of the fake store that is about rollouts.

func (f *fakeStore) CreateRollout(_ context.Context, in NewRollout) (RolloutView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return RolloutView{}, err
	}
	f.begun = in
	op, err := f.replay(in.Key)
	if err != nil {
		return RolloutView{}, err
	}
	if op != nil {
		v := *f.rollouts[fleet.RolloutID(op.ResourceID)]
		v.Replayed = true
		return v, nil
	}
	g := f.group(in.Group)
	if g == nil {
		return RolloutView{}, noGroup(in.Group)
	}
	for _, r := range f.rollouts {
		if r.GroupID == g.ID && !r.State.Finished() {
			r.State, r.Reason, r.FinishedAt = fleet.RolloutSuperseded, fleet.ReasonSuperseded, epochTime
		}
	}
	members, rollout, err := f.candidates(g, in.To)
	if err != nil {
		return RolloutView{}, err
	}
	rollout.ID, rollout.Spec, rollout.Version = in.ID, in.Spec, 1
	v := &RolloutView{Rollout: rollout, Total: len(members), Failures: []fleet.RolloutMember{}}
	v.Operation = f.operation(in.OperationID, fleet.OperationRollout, fleet.ResourceRollout, string(in.ID), g.Name)
	f.rollouts[in.ID], f.members[in.ID] = v, members
	f.count(v)
	f.remember(in.Key, in.OperationID)
	return *v, nil
}

// count counts a rollout's members anew.
func (f *fakeStore) count(v *RolloutView) {
	counts := map[fleet.RolloutRingCount]int{}
	v.Total, v.Failures = 0, []fleet.RolloutMember{}
	for _, m := range f.members[v.ID] {
		counts[fleet.RolloutRingCount{Ring: m.Ring, State: m.State}]++
		if m.State != fleet.MemberGone {
			v.Total++
		}
		if m.State == fleet.MemberFailed {
			v.Failures = append(v.Failures, m)
		}
	}
	v.Counts = nil
	for c, n := range counts {
		c.N = n
		v.Counts = append(v.Counts, c)
	}
}

func (f *fakeStore) candidates(g *fakeGroup, to fleet.RevisionNumber) ([]fleet.RolloutMember, fleet.Rollout, error) {
	if to == 0 {
		to = g.Latest
	}
	if to > g.Latest {
		return nil, fleet.Rollout{}, fleet.InvalidField("to_revision", "group %s has no revision %d", g.Name, to)
	}
	members := []fleet.RolloutMember{}
	for _, v := range f.installations {
		if v.GroupID == g.ID && v.State != fleet.StateDeleted {
			members = append(members, fleet.RolloutMember{
				InstallationID: v.ID, Name: v.Name, From: v.GroupRevision, ClusterID: "c1", MemoryMiB: v.MemoryMiB, Labels: v.Labels,
				State: fleet.MemberWaiting, Asleep: v.State == fleet.StateHibernating,
			})
		}
	}
	members = first(members, len(members), func(m fleet.RolloutMember) string { return string(m.InstallationID) })
	return members, fleet.Rollout{GroupID: g.ID, GroupName: g.Name, From: g.Revision, To: to, State: fleet.RolloutRunning, CreatedAt: epochTime}, nil
}

func (f *fakeStore) RolloutCandidates(_ context.Context, group string, to fleet.RevisionNumber) ([]fleet.RolloutMember, fleet.Rollout, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, fleet.Rollout{}, err
	}
	g := f.group(group)
	if g == nil {
		return nil, fleet.Rollout{}, noGroup(group)
	}
	return f.candidates(g, to)
}

func (f *fakeStore) rollout(id fleet.RolloutID) (*RolloutView, error) {
	if v := f.rollouts[id]; v != nil {
		return v, nil
	}
	return nil, fleet.Errorf(fleet.KindNotFound, "there is no rollout %q", id)
}

func (f *fakeStore) ControlRollout(_ context.Context, in RolloutControl) (RolloutView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return RolloutView{}, err
	}
	op, err := f.replay(in.Key)
	if err != nil {
		return RolloutView{}, err
	}
	v, err := f.rollout(in.ID)
	switch {
	case err != nil:
		return RolloutView{}, err
	case op != nil:
		again := *v
		again.Replayed = true
		return again, nil
	case in.IfMatch != 0 && in.IfMatch != v.Version:
		return RolloutView{}, fleet.Errorf(fleet.KindStale, "rollout %s is at version %d, not %d", v.ID, v.Version, in.IfMatch)
	case v.State.Finished():
		return RolloutView{}, fleet.Errorf(fleet.KindNotAccepted, "rollout %s is %s", v.ID, v.State)
	}
	f.controlled = in
	v.State = map[fleet.RolloutVerb]fleet.RolloutState{
		fleet.RolloutPause: fleet.RolloutPaused, fleet.RolloutResume: fleet.RolloutRunning, fleet.RolloutForce: fleet.RolloutRunning,
		fleet.RolloutRetry: fleet.RolloutRunning, fleet.RolloutCancel: fleet.RolloutCancelled, fleet.RolloutRollback: fleet.RolloutRollingBack,
	}[in.Verb]
	v.Forced = v.Forced || in.Verb == fleet.RolloutForce
	v.Version++
	f.remember(in.Key, v.Operation.ID)
	return *v, nil
}

func (f *fakeStore) Rollout(_ context.Context, id fleet.RolloutID) (RolloutView, error) {
	f.read()
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return RolloutView{}, err
	}
	v, err := f.rollout(id)
	return deref(v), err
}

func (f *fakeStore) ListRollouts(_ context.Context, q RolloutQuery) ([]RolloutView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, err
	}
	if q.Group != "" && f.group(q.Group) == nil {
		return nil, noGroup(q.Group)
	}
	var all []RolloutView
	for _, v := range f.rollouts {
		if (q.Before == "" || string(v.ID) < q.Before) && (q.Group == "" || q.Group == v.GroupName || q.Group == string(v.GroupID)) {
			all = append(all, RolloutView{Rollout: v.Rollout})
		}
	}
	slices.SortFunc(all, func(a, b RolloutView) int { return strings.Compare(string(b.ID), string(a.ID)) })
	return all[:min(q.Limit, len(all))], nil
}

func (f *fakeStore) RolloutMembers(_ context.Context, q MemberQuery) ([]fleet.RolloutMember, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, err
	}
	if _, err := f.rollout(q.Rollout); err != nil {
		return nil, err
	}
	var all []fleet.RolloutMember
	for _, m := range f.members[q.Rollout] {
		if string(m.InstallationID) > q.After && (q.State == "" || q.State == m.State) {
			all = append(all, m)
		}
	}
	return first(all, q.Limit, func(m fleet.RolloutMember) string { return string(m.InstallationID) }), nil
}

// proceed changes a rollout and its members as its operation would.
func (f *fakeStore) proceed(id fleet.RolloutID, change func(*RolloutView, []fleet.RolloutMember)) RolloutView {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.rollouts[id]
	change(v, f.members[id])
	v.Version++
	f.count(v)
	return *v
}

// fakePlanner puts members into the first ring whose labels match, and begins
// each ring with FirstWave of them.
type fakePlanner struct{}

func (fakePlanner) Normalise(spec fleet.RolloutSpec, members int) (fleet.RolloutSpec, error) {
	if spec.Slots > members {
		return spec, fleet.InvalidField("slots", "there are only %d members", members)
	}
	if spec.Slots == 0 && spec.SlotsPercent == 0 {
		spec.Slots = min(10, members)
	}
	if spec.FirstWave == 0 {
		spec.FirstWave = 1
	}
	if len(spec.Rings) == 0 {
		spec.Rings = []fleet.RolloutRing{{Name: "all"}}
	}
	return spec, nil
}

func (fakePlanner) Plan(spec fleet.RolloutSpec, members []fleet.RolloutMember) []fleet.RolloutMember {
	inRing := make([]int, len(spec.Rings))
	for i := range members {
		m := &members[i]
		m.Ring = len(spec.Rings) - 1
		for n, ring := range slices.Backward(spec.Rings) {
			fits := true
			for k, want := range ring.Labels {
				fits = fits && m.Labels[k] == want
			}
			if fits {
				m.Ring = n
			}
		}
		m.Order = i
		if inRing[m.Ring] >= spec.FirstWave {
			m.Wave = 1
		}
		inRing[m.Ring]++
	}
	return members
}
