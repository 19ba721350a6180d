package store

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/pgtest"
)

// newStore returns a store on a migrated database of this test's own, in an odd time zone.
func newStore(t testing.TB) *Store {
	t.Helper()
	return open(t, pgtest.NewMigrated(t, migrateUp))
}

func migrateUp(ctx context.Context, url string) error {
	_, _, err := Migrate(ctx, url)
	return err
}

func open(t testing.TB, at string) *Store {
	t.Helper()
	s, err := Open(context.Background(), Options{URL: at})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// with returns the URL with one more parameter.
func with(t testing.TB, at, key, value string) string {
	t.Helper()
	u, err := url.Parse(at)
	require.NoError(t, err)
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// plain returns connections without the store's limits, for statements that take long.
func (s *Store) plain(t testing.TB) *sqlx.DB {
	t.Helper()
	db, err := sqlx.Open("postgres", s.url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// sqlExec runs a statement that no method has.
func (s *Store) sqlExec(t testing.TB, query string, args ...any) {
	t.Helper()
	_, err := s.db.Exec(query, args...)
	require.NoError(t, err)
}

// count reads one number.
func (s *Store) count(t testing.TB, query string, args ...any) int {
	t.Helper()
	var n int
	require.NoError(t, s.db.Get(&n, query, args...))
	return n
}

// text reads one text.
func (s *Store) text(t testing.TB, query string, args ...any) string {
	t.Helper()
	var v string
	require.NoError(t, s.db.Get(&v, query, args...))
	return v
}

// world is a store with a stable cluster of one host and a package.
type world struct {
	*Store
	t       testing.TB
	cluster fleet.ClusterView
	pkg     fleet.Package
}

// hostSize is what the host of a world offers; the pool has five addresses beside the host's own.
var hostSize = fleet.Host{Name: "h1", State: fleet.HostUp, MemoryMiB: 1000, DiskMiB: 10000, AddressPool: "10.77.0.0/29"}

func newWorld(t testing.TB, hosts ...fleet.Host) *world {
	t.Helper()
	w := &world{Store: newStore(t), t: t}
	if len(hosts) == 0 {
		hosts = []fleet.Host{hostSize}
	}
	for i := range hosts {
		hosts[i].ID = fleet.HostID(fleet.NewID())
	}
	w.cluster = w.newCluster("local", hosts...)
	w.pkg = w.newPackage("web", "1")
	return w
}

func (w *world) newCluster(name string, hosts ...fleet.Host) fleet.ClusterView {
	w.t.Helper()
	ctx := context.Background()
	_, err := w.CreateCluster(ctx, fleet.NewCluster{ID: fleet.ClusterID(fleet.NewID()), OperationID: newOperationID(), Name: name, Provider: fleet.ProviderSim})
	require.NoError(w.t, err)
	s := w.claimOne()
	w.commit(fleet.Result{OperationID: s.Operation.ID, Epoch: s.Operation.Epoch, ClusterID: s.Cluster.ID, State: fleet.OperationSucceeded,
		Step: "check", StepNumber: 1, StepsTotal: 1, Done: "check", From: string(s.Cluster.State), To: string(fleet.ClusterStable),
		Changes: fleet.Changes{Check: &fleet.CheckReport{Hosts: hosts}}})
	c, err := w.Cluster(ctx, name)
	require.NoError(w.t, err)
	return c
}

func (w *world) newPackage(name, version string) fleet.Package {
	w.t.Helper()
	p, err := w.CreatePackage(context.Background(), fleet.Package{Name: name, Version: version, Digest: "d" + version, Kernel: fleet.KernelLinux,
		Manifest: fleet.Manifest{Program: "/web", Ports: []fleet.Port{{Number: 80, Protocol: fleet.ProtocolHTTP}}}})
	require.NoError(w.t, err)
	return p
}

func newOperationID() fleet.OperationID { return fleet.OperationID(fleet.NewID()) }

func (w *world) create(name string) fleet.Accepted {
	w.t.Helper()
	a, err := w.CreateInstallation(context.Background(), w.request(name))
	require.NoError(w.t, err)
	return a
}

func (w *world) request(name string) fleet.NewInstallation {
	return fleet.NewInstallation{ID: fleet.InstallationID(fleet.NewID()), OperationID: newOperationID(),
		Name: name, Owner: "acme", PackageRef: "web", MemoryMiB: 128, DiskMiB: 100, VCPUs: 1, WhenFull: fleet.WhenFullWait}
}

// change asks for one thing on an installation.
func (w *world) change(name string, kind fleet.OperationKind) (fleet.Accepted, error) {
	return w.ChangeInstallation(context.Background(), fleet.Change{OperationID: newOperationID(), IDOrName: name, Kind: kind})
}

func (w *world) mustChange(name string, kind fleet.OperationKind) fleet.Accepted {
	w.t.Helper()
	a, err := w.change(name, kind)
	require.NoError(w.t, err)
	return a
}

func (w *world) installation(name string) fleet.InstallationView {
	w.t.Helper()
	v, err := w.Installation(context.Background(), "", name)
	require.NoError(w.t, err)
	return v
}

// list returns the first hundred.
func (w *world) list(q fleet.InstallationQuery) []fleet.InstallationView {
	w.t.Helper()
	q.Limit = 100
	views, err := w.ListInstallations(context.Background(), q)
	require.NoError(w.t, err)
	return views
}

func claimRequest(worker fleet.WorkerID) fleet.ClaimRequest {
	return fleet.ClaimRequest{Worker: worker, Interactive: 100, Bulk: 100, Lease: 15 * time.Second}
}

func (w *world) claim() []fleet.Snapshot {
	w.t.Helper()
	s, err := w.Claim(context.Background(), claimRequest("w1"))
	require.NoError(w.t, err)
	return s
}

func (w *world) claimOne() fleet.Snapshot {
	w.t.Helper()
	s := w.claim()
	require.Len(w.t, s, 1)
	require.Empty(w.t, s[0].Malformed)
	return s[0]
}

func (w *world) commit(r ...fleet.Result) []fleet.Committed {
	w.t.Helper()
	c, err := w.Commit(context.Background(), r)
	require.NoError(w.t, err)
	return c
}

// step is a result that leaves the operation active and with its worker.
func step(s fleet.Snapshot, c fleet.Changes) fleet.Result {
	return fleet.Result{OperationID: s.Operation.ID, Epoch: s.Operation.Epoch, Revision: s.Operation.Revision,
		InstallationID: s.Installation.ID, State: fleet.OperationActive,
		Step: "next", StepNumber: 2, StepsTotal: 2, Ran: 1, Done: "prepare", Keep: true, DueMillis: 15000, From: string(s.Installation.State), Changes: c}
}

func finish(s fleet.Snapshot, to fleet.State) fleet.Result {
	return fleet.Result{OperationID: s.Operation.ID, Epoch: s.Operation.Epoch, InstallationID: s.Installation.ID, State: fleet.OperationSucceeded,
		Step: "last", StepNumber: 1, StepsTotal: 1, Done: "last", From: string(s.Installation.State), To: string(to), Follow: fleet.Accepts(to)}
}

// running creates an installation and brings it into service on the world's host.
func (w *world) running(name string) fleet.InstallationView {
	w.t.Helper()
	w.create(name)
	s := w.claimOne()
	host := s.Hosts[0].ID
	r := finish(s, fleet.StateStable)
	r.Changes = w.service(s, host)
	require.Empty(w.t, w.commit(r)[0].Denied)
	return w.installation(name)
}

// service is what puts an installation in service on a host.
func (w *world) service(s fleet.Snapshot, host fleet.HostID) fleet.Changes {
	id := fleet.InstanceID(fleet.DeriveID(string(s.Operation.ID)))
	return fleet.Changes{
		Hold: &fleet.Hold{HostID: host, MemoryMiB: 128, DiskMiB: 100}, Address: host, Running: &w.pkg.ID, Verified: &w.pkg.ID,
		Instances: []fleet.Instance{{ID: id, InstallationID: s.Installation.ID, Role: fleet.RoleApplication, ClusterID: w.cluster.ID, HostID: host,
			ProviderRef: "vm-" + string(id), Power: fleet.PowerOn, Serving: true, Spec: fleet.InstanceConfig{PackageID: w.pkg.ID, MemoryMiB: 128},
			Endpoints: []fleet.Endpoint{{Port: 1883, Protocol: fleet.ProtocolTCP, Address: "10.77.0.2:1883"}, {Port: 80, Protocol: fleet.ProtocolHTTP, Address: "10.77.0.2:80"}}}},
		Volume: &fleet.Volume{ID: fleet.VolumeID(fleet.DeriveID(string(s.Installation.ID), "volume")), InstallationID: s.Installation.ID,
			Role: fleet.RoleApplication, ClusterID: w.cluster.ID, HostID: host, SizeMiB: 100, AttachedInstanceID: id},
	}
}

// host reads a host's capacity.
func (w *world) host(name string) fleet.Host {
	w.t.Helper()
	clusters, err := w.ListClusters(context.Background(), fleet.Page{Limit: 100})
	require.NoError(w.t, err)
	for _, c := range clusters {
		for _, h := range c.Hosts {
			if h.Name == name {
				return h
			}
		}
	}
	require.Fail(w.t, "there is no host "+name)
	return fleet.Host{}
}
