package simulate

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"dormouse/internal/fleet"
)

// judge looks at all rows and all machines when everything has come to its end.
func (w *world) judge() {
	for _, invariant := range w.invariants() {
		invariant.holds()
	}
}

type invariant struct {
	name  string
	holds func()
}

// invariants are those that are judged at the end of a seed; those that are
// judged while it lasts are in invariants_provider_test.go.
func (w *world) invariants() []invariant {
	return []invariant{
		{"EventsChain", w.eventsChain},
		{"NoBackwardState", w.noBackwardState},
		{"NoChangeLost", w.noChangeLost},
		{"NoStray", w.noStray},
		{"CapacityIsSumOfHolds", w.capacityIsSumOfHolds},
		{"LeasesOnce", w.leasesOnce},
		{"RowsAgree", w.rowsAgree},
		{"DeletedHoldsNothing", w.deletedHoldsNothing},
		{"Explained", w.explained},
	}
}

// none requires that a query finds nothing.
func (w *world) none(invariant, what, query string, args ...any) {
	if found := w.s.strings(query, args...); len(found) > 0 {
		w.broken(invariant, "%s: %d times: %v", what, len(found), found[:min(5, len(found))])
	}
}

type stateEvent struct {
	N                  int64
	ID, Type, From, To string
}

func (w *world) stateEvents() []stateEvent {
	var all []stateEvent
	for _, text := range w.s.strings(`SELECT jsonb_build_object('n', id, 'id', resource_id, 'type', resource_type, 'from', data ->> 'from', 'to', data ->> 'to')::text
		FROM event WHERE kind IN ('installation.state', 'cluster.state') ORDER BY id`) {
		var e stateEvent
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			w.broken("EventsChain", "reading event %s: %v", text, err)
		}
		all = append(all, e)
	}
	return all
}

// eventsChain: the events of each resource tell its life without a gap and
// nothing twice, and end in the state that it is in.
func (w *world) eventsChain() {
	life := map[string]string{}
	for _, e := range w.stateEvents() {
		if life[e.ID] != e.From {
			w.broken("EventsChain", "event %d of %s %s goes from %q to %q, and the one before had led to %q", e.N, e.Type, e.ID, e.From, e.To, life[e.ID])
		}
		life[e.ID] = e.To
	}
	for _, text := range w.s.strings(`SELECT id || ' ' || state FROM installation UNION ALL SELECT id || ' ' || state FROM cluster`) {
		if id, state := text[:fleet.IDLength], text[fleet.IDLength+1:]; life[id] != state {
			w.broken("EventsChain", "%s is %s, and its last event leads to %q", id, state, life[id])
		}
	}
}

// noBackwardState: only what the transition tables allow has happened.
func (w *world) noBackwardState() {
	allowed := map[[3]string]bool{}
	for _, m := range fleet.Transitions() {
		allowed[[3]string{"installation", string(m.From), string(m.To)}] = true
	}
	for _, m := range fleet.ClusterTransitions() {
		allowed[[3]string{"cluster", string(m.From), string(m.To)}] = true
	}
	for _, e := range w.stateEvents() {
		if !allowed[[3]string{e.Type, e.From, e.To}] {
			w.broken("NoBackwardState", "%s %s went from %q to %q", e.Type, e.ID, e.From, e.To)
		}
	}
}

// finalState is an installation at the end, with what serves it.
type finalState struct {
	ID, Name, State, Package string
	Memory                   int
	Env                      map[string]string
	// Serves and what follows are the serving instance's.
	Serves        bool
	ServesPackage string
	ServesMemory  int
	ServesEnv     map[string]string
}

const finalSQL = `SELECT jsonb_build_object('id', i.id, 'name', i.name, 'state', i.state, 'package', p.name || '@' || p.version, 'memory', i.memory_mib,
	'env', i.env, 'serves', x.id IS NOT NULL, 'servesPackage', coalesce(xp.name || '@' || xp.version, ''),
	'servesMemory', coalesce((x.spec ->> 'memory_mib')::int, 0), 'servesEnv', coalesce(x.spec -> 'env', '{}'))::text
FROM installation i JOIN package p ON p.id = i.package_id
LEFT JOIN instance x ON x.installation_id = i.id AND x.serving AND x.deleted_at IS NULL
LEFT JOIN package xp ON xp.id = x.spec ->> 'package_id'`

// noChangeLost: whatever was acknowledged is so at the end, in the row, and in
// what serves where something does.
func (w *world) noChangeLost() {
	const name = "NoChangeLost"
	final := map[string]finalState{}
	for _, text := range w.s.strings(finalSQL) {
		var f finalState
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			w.broken(name, "reading %s: %v", text, err)
		}
		final[f.ID] = f
	}
	for _, n := range w.names {
		t := w.tenants[n]
		f, ok := final[string(t.id)]
		switch {
		case !ok:
			w.broken(name, "the create of %s was acknowledged, and it is not there", n)
			continue
		case t.deleted != (f.State == string(fleet.StateDeleted)):
			w.broken(name, "%s: its deletion was acknowledged: %v; it is %s", n, t.deleted, f.State)
		}
		for key, value := range t.env {
			if f.Env[key] != value && !t.deleted {
				w.broken(name, "%s: %s=%s was acknowledged; it is %q", n, key, value, f.Env[key])
			}
		}
		for key := range f.Env {
			if _, known := t.env[key]; !known && !t.deleted {
				w.broken(name, "%s: %s is there, and was not acknowledged or was removed since", n, key)
			}
		}
		if !latest(t.packages, f.Package) || !latest(t.memory, strconv.Itoa(f.Memory)) {
			w.broken(name, "%s: package %s and memory %d are not what was acknowledged last: %v %v", n, f.Package, f.Memory, t.packages, t.memory)
		}
		if f.State == string(fleet.StateStable) && (!f.Serves || f.ServesPackage != f.Package || f.ServesMemory != f.Memory || !sameEnv(f.ServesEnv, f.Env)) {
			w.broken(name, "%s is stable, and what serves is not what is desired: %+v", n, f)
		}
	}
}

// latest tells whether the value is the one of the last generation, or one whose generation is not known.
func latest(wishes map[int64]string, value string) bool {
	last, unknown := int64(-1), false
	for generation, v := range wishes {
		last = max(last, generation)
		unknown = unknown || generation == 0 && v == value
	}
	return last < 1 || unknown || wishes[last] == value
}

func sameEnv(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// noStray: the provider has the machines and the volumes of which there are
// rows, in the power that they say, and no others.
func (w *world) noStray() {
	for _, stray := range w.strays() {
		w.broken("NoStray", "%s", stray)
	}
}

func (w *world) strays() (found []string) {
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	rows := map[string]string{}
	for _, text := range w.s.strings(`SELECT id || ' ' || power FROM instance WHERE deleted_at IS NULL`) {
		rows[text[:fleet.IDLength]] = text[fleet.IDLength+1:]
	}
	machines, volumes := w.s.sim.Inventory(w.cluster)
	for _, m := range machines {
		row, ok := rows[string(m.ID)]
		switch {
		case !ok:
			add("machine %s of installation %s has no row", m.ID, m.InstallationID)
		case row != string(m.Power):
			add("machine %s is %s, and its row says %s", m.ID, m.Power, row)
		}
		delete(rows, string(m.ID))
	}
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		if power := rows[id]; power != string(fleet.PowerOff) && power != string(fleet.PowerPlanned) {
			add("instance %s is %s by its row, and there is no such machine", id, power)
		}
	}
	known := w.s.strings(`SELECT id FROM volume WHERE deleted_at IS NULL`)
	there := make([]string, len(volumes))
	for i, v := range volumes {
		there[i] = string(v.ID)
		if !slices.Contains(known, there[i]) {
			add("volume %s has no row", v.ID)
		}
	}
	for _, text := range w.s.strings(`SELECT v.id || ' of ' || i.name || ', which is ' || i.state FROM volume v JOIN installation i ON i.id = v.installation_id
		WHERE v.deleted_at IS NULL AND v.provider_ref <> '' AND v.id <> ALL ($1)`, array(there)) {
		add("volume %s is gone", text)
	}
	return found
}

// capacityIsSumOfHolds: what a host holds is what its installations hold, which
// is no more than there is, and as much as they use.
func (w *world) capacityIsSumOfHolds() {
	const name = "CapacityIsSumOfHolds"
	w.none(name, "a host holds what its installations do not", `SELECT h.name || ': ' || h.memory_held_mib || ', ' || h.disk_held_mib || ' but ' || held.memory || ', ' || held.disk FROM host h,
		LATERAL (SELECT coalesce(sum(x.memory), 0) AS memory, coalesce(sum(x.disk), 0) AS disk FROM (
			SELECT held_memory_mib AS memory, held_disk_mib AS disk FROM installation WHERE held_host_id = h.id
			UNION ALL SELECT reserved_memory_mib, reserved_disk_mib FROM installation WHERE reserved_host_id = h.id) x) held
		WHERE h.memory_held_mib <> held.memory OR h.disk_held_mib <> held.disk`)
	w.none(name, "something is reserved though no move is under way", `SELECT name || ' ' || state FROM installation WHERE reserved_host_id <> ''`)
	w.none(name, "more is held than there is", `SELECT name FROM host WHERE memory_held_mib > memory_mib OR disk_held_mib > disk_mib`)
	held := map[string]int64{}
	for _, text := range w.s.strings(`SELECT id || ' ' || memory_held_mib FROM host`) {
		n, _ := strconv.ParseInt(text[fleet.IDLength+1:], 10, 64)
		held[text[:fleet.IDLength]] = n
	}
	machines, _ := w.s.sim.Inventory(w.cluster)
	used := map[string]int64{}
	for _, m := range machines {
		if m.Power != fleet.PowerOff {
			used[string(m.HostID)] += m.MemoryMiB
		}
	}
	for host, n := range used {
		if n > held[host] {
			w.broken(name, "machines on host %s use %d MiB, and %d are held", host, n, held[host])
		}
	}
}

// leasesOnce: an address is one installation's, which is there, and whoever has
// a machine on has one on its host.
func (w *world) leasesOnce() {
	const name = "LeasesOnce"
	w.none(name, "an address is leased twice", `SELECT host_id || ' ' || address FROM address_lease WHERE installation_id IS NOT NULL GROUP BY host_id, address HAVING count(*) > 1`)
	w.none(name, "an installation has two addresses", `SELECT installation_id FROM address_lease WHERE installation_id IS NOT NULL GROUP BY installation_id HAVING count(*) > 1`)
	w.none(name, "an address is leased to nobody that lives", `SELECT l.address FROM address_lease l LEFT JOIN installation i ON i.id = l.installation_id
		WHERE l.installation_id IS NOT NULL AND (i.id IS NULL OR i.deleted_at IS NOT NULL)`)
	w.none(name, "a machine is on without an address", `SELECT x.id FROM instance x WHERE x.deleted_at IS NULL AND x.power <> 'off' AND x.power <> 'planned'
		AND NOT EXISTS (SELECT FROM address_lease l WHERE l.installation_id = x.installation_id AND l.host_id = x.host_id)`)
}

// rowsAgree: rows that tell of the same thing tell the same.
func (w *world) rowsAgree() {
	const name = "RowsAgree"
	w.none(name, "two instances serve", `SELECT installation_id FROM instance WHERE serving AND deleted_at IS NULL GROUP BY installation_id, role HAVING count(*) > 1`)
	w.none(name, "a deleted instance serves or is on", `SELECT id FROM instance WHERE deleted_at IS NOT NULL AND (serving OR power <> 'off')`)
	w.none(name, "a volume is attached to what is not there", `SELECT v.id FROM volume v WHERE v.deleted_at IS NULL AND v.attached_instance_id IS NOT NULL
		AND NOT EXISTS (SELECT FROM instance i WHERE i.id = v.attached_instance_id AND i.deleted_at IS NULL AND i.installation_id = v.installation_id)`)
	w.none(name, "what is stable does not serve from one machine with what it uses held", `SELECT i.name || ' holds ' || i.held_memory_mib FROM installation i
		WHERE i.state = 'stable' AND NOT EXISTS (SELECT FROM instance x WHERE x.installation_id = i.id AND x.deleted_at IS NULL AND x.serving AND x.power = 'on'
			AND x.host_id = i.held_host_id AND (x.spec ->> 'memory_mib')::int = i.held_memory_mib
			AND i.running_package_id = x.spec ->> 'package_id' AND i.verified_package_id = i.running_package_id
			AND NOT EXISTS (SELECT FROM volume v WHERE v.installation_id = i.id AND v.deleted_at IS NULL AND v.attached_instance_id IS DISTINCT FROM x.id))`)
	w.none(name, "what is stable has several machines", `SELECT i.name FROM installation i JOIN instance x ON x.installation_id = i.id AND x.deleted_at IS NULL
		WHERE i.state = 'stable' GROUP BY i.name HAVING count(*) > 1`)
	w.none(name, "what sleeps does not, or what is awake is said to sleep", `SELECT i.name || ' ' || i.held_memory_mib FROM installation i
		WHERE i.state = 'stable' AND i.hibernated OR i.state = 'hibernating' AND (NOT i.hibernated OR i.held_memory_mib <> 0 OR i.running_package_id <> ''
			OR EXISTS (SELECT FROM instance x WHERE x.installation_id = i.id AND x.deleted_at IS NULL AND (x.power NOT IN ('off', 'planned') OR x.serving)))`)
	w.none(name, "two operations of a resource are active", `SELECT resource_id FROM operation WHERE state = 'active' GROUP BY resource_id HAVING count(*) > 1`)
}

// deletedHoldsNothing: a tombstone has nothing.
func (w *world) deletedHoldsNothing() {
	w.none("DeletedHoldsNothing", "what is deleted holds something", `SELECT i.name FROM installation i WHERE (i.state = 'deleted') <> (i.deleted_at IS NOT NULL) OR i.state = 'deleted' AND (
		held_memory_mib <> 0 OR held_disk_mib <> 0 OR held_host_id <> ''
		OR EXISTS (SELECT FROM instance x WHERE x.installation_id = i.id AND x.deleted_at IS NULL)
		OR EXISTS (SELECT FROM volume x WHERE x.installation_id = i.id AND x.deleted_at IS NULL)
		OR EXISTS (SELECT FROM address_lease x WHERE x.installation_id = i.id))`)
}

// explained: what failed says why, and nothing is in a state of being worked on
// that nobody works on.
func (w *world) explained() {
	const name = "Explained"
	w.none(name, "an operation failed or was cancelled without a reason", `SELECT id || ' ' || kind || ' ' || step FROM operation WHERE state IN ('failed', 'cancelled') AND fail_reason = ''`)
	w.none(name, "an installation failed without a reason", `SELECT name || ' ' || state FROM installation WHERE state LIKE '%-failed' AND state_reason = ''`)
	w.none(name, "a state says that work is under way, and there is none", `SELECT i.name || ' ' || i.state FROM installation i
		WHERE (i.state LIKE '%-in-progress' OR i.state LIKE '%-requested') AND NOT EXISTS (SELECT FROM operation o WHERE o.resource_id = i.id AND o.state = 'active')
		UNION ALL SELECT c.name || ' ' || c.state FROM cluster c
		WHERE (c.state LIKE '%-in-progress' OR c.state LIKE '%-requested') AND NOT EXISTS (SELECT FROM operation o WHERE o.resource_id = c.id AND o.state = 'active')`)
}
