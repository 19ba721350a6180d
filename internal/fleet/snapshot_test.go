package fleet

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func snapshot() Snapshot {
	return Snapshot{
		Installation: &Installation{ID: "i", HeldHostID: "h1", HeldMemoryMiB: 128, HeldDiskMiB: 100},
		Instances: []Instance{
			{ID: "old", Role: RoleApplication, Serving: true, Power: PowerOn},
			{ID: "new", Role: RoleApplication, Power: PowerPlanned},
			{ID: "db", Role: RoleDatabase, Serving: true},
		},
		Volume:    &Volume{ID: "v", AttachedInstanceID: "old"},
		Hosts:     []Host{{ID: "h1"}, {ID: "h2"}},
		Operation: Operation{Observed: map[string]string{"a": "1", "b": "1"}},
	}
}

func TestSnapshotFinds(t *testing.T) {
	t.Parallel()
	s := snapshot()
	require.Equal(t, PowerPlanned, s.Instance("new").Power)
	require.Nil(t, s.Instance("none"))
	require.Equal(t, InstanceID("old"), s.Serving(RoleApplication).ID)
	require.Equal(t, InstanceID("db"), s.Serving(RoleDatabase).ID)
	require.Nil(t, (&Snapshot{}).Serving(RoleApplication))
	require.Equal(t, HostID("h2"), s.Host("h2").ID)
	require.Nil(t, s.Host("h3"))
}

func TestApply(t *testing.T) {
	t.Parallel()
	s := snapshot()
	none, running := PackageID(""), PackageID("p2")
	s.Apply(Changes{
		Instances: []Instance{{ID: "old", Power: PowerOff, DeletedAt: time.Unix(1, 0)}, {ID: "new", Role: RoleApplication, Serving: true, Power: PowerOn}, {ID: "extra"}},
		Volume:    &Volume{ID: "v", AttachedInstanceID: "new"},
		Hold:      &Hold{HostID: "h2", MemoryMiB: 256, DiskMiB: 200},
		Verified:  &none, Running: &running,
		Observed: map[string]string{"b": "2", "c": "3"},
	})
	require.Nil(t, s.Instance("old"), "deleted")
	require.Equal(t, InstanceID("new"), s.Serving(RoleApplication).ID)
	require.NotNil(t, s.Instance("extra"))
	require.Len(t, s.Instances, 3)
	require.Equal(t, InstanceID("new"), s.Volume.AttachedInstanceID)
	require.Equal(t, HostID("h2"), s.Installation.HeldHostID)
	require.EqualValues(t, 256, s.Installation.HeldMemoryMiB)
	require.EqualValues(t, 200, s.Installation.HeldDiskMiB)
	require.Empty(t, s.Installation.VerifiedPackageID)
	require.Equal(t, running, s.Installation.RunningPackageID)
	require.Equal(t, map[string]string{"a": "1", "b": "2", "c": "3"}, s.Operation.Observed)

	s.Apply(Changes{Volume: &Volume{ID: "v", DeletedAt: time.Unix(1, 0)}, Hold: &Hold{}})
	require.Nil(t, s.Volume)
	require.Empty(t, s.Installation.HeldHostID)
}

// The engine computes the next step on a copy of the snapshot; what it tries
// there must not show in the original, and nothing changed is nothing changed.
func TestApplyLeavesCopiesAlone(t *testing.T) {
	t.Parallel()
	before, try := snapshot(), Snapshot{}
	try = before
	try.Apply(Changes{})
	require.Equal(t, before, try)
	running := PackageID("p")
	try.Apply(Changes{
		Instances: []Instance{{ID: "old", DeletedAt: time.Unix(1, 0)}, {ID: "new", Power: PowerOn}},
		Volume:    &Volume{ID: "v"}, Hold: &Hold{HostID: "h2"}, Running: &running, Observed: map[string]string{"a": "2"},
	})
	require.Equal(t, snapshot(), before)
}

func TestApplyOnACluster(t *testing.T) {
	t.Parallel()
	s := Snapshot{Cluster: &Cluster{ID: "c"}}
	s.Apply(Changes{Check: &CheckReport{}, Hold: &Hold{HostID: "h"}, Observed: map[string]string{"a": "1"}})
	require.Nil(t, s.Installation)
	require.Equal(t, "1", s.Operation.Observed["a"], "into a map that was nil")
}

func TestCapacity(t *testing.T) {
	t.Parallel()
	h := Host{MemoryMiB: 100, MemoryHeldMiB: 30, DiskMiB: 10, DiskHeldMiB: 12}
	require.EqualValues(t, 70, h.FreeMemoryMiB())
	require.EqualValues(t, -2, h.FreeDiskMiB(), "a host that shrank under what it promised")
	missing := CheckReport{Items: []CheckItem{{Name: "a", OK: true}, {Name: "b"}}}.Missing()
	require.Equal(t, []CheckItem{{Name: "b"}}, missing)
}
