package simulate

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"dormouse/internal/fleet"
	"dormouse/internal/invariants"
)

// judge looks at all rows and all machines when everything has come to its end.
// What is judged while a seed lasts is in invariants_provider_test.go.
func (w *world) judge() {
	var found []invariants.Violation
	var err error
	w.s.db.outside(func() { found, err = invariants.AtRest(w.s.db.strings) })
	if err != nil {
		w.s.fail("judging: %v", err)
	}
	for _, v := range found {
		w.broken(v.Invariant, "%s", v.Detail)
	}
	w.noChangeLost()
	w.noRevisionLost()
	w.noStray()
	w.capacityIsUsed()
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
			if _, known := t.env[key]; !known && !t.deleted && !(t.member && key == revisionKey) {
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

// capacityIsUsed: the machines that are on use no more of a host than is held of it.
func (w *world) capacityIsUsed() {
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
			w.broken("CapacityIsSumOfHolds", "machines on host %s use %d MiB, and %d are held", host, n, held[host])
		}
	}
}
