package store

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

const (
	// statementsSQL counts all statements of this database but transaction
	// control, nested ones included, and but its own. A function that is not
	// inlined, a trigger or a foreign key would show as statements here.
	statementsSQL = `SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND query NOT ILIKE 'begin%' AND query NOT ILIKE 'commit%' AND query NOT ILIKE 'rollback%' AND query NOT ILIKE '%pg_stat_statements%'`

	commitsSQL = `SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query ILIKE 'commit%'`
)

// statements returns how many statements and commits f makes.
func (w *world) statements(f func()) (statements, commits int) {
	w.t.Helper()
	before, committed := w.count(w.t, statementsSQL), w.count(w.t, commitsSQL)
	f()
	return w.count(w.t, statementsSQL) - before, w.count(w.t, commitsSQL) - committed
}

// The budgets are the interface's: a hot path must not grow a statement.
func TestStatementCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.sqlExec(t, "CREATE EXTENSION pg_stat_statements")
	warm := w.running("warm")
	var s fleet.Snapshot
	one := "1"
	for _, c := range []struct {
		name                string
		statements, commits int
		f                   func()
	}{
		{"Create", 2, 1, func() {
			in := w.request("hello")
			in.Key = fleet.IdempotencyKey{Key: "k", RequestHash: "h"}
			_, err := w.CreateInstallation(ctx, in)
			require.NoError(t, err)
		}},
		{"Claim", 1, 1, func() { s = w.claimOne() }},
		{"CommitPlainStep", 1, 1, func() { require.False(t, w.commit(step(s, fleet.Changes{}))[0].Stale) }},
		{"CommitWithCapacityAndAddress", 3, 1, func() {
			require.Empty(t, w.commit(step(s, fleet.Changes{Hold: &fleet.Hold{HostID: s.Hosts[0].ID, MemoryMiB: 1}, Address: s.Hosts[0].ID}))[0].Denied)
		}},
		{"CommitEnd", 2, 1, func() { require.False(t, w.commit(finish(s, fleet.StateStable))[0].Stale) }},
		{"Change", 3, 1, func() {
			_, err := w.ChangeInstallation(ctx, fleet.Change{Key: fleet.IdempotencyKey{Key: "c", RequestHash: "h"}, OperationID: newOperationID(),
				IDOrName: string(s.Installation.ID), Kind: fleet.OperationUpdate, Env: map[string]*string{"A": &one}})
			require.NoError(t, err)
		}},
		{"ChangeByName", 4, 1, func() {
			_, err := w.ChangeInstallation(ctx, fleet.Change{OperationID: newOperationID(), IDOrName: "hello", Kind: fleet.OperationHibernate})
			require.NoError(t, err)
		}},
		{"FirstListEver", 2, 0, func() { require.Len(t, w.list(fleet.InstallationQuery{}), 2) }},
		{"List", 1, 0, func() { require.Len(t, w.list(fleet.InstallationQuery{}), 2) }},
		{"ListOfOwner", 1, 0, func() { require.Len(t, w.list(fleet.InstallationQuery{Owner: "acme"}), 2) }},
		{"ListOfCluster", 2, 0, func() { require.Len(t, w.list(fleet.InstallationQuery{Cluster: "local"}), 2) }},
		{"ListWithAllFilters", 2, 0, func() {
			w.list(fleet.InstallationQuery{Owner: "acme", Cluster: "local", State: fleet.StateStable, Labels: map[string]string{"a": "b"}})
		}},
		{"Show", 1, 0, func() { w.installation("hello") }},
		{"Route", 1, 0, func() { _, err := w.Route(ctx, "hello"); require.NoError(t, err) }},
		{"RouteByDNSName", 1, 0, func() { _, err := w.Route(ctx, "www.hello.example"); require.Error(t, err) }},
		{"RoutesOf", 1, 0, func() { _, err := w.RoutesOf(ctx, []fleet.HostID{s.Hosts[0].ID}, "", 500); require.NoError(t, err) }},
		{"RecordActivity", 1, 1, func() {
			w.tell(fleet.Activity{InstallationID: s.Installation.ID, Requests: 1, LastAt: time.Now()}, fleet.Activity{InstallationID: warm.ID, Requests: 1})
		}},
		{"QuietRoundOfIdle", 1, 0, func() { _, err := w.IdleCandidates(ctx, 600); require.NoError(t, err) }},
		{"CreateWithAllThatSleepHas", 2, 1, func() {
			in := w.request("sleeper")
			in.DNSNames, in.Idle.IdleAfterSeconds, in.Wake.Hidden = []string{"www.sleeper.example"}, 900, true
			_, err := w.CreateInstallation(ctx, in)
			require.NoError(t, err)
		}},
		{"IdlePoll", 1, 1, func() {
			claimed, err := w.Claim(ctx, fleet.ClaimRequest{Worker: "idle", Interactive: 0, Bulk: 0, Lease: time.Second})
			require.NoError(t, err)
			require.Empty(t, claimed)
		}},
	} {
		statements, commits := w.statements(c.f)
		require.LessOrEqual(t, statements, c.statements, c.name)
		require.LessOrEqual(t, commits, c.commits, c.name)
		require.Positive(t, statements, "%s was not counted", c.name)
		t.Logf("%s: %d statements, %d commits", c.name, statements, commits)
	}
}

// A function that the planner can't inline shows as nested statements.
func TestStatementCountsSeeAFunctionThatIsNotInlined(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sqlExec(t, "CREATE EXTENSION pg_stat_statements")
	w.create("before")
	w.sqlExec(t, "CREATE OR REPLACE FUNCTION dormouse_now() RETURNS timestamptz LANGUAGE sql STABLE SECURITY DEFINER AS 'SELECT now()'")
	n, _ := w.statements(func() { w.create("after") })
	require.Greater(t, n, 4)
}
