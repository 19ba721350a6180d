package store

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func (w *world) newGroup(name string, labels map[string]string, config fleet.GroupChange) fleet.GroupView {
	w.t.Helper()
	if config.PackageRef == nil {
		config.PackageRef = ptr("web@1")
	}
	g, err := w.CreateGroup(context.Background(), fleet.NewGroup{ID: fleet.GroupID(fleet.NewID()), Name: name, Labels: labels, Config: config})
	require.NoError(w.t, err)
	return g
}

func ptr[T any](v T) *T { return &v }

// member is a request that leaves everything to the group.
func (w *world) member(name, group string) fleet.NewInstallation {
	r := w.request(name)
	r.PackageRef, r.MemoryMiB, r.VCPUs = "", 0, 0
	r.Group.Join = group
	return r
}

func TestGroupConfigurationReachesItsMembers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.newPackage("web", "2")
	g := w.newGroup("prod", nil, fleet.GroupChange{MemoryMiB: ptr(256), Env: map[string]*string{"A": ptr("group"), "B": ptr("group")}})
	in := w.member("hello", "prod")
	in.Env = map[string]string{"B": "own"}
	a, err := w.CreateInstallation(ctx, in)
	require.NoError(t, err)
	v := w.installation("hello")
	require.Equal(t, v.Installation.Own, a.Installation.Own, "the answer is what is stored")
	require.Equal(t, g.ID, v.GroupID)
	require.Equal(t, "prod", v.GroupName)
	require.EqualValues(t, 1, v.GroupRevision)
	require.Equal(t, "web@1", v.PackageRef)
	require.Equal(t, 256, v.MemoryMiB)
	require.Equal(t, map[string]string{"A": "group", "B": "own"}, v.Env, "what it sets itself wins")

	changed, err := w.ChangeGroup(ctx, fleet.ChangeGroup{IDOrName: "prod", IfMatch: g.Version, Config: fleet.GroupChange{PackageRef: ptr("web@2")}})
	require.NoError(t, err)
	require.EqualValues(t, 2, changed.Latest)
	require.EqualValues(t, 1, changed.Revision, "a new revision waits for a rollout")
	require.Equal(t, map[fleet.RevisionNumber]int{1: 1}, changed.Members)
	require.Equal(t, "web@1", w.installation("hello").PackageRef)
	same, err := w.ChangeGroup(ctx, fleet.ChangeGroup{IDOrName: "prod", Config: fleet.GroupChange{PackageRef: ptr("web@2")}})
	require.NoError(t, err)
	require.EqualValues(t, 2, same.Latest, "what changes nothing makes no revision")
	_, err = w.ChangeGroup(ctx, fleet.ChangeGroup{IDOrName: "prod", IfMatch: g.Version, Config: fleet.GroupChange{MemoryMiB: ptr(64)}})
	require.Equal(t, fleet.KindStale, fleet.KindOf(err))
	revisions, err := w.GroupRevisions(ctx, "prod", 0, 10)
	require.NoError(t, err)
	require.Len(t, revisions, 2)
	require.Equal(t, "web@1", revisions[0].Config.PackageRef)
	require.Equal(t, "web@2", revisions[1].Config.PackageRef)
}

func TestJoinAndLeave(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.newPackage("web", "2")
	w.newGroup("prod", nil, fleet.GroupChange{PackageRef: ptr("web@2"), MemoryMiB: ptr(256), Env: map[string]*string{"A": ptr("group"), "B": ptr("group")}})
	w.running("hello")
	update := func(c fleet.Change) (fleet.InstallationView, error) {
		c.OperationID, c.IDOrName, c.Kind = newOperationID(), "hello", fleet.OperationUpdate
		_, err := w.ChangeInstallation(ctx, c)
		return w.installation("hello"), err
	}
	v, err := update(fleet.Change{Env: map[string]*string{"B": ptr("own")}})
	require.NoError(t, err)
	v, err = update(fleet.Change{Group: &fleet.GroupMembership{Join: "prod"}})
	require.NoError(t, err)
	require.Equal(t, "web@2", v.PackageRef)
	require.Equal(t, 256, v.MemoryMiB)
	require.Equal(t, map[string]string{"A": "group", "B": "own"}, v.Env)

	v, err = update(fleet.Change{PackageRef: ptr("web@1"), MemoryMiB: ptr(64), Env: map[string]*string{"B": nil, "C": ptr("own")}})
	require.NoError(t, err)
	require.Equal(t, "web@1", v.PackageRef, "its own wins")
	require.Equal(t, 64, v.MemoryMiB)
	require.Equal(t, map[string]string{"A": "group", "B": "group", "C": "own"}, v.Env, "what it no longer sets is the group's again")
	v, err = update(fleet.Change{FromGroup: []string{"package", "memory_mib"}})
	require.NoError(t, err)
	require.Equal(t, "web@2", v.PackageRef)
	require.Equal(t, 256, v.MemoryMiB)
	_, err = update(fleet.Change{FromGroup: []string{"disk_mib"}})
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	_, err = update(fleet.Change{Group: &fleet.GroupMembership{Join: "none"}})
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))

	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(w.DeleteGroup(ctx, "prod", fleet.IdempotencyKey{})), "it has a member")
	v, err = update(fleet.Change{Group: &fleet.GroupMembership{}})
	require.NoError(t, err)
	require.Empty(t, v.GroupID)
	require.Equal(t, map[string]string{"C": "own"}, v.Env)
	require.Equal(t, "web@2", v.PackageRef)
	v, err = update(fleet.Change{Group: &fleet.GroupMembership{Join: "prod"}})
	require.NoError(t, err)
	v, err = update(fleet.Change{Group: &fleet.GroupMembership{KeepConfiguration: true}})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"A": "group", "B": "group", "C": "own"}, v.Env)

	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(w.DeletePackage(ctx, "web@2")), "the group's revision needs it")
	require.NoError(t, w.DeleteGroup(ctx, "prod", fleet.IdempotencyKey{}))
	_, err = w.Group(ctx, "prod")
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
}

func TestEmptiestGroupThatMatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.newGroup("one", map[string]string{"tier": "free", "region": "eu"}, fleet.GroupChange{})
	w.newGroup("two", map[string]string{"tier": "free"}, fleet.GroupChange{})
	w.newGroup("other", map[string]string{"tier": "paid"}, fleet.GroupChange{})
	in := func(i int) map[string]int {
		for n := range i {
			r := w.member(fmt.Sprintf("m%d-%d", i, n), "")
			r.Group.Match = map[string]string{"tier": "free"}
			_, err := w.CreateInstallation(ctx, r)
			require.NoError(t, err)
		}
		got := map[string]int{}
		all, err := w.ListInstallations(ctx, fleet.InstallationQuery{Page: fleet.Page{Limit: 100}})
		require.NoError(t, err)
		for _, v := range all {
			got[v.GroupName]++
		}
		return got
	}
	require.Equal(t, map[string]int{"one": 5, "two": 5}, in(10))
	r := w.member("nowhere", "")
	r.Group.Match = map[string]string{"tier": "gold"}
	_, err := w.CreateInstallation(ctx, r)
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	page, err := w.ListInstallations(ctx, fleet.InstallationQuery{Page: fleet.Page{Limit: 100}, Group: "two"})
	require.NoError(t, err)
	require.Len(t, page, 5)
}

// Another system refuses 196 of 200 of these.
func TestConcurrentCreatesIntoOneGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newGroup("prod", nil, fleet.GroupChange{})
	for _, err := range together(16, func(i int) error {
		for j := range 200 {
			if _, err := w.CreateInstallation(context.Background(), w.member(fmt.Sprintf("t%d-%d", i, j), "prod")); err != nil {
				return err
			}
		}
		return nil
	}) {
		require.NoError(t, err)
	}
	g, err := w.Group(context.Background(), "prod")
	require.NoError(t, err)
	require.Equal(t, map[fleet.RevisionNumber]int{1: 3200}, g.Members)
}

// The same rule stands in Go and in SQL.
func TestSettleIsTheSameInSQL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.newPackage("web", "2")
	w.newGroup("prod", nil, fleet.GroupChange{Env: map[string]*string{"A": ptr("1")}})
	for i, own := range []fleet.NewInstallation{
		{}, {MemoryMiB: 64}, {VCPUs: 3, Env: map[string]string{"A": "own", "B": "own"}}, {PackageRef: "web@1"},
		{Idle: fleet.IdlePolicy{Never: true}, Wake: fleet.WakeRules{Paths: []string{"/own"}}},
		{Idle: fleet.IdlePolicy{IdleAfterSeconds: 60, Schedules: []fleet.Schedule{{Cron: "0 1 * * *", Zone: "UTC", Do: fleet.OperationWake}}}, Wake: fleet.WakeRules{Hidden: true, WakesPerHour: 3}},
		{Idle: fleet.IdlePolicy{MinimumAwakeSeconds: 61}},
	} {
		in := w.member(fmt.Sprintf("m%d", i), "prod")
		in.PackageRef, in.MemoryMiB, in.VCPUs, in.Env, in.Idle, in.Wake = own.PackageRef, own.MemoryMiB, own.VCPUs, own.Env, own.Idle, own.Wake
		_, err := w.CreateInstallation(ctx, in)
		require.NoError(t, err)
	}
	for n, c := range []fleet.GroupChange{
		{PackageRef: ptr("web@2")}, {MemoryMiB: ptr(512), VCPUs: ptr(2)}, {Env: map[string]*string{"A": nil, "C": ptr("3")}}, {MemoryMiB: ptr(0)},
		{Idle: &fleet.IdleChange{IdleAfterSeconds: ptr(900), MinimumAwakeSeconds: ptr(30)}, Wake: &fleet.WakeChange{Paths: &[]string{"/group"}, CIDRs: &[]string{"10.0.0.0/8"}}},
		{Idle: &fleet.IdleChange{Never: ptr(true), Schedules: &[]fleet.Schedule{{Cron: "0 2 * * *", Zone: "UTC", Do: fleet.OperationHibernate}}}},
		{Idle: &fleet.IdleChange{Never: ptr(false)}, Wake: &fleet.WakeChange{Paths: &[]string{}, Hidden: ptr(true), RequireCookie: ptr("session")}},
	} {
		g, err := w.ChangeGroup(ctx, fleet.ChangeGroup{IDOrName: "prod", Config: c})
		require.NoError(t, err)
		require.EqualValues(t, n+2, g.Latest)
		for i := range 7 {
			before := w.installation(fmt.Sprintf("m%d", i))
			require.NoError(t, w.InTx(ctx, func(tx *Tx) error { return tx.pin(ctx, before.ID, g.Latest) }))
			after, want := w.installation(fmt.Sprintf("m%d", i)), before.Installation
			g.LatestConfig.Settle(&want)
			require.Equal(t, []any{want.PackageID, want.MemoryMiB, want.VCPUs, want.Env, want.Idle, want.Wake},
				[]any{after.PackageID, after.MemoryMiB, after.VCPUs, after.Env, after.Idle, after.Wake}, "revision %d, m%d", g.Latest, i)
			require.Equal(t, g.Latest, after.GroupRevision)
			require.Greater(t, after.Generation, before.Generation)
		}
	}
}
