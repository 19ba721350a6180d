package soak

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// outside compares everything that can be seen from outside with what was
// asked for, and returns what is there and should not be.
func outside(t *testing.T, e *harness.Environment, tenants []*tenant) []string {
	t.Helper()
	instances, machines := map[string]bool{}, map[string]bool{}
	for _, each := range tenants {
		in, err := each.client.Installations.Get(t.Context(), each.name)
		if each.state == "" {
			require.True(t, client.IsNotFound(err), "%s is deleted, and yet: %v", each.name, err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, each.state, in.State, "%s: %s %s", each.name, in.StateReason, in.StateDetail)
		require.NotNil(t, in.Instance)
		instances[in.Instance.ID] = true
		if in.State != "hibernating" {
			machines[in.Instance.ID] = true
		}
	}
	return strays(t, e, instances, machines)
}

// empty is outside where everything was deleted.
func empty(t *testing.T, e *harness.Environment) []string {
	t.Helper()
	return strays(t, e, nil, nil)
}

// strays looks until nothing is left that should not be there, or the time for
// it is over: a process that was killed takes a moment to go.
func strays(t *testing.T, e *harness.Environment, instances, machines map[string]bool) []string {
	t.Helper()
	var left []string
	deadline := time.Now().Add(30 * time.Second)
	for {
		var err error
		left, err = stray(t.Context(), e, instances, machines)
		require.NoError(t, err)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		require.NoError(t, sleep(t.Context(), 200*time.Millisecond))
	}
}

func stray(ctx context.Context, e *harness.Environment, instances, machines map[string]bool) ([]string, error) {
	var left []string
	found := e.Machines()
	for _, m := range found {
		if !machines[m.Instance] {
			left = append(left, fmt.Sprintf("a machine: process %d of instance %s", m.PID, m.Instance))
		}
	}
	if len(found) < len(machines) {
		left = append(left, fmt.Sprintf("%d machines run and %d should", len(found), len(machines)))
	}
	taps, err := e.Taps(ctx)
	if err != nil {
		return nil, err
	}
	if len(taps) != len(machines) {
		left = append(left, fmt.Sprintf("%d taps for %d machines: %v", len(taps), len(machines), taps))
	}
	for _, name := range e.Files("host", "instances") {
		if !instances[name] {
			left = append(left, "a directory of an instance: "+name)
		}
	}
	for _, name := range e.Files("tmp") {
		left = append(left, "a temporary file: "+name)
	}
	volumes, err := e.Query(ctx, "SELECT id FROM volume WHERE deleted_at IS NULL")
	if err != nil {
		return nil, err
	}
	for _, name := range e.Files("host", "volumes") {
		if !slices.ContainsFunc(volumes, func(row []string) bool { return strings.HasPrefix(name, row[0]) }) {
			left = append(left, "a file of a volume: "+name)
		}
	}
	for what, sql := range rules() {
		rows, err := e.Query(ctx, sql)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			left = append(left, what+": "+strings.Join(row, " "))
		}
	}
	return left, nil
}

// rules are what must hold in the database at rest; each finds what breaks it.
func rules() map[string]string {
	const alive = " AND NOT EXISTS (SELECT 1 FROM installation i WHERE i.id = x.installation_id AND i.deleted_at IS NULL)"
	return map[string]string{
		"an operation that has not ended":            "SELECT id, kind, state, step FROM operation WHERE state IN ('active', 'queued')",
		"an instance of no installation":             "SELECT id FROM instance x WHERE deleted_at IS NULL" + alive,
		"a volume of no installation":                "SELECT id FROM volume x WHERE deleted_at IS NULL" + alive,
		"a leased address of no installation":        "SELECT address FROM address_lease x WHERE installation_id IS NOT NULL" + alive,
		"more than one instance of an installation":  "SELECT installation_id, count(*) FROM instance WHERE deleted_at IS NULL GROUP BY 1 HAVING count(*) > 1",
		"an address that is leased twice":            "SELECT address, count(*) FROM address_lease WHERE installation_id IS NOT NULL GROUP BY 1 HAVING count(*) > 1",
		"a volume attached to what does not run":     "SELECT v.id FROM volume v JOIN instance n ON n.id = v.attached_instance_id WHERE v.deleted_at IS NULL AND n.power <> 'on'",
		"a state in between":                         "SELECT name, state FROM installation WHERE deleted_at IS NULL AND (state LIKE '%-requested' OR state LIKE '%-in-progress')",
		"memory held by a sleeper":                   "SELECT name, held_memory_mib FROM installation WHERE deleted_at IS NULL AND state = 'hibernating' AND held_memory_mib <> 0",
		"other memory held than an installation has": "SELECT name, held_memory_mib FROM installation WHERE deleted_at IS NULL AND state <> 'hibernating' AND held_memory_mib <> memory_mib",
		"something held by what is deleted":          "SELECT name, held_memory_mib, held_disk_mib FROM installation WHERE deleted_at IS NOT NULL AND (held_memory_mib <> 0 OR held_disk_mib <> 0)",
		"a host whose count of what it holds is wrong": `SELECT h.name, h.memory_held_mib, sum(i.held_memory_mib), h.disk_held_mib, sum(i.held_disk_mib)
			FROM host h LEFT JOIN installation i ON i.held_host_id = h.id AND i.deleted_at IS NULL GROUP BY h.id
			HAVING h.memory_held_mib <> coalesce(sum(i.held_memory_mib), 0) OR h.disk_held_mib <> coalesce(sum(i.held_disk_mib), 0)`,
	}
}
