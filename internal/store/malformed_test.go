package store

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// One row that can't be read hid all others of its list; of clusters, it kept
// every cluster from being swept, and the process from starting.
func TestAMalformedRowDoesNotHideTheOthers(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a", "b", "c")
	ctx := context.Background()
	r.newGroup("other", nil, fleet.GroupChange{})
	r.claim() // the rollout's operation, which is out of the way then
	r.newCluster("second")
	r.begin("b", fleet.OperationUpdate)
	page := fleet.Page{Limit: 100}
	lists := func() (names []string) {
		installations, err := r.ListInstallations(ctx, fleet.InstallationQuery{Page: page})
		require.NoError(t, err)
		for _, v := range installations {
			names = append(names, v.Name)
		}
		clusters, err := r.ListClusters(ctx, page)
		require.NoError(t, err)
		for _, v := range clusters {
			names = append(names, v.Name)
		}
		groups, err := r.ListGroups(ctx, page)
		require.NoError(t, err)
		for _, v := range groups {
			names = append(names, v.Name)
		}
		rollouts, err := r.ListRollouts(ctx, fleet.RolloutQuery{Limit: 100})
		require.NoError(t, err)
		for _, v := range rollouts {
			names = append(names, string(v.ID))
		}
		members, err := r.RolloutMembers(ctx, fleet.MemberQuery{Rollout: r.rollout.ID, Page: page})
		require.NoError(t, err)
		for _, v := range members {
			names = append(names, v.Name)
		}
		operations, err := r.ListOperations(ctx, fleet.OperationQuery{Limit: 100})
		require.NoError(t, err)
		for _, v := range operations {
			names = append(names, string(v.ID))
		}
		return names
	}
	whole := lists()
	for _, spoil := range []string{
		`UPDATE installation SET labels = '{"a": 1}' WHERE name = 'a'`, `UPDATE installation SET env = '[1]' WHERE name = 'a'`,
		`UPDATE installation SET own = '"text"' WHERE name = 'a'`, `UPDATE instance SET endpoints = '{}', exit_record = '[1]', spec = '{"memory_mib": "x", "generation": []}'
			WHERE installation_id = (SELECT id FROM installation WHERE name = 'a')`,
		`UPDATE cluster SET settings = '[1]', check_report = '[1]' WHERE name = 'local'`, `UPDATE group_revision SET config = '[1]'`,
		`UPDATE installation_group SET labels = '[1]' WHERE name = 'prod'`, `UPDATE rollout SET spec = '[1]'`,
		`UPDATE rollout_member SET labels = '[1]' WHERE name = 'a'`, `UPDATE operation SET steps = '{"a": 1}', observed = '[1]' WHERE resource_name = 'a'`,
	} {
		r.sqlExec(t, spoil)
		require.Equal(t, whole, lists(), spoil)
	}
	// Each says so where it is shown.
	require.Contains(t, r.installation("a").StateDetail, "can't be read")
	op, err := r.Operation(ctx, r.installation("a").Operation.ID)
	require.NoError(t, err)
	require.Contains(t, op.Error, "can't be read")
	c, err := r.Cluster(ctx, "local")
	require.NoError(t, err)
	require.Contains(t, c.StateDetail, "can't be read")
	v, err := r.Rollout(ctx, r.rollout.ID)
	require.NoError(t, err)
	require.Contains(t, v.Detail, "can't be read")
	// What would be written over is not read in part.
	_, err = r.ChangeGroup(ctx, fleet.ChangeGroup{IDOrName: "other", Config: fleet.GroupChange{MemoryMiB: ptr(256)}})
	require.Equal(t, fleet.KindInternal, fleet.KindOf(err))
	// And what can't be carried out can be given up.
	v, err = r.ControlRollout(ctx, fleet.RolloutControl{ID: r.rollout.ID, Verb: fleet.RolloutCancel})
	require.NoError(t, err)
	require.Equal(t, fleet.RolloutCancelled, v.State)
}

// The whole claim failed for one operation, so that nothing was worked on any more.
func TestAMalformedVerificationDoesNotStopTheClaim(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a", "b")
	r.begin("a", fleet.OperationUpdate)
	r.sqlExec(t, `UPDATE operation SET kind = 'verify', rollout = '{"to": "x"}' WHERE resource_name = 'a' AND state = 'active'`)
	r.mustChange("b", fleet.OperationRestart)
	kinds := map[fleet.OperationKind]string{}
	for _, s := range r.claim() {
		kinds[s.Operation.Kind] = s.Malformed
	}
	require.Contains(t, kinds[fleet.OperationVerify], "decoding a stored JSON column")
	require.Equal(t, "", kinds[fleet.OperationRestart])
	require.Contains(t, kinds, fleet.OperationRestart)
}

// One member that can't be read, or that would make the statement fail, stopped
// the whole rollout.
func TestAMalformedMemberIsFailedByItself(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "own", "labels", "late", "good")
	r.sqlExec(t, `UPDATE installation SET own = '{"memory_mib": "x"}' WHERE name = 'own'`)
	r.sqlExec(t, `UPDATE installation SET labels = '[1]' WHERE name = 'labels'`)
	l := r.look(fleet.RolloutSeen{})
	require.Len(t, l.Joined, 4)
	var starts []fleet.MemberStart
	for _, m := range l.Joined {
		want := fleet.MemberWaiting
		if m.Name == "own" || m.Name == "labels" {
			want = fleet.MemberFailed
			require.Contains(t, m.Detail, "can't be read")
		}
		require.Equal(t, want, m.State, m.Name)
		starts = append(starts, r.start(m.Name, fleet.OperationUpdate))
	}
	r.sqlExec(t, `UPDATE installation SET own = '{"env": 5}' WHERE name = 'late'`)
	r.decide(fleet.RolloutChange{Rollout: l.Rollout, Before: l.Rollout.State, Members: l.Joined, Begin: starts})
	l = r.look(fleet.RolloutSeen{})
	require.Equal(t, fleet.MemberRolling, r.memberOf(l, "good").State)
	require.Equal(t, fleet.MemberWaiting, r.memberOf(l, "late").State)
	require.Contains(t, r.memberOf(l, "late").Malformed, "can't be read")
	r.sqlExec(t, `UPDATE rollout_member SET labels = '[1]' WHERE name = 'good'`)
	require.Contains(t, r.memberOf(r.look(fleet.RolloutSeen{}), "good").Malformed, "can't be read")

	// An update that failed goes back to the revision before, but for that.
	r.sqlExec(t, `UPDATE installation SET own = '{"memory_mib": "x"}' WHERE name = 'good'`)
	for _, s := range r.claim() {
		if s.Operation.ResourceName == "good" {
			require.NotEmpty(t, s.Malformed)
			failed := finish(s, fleet.StateUpdateFailed)
			failed.State, failed.FailReason, failed.Changes.Pin = fleet.OperationFailed, fleet.ReasonPanic, ptr(fleet.RevisionNumber(1))
			require.False(t, r.commit(failed)[0].Stale)
		}
	}
	require.Equal(t, fleet.StateUpdateFailed, r.installation("good").State)
}

// The operation of a rollout ends when its row can't be read; nothing carried the
// rollout out any more, whatever was asked for.
func TestARolloutThatNobodyCarriesOutIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a")
	ctx := context.Background()
	r.sqlExec(t, `UPDATE operation SET state = 'failed', finished_at = dormouse_now() WHERE kind = 'rollout'`)
	before := r.count(t, `SELECT count(*) FROM operation WHERE kind = 'rollout'`)
	v, err := r.ControlRollout(ctx, fleet.RolloutControl{ID: r.rollout.ID, Verb: fleet.RolloutResume})
	require.NoError(t, err)
	require.Equal(t, fleet.OperationActive, v.Operation.State)
	s := r.claimOne()
	require.Equal(t, []any{fleet.OperationRollout, string(r.rollout.ID)}, []any{s.Operation.Kind, s.Operation.ResourceID})
	_, err = r.ControlRollout(ctx, fleet.RolloutControl{ID: r.rollout.ID, Verb: fleet.RolloutPause})
	require.NoError(t, err)
	require.Equal(t, before+1, r.count(t, `SELECT count(*) FROM operation WHERE kind = 'rollout'`), "one is enough")
}
