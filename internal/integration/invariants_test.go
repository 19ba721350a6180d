package integration

import (
	"encoding/json"
	"slices"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// invariants looks at all rows and all machines when no work is under way.
func (w *world) invariants() {
	w.t.Helper()
	w.none("held capacity on a host is the sum over its installations", `SELECT h.id || ': ' || h.memory_held_mib || ', ' || h.disk_held_mib FROM host h,
		LATERAL (SELECT coalesce(sum(x.memory), 0) AS memory, coalesce(sum(x.disk), 0) AS disk FROM (
			SELECT held_memory_mib AS memory, held_disk_mib AS disk FROM installation WHERE held_host_id = h.id
			UNION ALL SELECT reserved_memory_mib, reserved_disk_mib FROM installation WHERE reserved_host_id = h.id) x) held
		WHERE h.memory_held_mib <> held.memory OR h.disk_held_mib <> held.disk`)
	w.none("only a move that could not come back leaves something reserved", `SELECT name || ' ' || state FROM installation
		WHERE reserved_host_id <> '' AND state NOT LIKE '%-failed'`)
	w.none("whoever has an address holds on its host", `SELECT l.address FROM address_lease l LEFT JOIN installation i ON i.id = l.installation_id
		WHERE l.installation_id IS NOT NULL AND l.host_id NOT IN (coalesce(i.held_host_id, ''), coalesce(i.reserved_host_id, ''))`)
	w.none("what sleeps or serves lies on the host that it is held on", `SELECT i.name || ' ' || i.held_host_id FROM installation i
		WHERE i.state IN ('stable', 'hibernating') AND (EXISTS (SELECT FROM volume v WHERE v.installation_id = i.id AND v.deleted_at IS NULL AND v.host_id <> i.held_host_id)
			OR EXISTS (SELECT FROM instance x WHERE x.installation_id = i.id AND x.deleted_at IS NULL AND x.host_id <> i.held_host_id))`)
	w.none("no more is held than there is", `SELECT id FROM host WHERE memory_held_mib > memory_mib OR disk_held_mib > disk_mib`)
	w.none("at most one instance serves", `SELECT installation_id FROM instance WHERE serving AND deleted_at IS NULL GROUP BY installation_id, role HAVING count(*) > 1`)
	w.none("a deleted instance neither serves nor is on", `SELECT id FROM instance WHERE deleted_at IS NOT NULL AND (serving OR power <> 'off')`)
	w.none("a volume is attached to an instance that is there", `SELECT v.id FROM volume v WHERE v.deleted_at IS NULL AND v.attached_instance_id IS NOT NULL
		AND NOT EXISTS (SELECT FROM instance i WHERE i.id = v.attached_instance_id AND i.deleted_at IS NULL AND i.installation_id = v.installation_id)`)
	w.none("no operation is open", `SELECT id || ' ' || kind || ' ' || state || ' ' || step || ' ' || wait_reason || ' ' || error FROM operation WHERE state IN ('active', 'queued')`)
	w.none("what is in progress has an active operation", `SELECT i.name || ' ' || i.state FROM installation i
		WHERE (i.state LIKE '%-in-progress' OR i.state LIKE '%-requested')
			AND NOT EXISTS (SELECT FROM operation o WHERE o.resource_id = i.id AND o.state = 'active')
		UNION ALL SELECT c.name || ' ' || c.state FROM cluster c
		WHERE (c.state LIKE '%-in-progress' OR c.state LIKE '%-requested')
			AND NOT EXISTS (SELECT FROM operation o WHERE o.resource_id = c.id AND o.state = 'active')`)
	w.none("no member of a rollout that has ended is in work", `SELECT r.state || ': ' || m.name || ' ' || m.state FROM rollout r JOIN rollout_member m ON m.rollout_id = r.id
		WHERE r.finished_at IS NOT NULL AND m.state IN ('rolling', 'verifying', 'rolling-back')`)
	w.none("what is deleted holds nothing", `SELECT i.name FROM installation i WHERE (i.state = 'deleted') <> (i.deleted_at IS NOT NULL) OR i.state = 'deleted' AND (
		held_memory_mib <> 0 OR held_disk_mib <> 0 OR held_host_id <> ''
		OR EXISTS (SELECT FROM instance x WHERE x.installation_id = i.id AND x.deleted_at IS NULL)
		OR EXISTS (SELECT FROM volume x WHERE x.installation_id = i.id AND x.deleted_at IS NULL)
		OR EXISTS (SELECT FROM address_lease x WHERE x.installation_id = i.id))`)
	w.none("what is stable serves from one instance that is on, with what it uses held", `SELECT i.name || ' holds ' || i.held_memory_mib FROM installation i
		WHERE i.state = 'stable' AND NOT EXISTS (SELECT FROM instance x WHERE x.installation_id = i.id AND x.deleted_at IS NULL AND x.serving AND x.power = 'on'
			AND x.host_id = i.held_host_id AND (x.spec ->> 'memory_mib')::int = i.held_memory_mib
			AND i.running_package_id = x.spec ->> 'package_id' AND i.verified_package_id = i.running_package_id
			AND EXISTS (SELECT FROM address_lease l WHERE l.installation_id = i.id AND l.host_id = x.host_id)
			AND NOT EXISTS (SELECT FROM volume v WHERE v.installation_id = i.id AND v.deleted_at IS NULL AND v.attached_instance_id IS DISTINCT FROM x.id))`)
	w.none("what is stable has one instance", `SELECT i.name FROM installation i JOIN instance x ON x.installation_id = i.id AND x.deleted_at IS NULL
		WHERE i.state = 'stable' GROUP BY i.name HAVING count(*) > 1`)
	// A clone that could not be deleted keeps its memory until the next operation, which deletes it first.
	w.none("what is stable does not sleep, and what sleeps has nothing on and no memory held", `SELECT i.name || ' ' || i.held_memory_mib FROM installation i
		WHERE i.state = 'stable' AND i.hibernated OR i.state = 'hibernating' AND (NOT i.hibernated OR i.running_package_id <> ''
			OR i.held_memory_mib <> 0 AND NOT EXISTS (SELECT FROM instance x WHERE x.installation_id = i.id AND x.clone AND x.deleted_at IS NULL)
			OR EXISTS (SELECT FROM instance x WHERE x.installation_id = i.id AND NOT x.clone AND x.deleted_at IS NULL AND (x.power NOT IN ('off', 'planned') OR x.serving)))`)
	w.machines()
	w.events()
}

// none requires that the query finds nothing.
func (w *world) none(what, query string, args ...any) {
	w.t.Helper()
	require.Empty(w.t, w.strings(query, args...), "broken: %s", what)
}

func (w *world) strings(query string, args ...any) []string {
	w.t.Helper()
	rows, err := w.db.Query(query, args...)
	require.NoError(w.t, err)
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		require.NoError(w.t, rows.Scan(&s))
		out = append(out, s)
	}
	require.NoError(w.t, rows.Err())
	return out
}

// machines compares the simulator with the rows.
func (w *world) machines() {
	w.t.Helper()
	// After a failure a row may be behind the machine, until the sweep or the next operation.
	unsure := w.strings(`SELECT x.id FROM instance x JOIN installation i ON i.id = x.installation_id WHERE i.state LIKE '%-failed' OR x.clone`)
	for _, cluster := range w.strings(`SELECT id FROM cluster WHERE deleted_at IS NULL AND state = 'stable'`) {
		power := map[string]fleet.Power{}
		for _, id := range w.strings(`SELECT id || ' ' || power FROM instance WHERE deleted_at IS NULL AND cluster_id = $1`, cluster) {
			power[id[:fleet.IDLength]] = fleet.Power(id[fleet.IDLength+1:])
		}
		on := map[fleet.InstallationID]int{}
		for _, st := range w.simInstances(fleet.ClusterID(cluster)) {
			row, ok := power[string(st.ID)]
			require.True(w.t, ok, "the simulator has instance %s, of which there is no live row", st.ID)
			if st.Power != fleet.PowerOff {
				on[st.InstallationID]++
				require.LessOrEqual(w.t, on[st.InstallationID], 1)
			}
			if row == fleet.PowerOn && !slices.Contains(unsure, string(st.ID)) {
				require.Equal(w.t, fleet.PowerOn, st.Power, "instance %s is on by its row", st.ID)
			}
			delete(power, string(st.ID))
		}
		for id, p := range power {
			if slices.Contains(unsure, id) {
				continue
			}
			require.Contains(w.t, []fleet.Power{fleet.PowerPlanned, fleet.PowerOff}, p, "instance %s has a row and no machine", id)
		}
		volumes, err := w.sim.ListVolumes(w.ctx, fleet.ClusterID(cluster))
		require.NoError(w.t, err)
		rows := w.strings(`SELECT id FROM volume WHERE deleted_at IS NULL AND cluster_id = $1`, cluster)
		for _, v := range volumes {
			require.Contains(w.t, rows, string(v.ID), "the simulator has a volume of which there is no live row")
		}
	}
}

// events checks that each resource's events tell its life without a gap; those
// of earlier calls are known.
func (w *world) events() {
	w.t.Helper()
	allowed := map[[3]string]bool{}
	for _, m := range fleet.Transitions() {
		allowed[[3]string{"installation", string(m.From), string(m.To)}] = fleet.CanMove(m.From, m.To)
	}
	for _, m := range fleet.ClusterTransitions() {
		allowed[[3]string{"cluster", string(m.From), string(m.To)}] = true
	}
	for _, text := range w.strings(`SELECT jsonb_build_object('n', id, 'id', resource_id, 'type', resource_type, 'from', data ->> 'from', 'to', data ->> 'to')::text
		FROM event WHERE kind IN ('installation.state', 'cluster.state') AND id > $1 ORDER BY id`, w.lastEvent) {
		var e struct {
			N                  int64
			ID, Type, From, To string
		}
		require.NoError(w.t, json.Unmarshal([]byte(text), &e))
		require.Equal(w.t, w.life[e.ID], e.From, "the events of %s %s have a gap before %s", e.Type, e.ID, text)
		require.True(w.t, allowed[[3]string{e.Type, e.From, e.To}], "%s", text)
		w.life[e.ID], w.lastEvent = e.To, e.N
	}
	for _, text := range w.strings(`SELECT id || ' ' || state FROM installation UNION ALL SELECT id || ' ' || state FROM cluster`) {
		require.Equal(w.t, w.life[text[:fleet.IDLength]], text[fleet.IDLength+1:], "the events of %s end in another state", text)
	}
}
