package sim_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// behaving is a spec whose release behaves so.
func behaving(spec fleet.InstanceSpec, how string) fleet.InstanceSpec {
	spec.Env = map[string]string{sim.BehaviourVariable: how}
	return spec
}

func TestBadBehaviours(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{}, nil)
	for _, how := range []string{
		"crsh", "crash=1", "slow", "slow=-1s", "fail_after=soon", "only_memory=256", "crash;only_memory=lots", "crash;fraction=2", "crash;fraction=NaN",
		"crash;only_cluster", "crash;only_clone=yes", "crash;not_clone=no", "crash;only_wake=0s", "crash;crash", ";", "crash;only_label=a:b",
	} {
		_, err := p.Ensure(t.Context(), behaving(newSpec(cluster.ID, "a"), how))
		kind(t, fleet.KindInvalid, err)
		var typed *fleet.Error
		require.ErrorAs(t, err, &typed)
		require.Equal(t, "env.SIM_BEHAVIOUR", typed.Field)
	}
	require.Empty(t, all(t, p, cluster.ID), "a typing error does not pass for a good release")
}

func TestBehaviourCrash(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	p, cluster := start(t, sim.Options{Clock: clock}, map[string]string{"boot_time": "3s"})
	spec := behaving(newSpec(cluster.ID, "a"), "crash")
	for range 2 { // the next boot is no better
		st, err := p.Ensure(t.Context(), spec)
		require.NoError(t, err)
		require.Equal(t, fleet.PowerPending, st.Power)
		clock.advance(3 * time.Second)
		st = seen(t, p, spec)
		require.Equal(t, fleet.PowerOff, st.Power)
		require.Equal(t, fleet.ReasonCrashLoop, st.Exit.Reason)
		require.Equal(t, 1, st.Exit.Code)
	}
}

// TestBehaviourOverTime: slow, then healthy, then failing, then gone, each told
// and each at its time, across restarts of the simulator too.
func TestBehaviourOverTime(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	var told []fleet.InstanceID
	options := sim.Options{Dir: t.TempDir(), Clock: clock, OnChange: func(id fleet.InstanceID) { told = append(told, id) }}
	p, cluster := start(t, options, nil)
	spec := behaving(newSpec(cluster.ID, "a"), " slow=90s ; fail_after=1m;exit_after=2m ")
	boot := func() {
		st, err := p.Ensure(t.Context(), spec)
		require.NoError(t, err)
		require.Equal(t, fleet.PowerOn, st.Power)
		require.Equal(t, fleet.HealthUnhealthy, st.Health)
		require.Equal(t, 90*time.Second, st.Again)
		require.Equal(t, st, seen(t, p, spec))
	}
	boot()
	for _, want := range []struct {
		after  time.Duration
		health fleet.HealthState
		told   bool
	}{
		{89 * time.Second, fleet.HealthUnhealthy, false},
		{time.Second, fleet.HealthHealthy, true},
		{59 * time.Second, fleet.HealthHealthy, false},
		{time.Second, fleet.HealthUnhealthy, true},
		{59 * time.Second, fleet.HealthUnhealthy, false},
		{time.Second, fleet.HealthUnknown, true},
		{time.Hour, fleet.HealthUnknown, false},
	} {
		told = nil
		clock.advance(want.after)
		require.Equal(t, want.health, seen(t, p, spec).Health)
		require.Equal(t, want.told, len(told) == 1, "%v", told)
		p = reopen(t, p, options, cluster)
		require.Equal(t, want.health, seen(t, p, spec).Health)
	}
	st := seen(t, p, spec)
	require.Equal(t, fleet.PowerOff, st.Power)
	require.Equal(t, fleet.ReasonProgramExited, st.Exit.Reason)
	require.Equal(t, 1, st.Exit.Code)
	require.Zero(t, clock.pending())

	// A boot begins it anew, and an exit that came due while nothing ran comes at once.
	boot()
	require.NoError(t, p.Close())
	clock.advance(time.Hour)
	told = nil
	p = reopen(t, p, options, cluster)
	clock.advance(0)
	require.Equal(t, fleet.PowerOff, seen(t, p, spec).Power)
	require.Equal(t, []fleet.InstanceID{spec.ID}, told)
}

// TestBehaviourWithoutDelay: times are kept in microseconds, and a shorter one
// must not be waited for again and again.
func TestBehaviourWithoutDelay(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	p, cluster := start(t, sim.Options{Clock: clock}, nil)
	for _, how := range []string{"exit_after=0s", "exit_after=1ns", "slow=1ns;exit_after=1ns"} {
		spec := behaving(newSpec(cluster.ID, "a"), how)
		_, err := p.Ensure(t.Context(), spec)
		require.NoError(t, err)
		clock.advance(2 * time.Nanosecond)
		require.Equal(t, fleet.PowerOff, seen(t, p, spec).Power, how)
	}
	require.Zero(t, clock.pending())
	failing := behaving(newSpec(cluster.ID, "a"), "fail_after=0s")
	_, err := p.Ensure(t.Context(), failing)
	require.NoError(t, err)
	require.Equal(t, fleet.HealthUnhealthy, seen(t, p, failing).Health)
}

// TestSetHealthStandsAboveTheBehaviour until it is taken back.
func TestSetHealthStandsAboveTheBehaviour(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	p, cluster := start(t, sim.Options{Clock: clock}, nil)
	spec := behaving(newSpec(cluster.ID, "a"), "slow=1m")
	_, err := p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	require.NoError(t, p.SetHealth(spec.ID, fleet.HealthUnhealthy, "set"))
	clock.advance(time.Minute)
	require.Equal(t, "set", seen(t, p, spec).HealthDetail)
	require.NoError(t, p.SetHealth(spec.ID, fleet.HealthHealthy, ""))
	require.Equal(t, fleet.HealthHealthy, seen(t, p, spec).Health)
}

func TestBehaviourOnlyThere(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{}, nil)
	cluster.Name = "here"
	require.NoError(t, p.Configure(cluster))
	for how, crashes := range map[string]bool{
		"crash;only_memory=128": true, "crash;only_memory=256": false,
		"crash;only_cluster=here": true, "crash;only_cluster=there": false, "crash;only_cluster=" + string(cluster.ID): true,
		"crash;only_clone": false, "crash;not_clone": true, "crash;only_memory=128;only_clone": false,
		"crash;fraction=0": false, "crash;fraction=1": true, "crash;only_wake": false,
	} {
		st, err := p.Ensure(t.Context(), behaving(newSpec(cluster.ID, "a"), how))
		require.NoError(t, err)
		require.Equal(t, crashes, st.Power == fleet.PowerOff, how)
	}
	for how, crashes := range map[string]bool{"crash": true, "crash;only_clone": true, "crash;not_clone": false, "crash;only_wake=1ns": false} {
		st, err := p.Clone(t.Context(), behaving(newSpec(cluster.ID, "a"), how))
		require.NoError(t, err)
		require.Equal(t, crashes, st.Power == fleet.PowerOff, how)
	}
}

// TestBehaviourWords are all known, and no other is.
func TestBehaviourWords(t *testing.T) {
	t.Parallel()
	values := map[string]string{"MIB": "128", "NAME-OR-ID": "a", "0..1": "0.5", "DURATION": "1s"}
	for _, word := range sim.BehaviourWords() {
		word, _, _ = strings.Cut(word, " ")
		for placeholder, value := range values {
			word = strings.Replace(word, "="+placeholder, "="+value, 1)
		}
		_, err := sim.ParseBehaviour(word)
		if err != nil { // a restriction, which does nothing alone
			require.ErrorContains(t, err, "says nothing to do", word)
			_, err = sim.ParseBehaviour("crash;" + word)
		}
		require.NoError(t, err, word)
	}
}

// TestBehaviourFraction: the same installations each time, clones and
// successors included, and others with another seed.
func TestBehaviourFraction(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{}, nil)
	const installations = 4000
	bad := func(round, seed string) map[int]bool {
		cluster.Settings = map[string]string{"seed": seed}
		require.NoError(t, p.Configure(cluster))
		found := map[int]bool{}
		for n := range installations {
			spec := behaving(numbered(cluster.ID, n), "crash;fraction=0.05")
			spec.ID = fleet.InstanceID(fleet.DeriveID(string(spec.ID), round, seed))
			st, err := p.Clone(t.Context(), spec)
			require.NoError(t, err)
			if st.Power == fleet.PowerOff {
				found[n] = true
			}
		}
		return found
	}
	first := bad("first", "1")
	require.InDelta(t, 0.05, float64(len(first))/installations, 0.01)
	require.Equal(t, first, bad("second", "1"))
	require.NotEqual(t, first, bad("third", "2"))
}

// TestBehaviourOnlyWake: only where the installation slept, be it that the same
// instance wakes or a successor with another release.
func TestBehaviourOnlyWake(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	p, cluster := start(t, sim.Options{Clock: clock}, nil)
	const how = "crash;only_wake=1m"
	spec := behaving(newSpec(cluster.ID, "a"), how)
	power := func(spec fleet.InstanceSpec, target fleet.Power) fleet.InstanceStatus {
		t.Helper()
		st, err := p.Power(t.Context(), refOf(spec), target)
		require.NoError(t, err)
		return st
	}
	ensure := func(spec fleet.InstanceSpec) fleet.InstanceStatus {
		t.Helper()
		st, err := p.Ensure(t.Context(), spec)
		require.NoError(t, err)
		return st
	}
	require.Equal(t, fleet.PowerOn, ensure(spec).Power, "the first boot of all")
	power(spec, fleet.PowerOff)
	clock.advance(59 * time.Second)
	require.Equal(t, fleet.PowerOn, power(spec, fleet.PowerOn).Power, "a restart")

	// An update: the successor starts right after its predecessor was stopped.
	successor := behaving(newSpec(cluster.ID, "b"), how)
	successor.InstallationID = spec.InstallationID
	power(spec, fleet.PowerOff)
	require.Equal(t, fleet.PowerOn, ensure(successor).Power)

	// A sleeper that was moved: a clone of the new release was good, and its wake is not.
	power(successor, fleet.PowerOff)
	clock.advance(time.Minute)
	moved := behaving(newSpec(cluster.ID, "c"), how)
	moved.InstallationID = spec.InstallationID
	clone := behaving(newSpec(cluster.ID, "clone"), how)
	clone.InstallationID = spec.InstallationID
	st, err := p.Clone(t.Context(), clone)
	require.NoError(t, err)
	require.Equal(t, fleet.PowerOn, st.Power)
	database := behaving(newSpec(cluster.ID, "db"), how)
	database.InstallationID, database.Role = spec.InstallationID, fleet.RoleDatabase
	require.Equal(t, fleet.PowerOn, ensure(database).Power, "the first boot in its role")
	st = ensure(moved)
	require.Equal(t, fleet.PowerOff, st.Power)
	require.Equal(t, fleet.ReasonCrashLoop, st.Exit.Reason)
}
