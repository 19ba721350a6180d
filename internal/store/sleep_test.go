package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// later moves the database's clock ahead.
func (w *world) later(d time.Duration) {
	w.t.Helper()
	w.sqlExec(w.t, fmt.Sprintf("CREATE OR REPLACE FUNCTION dormouse_now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT now() + interval ''%d s'''", int(d.Seconds())))
}

func (w *world) tell(a ...fleet.Activity) {
	w.t.Helper()
	require.NoError(w.t, w.RecordActivity(context.Background(), a))
}

// idle are the names of the candidates.
func (w *world) idle(limit int) (idle, due []string) {
	w.t.Helper()
	candidates, err := w.IdleCandidates(context.Background(), limit)
	require.NoError(w.t, err)
	for _, c := range candidates {
		name := w.text(w.t, "SELECT name FROM installation WHERE id = $1", c.InstallationID)
		if c.Idle {
			idle = append(idle, name)
		} else {
			due = append(due, name)
		}
	}
	return idle, due
}

// patch changes what needs no machine.
func (w *world) patch(name string, c fleet.Change) (fleet.InstallationView, error) {
	c.OperationID, c.IDOrName, c.Kind = newOperationID(), name, fleet.OperationUpdate
	a, err := w.ChangeInstallation(context.Background(), c)
	return a.Installation, err
}

func TestDNSNamesAreOnesOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	in := w.request("first")
	in.DNSNames = []string{"www.acme.example", "acme.example"}
	a, err := w.CreateInstallation(ctx, in)
	require.NoError(t, err)
	require.Equal(t, in.DNSNames, a.Installation.DNSNames)
	require.Equal(t, []string{"acme.example", "www.acme.example"}, w.installation("first").DNSNames)
	require.Equal(t, []string{"acme.example", "www.acme.example"}, w.list(fleet.InstallationQuery{})[0].DNSNames)

	second := w.request("second")
	second.DNSNames = []string{"other.example", "acme.example"}
	_, err = w.CreateInstallation(ctx, second)
	require.Equal(t, fleet.KindConflict, fleet.KindOf(err))
	require.ErrorContains(t, err, `"acme.example"`)
	w.create("second")
	_, err = w.patch("second", fleet.Change{DNSNames: &second.DNSNames})
	require.Equal(t, fleet.KindConflict, fleet.KindOf(err))
	require.ErrorContains(t, err, `"acme.example"`)
	require.Empty(t, w.installation("second").DNSNames)

	// One that is kept, one that goes, one that comes.
	v, err := w.patch("first", fleet.Change{DNSNames: &[]string{"new.example", "www.acme.example"}})
	require.NoError(t, err)
	require.Equal(t, []string{"new.example", "www.acme.example"}, v.DNSNames)
	v, err = w.patch("second", fleet.Change{DNSNames: &second.DNSNames})
	require.NoError(t, err)
	require.Equal(t, []string{"acme.example", "other.example"}, v.DNSNames)
	v, err = w.patch("second", fleet.Change{Labels: map[string]*string{"a": ptr("b")}})
	require.NoError(t, err)
	require.Len(t, v.DNSNames, 2, "what is not said stays")

	route, err := w.Route(ctx, "acme.example")
	require.NoError(t, err)
	require.Equal(t, "second", route.Name)
	_, err = w.Route(ctx, "nobody.example")
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))

	w.mustChange("second", fleet.OperationDelete)
	for _, s := range w.claim() {
		if s.Operation.Kind == fleet.OperationDelete {
			w.commit(finish(s, fleet.StateDeleted))
		}
	}
	v, err = w.patch("first", fleet.Change{DNSNames: &second.DNSNames})
	require.NoError(t, err, "the names of what is deleted are free")
	require.Equal(t, []string{"acme.example", "other.example"}, v.DNSNames)
	require.Equal(t, 2, w.count(t, "SELECT count(*) FROM installation_dns_name"))
}

// Two that ask for one name at once: one has it.
func TestDNSNamesAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	errs := together(8, func(n int) error {
		in := w.request(fmt.Sprintf("t%d", n))
		in.DNSNames = []string{"one.example", fmt.Sprintf("t%d.example", n)}
		_, err := w.CreateInstallation(context.Background(), in)
		return err
	})
	had := 0
	for _, err := range errs {
		if err == nil {
			had++
			continue
		}
		require.Equal(t, fleet.KindConflict, fleet.KindOf(err))
		require.ErrorContains(t, err, "one.example")
	}
	require.Equal(t, 1, had)
	require.Equal(t, 2, w.count(t, "SELECT count(*) FROM installation_dns_name"))
}

func TestIdlePolicyOfGroupAndInstallation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	night := fleet.Schedule{Cron: "0 22 * * *", Zone: "Europe/Berlin", Do: fleet.OperationHibernate}
	w.newGroup("prod", nil, fleet.GroupChange{Idle: &fleet.IdleChange{IdleAfterSeconds: ptr(900), Schedules: &[]fleet.Schedule{night}},
		Wake: &fleet.WakeChange{Paths: &[]string{"/healthz"}}})
	in := w.member("member", "prod")
	in.Idle = fleet.IdlePolicy{MinimumAwakeSeconds: 60}
	in.Wake = fleet.WakeRules{Hidden: true}
	_, err := w.CreateInstallation(ctx, in)
	require.NoError(t, err)
	v := w.installation("member")
	require.Equal(t, fleet.IdlePolicy{IdleAfterSeconds: 900, MinimumAwakeSeconds: 60, Schedules: []fleet.Schedule{night}}, v.Idle)
	require.Equal(t, fleet.WakeRules{Paths: []string{"/healthz"}, Hidden: true}, v.Wake)
	require.Equal(t, v.Idle, w.list(fleet.InstallationQuery{})[0].Idle)
	require.Equal(t, 1, w.count(t, "SELECT count(*) FROM installation WHERE schedule_due_at IS NOT NULL"), "somebody looks when it is due")

	v, err = w.patch("member", fleet.Change{Idle: &fleet.IdleChange{IdleAfterSeconds: ptr(60)}, Wake: &fleet.WakeChange{Paths: &[]string{"/probe"}}})
	require.NoError(t, err)
	require.Equal(t, fleet.IdlePolicy{IdleAfterSeconds: 60, MinimumAwakeSeconds: 60, Schedules: []fleet.Schedule{night}}, v.Idle)
	require.Equal(t, []string{"/probe"}, v.Wake.Paths)
	v, err = w.patch("member", fleet.Change{Idle: &fleet.IdleChange{IdleAfterSeconds: ptr(0)}, Wake: &fleet.WakeChange{Paths: &[]string{}}})
	require.NoError(t, err)
	require.Equal(t, 900, v.Idle.IdleAfterSeconds, "the group's again")
	require.Equal(t, []string{"/healthz"}, v.Wake.Paths)
	v, err = w.patch("member", fleet.Change{Idle: &fleet.IdleChange{Never: ptr(true)}})
	require.NoError(t, err)
	require.True(t, v.Idle.Never)
	require.Zero(t, v.Idle.IdleAfterSeconds, "it goes with the group's")
	v, err = w.patch("member", fleet.Change{Group: &fleet.GroupMembership{}})
	require.NoError(t, err)
	require.Equal(t, fleet.IdlePolicy{Never: true, MinimumAwakeSeconds: 60}, v.Idle, "it leaves with its own")
	require.Equal(t, fleet.WakeRules{Hidden: true}, v.Wake)
	require.Zero(t, w.count(t, "SELECT count(*) FROM installation WHERE schedule_due_at IS NOT NULL"))
	v, err = w.patch("member", fleet.Change{Group: &fleet.GroupMembership{Join: "prod"}})
	require.NoError(t, err)
	require.Equal(t, fleet.IdlePolicy{Never: true, MinimumAwakeSeconds: 60, Schedules: []fleet.Schedule{night}}, v.Idle)
	require.Equal(t, 1, w.count(t, "SELECT count(*) FROM installation WHERE schedule_due_at IS NOT NULL"))
}

func TestHibernateIsAskedForWithAMode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.running("hello")
	require.False(t, v.AwakeSince.IsZero())
	idle := fleet.Change{OperationID: newOperationID(), IDOrName: "hello", Kind: fleet.OperationHibernate, Class: fleet.ClassBulk,
		Observed: map[string]string{fleet.ObservedIdle: "true"}}
	a, err := w.ChangeInstallation(context.Background(), idle)
	require.NoError(t, err)
	require.Equal(t, idle.Observed, a.Operation.Observed)
	require.Equal(t, fleet.ClassBulk, a.Operation.Class)
	b, err := w.ChangeInstallation(context.Background(), fleet.Change{OperationID: newOperationID(), IDOrName: "hello", Kind: fleet.OperationHibernate,
		Observed: map[string]string{fleet.ObservedSleep: string(fleet.SuspendCold)}})
	require.NoError(t, err)
	require.Equal(t, a.Operation.ID, b.Operation.ID)
	require.Equal(t, map[string]string{fleet.ObservedSleep: "cold"}, b.Operation.Observed, "it is theirs who asked for it")
	require.Equal(t, fleet.ClassInteractive, b.Operation.Class)
	idle.OperationID = newOperationID()
	b, err = w.ChangeInstallation(context.Background(), idle)
	require.NoError(t, err)
	require.NotContains(t, b.Operation.Observed, fleet.ObservedIdle)

	s := w.claimOne()
	require.Equal(t, "cold", s.Operation.Observed[fleet.ObservedSleep])
	r := finish(s, fleet.StateHibernating)
	asleep := *v.Instance
	asleep.Role, asleep.InstallationID, asleep.ClusterID = fleet.RoleApplication, v.ID, v.ClusterID
	asleep.Serving, asleep.Power, asleep.Endpoints = false, fleet.PowerOff, nil
	asleep.Saved = &fleet.Saved{Tier: fleet.TierWarm, Bytes: 7, At: time.Unix(0, 0).UTC()}
	r.Changes.Instances = []fleet.Instance{asleep}
	w.commit(r)
	for _, v := range []fleet.InstallationView{w.installation("hello"), w.list(fleet.InstallationQuery{})[0]} {
		require.Equal(t, fleet.StateHibernating, v.State)
		require.False(t, v.AsleepSince.IsZero())
		require.Equal(t, asleep.Saved, v.Instance.Saved)
		require.Zero(t, v.Wakes)
	}
	route, err := w.Route(context.Background(), "hello")
	require.NoError(t, err)
	require.Equal(t, []any{v.Instance.ID, v.HeldHostID, ""}, []any{route.InstanceID, route.HostID, route.Address}, "where it sleeps")

	w.mustChange("hello", fleet.OperationWake)
	w.commit(finish(w.claimOne(), fleet.StateStable))
	v = w.installation("hello")
	require.True(t, v.AsleepSince.IsZero())
	require.EqualValues(t, 1, v.Wakes)
}

// A hibernation that was given up because somebody came.
func TestHibernateEndsStable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.running("hello")
	w.sqlExec(t, "UPDATE installation SET hibernated = true")
	w.mustChange("hello", fleet.OperationHibernate)
	s := w.claimOne()
	r := finish(s, fleet.StateStable)
	r.ToReason = fleet.ReasonVisited
	require.False(t, w.commit(r)[0].Stale)
	v := w.installation("hello")
	require.Equal(t, []any{fleet.StateStable, fleet.ReasonVisited, false}, []any{v.State, v.StateReason, v.Hibernated})
	require.Equal(t, fleet.OperationSucceeded, v.Operation.State)
}

func TestIdleCandidates(t *testing.T) {
	t.Parallel()
	host := hostSize
	host.AddressPool, host.MemoryMiB = "10.77.0.0/24", 10000
	w := newWorld(t, host)
	day := []fleet.Schedule{{Cron: "0 8 * * *", Zone: "UTC", Do: fleet.OperationWake}}
	id := map[string]fleet.InstallationID{}
	for name, p := range map[string]fleet.IdlePolicy{
		"quiet": {IdleAfterSeconds: 600}, "visited": {IdleAfterSeconds: 600}, "open": {IdleAfterSeconds: 600}, "silent": {IdleAfterSeconds: 600},
		"never": {Never: true}, "unsaid": {}, "fresh": {IdleAfterSeconds: 600, MinimumAwakeSeconds: 7200}, "patient": {IdleAfterSeconds: 7200},
		"busy": {IdleAfterSeconds: 600}, "asleep": {IdleAfterSeconds: 600}, "scheduled": {Schedules: day}, "both": {IdleAfterSeconds: 600, Schedules: day},
	} {
		in := w.request(name)
		in.Idle = p
		_, err := w.CreateInstallation(context.Background(), in)
		require.NoError(t, err)
		id[name] = in.ID
		s := w.claimOne()
		r := finish(s, fleet.StateStable)
		r.Changes = w.service(s, s.Hosts[0].ID)
		require.Empty(t, w.commit(r)[0].Denied)
	}
	w.mustChange("asleep", fleet.OperationHibernate)
	w.commit(finish(w.claimOne(), fleet.StateHibernating))
	now := time.Now()
	idle, due := w.idle(100)
	require.Empty(t, idle, "all have just woken")
	require.ElementsMatch(t, []string{"scheduled", "both"}, due, "nobody has looked yet when they are due")

	w.later(time.Hour)
	w.sqlExec(t, "INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, state, request_state) VALUES ('m', 'move', 'installation', $1, '', 'active', 'stable')", id["busy"])
	hour := now.Add(time.Hour)
	w.tell(fleet.Activity{InstallationID: id["quiet"], LastAt: hour.Add(-20 * time.Minute), Requests: 3, BytesIn: 1, BytesOut: 2},
		fleet.Activity{InstallationID: id["visited"], LastAt: hour.Add(-5 * time.Minute), Requests: 1},
		fleet.Activity{InstallationID: id["open"], LastAt: hour.Add(-21 * time.Minute), Open: 2},
		fleet.Activity{InstallationID: "gone", LastAt: hour, Requests: 1},
		fleet.Activity{InstallationID: id["quiet"], LastAt: hour.Add(-30 * time.Minute), Requests: 4, BytesIn: 1})
	idle, _ = w.idle(100)
	require.ElementsMatch(t, []string{"quiet", "silent", "both"}, idle)
	idle, due = w.idle(1)
	require.Len(t, idle, 1)
	require.Len(t, due, 1)
	require.Equal(t, "7 2 2", w.text(t, "SELECT requests || ' ' || bytes_in || ' ' || bytes_out FROM installation_activity WHERE installation_id = $1", id["quiet"]))
	require.Equal(t, 3, w.count(t, "SELECT count(*) FROM installation_activity"))
	require.WithinDuration(t, hour.Add(-20*time.Minute), w.installation("quiet").LastActiveAt, time.Second)

	told, err := w.ListTraffic(context.Background(), 2)
	require.NoError(t, err)
	require.Equal(t, []string{"visited", "quiet"}, []string{told[0].Name, told[1].Name}, "the latest first")
	one, err := w.Traffic(context.Background(), "quiet")
	require.NoError(t, err)
	told[1].Now = one.Now
	require.Equal(t, one, told[1])
	require.Equal(t, []any{int64(7), fleet.StateStable, 600, fleet.OperationKind("")}, []any{one.Requests, one.State, one.Idle.IdleAfterSeconds, one.Busy})
	one, err = w.Traffic(context.Background(), string(id["busy"]))
	require.NoError(t, err)
	require.Equal(t, []any{fleet.OperationMove, true, true}, []any{one.Busy, one.LastAt.IsZero(), one.ToldAt.IsZero()})
	_, err = w.Traffic(context.Background(), "none")
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))

	w.later(time.Hour + 4*time.Minute) // what was open was told too long ago
	idle, _ = w.idle(100)
	require.Contains(t, idle, "open")
	w.tell(fleet.Activity{InstallationID: id["quiet"], LastAt: now.Add(1000 * time.Hour), Requests: 1})
	require.Less(t, time.Since(w.installation("quiet").LastActiveAt), time.Hour, "a clock that is ahead keeps nobody awake")
	idle, _ = w.idle(100)
	require.NotContains(t, idle, "quiet")
	require.Equal(t, 0, w.count(t, "SELECT count(*) FROM installation_activity WHERE last_active_at > dormouse_now()"))
}

func TestSchedulesSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	in := w.request("hello")
	in.Idle.Schedules = []fleet.Schedule{{Cron: "0 8 * * *", Zone: "UTC", Do: fleet.OperationWake}}
	_, err := w.CreateInstallation(ctx, in)
	require.NoError(t, err)
	first, err := w.IdleCandidates(ctx, 10)
	require.NoError(t, err)
	require.Len(t, first, 1)
	require.True(t, first[0].ScheduleSeenAt.IsZero())
	require.Equal(t, in.Idle, first[0].Policy)
	next := first[0].Now.Add(time.Hour).Truncate(time.Microsecond)
	seen := []fleet.ScheduleSeen{{InstallationID: in.ID, Due: first[0].ScheduleDueAt, SeenAt: first[0].Now, NextAt: next}}
	require.NoError(t, w.SchedulesSeen(ctx, seen))
	_, due := w.idle(10)
	require.Empty(t, due)
	w.later(2 * time.Hour)
	second, err := w.IdleCandidates(ctx, 10)
	require.NoError(t, err)
	require.Equal(t, []time.Time{first[0].Now, next}, []time.Time{second[0].ScheduleSeenAt, second[0].ScheduleDueAt})

	// Other schedules: what was read before says nothing of them.
	_, err = w.patch("hello", fleet.Change{Labels: map[string]*string{"a": ptr("b")}})
	require.NoError(t, err)
	require.Equal(t, 1, w.count(t, "SELECT count(*) FROM installation WHERE schedule_due_at = $1", next), "another change leaves them")
	_, err = w.patch("hello", fleet.Change{Idle: &fleet.IdleChange{Schedules: &[]fleet.Schedule{{Cron: "0 9 * * *", Zone: "UTC", Do: fleet.OperationWake}}}})
	require.NoError(t, err)
	require.NoError(t, w.SchedulesSeen(ctx, []fleet.ScheduleSeen{{InstallationID: in.ID, Due: next, SeenAt: next, NextAt: next.Add(100 * time.Hour)}}))
	third, err := w.IdleCandidates(ctx, 10)
	require.NoError(t, err)
	require.Len(t, third, 1)
	require.True(t, third[0].ScheduleSeenAt.IsZero())
	require.NoError(t, w.SchedulesSeen(ctx, []fleet.ScheduleSeen{{InstallationID: in.ID, Due: third[0].ScheduleDueAt, SeenAt: third[0].Now}}))
	_, due = w.idle(10)
	require.Empty(t, due, "never again")
}

func TestRoutesOfHosts(t *testing.T) {
	t.Parallel()
	one, two := hostSize, hostSize
	one.Name, two.Name, two.MemoryMiB = "h1", "h2", 900
	w := newWorld(t, one, two)
	ctx := context.Background()
	var all []fleet.InstallationView
	for i := range 3 {
		all = append(all, w.running(fmt.Sprintf("t%d", i)))
	}
	host := all[0].HeldHostID
	other := w.cluster.Hosts[0].ID
	if other == host {
		other = w.cluster.Hosts[1].ID
	}
	w.sqlExec(t, "UPDATE instance SET host_id = $1 WHERE installation_id = $2", other, all[1].ID)
	w.sqlExec(t, "INSERT INTO gateway_port (port, installation_id, guest_port) VALUES (30001, $1, 1883), (30002, $1, 5432)", all[0].ID)
	_, err := w.patch("t0", fleet.Change{DNSNames: &[]string{"t0.example"}, Wake: &fleet.WakeChange{Paths: &[]string{"/healthz"}}})
	require.NoError(t, err)
	names := func(hosts []fleet.HostID, after fleet.InstallationID, limit int) (names []string) {
		routes, err := w.RoutesOf(ctx, hosts, after, limit)
		require.NoError(t, err)
		for _, r := range routes {
			alone, err := w.Route(ctx, r.Name)
			require.NoError(t, err)
			require.Equal(t, alone, r)
			names = append(names, r.Name)
		}
		return names
	}
	require.Equal(t, []string{"t0", "t2"}, names([]fleet.HostID{host}, "", 10))
	require.Equal(t, []string{"t0", "t1", "t2"}, names([]fleet.HostID{host, other}, "", 10))
	require.Equal(t, []string{"t0", "t1"}, names([]fleet.HostID{host, other}, "", 2))
	require.Equal(t, []string{"t2"}, names([]fleet.HostID{host, other}, all[1].ID, 2))
	require.Empty(t, names(nil, "", 2))
	route, err := w.Route(ctx, "t0.example")
	require.NoError(t, err)
	require.Equal(t, fleet.Route{InstallationID: all[0].ID, Name: "t0", State: fleet.StateUpdateRequested, InstanceID: all[0].Instance.ID, ClusterID: all[0].ClusterID,
		HostID: host, DNSNames: []string{"t0.example"}, Address: "10.77.0.2:80", Wake: fleet.WakeRules{Paths: []string{"/healthz"}},
		Ports: []fleet.RoutePort{{Gateway: 30001, Port: 1883, Address: "10.77.0.2:1883"}, {Gateway: 30002, Port: 5432}}}, route)

	// A page is full though an installation has several instances, and clones do not count.
	for i, clone := range []bool{false, false, true} {
		w.sqlExec(t, `INSERT INTO instance (id, installation_id, role, cluster_id, host_id, spec, power, clone, created_at)
			SELECT 'x' || $1::text, installation_id, role, cluster_id, host_id, '{}', 'planned', $2, dormouse_now() + interval '1 s' FROM instance WHERE id = $3`, i, clone, all[0].Instance.ID)
	}
	require.Equal(t, []string{"t0", "t2"}, names([]fleet.HostID{host}, "", 2))
	route, err = w.Route(ctx, "t0")
	require.NoError(t, err)
	require.Equal(t, all[0].Instance.ID, route.InstanceID, "the one that serves")
}
