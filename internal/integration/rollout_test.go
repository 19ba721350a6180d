package integration

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/pgtest"
	"dormouse/internal/provider/sim"
	"dormouse/internal/supervisor/rollout"
)

// group is a world with a group of installations, some of them asleep, and an
// engine that works.
type group struct {
	*world
	engine  *worker
	awake   []string
	sleeper []string
	// ahead is by how much the database's clock is ahead.
	ahead time.Duration
}

func newGroup(t *testing.T, awake, asleep int, cluster map[string]string) *group {
	t.Helper()
	return newGroupIn(bareWorld(t), setup{slots: 16}, awake, asleep, 0, cluster)
}

// newGroupIn makes one in a world. Every small-th installation has 64 MiB by its own
// setting (0 is none), the others what the group has.
func newGroupIn(w *world, engines setup, awake, asleep, small int, cluster map[string]string) *group {
	t := w.t
	t.Helper()
	g := &group{world: w}
	settings := map[string]string{"boot_time": "2ms", "stop_time": "1ms"}
	for k, v := range cluster {
		settings[k] = v
	}
	g.createCluster(clusterName, settings)
	for _, version := range []string{"1", "2"} {
		_, err := g.store.CreatePackage(g.ctx, fleet.Package{Name: "web", Version: version, Digest: "d" + version, Kernel: fleet.KernelLinux,
			Manifest: fleet.Manifest{Program: "/web", Persist: []string{"/data"}, Ports: []fleet.Port{{Number: 80, Protocol: fleet.ProtocolHTTP}}}})
		require.NoError(t, err)
	}
	one := "web@1"
	_, err := g.store.CreateGroup(g.ctx, fleet.NewGroup{ID: fleet.GroupID(fleet.NewID()), Name: "prod", Config: fleet.GroupChange{PackageRef: &one}})
	require.NoError(t, err)
	g.engine = g.start(engines)
	t.Cleanup(func() { g.engine.stop() })
	var ops []fleet.OperationID
	for i := range awake + asleep {
		name, memory := fmt.Sprintf("t%03d", i), 0
		if small > 0 && i%small == 0 {
			memory = 64
		}
		a, err := g.store.CreateInstallation(g.ctx, fleet.NewInstallation{ID: fleet.InstallationID(fleet.NewID()), OperationID: newOp(), Name: name,
			Owner: "acme", MemoryMiB: memory, DiskMiB: 10, WhenFull: fleet.WhenFullWait, Group: fleet.GroupMembership{Join: "prod"}})
		require.NoError(t, err)
		ops = append(ops, a.Operation.ID)
		if i < awake {
			g.awake = append(g.awake, name)
		} else {
			g.sleeper = append(g.sleeper, name)
		}
	}
	g.wake()
	for _, op := range ops {
		require.Equal(t, fleet.OperationSucceeded, g.finished(op).State)
	}
	for _, name := range g.sleeper {
		g.ask(name, fleet.OperationHibernate)
	}
	return g
}

func newOp() fleet.OperationID { return fleet.OperationID(fleet.NewID()) }

// ask asks for one thing and waits for its end.
func (g *group) ask(name string, kind fleet.OperationKind) fleet.Operation {
	g.t.Helper()
	a, err := g.store.ChangeInstallation(g.ctx, fleet.Change{OperationID: newOp(), IDOrName: name, Kind: kind})
	require.NoError(g.t, err)
	g.wake()
	return g.finished(a.Operation.ID)
}

// release makes a new revision of the group, and begins to roll it out.
func (g *group) release(c fleet.GroupChange, spec fleet.RolloutSpec) fleet.RolloutID {
	g.t.Helper()
	_, err := g.store.ChangeGroup(g.ctx, fleet.ChangeGroup{IDOrName: "prod", Config: c})
	require.NoError(g.t, err)
	return g.roll(0, spec)
}

func (g *group) roll(to fleet.RevisionNumber, spec fleet.RolloutSpec) fleet.RolloutID {
	g.t.Helper()
	members, _, err := g.store.RolloutCandidates(g.ctx, "prod", to)
	require.NoError(g.t, err)
	spec, err = rollout.Normalise(spec, len(members))
	require.NoError(g.t, err)
	v, err := g.store.CreateRollout(g.ctx, fleet.NewRollout{ID: fleet.RolloutID(fleet.NewID()), OperationID: newOp(), Group: "prod", To: to, Spec: spec})
	require.NoError(g.t, err)
	g.wake()
	return v.ID
}

func quick() fleet.RolloutSpec {
	return fleet.RolloutSpec{Slots: 4, VerifySlots: 2, Soak: -1, HealthyFor: 5 * time.Millisecond, HealthDeadline: 3 * time.Second}
}

// ended waits until the rollout is in a state.
func (g *group) ended(id fleet.RolloutID, state fleet.RolloutState) fleet.RolloutView {
	g.t.Helper()
	var v fleet.RolloutView
	g.eventually(func() bool {
		var err error
		v, err = g.store.Rollout(g.ctx, id)
		return err == nil && v.State == state
	}, func() string {
		return fmt.Sprintf("rollout is %s (%s: %s): %+v", v.State, v.Reason, v.Detail, v.Counts)
	})
	if state.Finished() {
		g.finished(v.Operation.ID)
	}
	return v
}

// cancel ends a rollout that would wait for somebody to decide.
func (g *group) cancel(id fleet.RolloutID) {
	g.t.Helper()
	_, err := g.store.ControlRollout(g.ctx, fleet.RolloutControl{ID: id, Verb: fleet.RolloutCancel})
	require.NoError(g.t, err)
	g.wake()
	g.ended(id, fleet.RolloutCancelled)
}

func counts(v fleet.RolloutView) map[fleet.MemberState]int {
	all := map[fleet.MemberState]int{}
	for _, c := range v.Counts {
		all[c.State] += c.N
	}
	return all
}

// runs counts the installations by what they run, asleep ones by what they would wake on.
func (g *group) runs() map[string]int {
	g.t.Helper()
	all := map[string]int{}
	for _, line := range g.strings(`SELECT p.version || ' ' || i.state FROM installation i JOIN package p ON p.id = i.package_id WHERE i.deleted_at IS NULL`) {
		all[line]++
	}
	return all
}

func envOf(value string) map[string]*string { return map[string]*string{sim.BehaviourVariable: &value} }

var second = "web@2"

func TestRolloutMovesEverybodyAndWakesNobody(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 20, 8, nil)
	boots := g.strings(`SELECT count(*)::text FROM operation WHERE kind = 'wake'`)
	v := g.ended(g.release(fleet.GroupChange{PackageRef: &second}, quick()), fleet.RolloutSucceeded)
	require.Equal(t, map[fleet.MemberState]int{fleet.MemberDone: 20, fleet.MemberVerified: 8}, counts(v))
	require.Equal(t, map[string]int{"2 stable": 20, "2 hibernating": 8}, g.runs())
	require.Equal(t, boots, g.strings(`SELECT count(*)::text FROM operation WHERE kind = 'wake'`))
	g.none("clones that are left", `SELECT id FROM instance WHERE clone AND deleted_at IS NULL`)
	g.none("memory held for sleepers", `SELECT name FROM installation WHERE state = 'hibernating' AND held_memory_mib > 0`)
	g.none("sleepers that would wake onto an unverified release", `SELECT name FROM installation WHERE state = 'hibernating' AND verified_package_id <> package_id`)
	require.Equal(t, fleet.OperationSucceeded, g.ask(g.sleeper[0], fleet.OperationWake).State)
	group, err := g.store.Group(g.ctx, "prod")
	require.NoError(t, err)
	require.EqualValues(t, 2, group.Revision)
	g.invariants()
}

func TestRolloutHaltsABadRelease(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 20, 4, nil)
	spec := quick()
	spec.FirstWave, spec.MaxFailures, spec.AutoRollback = 3, 2, true
	v := g.ended(g.release(fleet.GroupChange{PackageRef: &second, Env: envOf("crash")}, spec), fleet.RolloutRolledBack)
	require.NotEmpty(t, v.Reason)
	require.LessOrEqual(t, 24-counts(v)[fleet.MemberWaiting], 8, "%v", counts(v))
	runs := g.runs()
	require.Equal(t, 4, runs["1 hibernating"])
	require.Equal(t, 20, runs["1 stable"]+runs["1 update-failed"], "everybody is on the old release: %v", runs)
	for _, name := range g.awake {
		i, err := g.store.Installation(g.ctx, "", name)
		require.NoError(t, err)
		require.True(t, i.Instance.Serving, "%s is %s", name, i.State)
		require.EqualValues(t, 1, i.GroupRevision)
	}
	g.invariants()
}

// A defect that only a clone shows is caught while everybody sleeps on.
func TestRolloutCatchesWhatOnlyACloneShows(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 0, 6, nil)
	spec := quick()
	spec.MaxFailures = 1
	id := g.release(fleet.GroupChange{PackageRef: &second, Env: envOf("crash;only_clone")}, spec)
	v := g.ended(id, fleet.RolloutHalted)
	require.NotZero(t, counts(v)[fleet.MemberFailed])
	require.Equal(t, map[string]int{"1 hibernating": 6}, g.runs(), "no sleeper is moved onto what its clone could not run")
	g.none("clones that are left", `SELECT id FROM instance WHERE clone AND deleted_at IS NULL`)
	require.Equal(t, fleet.OperationSucceeded, g.ask(g.sleeper[0], fleet.OperationWake).State)
	g.cancel(id)
	g.settled()
	g.invariants()
}

func TestRolloutShowsWhatCannotBeVerified(t *testing.T) {
	t.Parallel()
	for policy, want := range map[fleet.UnverifiablePolicy]string{fleet.UnverifiableKeep: "1 hibernating", fleet.UnverifiableMove: "2 hibernating"} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			g := newGroup(t, 2, 3, map[string]string{"clones": "false"})
			v := g.ended(g.release(fleet.GroupChange{PackageRef: &second, Unverifiable: &policy}, quick()), fleet.RolloutSucceeded)
			require.Equal(t, map[fleet.MemberState]int{fleet.MemberDone: 2, fleet.MemberUnverifiable: 3}, counts(v))
			require.Equal(t, map[string]int{"2 stable": 2, want: 3}, g.runs())
			g.none("wakes", `SELECT id FROM operation WHERE kind = 'wake'`)
			g.invariants()
		})
	}
}

func TestRolloutIsRolledBackOnRequest(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 12, 4, nil)
	spec := quick()
	spec.Rings = []fleet.RolloutRing{{Name: "first", Percent: 50}, {Name: "rest"}}
	spec.FirstWave = 8
	long := time.Hour
	spec.Rings[0].Soak = &long
	id := g.release(fleet.GroupChange{PackageRef: &second}, spec)
	g.eventually(func() bool {
		v, err := g.store.Rollout(g.ctx, id)
		c := counts(v)
		return err == nil && c[fleet.MemberDone]+c[fleet.MemberVerified] >= 4 && c[fleet.MemberRolling]+c[fleet.MemberVerifying] == 0
	}, func() string { return "the first wave" })
	_, err := g.store.ControlRollout(g.ctx, fleet.RolloutControl{ID: id, Verb: fleet.RolloutRollback})
	require.NoError(t, err)
	g.wake()
	g.ended(id, fleet.RolloutRolledBack)
	require.Equal(t, map[string]int{"1 stable": 12, "1 hibernating": 4}, g.runs())
	g.invariants()
}

// What is under way when a rollout is rolled back is given up: an update that waits
// for health for an hour yet, a clone that is watched for an hour yet.
func TestRollBackDoesNotWaitForWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 6, 3, nil)
	spec := quick()
	spec.FirstWave, spec.HealthyFor, spec.HealthDeadline = 6, time.Hour, time.Hour
	id := g.release(fleet.GroupChange{PackageRef: &second, Env: envOf("slow=1h;not_clone")}, spec)
	waits := func(reason fleet.Reason) int {
		return len(g.strings(`SELECT id FROM operation WHERE state = 'active' AND wait_reason = $1`, reason))
	}
	g.eventually(func() bool { return waits(fleet.WaitHealthy) >= 2 && waits(fleet.WaitSteady) >= 1 }, func() string {
		return "updates that wait for health, and a clone that is watched"
	})
	_, err := g.store.ControlRollout(g.ctx, fleet.RolloutControl{ID: id, Verb: fleet.RolloutRollback})
	require.NoError(t, err)
	g.wake()
	v := g.ended(id, fleet.RolloutRolledBack)
	require.Zero(t, counts(v)[fleet.MemberFailed], "nobody failed: %v", counts(v))
	require.NotZero(t, counts(v)[fleet.MemberRolledBack])
	g.none("installations that are not served by the release before", `SELECT i.name FROM installation i
		WHERE i.state <> 'hibernating' AND (i.group_revision <> 1 OR NOT EXISTS (SELECT FROM instance n WHERE n.installation_id = i.id
			AND n.deleted_at IS NULL AND n.serving AND n.spec ->> 'package_id' = i.package_id))`)
	g.none("clones that are left", `SELECT id FROM instance WHERE clone AND deleted_at IS NULL`)
	g.none("strikes", `SELECT name FROM rollout_member WHERE strikes > 0`)
	g.invariants()
}

// The process that conducts dies; another one goes on.
func TestRolloutSurvivesItsConductor(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 16, 6, map[string]string{"latency": "2ms"})
	id := g.release(fleet.GroupChange{PackageRef: &second}, quick())
	for n := 2; n <= 4; n++ {
		least := 5 * (n - 1)
		g.eventually(func() bool {
			v, err := g.store.Rollout(g.ctx, id)
			c := counts(v)
			return err == nil && c[fleet.MemberDone]+c[fleet.MemberVerified] >= least
		}, func() string { return "some members are done" })
		next := g.start(setup{slots: 16, lease: 2 * time.Second})
		g.engine.stop()
		g.engine = next
	}
	v := g.ended(id, fleet.RolloutSucceeded)
	require.Equal(t, map[fleet.MemberState]int{fleet.MemberDone: 16, fleet.MemberVerified: 6}, counts(v))
	g.none("members that were begun twice", `SELECT installation_id FROM rollout_member WHERE attempts > 1`)
	g.invariants()
}

// A request of a tenant's own never waits for a clone.
func TestWakeDuringAVerification(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 0, 1, nil)
	spec := quick()
	spec.HealthyFor, spec.HealthDeadline = time.Hour, time.Minute
	id := g.release(fleet.GroupChange{PackageRef: &second}, spec)
	g.eventually(func() bool {
		return len(g.strings(`SELECT id FROM instance WHERE clone AND power = 'on' OR clone AND power = 'pending'`)) == 1
	},
		func() string { return "the clone runs" })
	// Else it would be updated as soon as it is awake, and watched for an hour.
	_, err := g.store.ControlRollout(g.ctx, fleet.RolloutControl{ID: id, Verb: fleet.RolloutPause})
	require.NoError(t, err)
	require.Equal(t, fleet.OperationSucceeded, g.ask(g.sleeper[0], fleet.OperationWake).State)
	v, err := g.store.Installation(g.ctx, "", g.sleeper[0])
	require.NoError(t, err)
	require.Equal(t, fleet.StateStable, v.State)
	require.Equal(t, "web@1", v.RunningRef, "it wakes on the release that it slept on")
	g.none("clones that are left", `SELECT id FROM instance WHERE clone AND deleted_at IS NULL`)
	g.cancel(id)
	g.settled()
	g.invariants()
}

// A clone does not show what only a wake does. Once somebody wakes onto the release
// while it is rolled out, that counts against it, and the sleeper gets its old release back.
func TestRolloutCountsAWakeThatFails(t *testing.T) {
	t.Parallel()
	clock := &lateClock{}
	g := newGroupIn(newBareWorld(t, pgtest.NewMigrated(t, migrate), wallClock{}, sim.Options{Clock: clock}), setup{slots: 16}, 1, 6, 0, nil)
	woken := g.sleeper[:3]
	spec := quick()
	spec.MaxFailures, spec.AutoRollback = 1, true
	spec.FirstWave = 4
	long := time.Hour // that the one that is awake is watched keeps the rollout open
	spec.Rings = []fleet.RolloutRing{{Name: "first", Installations: append([]string{g.awake[0]}, woken...), Soak: &long}, {Name: "rest"}}
	id := g.release(fleet.GroupChange{PackageRef: &second, Env: envOf("crash;only_wake=1h")}, spec)
	g.eventually(func() bool {
		v, err := g.store.Rollout(g.ctx, id)
		return err == nil && counts(v)[fleet.MemberVerified] == 3 && counts(v)[fleet.MemberDone] == 1
	}, func() string { return "the first ring is done" })
	clock.late.Store(true) // they have slept for long
	for _, name := range woken {
		require.Equal(t, fleet.OperationFailed, g.ask(name, fleet.OperationWake).State)
	}
	g.later(time.Minute)
	g.eventually(func() bool {
		return len(g.strings(`SELECT installation_id FROM rollout_member WHERE bad_since IS NOT NULL`)) == 3
	}, func() string { return "those that are down are seen to be" })
	g.later(10 * time.Minute)
	v := g.ended(id, fleet.RolloutRolledBack)
	require.Equal(t, fleet.ReasonFailureLimit, v.Reason)
	runs := g.runs()
	require.Equal(t, 7, runs["1 stable"]+runs["1 hibernating"], "everybody is on the old release, and nobody is down: %v", runs)
	g.invariants()
}

// lateClock is the simulator's clock, and two hours ahead from some moment on.
type lateClock struct {
	sim.WallClock
	late atomic.Bool
}

func (c *lateClock) Now() time.Time {
	if c.late.Load() {
		return time.Now().Add(2 * time.Hour)
	}
	return time.Now()
}

// later has the database's clock go on by d, and rollouts look.
func (g *group) later(d time.Duration) {
	g.t.Helper()
	g.ahead += d
	_, err := g.db.Exec(fmt.Sprintf(`CREATE OR REPLACE FUNCTION dormouse_now() RETURNS timestamptz LANGUAGE sql STABLE AS $$SELECT now() + interval '%d ms'$$`, g.ahead.Milliseconds()))
	require.NoError(g.t, err)
	g.world.wake()
}
