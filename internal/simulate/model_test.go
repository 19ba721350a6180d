package simulate

import (
	"maps"

	"dormouse/internal/fleet"
)

// tenant is what one installation's clients were promised.
type tenant struct {
	name string
	id   fleet.InstallationID
	// deleted: its deletion was accepted. member: a group says what it does not set itself.
	deleted, member bool
	// asleep and package are what was asked for last, for the choice of the next request.
	asleep bool
	// env are the keys as acknowledged; each key is one client's alone.
	env map[string]string
	// wishes are the values of what everybody changes, by generation.
	packages, memory map[int64]string
}

// reply is how a request was answered first.
type reply struct {
	operation    fleet.OperationID
	installation fleet.InstallationID
}

// acknowledged notes an accepted request.
func (w *world) acknowledged(key fleet.IdempotencyKey, asked fleet.OperationID, acc fleet.Accepted, note func(t *tenant, generation int64)) {
	w.mu.Lock()
	r, again := w.replies[key.Key]
	now := reply{acc.Operation.ID, acc.Installation.ID}
	t := w.tenants[acc.Installation.Name]
	if !again {
		w.replies[key.Key] = now
		if acc.Operation.ID == asked || acc.Replayed {
			w.accepted++
		}
		if t != nil && t.id == acc.Installation.ID {
			generation := acc.Installation.Generation
			if acc.Replayed {
				generation = 0 // the answer tells of now, not of then
			}
			note(t, generation)
		}
	}
	w.mu.Unlock()
	if again && r != now {
		w.broken("RepliesEqual", "key %s was answered with operation %s of installation %s, and now with %s of %s", key.Key,
			r.operation, r.installation, now.operation, now.installation)
	}
}

// created notes an accepted create.
func (w *world) created(in fleet.NewInstallation, acc fleet.Accepted) {
	w.mu.Lock()
	if _, known := w.tenants[in.Name]; !known {
		w.names = append(w.names, in.Name)
		t := &tenant{name: in.Name, id: acc.Installation.ID, member: in.Group.Join != "", env: maps.Clone(in.Env),
			packages: map[int64]string{}, memory: map[int64]string{}}
		if !t.member {
			t.packages[1] = in.PackageRef
		}
		w.tenants[in.Name] = t
	}
	w.mu.Unlock()
	w.acknowledged(in.Key, in.OperationID, acc, func(*tenant, int64) {})
}

// living returns the names of installations whose deletion nobody has asked for, in order.
func (w *world) living() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for _, name := range w.names {
		if !w.tenants[name].deleted {
			names = append(names, name)
		}
	}
	return names
}

func (w *world) tenant(name string) tenant {
	w.mu.Lock()
	defer w.mu.Unlock()
	return *w.tenants[name]
}
