package store

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// growing are the tables that have a row or more for each installation.
var growing = []string{"installation", "instance", "volume", "operation", "event", "address_lease", "idempotency_key",
	"installation_dns_name", "gateway_port", "installation_activity"}

// planNode is what matters of EXPLAIN (FORMAT JSON).
type planNode struct {
	Type    string     `json:"Node Type"`
	Table   string     `json:"Relation Name"`
	Index   string     `json:"Index Name"`
	Cond    string     `json:"Index Cond"`
	Removed float64    `json:"Rows Removed by Filter"`
	Rows    float64    `json:"Actual Rows"`
	Loops   float64    `json:"Actual Loops"`
	Plans   []planNode `json:"Plans"`
}

// readWhole are indexes that may be read without a condition. operation_queued holds
// only requests that wait behind another one on the same installation, which are few;
// gateway_port_free is read in its order, up to a limit.
var readWhole = []string{"operation_queued", "gateway_port_free"}

// maxRead is how many rows a page of 100 may read from one table.
const maxRead = 5000

// findings says in words where a plan reads a growing table from end to end.
// wholeIndex names a table whose newest rows are asked for without condition.
func (p planNode) findings(wholeIndex string) []string {
	var found []string
	if slices.Contains(growing, p.Table) {
		if strings.HasSuffix(p.Type, "Seq Scan") {
			found = append(found, "sequential scan of "+p.Table)
		}
		if strings.HasPrefix(p.Type, "Index") && p.Cond == "" && p.Table != wholeIndex && !slices.Contains(readWhole, p.Index) {
			found = append(found, "scan of all of index "+p.Index)
		}
		if n := (p.Removed + p.Rows) * p.Loops; n > maxRead {
			found = append(found, fmt.Sprintf("%.0f rows read of %s", n, p.Table))
		}
	}
	for _, child := range p.Plans {
		found = append(found, child.findings(wholeIndex)...)
	}
	return found
}

// findingsRun counts rows only: a statement that is planned for its arguments
// may scan a table where it finds what it looks for at once.
func (p planNode) findingsRun() []string {
	return slices.DeleteFunc(p.findings(""), func(f string) bool { return !strings.Contains(f, "rows read") })
}

type planner struct {
	t  testing.TB
	tx *sqlx.Tx
}

// plans begins a transaction that is rolled back, with plans as a prepared
// statement has them after its first runs.
func plans(t testing.TB, db *sqlx.DB) planner {
	t.Helper()
	tx, err := db.BeginTxx(context.Background(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback() })
	p := planner{t, tx}
	p.exec("SET LOCAL plan_cache_mode = force_generic_plan")
	return p
}

func (p planner) exec(query string) {
	p.t.Helper()
	_, err := p.tx.Exec(query)
	require.NoError(p.t, err)
}

func (p planner) explain(query string, args ...any) planNode {
	p.t.Helper()
	var text []byte
	require.NoError(p.t, p.tx.QueryRow(query, args...).Scan(&text))
	var got []struct{ Plan planNode }
	require.NoError(p.t, json.Unmarshal(text, &got))
	return got[0].Plan
}

var parameter = regexp.MustCompile(`\$(\d+)`)

// generic returns the plan for any arguments. With values it also runs it and counts rows.
func (p planner) generic(query string, values ...string) planNode {
	p.t.Helper()
	count := 0
	for _, m := range parameter.FindAllStringSubmatch(query, -1) {
		n, err := strconv.Atoi(m[1])
		require.NoError(p.t, err)
		count = max(count, n)
	}
	options := "FORMAT JSON"
	if len(values) > 0 {
		options = "ANALYZE, TIMING OFF, FORMAT JSON"
	}
	for len(values) < count {
		values = append(values, "NULL")
	}
	p.exec("DEALLOCATE ALL")
	p.exec("PREPARE q AS " + query)
	call := "EXPLAIN (" + options + ") EXECUTE q"
	if count > 0 {
		call += "(" + strings.Join(values, ", ") + ")"
	}
	return p.explain(call)
}

// planned returns the plan of a statement that is planned for its arguments, and runs it.
func (p planner) planned(query string, args ...any) planNode {
	p.t.Helper()
	return p.explain("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) "+query, args...)
}

// hot are the statements whose number grows with the fleet or its work.
// ExpectedInstances and ExpectedVolumes are not among them: they read a whole
// cluster on purpose.
func hot(t testing.TB) map[string]string {
	all := map[string]string{
		"Claim": claimSQL, "Commit": commitSQL, "Grant": grantSQL, "LockInstallations": lockInstallationsSQL, "LockInstallation": lockInstallationSQL,
		"Resolve": resolveSQL, "Insert": insertInstallationSQL, "ReadForChangeByID": readForChangeByIDSQL, "ReadForChangeByName": readForChangeByNameSQL,
		"WriteChange": writeChangeSQL, "ViewByID": viewByIDSQL, "ViewByName": viewByNameSQL, "Operation": operationSQL, "Extend": extendSQL,
		"Release": releaseSQL, "ReadKey": readKeySQL,
		"ClusterByID": clusterByIDSQL, "ClusterByName": clusterByNameSQL, "DeleteCluster": deleteClusterSQL,
		"LockServing": lockServingSQL, "InstancePlace": instancePlaceSQL, "DeletedVolumes": deletedVolumesSQL, "ObserveExit": observeExitSQL, "PruneKeys": pruneKeysSQL,
		"Route": routeByNameSQL, "RouteByDNSName": routeByDNSNameSQL, "RoutesOf": routesOfSQL, "TakenName": takenSQL,
		"RecordActivity": recordActivitySQL, "IdleCandidates": idleCandidatesSQL, "SchedulesSeen": schedulesSeenSQL, "LeasePorts": leasePortsSQL, "TrafficByID": trafficByIDSQL, "TrafficByName": trafficByNameSQL,
	}
	for name, q := range map[string]fleet.OperationQuery{
		"OperationsOfResource": {Resource: fleet.NewID()}, "OperationsOfName": {Resource: "tenant-1"}, "OperationsOfResourceBefore": {Resource: fleet.NewID(), Before: "x"},
		"OperationsQueued": {State: fleet.OperationQueued}, "OperationsFailed": {State: fleet.OperationFailed}, "OperationsCancelled": {State: fleet.OperationCancelled},
	} {
		query, _, err := operationsQuery(q)
		require.NoError(t, err)
		all[name] = query
	}
	for name, q := range map[string]fleet.InstanceQuery{
		"Instances": {}, "InstancesOfInstallation": {Installation: fleet.NewID()}, "InstancesOfName": {Installation: "tenant-1"}, "InstancesOfCluster": {Cluster: fleet.NewID()},
	} {
		all[name], _ = instancesQuery(q)
	}
	return all
}

// envPlanRows names the environment variable with the number of installations for
// the test of plans; make plans sets it to 1,000,000.
const envPlanRows = "DORMOUSE_PLAN_ROWS"

func planRows(t testing.TB) int {
	t.Helper()
	text := os.Getenv(envPlanRows)
	if text == "" {
		return 100_000
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, envPlanRows)
	return n
}

// bulkID is the ID of the n-th installation that load has made.
func bulkID(n int) string { return fmt.Sprintf("a%0*d", fleet.IDLength-1, n) }

// pages are lists with a filter, of so many installations.
func pages(cluster, other string, rows int) map[string]fleet.InstallationQuery {
	first := fleet.Page{Limit: 100}
	return map[string]fleet.InstallationQuery{
		"Owner": {Page: first, Owner: "owner7"}, "OwnerOfNone": {Page: first, Owner: "nobody", State: fleet.StateStable},
		"OwnerAndState": {Page: first, Owner: "owner7", State: fleet.StateUpdateFailed},
		"Cluster":       {Page: first, Cluster: cluster}, "OtherCluster": {Page: first, Cluster: other},
		"Stable": {Page: first, State: fleet.StateStable}, "Hibernating": {Page: first, State: fleet.StateHibernating},
		"Failed": {Page: first, State: fleet.StateUpdateFailed}, "NoneInThatState": {Page: first, State: fleet.StateCrashLooping},
		"RareLabel": {Page: first, Labels: map[string]string{"customer": "c7"}}, "CommonLabel": {Page: first, Labels: map[string]string{"stage": "production"}},
		"NoSuchLabel":     {Page: first, Labels: map[string]string{"stage": "none"}},
		"LabelAndOwner":   {Page: first, Owner: "owner8", Labels: map[string]string{"stage": "production"}},
		"CommonLabelLate": {Page: fleet.Page{After: bulkID(rows - 1000), Limit: 100}, Labels: map[string]string{"stage": "production"}},
	}
}

func (p planner) page(t testing.TB, q fleet.InstallationQuery) planNode {
	t.Helper()
	query, args, _, err := pageQuery(q, q.Cluster, q.Group)
	require.NoError(t, err)
	return p.planned(query, args...)
}

// At 100,000 installations (or as many as planRows says) no hot statement reads a growing table from end to
// end. The second half takes indexes away and expects to be told.
func TestQueryPlans(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.newCluster("zother")
	rows := planRows(t)
	w.load(rows)

	db := w.plain(t)
	p := plans(t, db)
	for name, query := range hot(t) {
		require.Empty(t, p.generic(query).findings(""), "%s", name)
	}
	for _, after := range []string{"", bulkID(rows / 2), bulkID(rows - 120)} {
		require.Empty(t, p.generic(fmt.Sprintf(pageSQL, "i.id > $1 ORDER BY i.id LIMIT $2"), "'"+after+"'", "100").findings(""), "page after %q", after)
	}
	lists := pages(string(w.cluster.ID), string(other.ID), rows)
	for name, q := range lists {
		require.Empty(t, p.page(t, q).findings(""), "list %s", name)
	}
	for name, query := range map[string]string{"PackageUsers": packageUsersSQL, "ClusterUsers": clusterUsersSQL} {
		for _, id := range []string{"unused", string(w.pkg.ID), string(w.cluster.ID)} {
			require.Empty(t, p.planned(query, id).findingsRun(), "%s of %s", name, id)
		}
	}
	newest, args, err := operationsQuery(fleet.OperationQuery{Limit: 100})
	require.NoError(t, err)
	require.Empty(t, p.generic(newest, fmt.Sprint(args[0])).findings("operation"))
	// Run, too: few rows are read, though a row is there for each installation.
	require.Empty(t, p.generic(listTrafficSQL, "100").findings(""))
	require.Empty(t, p.generic(idleCandidatesSQL, "100").findings(""))
	require.Empty(t, p.generic(routesOfSQL, "ARRAY['"+string(w.cluster.Hosts[0].ID)+"']", "'"+bulkID(rows/2)+"'", "500").findings(""))
	require.Empty(t, p.generic(pruneEventsSQL, "1000000000", "1000").findings("event"))
	require.Empty(t, p.generic(pruneOperationsSQL, "86400000", "1000", "''").findings(""))

	require.NoError(t, p.tx.Rollback()) // its locks would stop what follows
	for _, c := range []struct{ index, statement, want string }{
		{"operation_due", "Claim", "scan of all of index operation_active"},
		{"idempotency_key_pkey", "Resolve", "sequential scan of idempotency_key"},
		{"installation_name", "ViewByName", "sequential scan of installation"},
		{"operation_resource", "ViewByID", "sequential scan of operation"},
		{"instance_installation, instance_host", "Claim", "sequential scan of instance"},
		{"address_lease_installation", "Commit", "sequential scan of address_lease"},
		{"operation_worker", "Release", "scan of all of index operation_active"},
		{"volume_attached", "ObserveExit", "sequential scan of volume"},
		{"installation_idle", "IdleCandidates", "sequential scan of installation"},
		{"installation_schedule", "IdleCandidates", "sequential scan of installation"},
		{"gateway_port_installation", "Route", "sequential scan of gateway_port"},
		{"installation_dns_name_installation", "Commit", "sequential scan of installation_dns_name"},
	} {
		p := plans(t, db)
		p.exec("ALTER TABLE idempotency_key DROP CONSTRAINT IF EXISTS idempotency_key_pkey")
		if c.index != "idempotency_key_pkey" {
			require.NoError(t, p.tx.Rollback())
			p = plans(t, db)
			p.exec("DROP INDEX " + c.index)
		}
		require.Contains(t, p.generic(hot(t)[c.statement]).findings(""), c.want, "without %s", c.index)
		require.NoError(t, p.tx.Rollback())
	}
	p = plans(t, db)
	p.exec("DROP INDEX instance_host")
	require.NotEmpty(t, p.generic(routesOfSQL, "ARRAY['none']", "''", "500").findings(""), "without instance_host")
	require.NoError(t, p.tx.Rollback())
	for index, arg := range map[string]string{"installation_package": "unused", "installation_cluster": "unused"} {
		p := plans(t, db)
		p.exec("DROP INDEX " + index)
		query := map[string]string{"installation_package": packageUsersSQL, "installation_cluster": clusterUsersSQL}[index]
		require.NotEmpty(t, p.planned(query, arg).findingsRun(), "without %s", index)
		require.NoError(t, p.tx.Rollback())
	}
	for index, list := range map[string]string{"installation_owner": "OwnerOfNone", "installation_state": "NoneInThatState", "installation_labels": "NoSuchLabel"} {
		p := plans(t, db)
		p.exec("DROP INDEX " + index)
		require.NotEmpty(t, p.page(t, lists[list]).findings(""), "list %s without %s", list, index)
		require.NoError(t, p.tx.Rollback())
	}
}
