package store

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// rolling is a group whose members run web@1 and whose newest revision is web@2.
type rolling struct {
	*world
	group   fleet.GroupView
	second  fleet.Package
	rollout fleet.RolloutView
}

func newRolling(t *testing.T, members ...string) *rolling {
	t.Helper()
	r := &rolling{world: newWorld(t)}
	r.second = r.newPackage("web", "2")
	r.newGroup("prod", nil, fleet.GroupChange{})
	for _, name := range members {
		_, err := r.CreateInstallation(context.Background(), r.member(name, "prod"))
		require.NoError(t, err)
		s := r.claimOne()
		done := finish(s, fleet.StateStable)
		done.Changes = r.service(s, s.Hosts[0].ID)
		require.Empty(t, r.commit(done)[0].Denied)
	}
	var err error
	r.group, err = r.ChangeGroup(context.Background(), fleet.ChangeGroup{IDOrName: "prod", Config: fleet.GroupChange{PackageRef: ptr("web@2")}})
	require.NoError(t, err)
	r.rollout = r.newRollout(0)
	return r
}

func (r *rolling) newRollout(to fleet.RevisionNumber) fleet.RolloutView {
	r.t.Helper()
	v, err := r.CreateRollout(context.Background(), fleet.NewRollout{ID: fleet.RolloutID(fleet.NewID()), OperationID: newOperationID(), Group: "prod", To: to})
	require.NoError(r.t, err)
	return v
}

func (r *rolling) look(known fleet.RolloutSeen) fleet.RolloutLook {
	r.t.Helper()
	l, err := r.LookAtRollout(context.Background(), r.rollout.ID, fleet.RolloutKnown{Seen: known})
	require.NoError(r.t, err)
	return l
}

// decide commits what a rollout's step would have decided, and leaves it due at once.
func (r *rolling) decide(c fleet.RolloutChange) fleet.Snapshot {
	r.t.Helper()
	r.sqlExec(r.t, "UPDATE operation SET due_at = dormouse_now(), worker = '' WHERE kind = 'rollout'")
	var mine fleet.Snapshot
	for _, s := range r.claim() {
		if s.Operation.Kind == fleet.OperationRollout && s.Operation.ResourceID == string(r.rollout.ID) {
			mine = s
		}
	}
	require.NotEmpty(r.t, mine.Operation.ID, "the rollout's operation is due")
	require.Nil(r.t, mine.Installation)
	require.False(r.t, r.commit(fleet.Result{OperationID: mine.Operation.ID, Epoch: mine.Operation.Epoch, State: fleet.OperationActive,
		Step: "advance", StepNumber: 1, StepsTotal: 1, WaitReason: fleet.WaitRollout, Changes: fleet.Changes{Rollout: &c}})[0].Stale)
	return mine
}

func (r *rolling) start(name string, kind fleet.OperationKind) fleet.MemberStart {
	return fleet.MemberStart{InstallationID: r.installation(name).ID, OperationID: newOperationID(), Kind: kind,
		Work: fleet.RolloutWork{ID: r.rollout.ID, From: 1, To: 2}}
}

// begin plans the members and begins on one of them.
func (r *rolling) begin(name string, kind fleet.OperationKind) fleet.MemberStart {
	r.t.Helper()
	l, m := r.look(fleet.RolloutSeen{}), r.start(name, kind)
	r.decide(fleet.RolloutChange{Rollout: l.Rollout, Before: l.Rollout.State, Members: l.Joined, Begin: []fleet.MemberStart{m}})
	return m
}

// work claims the operation on a member.
func (r *rolling) work(m fleet.MemberStart) fleet.Snapshot {
	r.t.Helper()
	for _, s := range r.claim() {
		if s.Operation.ID == m.OperationID {
			return s
		}
	}
	require.Fail(r.t, "the member's operation is not due")
	return fleet.Snapshot{}
}

func (r *rolling) memberOf(l fleet.RolloutLook, name string) fleet.MemberLook {
	r.t.Helper()
	for _, m := range l.Members {
		if m.Name == name {
			return m
		}
	}
	require.Fail(r.t, "no member "+name)
	return fleet.MemberLook{}
}

func TestRolloutBeginsAMember(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a", "b")
	l := r.look(fleet.RolloutSeen{})
	require.True(t, l.Whole)
	require.Len(t, l.Joined, 2)
	require.Empty(t, l.Members)
	require.Equal(t, "web@2", l.To.PackageRef)
	require.EqualValues(t, 1, l.Joined[0].From)

	m := r.begin("a", fleet.OperationUpdate)
	v := r.installation("a")
	require.Equal(t, fleet.StateUpdateRequested, v.State)
	require.Equal(t, r.second.ID, v.PackageID)
	require.EqualValues(t, 2, v.GroupRevision)
	l = r.look(l.Seen)
	require.True(t, l.Whole, "the version has moved on")
	require.Len(t, l.Members, 2)
	require.Empty(t, l.Joined)
	a := r.memberOf(l, "a")
	require.Equal(t, fleet.MemberRolling, a.State)
	require.Equal(t, 1, a.Attempts)
	require.Equal(t, fleet.OperationActive, a.Work)
	require.False(t, a.Busy, "the rollout's own work does not make it busy")
	require.Equal(t, fleet.MemberWaiting, r.memberOf(l, "b").State)
	require.Len(t, r.look(l.Seen).Members, 1, "only those in work")
	for _, also := range [][]fleet.InstallationID{{r.installation("b").ID}, {r.installation("a").ID, r.installation("b").ID, "nobody"}} {
		some, err := r.LookAtRollout(context.Background(), r.rollout.ID, fleet.RolloutKnown{Seen: l.Seen, Also: also})
		require.NoError(t, err)
		require.False(t, some.Whole)
		require.Len(t, some.Members, 2, "and those that are asked for, each once")
	}

	s := r.work(m)
	require.Equal(t, fleet.ClassBulk, s.Operation.Class)
	require.Equal(t, m.Work, *s.Operation.Rollout)
	require.Equal(t, r.second.ID, s.Package.ID)
	r.commit(finish(s, fleet.StateStable))
	l = r.look(l.Seen)
	require.Equal(t, fleet.OperationSucceeded, r.memberOf(l, "a").Work)
	l.Rollout.State = fleet.RolloutSucceeded
	r.decide(fleet.RolloutChange{Rollout: l.Rollout, Before: fleet.RolloutRunning})
	g, err := r.Group(context.Background(), "prod")
	require.NoError(t, err)
	require.EqualValues(t, 2, g.Revision, "new members pin what is proven")
	require.Equal(t, fleet.RolloutSucceeded, g.Rollout.State)
	require.False(t, g.Rollout.FinishedAt.IsZero())
}

func TestRolloutLeavesTheBusyAlone(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a", "b", "c")
	r.mustChange("a", fleet.OperationRestart)
	l := r.look(fleet.RolloutSeen{})
	starts := []fleet.MemberStart{r.start("a", fleet.OperationUpdate), r.start("b", fleet.OperationUpdate), r.start("c", fleet.OperationVerify)}
	r.mustChange("b", fleet.OperationDelete)
	r.decide(fleet.RolloutChange{Rollout: l.Rollout, Before: l.Rollout.State, Members: l.Joined, Begin: starts})
	l = r.look(fleet.RolloutSeen{})
	for _, name := range []string{"a", "b", "c"} { // busy, being deleted, awake
		require.Equal(t, fleet.MemberWaiting, r.memberOf(l, name).State, name)
	}
	require.True(t, r.memberOf(l, "a").Busy)
	require.Equal(t, 0, r.count(t, "SELECT count(*) FROM operation WHERE rollout IS NOT NULL"))
	require.EqualValues(t, 1, r.installation("a").GroupRevision)
}

func TestStaleDecisionIsNotWritten(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a")
	l := r.look(fleet.RolloutSeen{})
	_, err := r.ControlRollout(context.Background(), fleet.RolloutControl{ID: r.rollout.ID, Verb: fleet.RolloutPause})
	require.NoError(t, err)
	r.decide(fleet.RolloutChange{Rollout: l.Rollout, Before: l.Rollout.State, Members: l.Joined, Begin: []fleet.MemberStart{r.start("a", fleet.OperationUpdate)}})
	require.Equal(t, fleet.RolloutPaused, r.look(fleet.RolloutSeen{}).Rollout.State)
	require.Equal(t, fleet.StateStable, r.installation("a").State)
	require.Len(t, r.look(fleet.RolloutSeen{}).Joined, 1)
}

// A step that runs while its operation is recalled knows nothing of it, and waits
// for what it waited for before: not for that long.
func TestRecallReachesAStepThatRuns(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a", "b")
	m := r.begin("a", fleet.OperationUpdate)
	due := func() string {
		return r.text(t, "SELECT CASE WHEN due_at > dormouse_now() + interval '10 s' THEN 'late' ELSE 'soon' END FROM operation WHERE id = $1", m.OperationID)
	}
	wait := func() {
		done := step(r.work(m), fleet.Changes{})
		done.Keep, done.DueMillis, done.WaitReason = false, time.Hour.Milliseconds(), fleet.WaitHealthy
		require.False(t, r.commit(done)[0].Stale)
	}
	wait()
	require.Equal(t, "late", due())
	r.sqlExec(t, "UPDATE operation SET due_at = dormouse_now() WHERE id = $1", m.OperationID)

	running := r.work(m)
	l := r.look(fleet.RolloutSeen{})
	r.decide(fleet.RolloutChange{Rollout: l.Rollout, Before: l.Rollout.State, Recall: []fleet.OperationID{m.OperationID}})
	kept := step(running, fleet.Changes{})
	require.False(t, r.commit(kept)[0].Stale)
	require.Equal(t, "late", due(), "a lease stays as long as it is")
	done := kept
	done.Keep, done.Revision, done.DueMillis, done.WaitReason = false, kept.Revision+1, time.Hour.Milliseconds(), fleet.WaitHealthy
	require.False(t, r.commit(done)[0].Stale)
	require.Equal(t, "soon", due())
}

func TestFailedMemberPinsTheRevisionBefore(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a")
	s := r.work(r.begin("a", fleet.OperationUpdate))
	failed := finish(s, fleet.StateUpdateFailed)
	failed.State, failed.FailReason, failed.Changes.Pin = fleet.OperationFailed, fleet.ReasonNotHealthy, &s.Operation.Rollout.From
	r.commit(failed)
	v := r.installation("a")
	require.Equal(t, fleet.StateUpdateFailed, v.State)
	require.EqualValues(t, 1, v.GroupRevision)
	require.Equal(t, r.pkg.ID, v.PackageID, "the next start must not try the failed release")
	a := r.memberOf(r.look(fleet.RolloutSeen{}), "a")
	require.Equal(t, fleet.OperationFailed, a.Work)
	require.Equal(t, fleet.ReasonNotHealthy, a.WorkReason)
}

func TestVerificationPinsTheSleeper(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a")
	r.mustChange("a", fleet.OperationHibernate)
	for _, s := range r.claim() {
		if s.Installation != nil {
			r.commit(finish(s, fleet.StateHibernating))
		}
	}
	m := r.begin("a", fleet.OperationVerify)
	v := r.installation("a")
	require.Equal(t, fleet.StateHibernating, v.State, "its users notice nothing")
	require.EqualValues(t, 1, v.GroupRevision)
	require.Equal(t, fleet.MemberVerifying, r.memberOf(r.look(fleet.RolloutSeen{}), "a").State)
	s := r.work(m)
	require.Equal(t, fleet.StateHibernating, s.Installation.State)
	require.Equal(t, r.second.ID, s.Target.Package.ID)
	clone := fleet.Instance{ID: "clone", InstallationID: v.ID, Role: fleet.RoleApplication, ClusterID: r.cluster.ID, HostID: s.Hosts[0].ID,
		Power: fleet.PowerPlanned, Clone: true}
	r.commit(step(s, fleet.Changes{Instances: []fleet.Instance{clone}}))
	require.NotEqual(t, fleet.InstanceID("clone"), r.installation("a").Instance.ID, "a clone is not shown as the installation's")
	clone.DeletedAt = s.Now
	done := fleet.Result{OperationID: s.Operation.ID, Epoch: s.Operation.Epoch, InstallationID: v.ID, State: fleet.OperationSucceeded, Step: "delete-clone",
		From: string(fleet.StateHibernating), Changes: fleet.Changes{Instances: []fleet.Instance{clone}, Pin: ptr(fleet.RevisionNumber(2)), Verified: &r.second.ID}}
	require.False(t, r.commit(done)[0].Stale)
	v = r.installation("a")
	require.Equal(t, fleet.StateHibernating, v.State)
	require.EqualValues(t, 2, v.GroupRevision)
	require.Equal(t, r.second.ID, v.PackageID)
	require.Equal(t, "web@2", v.VerifiedRef)
	l := r.memberOf(r.look(fleet.RolloutSeen{}), "a")
	require.Equal(t, fleet.OperationSucceeded, l.Work)
	require.True(t, l.Verified)
}

// Nobody waits for a clone of what they have asked for.
func TestAnyRequestPreemptsAVerification(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a")
	r.mustChange("a", fleet.OperationHibernate)
	for _, s := range r.claim() {
		if s.Installation != nil {
			r.commit(finish(s, fleet.StateHibernating))
		}
	}
	s := r.work(r.begin("a", fleet.OperationVerify))
	a := r.mustChange("a", fleet.OperationWake)
	require.Equal(t, fleet.OperationActive, a.Operation.State)
	require.Equal(t, fleet.StateWakeUpRequested, r.installation("a").State)
	require.True(t, r.commit(step(s, fleet.Changes{}))[0].Stale, "the verification is fenced off")
	op, err := r.Operation(context.Background(), s.Operation.ID)
	require.NoError(t, err)
	require.Equal(t, fleet.OperationCancelled, op.State)
	require.Equal(t, fleet.ReasonGaveWay, op.FailReason)
	require.EqualValues(t, 1, r.installation("a").GroupRevision, "it wakes on the release that it slept on")
}

func TestRolloutVerbs(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a")
	ctx := context.Background()
	do := func(verb fleet.RolloutVerb) (fleet.RolloutState, fleet.ErrorKind) {
		v, err := r.ControlRollout(ctx, fleet.RolloutControl{ID: r.rollout.ID, Verb: verb})
		return v.State, fleet.KindOf(err)
	}
	halt := func() { r.sqlExec(t, "UPDATE rollout SET state = 'halted', detail = 'bad'") }
	for _, c := range []struct {
		verb fleet.RolloutVerb
		want fleet.RolloutState
		kind fleet.ErrorKind
	}{
		{fleet.RolloutPause, fleet.RolloutPaused, ""}, {fleet.RolloutPause, fleet.RolloutPaused, ""}, {fleet.RolloutResume, fleet.RolloutRunning, ""},
		{"", "", ""},
		{fleet.RolloutResume, "", fleet.KindNotAccepted}, {fleet.RolloutForce, fleet.RolloutRunning, ""},
		{"", "", ""},
		{fleet.RolloutRetry, fleet.RolloutRunning, ""}, {fleet.RolloutRollback, fleet.RolloutRollingBack, ""}, {fleet.RolloutPause, "", fleet.KindNotAccepted},
		{fleet.RolloutCancel, fleet.RolloutCancelled, ""}, {fleet.RolloutRollback, "", fleet.KindNotAccepted}, {"sing", "", fleet.KindInvalid},
	} {
		if c.verb == "" {
			halt()
			continue
		}
		state, kind := do(c.verb)
		require.Equal(t, c.want, state, c.verb)
		require.Equal(t, c.kind, kind, c.verb)
	}
	require.True(t, r.look(fleet.RolloutSeen{}).Rollout.Forced)
	key := fleet.IdempotencyKey{Key: "k", RequestHash: "h"}
	second := r.newRollout(0)
	first, err := r.ControlRollout(ctx, fleet.RolloutControl{Key: key, ID: second.ID, Verb: fleet.RolloutPause})
	require.NoError(t, err)
	again, err := r.ControlRollout(ctx, fleet.RolloutControl{Key: key, ID: second.ID, Verb: fleet.RolloutPause})
	require.NoError(t, err)
	require.True(t, again.Replayed)
	require.Equal(t, first.Version, again.Version, "a repeated request does nothing")
	_, err = r.ControlRollout(ctx, fleet.RolloutControl{ID: second.ID, IfMatch: 1, Verb: fleet.RolloutResume})
	require.Equal(t, fleet.KindStale, fleet.KindOf(err))
}

func TestASecondRolloutSupersedesTheFirst(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a", "b")
	m := r.begin("a", fleet.OperationUpdate)
	second := r.newRollout(1)
	first, err := r.Rollout(context.Background(), r.rollout.ID)
	require.NoError(t, err)
	require.Equal(t, fleet.RolloutSuperseded, first.State)
	require.Equal(t, 2, first.Total)
	require.Equal(t, fleet.RolloutRunning, second.State)
	list, err := r.ListRollouts(context.Background(), fleet.RolloutQuery{Limit: 10, Group: "prod"})
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, second.ID, list[0].ID, "newest first")
	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(r.DeleteGroup(context.Background(), "prod", fleet.IdempotencyKey{})))
	// What it has begun comes to its end, and is then the second one's to move.
	r.commit(finish(r.work(m), fleet.StateStable))
	ended := r.look(fleet.RolloutSeen{})
	require.False(t, ended.Whole, "nobody needs the others any more")
	require.Len(t, ended.Members, 1)
	require.Equal(t, fleet.OperationSucceeded, ended.Members[0].Work)
	told := ended.Members[0].RolloutMember
	told.State, told.OperationID = fleet.MemberDone, ""
	r.decide(fleet.RolloutChange{Rollout: ended.Rollout, Before: ended.Rollout.State, Members: []fleet.RolloutMember{told}})
	require.Empty(t, r.look(fleet.RolloutSeen{}).Members)
	require.Equal(t, fleet.RolloutSuperseded, r.look(fleet.RolloutSeen{}).Rollout.State)
	r.rollout = second
	l := r.look(fleet.RolloutSeen{})
	require.Len(t, l.Joined, 1, "b is on revision 1 already")
	require.Equal(t, "a", l.Joined[0].Name)
	members, err := r.RolloutMembers(context.Background(), fleet.MemberQuery{Page: fleet.Page{Limit: 10}, Rollout: first.ID, State: fleet.MemberDone})
	require.NoError(t, err)
	require.Len(t, members, 1)
}
