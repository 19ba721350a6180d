package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// A list shows of an installation what Installation does, less what its doc
// says that it leaves out.
func TestListShowsWhatInstallationShows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.running("stable")
	w.running("updating")
	w.mustChange("updating", fleet.OperationUpdate)
	w.claimOne()
	w.mustChange("updating", fleet.OperationHibernate)
	w.running("ended")
	exit := fleet.Exit{Reason: fleet.ReasonProgramExited, Code: 3, At: time.Unix(1, 0).UTC(), LastLines: []string{`a "quoted" line`}}
	did, err := w.ObserveExit(t.Context(), w.installation("ended").Instance.ID, exit, fleet.StateExited)
	require.NoError(t, err)
	require.True(t, did)
	w.newPackage("web", "2")
	in := w.request("new")
	in.Env, in.Secrets = map[string]string{"A": "1", "B": `with "quotes"`}, map[string]string{"S": "sealed"}
	in.Labels = map[string]string{"tier": "free", "é": "ü"}
	_, err = w.CreateInstallation(t.Context(), in)
	require.NoError(t, err)

	views := w.list(fleet.InstallationQuery{})
	require.Len(t, views, 4)
	for _, v := range views {
		one := w.installation(v.Name)
		one.WhenFull, one.SavedPackageID, one.HeldHostID, one.HeldMemoryMiB, one.HeldDiskMiB, one.Queued = "", "", "", 0, 0, nil
		if one.Instance != nil {
			one.Instance.Role, one.Instance.HostID, one.Instance.ProviderRef, one.Instance.Spec.Generation = "", "", "", 0
		}
		if one.Operation.State.Finished() {
			one.Operation = nil
		} else {
			one.Operation.Class, one.Operation.Epoch, one.Operation.Generation, one.Operation.Observed = 0, 0, 0, nil
		}
		require.Equal(t, one, v, v.Name)
		require.Equal(t, []fleet.InstallationView{v}, w.list(fleet.InstallationQuery{Page: fleet.Page{After: before(v.ID)}, State: v.State}), "filtered")
	}
}

// before returns what comes right before an ID.
func before(id fleet.InstallationID) string { return string(id[:len(id)-1]) }

// While an installation is upgraded it has two instances: the one that serves is
// shown, or else the newest, whatever order the database has them in.
func TestListShowsOneInstance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.running("hello")
	add := func(id string, serving bool, age time.Duration, deleted string) {
		w.sqlExec(t, fmt.Sprintf(`INSERT INTO instance (id, installation_id, role, cluster_id, host_id, spec, serving, power, created_at, deleted_at)
			SELECT $1, installation_id, 'application', cluster_id, host_id, spec, $2, 'off', created_at - $3::interval, %s FROM instance WHERE id = $4`, deleted),
			id, serving, age.String(), v.Instance.ID)
	}
	shown := func() fleet.InstanceID {
		views := w.list(fleet.InstallationQuery{})
		require.Len(t, views, 1)
		require.Equal(t, w.installation("hello").Instance.ID, views[0].Instance.ID, "as Installation")
		require.Equal(t, "h1", views[0].HostName)
		return views[0].Instance.ID
	}
	add("newer", false, -time.Minute, "NULL")
	add("0older", false, time.Minute, "NULL")
	add("newest, but deleted", true, -time.Hour, "now()")
	require.Equal(t, v.Instance.ID, shown(), "it serves")
	w.sqlExec(t, "UPDATE instance SET serving = false")
	require.EqualValues(t, "newer", shown())
	w.sqlExec(t, "DELETE FROM instance WHERE id = 'newer'")
	require.Equal(t, v.Instance.ID, shown())
	w.sqlExec(t, "UPDATE instance SET serving = true WHERE id = '0older'")
	require.EqualValues(t, "0older", shown())
	w.sqlExec(t, "DELETE FROM instance")
	views := w.list(fleet.InstallationQuery{})
	require.Len(t, views, 1)
	require.Nil(t, views[0].Instance)
	require.Empty(t, views[0].HostName)
}

// What a process remembers of names holds whatever others do meanwhile.
func TestNamesInLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("first")
	require.Equal(t, "web@1", w.list(fleet.InstallationQuery{})[0].PackageRef)
	other := open(t, w.url) // another process
	_, err := other.CreatePackage(t.Context(), fleet.Package{Name: "web", Version: "2", Digest: "d2", Kernel: fleet.KernelLinux,
		Manifest: fleet.Manifest{Program: "/web", Ports: []fleet.Port{{Number: 81, Protocol: fleet.ProtocolTCP}}}})
	require.NoError(t, err)
	w.create("second")
	views := w.list(fleet.InstallationQuery{})
	require.Equal(t, []string{"web@1", "web@2"}, []string{views[0].PackageRef, views[1].PackageRef})
	require.Equal(t, []fleet.Port{{Number: 81, Protocol: fleet.ProtocolTCP}}, views[1].Ports)

	// A name that is given again is another package with another ID.
	w.sqlExec(t, "DELETE FROM operation")
	w.sqlExec(t, "UPDATE installation SET deleted_at = now(), state = 'deleted' WHERE name = 'second'")
	require.NoError(t, other.DeletePackage(t.Context(), "web@2"))
	_, err = other.CreatePackage(t.Context(), fleet.Package{Name: "web", Version: "2", Digest: "d3", Kernel: fleet.KernelLinux,
		Manifest: fleet.Manifest{Program: "/web", Ports: []fleet.Port{{Number: 82, Protocol: fleet.ProtocolTCP}}}})
	require.NoError(t, err)
	w.create("third")
	views = w.list(fleet.InstallationQuery{})
	require.Equal(t, []fleet.Port{{Number: 82, Protocol: fleet.ProtocolTCP}}, views[1].Ports)
}

func TestNamesAreBounded(t *testing.T) {
	t.Parallel()
	full := &names{packages: map[fleet.PackageID]packageName{}, clusters: map[fleet.ClusterID]string{"c": "local"}}
	for i := range maxNames {
		full.packages[fleet.PackageID(fmt.Sprint("p", i))] = packageName{ref: "old@1"}
	}
	more, err := full.with([]nameRow{{What: "package", ID: "new", Name: "new@1"}})
	require.NoError(t, err)
	require.Len(t, more.packages, 1)
	require.Len(t, full.packages, maxNames, "others read it")
	views := []fleet.InstallationView{{Installation: fleet.Installation{PackageID: "new", ClusterID: "c", RunningPackageID: "p3", VerifiedPackageID: "p3"}}}
	packages, clusters, groups := more.fill(views)
	require.Equal(t, []string{"p3"}, packages, "to be read again")
	require.Empty(t, clusters)
	require.Empty(t, groups)
	require.Equal(t, "new@1", views[0].PackageRef)
	require.Equal(t, "local", views[0].ClusterName)
}
