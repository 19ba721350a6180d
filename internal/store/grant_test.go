package store

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// sums compares what the hosts say is held with what the installations hold.
func (w *world) requireSums() {
	w.t.Helper()
	require.Zero(w.t, w.count(w.t, `SELECT count(*) FROM host h WHERE ARRAY[memory_held_mib, disk_held_mib] <> (
		SELECT ARRAY[coalesce(sum(memory), 0), coalesce(sum(disk), 0)]::bigint[] FROM (
			SELECT held_memory_mib AS memory, held_disk_mib AS disk FROM installation WHERE held_host_id = h.id
			UNION ALL SELECT reserved_memory_mib, reserved_disk_mib FROM installation WHERE reserved_host_id = h.id) i)`),
		"hosts and installations disagree about what is held")
	require.Zero(w.t, w.count(w.t, "SELECT count(*) FROM host WHERE memory_held_mib > memory_mib OR disk_held_mib > disk_mib"), "promised twice")
}

func TestCapacityIsCountedExactlyAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Host{Name: "h1", State: fleet.HostUp, MemoryMiB: 1000, DiskMiB: 10000, AddressPool: "10.77.0.0/24"})
	for i := range 40 {
		w.create(fmt.Sprintf("i%d", i))
	}
	snaps := w.claim()
	require.Len(t, snaps, 40)
	granted := make([]int, 8)
	for _, err := range together(8, func(worker int) error {
		for _, s := range snaps[worker*5 : worker*5+5] {
			for _, memory := range []int64{100, 150, 0, 100} { // asks, grows, gives back, asks again
				c, err := w.Commit(context.Background(), []fleet.Result{step(s, fleet.Changes{
					Hold: &fleet.Hold{HostID: s.Hosts[0].ID, MemoryMiB: memory, DiskMiB: 10}, Address: s.Hosts[0].ID})})
				if err != nil {
					return err
				}
				if c[0].Denied == "" && memory == 100 {
					granted[worker]++
				}
			}
		}
		return nil
	}) {
		require.NoError(t, err)
	}
	w.requireSums()
	host := w.host("h1")
	require.Greater(t, host.MemoryHeldMiB, int64(800), "the room is used")
	require.Equal(t, w.count(t, "SELECT count(*) FROM address_lease WHERE installation_id IS NOT NULL"),
		w.count(t, "SELECT count(DISTINCT installation_id) FROM address_lease WHERE installation_id IS NOT NULL"))
	require.Zero(t, w.count(t, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
}

func TestDeniedCapacityChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("hello")
	s := w.claimOne()
	id := fleet.InstanceID("x")
	r := step(s, fleet.Changes{Hold: &fleet.Hold{HostID: s.Hosts[0].ID, MemoryMiB: 1001}, Address: s.Hosts[0].ID, Running: &w.pkg.ID,
		Instances: []fleet.Instance{{ID: id, InstallationID: s.Installation.ID, Role: fleet.RoleApplication, Power: fleet.PowerPlanned}},
		Observed:  map[string]string{"a": "b"}})
	c := w.commit(r)[0]
	require.Equal(t, fleet.WaitCapacity, c.Denied)
	require.False(t, c.Stale)
	v := w.installation("hello")
	require.Equal(t, fleet.WaitCapacity, v.Operation.WaitReason)
	require.Equal(t, "prepare", v.Operation.Step, "the step runs again")
	require.Empty(t, v.Operation.Steps)
	require.Empty(t, v.Operation.Observed)
	require.Empty(t, v.RunningPackageID)
	require.Nil(t, v.Instance)
	require.Zero(t, w.count(t, "SELECT count(*) FROM address_lease WHERE installation_id IS NOT NULL"))
	w.requireSums()

	r.Changes.Hold = &fleet.Hold{HostID: "no-such-host", MemoryMiB: 1}
	require.Equal(t, fleet.WaitCapacity, w.commit(r)[0].Denied)
	r.Changes.Hold = &fleet.Hold{HostID: s.Hosts[0].ID, MemoryMiB: 1, DiskMiB: 10001}
	require.Equal(t, fleet.WaitCapacity, w.commit(r)[0].Denied, "disk counts too")
}

// lease commits a request for an address and returns it.
func (w *world) lease(s fleet.Snapshot, host fleet.HostID) string {
	w.t.Helper()
	c := w.commit(step(s, fleet.Changes{Address: host}))[0]
	require.Empty(w.t, c.Denied)
	if c.Lease == nil {
		return ""
	}
	return c.Lease.Address
}

func TestAddressesAreReusedLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 6 {
		w.create(fmt.Sprintf("i%d", i))
	}
	snaps := w.claim()
	host := snaps[0].Hosts[0].ID
	var got []string
	for _, s := range snaps[:5] {
		got = append(got, w.lease(s, host))
	}
	require.Equal(t, []string{"10.77.0.2", "10.77.0.3", "10.77.0.4", "10.77.0.5", "10.77.0.6"}, got)
	require.Equal(t, fleet.WaitAddress, w.commit(step(snaps[5], fleet.Changes{Address: host}))[0].Denied, "all are leased")
	require.Empty(t, w.lease(snaps[2], host), "it has one already")
	for _, i := range []int{3, 1, 4} {
		w.commit(step(snaps[i], fleet.Changes{ReleaseAddress: true}))
	}
	require.Equal(t, "10.77.0.5", w.lease(snaps[5], host), "the one that has been free the longest")
	require.Equal(t, "10.77.0.3", w.lease(snaps[1], host))
}

func TestAddressStaysWhileItSleeps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.running("hello")
	address := w.text(t, "SELECT address FROM address_lease WHERE installation_id IS NOT NULL")
	w.mustChange("hello", fleet.OperationHibernate)
	s := w.claimOne()
	require.Equal(t, address, s.Lease.Address)
	r := finish(s, fleet.StateHibernating)
	r.Changes.Hold = &fleet.Hold{HostID: s.Installation.HeldHostID, DiskMiB: 100}
	w.commit(r)
	require.Zero(t, w.host("h1").MemoryHeldMiB, "memory is given back")
	require.EqualValues(t, 100, w.host("h1").DiskHeldMiB, "the disk is not")
	require.True(t, w.claimHibernated("hello"))
	w.mustChange("hello", fleet.OperationWake)
	require.Equal(t, address, w.claimOne().Lease.Address)
	w.requireSums()
}

func (w *world) claimHibernated(name string) bool {
	return w.count(w.t, "SELECT count(*) FROM installation WHERE name = $1 AND hibernated AND state = 'hibernating'", name) == 1
}

// Another host has another network: the address must change with it.
func TestHoldAndAddressMoveBetweenHosts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Host{Name: "h1", State: fleet.HostUp, MemoryMiB: 1000, DiskMiB: 1000, AddressPool: "10.77.1.0/29"},
		fleet.Host{Name: "h2", State: fleet.HostUp, MemoryMiB: 500, DiskMiB: 1000, AddressPool: "10.77.2.0/29"})
	w.running("hello")
	require.EqualValues(t, 128, w.host("h1").MemoryHeldMiB)
	w.mustChange("hello", fleet.OperationUpdate)
	s := w.claimOne()
	to := w.host("h2").ID
	require.Equal(t, fleet.WaitCapacity, w.commit(step(s, fleet.Changes{Hold: &fleet.Hold{HostID: to, MemoryMiB: 501}, Address: to}))[0].Denied)
	require.Equal(t, "10.77.1.2", w.text(t, "SELECT address FROM address_lease WHERE installation_id IS NOT NULL"), "denied: nothing moved")
	c := w.commit(step(s, fleet.Changes{Hold: &fleet.Hold{HostID: to, MemoryMiB: 200, DiskMiB: 50}, Address: to}))[0]
	require.Empty(t, c.Denied)
	require.Equal(t, "10.77.2.2", c.Lease.Address)
	require.Equal(t, to, c.Lease.HostID)
	require.Equal(t, 1, w.count(t, "SELECT count(*) FROM address_lease WHERE installation_id IS NOT NULL"))
	require.Zero(t, w.host("h1").MemoryHeldMiB)
	require.Zero(t, w.host("h1").DiskHeldMiB)
	require.EqualValues(t, 200, w.host("h2").MemoryHeldMiB)
	w.requireSums()
}

func TestDeleteReleasesAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.running("hello")
	w.mustChange("hello", fleet.OperationDelete)
	s := w.claimOne()
	none := fleet.PackageID("")
	gone, volume := s.Instances[0], *s.Volume
	gone.Power, gone.Serving, gone.DeletedAt = fleet.PowerOff, false, s.Now
	volume.AttachedInstanceID, volume.DeletedAt = "", s.Now
	r := finish(s, fleet.StateDeleted)
	r.Changes = fleet.Changes{Instances: []fleet.Instance{gone}, Volume: &volume, Hold: &fleet.Hold{}, ReleaseAddress: true, Running: &none, Verified: &none}
	require.False(t, w.commit(r)[0].Stale)
	for what, query := range map[string]string{
		"instances": "SELECT count(*) FROM instance WHERE deleted_at IS NULL", "volumes": "SELECT count(*) FROM volume WHERE deleted_at IS NULL",
		"leases": "SELECT count(*) FROM address_lease WHERE installation_id IS NOT NULL", "open work": "SELECT count(*) FROM operation WHERE state IN ('active', 'queued')",
		"capacity": "SELECT sum(memory_held_mib + disk_held_mib)::int FROM host",
	} {
		require.Zero(t, w.count(t, query), what)
	}
	w.requireSums()
	tombstone, err := w.Installation(context.Background(), "", string(v.ID))
	require.NoError(t, err)
	require.Equal(t, fleet.StateDeleted, tombstone.State)
	require.False(t, tombstone.DeletedAt.IsZero())
	require.NoError(t, w.DeletePackage(context.Background(), "web"))
}

// A commit of an epoch that has passed writes nothing, in none of its arms.
func TestStaleEpochWritesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.running("hello")
	w.mustChange("hello", fleet.OperationUpdate)
	w.mustChange("hello", fleet.OperationRestart) // waits behind it
	old := w.claimOne()
	w.sqlExec(t, "UPDATE operation SET due_at = dormouse_now() - interval '1 s' WHERE state = 'active'")
	fresh := w.claimOne()
	require.Greater(t, fresh.Operation.Epoch, old.Operation.Epoch)

	dump := func() []string {
		var rows []string
		for _, table := range []string{"installation", "instance", "volume", "operation", "event", "address_lease", "host", "cluster"} {
			var of []string
			require.NoError(t, w.db.Select(&of, "SELECT to_jsonb(x)::text FROM "+table+" x ORDER BY 1"))
			rows = append(rows, of...)
		}
		return rows
	}
	before := dump()
	other := fleet.PackageID("other")
	changed := old.Instances[0]
	changed.Power = fleet.PowerOff
	volume := *old.Volume
	volume.AttachedInstanceID = ""
	all := fleet.Changes{
		Instances: []fleet.Instance{changed, {ID: "new", InstallationID: old.Installation.ID, Role: fleet.RoleApplication, Power: fleet.PowerPlanned}},
		Volume:    &volume, Hold: &fleet.Hold{HostID: old.Hosts[0].ID, MemoryMiB: 1, DiskMiB: 1}, Address: old.Hosts[0].ID,
		Verified: &other, Running: &other, Observed: map[string]string{"a": "b"},
	}
	for _, release := range []bool{false, true} {
		for _, r := range []fleet.Result{step(old, all), finish(old, fleet.StateStable), finish(old, fleet.StateUpdateFailed)} {
			r.Changes = all
			r.Changes.ReleaseAddress = release
			c := w.commit(r)[0]
			require.True(t, c.Stale)
			require.Nil(t, c.Lease)
			require.Empty(t, c.Next)
			require.Equal(t, before, dump())
		}
	}
	still, err := w.Extend(context.Background(), map[fleet.OperationID]fleet.Epoch{old.Operation.ID: old.Operation.Epoch}, 1)
	require.NoError(t, err)
	require.Empty(t, still)
	require.Equal(t, before, dump())

	c := w.commit(finish(old, fleet.StateStable), finish(fresh, fleet.StateStable))
	require.True(t, c[0].Stale && !c[1].Stale, "both in one batch: %+v", c)
}

// A standby that was behind became the primary: it had forgotten that capacity was
// held, which the worker knew it had been told. What followed was written all the
// same, and an installation ended stable with nothing held and no address.
func TestADatabaseThatHasForgottenACommitGetsNoneThatRestsOnIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("hello")
	s := w.claimOne()
	host := s.Hosts[0].ID
	reserving := step(s, fleet.Changes{Reserve: &fleet.Hold{HostID: host, MemoryMiB: 64}})
	ahead := step(s, fleet.Changes{Hold: &fleet.Hold{HostID: host, MemoryMiB: 64}, Address: host})
	reserving.Revision, ahead.Revision = s.Operation.Revision+1, s.Operation.Revision+1
	before := w.text(t, "SELECT memory_held_mib::text FROM host WHERE id = $1", host)
	require.True(t, w.commit(reserving)[0].Stale)
	require.True(t, w.commit(ahead)[0].Stale)
	require.Equal(t, before, w.text(t, "SELECT memory_held_mib::text FROM host WHERE id = $1", host), "nothing is held for what is not written")
	require.Zero(t, w.count(t, "SELECT count(*) FROM address_lease WHERE installation_id IS NOT NULL"))
	ahead.Revision = s.Operation.Revision
	require.False(t, w.commit(ahead)[0].Stale)
	// The same again, whose answer was lost on its way: it is no later than what is known.
	require.False(t, w.commit(ahead)[0].Stale)
}

// The answer to a commit was lost, and the same is sent again: it is done once.
func TestACommitThatIsSentAgainIsDoneOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("hello")
	s := w.claimOne()
	failed := step(s, fleet.Changes{})
	failed.Step, failed.StepNumber, failed.Done, failed.Attempt, failed.Error = "prepare", 1, "", 1, "no answer"
	done := step(s, fleet.Changes{Hold: &fleet.Hold{HostID: s.Hosts[0].ID, MemoryMiB: 64}, Address: s.Hosts[0].ID})
	done.Revision++
	for _, r := range []fleet.Result{failed, failed, done, done} {
		require.False(t, w.commit(r)[0].Stale)
	}
	require.Equal(t, 1, w.count(t, "SELECT count(*) FROM event WHERE kind = 'operation.step-failed'"))
	require.Equal(t, "prepare:2", w.text(t, "SELECT string_agg(x ->> 'name' || ':' || (x ->> 'attempts'), ' ') FROM operation, jsonb_array_elements(steps) x"))
	w.requireSums()
}

// A worker that had lost an operation and claimed it again sent the outcome of
// both runs in one batch: what the older one asked for was given too, to nobody.
func TestTwoEpochsOfOneOperationInOneBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("hello")
	old := w.claimOne()
	w.sqlExec(t, "UPDATE operation SET due_at = dormouse_now() - interval '1 s' WHERE state = 'active'")
	fresh := w.claimOne()
	require.Greater(t, fresh.Operation.Epoch, old.Operation.Epoch)
	host := fresh.Hosts[0].ID
	asking := func(s fleet.Snapshot, instance string, memory int64) fleet.Result {
		return step(s, fleet.Changes{Hold: &fleet.Hold{HostID: host, MemoryMiB: memory, DiskMiB: memory}, Address: host,
			Instances: []fleet.Instance{{ID: fleet.InstanceID(instance), InstallationID: s.Installation.ID, Role: fleet.RoleApplication, Power: fleet.PowerPlanned}}})
	}
	c := w.commit(asking(old, "old", 128), asking(fresh, "fresh", 256))
	require.True(t, c[0].Stale && !c[1].Stale, "%+v", c)
	require.EqualValues(t, 256, w.host("h1").MemoryHeldMiB)
	require.Equal(t, "fresh", w.text(t, "SELECT string_agg(id, ' ') FROM instance"))
	w.requireSums()
	require.EqualValues(t, 256, w.count(t, "SELECT held_memory_mib FROM installation"))

	// Too much for the older one is not too much for the newer one.
	c = w.commit(asking(old, "old", 100000), asking(fresh, "fresh", 128))
	require.True(t, c[0].Stale && !c[1].Stale && c[1].Denied == "", "%+v", c)
	w.requireSums()
}
