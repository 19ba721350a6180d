package simulate

import (
	"slices"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// look judges the machines as they are, after every turn that changed any.
func (w *world) look() {
	if !w.dirty.Swap(false) {
		return
	}
	machines, _ := w.s.sim.Inventory(w.cluster)
	machines = slices.DeleteFunc(machines, func(m sim.Machine) bool { return m.Clone }) // they serve nobody, on a network of their own
	w.oneServingMachine(machines)
	w.volumeUsedByOne(machines)
	w.addressUsedByOne(machines)
}

// oneServingMachine: at no time are two machines of an installation on, or on their way.
func (w *world) oneServingMachine(machines []sim.Machine) {
	on := map[fleet.InstallationID]fleet.InstanceID{}
	for _, m := range machines {
		if m.Power == fleet.PowerOff {
			continue
		}
		if other, twice := on[m.InstallationID]; twice {
			w.broken("OneServingMachine", "machines %s and %s of installation %s are on", other, m.ID, m.InstallationID)
		}
		on[m.InstallationID] = m.ID
	}
}

// volumeUsedByOne: at no time do two machines have the same volume.
func (w *world) volumeUsedByOne(machines []sim.Machine) {
	used := map[fleet.VolumeID]fleet.InstanceID{}
	for _, m := range machines {
		if m.Power == fleet.PowerOff || m.VolumeID == "" {
			continue
		}
		if other, twice := used[m.VolumeID]; twice {
			w.broken("VolumeUsedByOne", "machines %s and %s use volume %s", other, m.ID, m.VolumeID)
		}
		used[m.VolumeID] = m.ID
	}
}

// addressUsedByOne: at no time do two machines that are on have one address.
func (w *world) addressUsedByOne(machines []sim.Machine) {
	w.mu.Lock()
	type key struct {
		host    fleet.HostID
		address string
	}
	used, doubled := map[key]fleet.InstanceID{}, [][2]fleet.InstanceID{}
	for _, m := range machines {
		address := w.addresses[m.ID]
		if m.Power == fleet.PowerOff || address == "" {
			continue
		}
		if other, twice := used[key{m.HostID, address}]; twice {
			doubled = append(doubled, [2]fleet.InstanceID{other, m.ID})
		}
		used[key{m.HostID, address}] = m.ID
	}
	w.mu.Unlock()
	for _, d := range doubled {
		w.broken("AddressUsedByOne", "machines %s and %s have the same address", d[0], d[1])
	}
}

// noFencedEffect: a worker that was overtaken, and whose successor has reached
// the object, changes nothing there. Which worker it is comes from the claims, not
// from what the call says.
func (w *world) noFencedEffect(at place, e sim.Entry) {
	if at.op == "" || e.Kind == fleet.KindFenced {
		return
	}
	w.mu.Lock()
	seen := w.served[e.Object]
	if e.Effect != sim.EffectNone || e.Kind == "" && e.Call != sim.CallObserve {
		w.served[e.Object] = max(seen, at.epoch)
	}
	w.mu.Unlock()
	if e.Effect != sim.EffectNone && at.epoch < seen {
		w.broken("NoFencedEffect", "%s of %s in %s by the claim with epoch %d, after epoch %d had been there", e.Call, e.Object, at.step, at.epoch, seen)
	}
}

// noStaleWrite: the store takes no result of a claim that was followed by another.
func (w *world) noStaleWrite(p *process, r fleet.Result) {
	w.mu.Lock()
	have := w.claims[r.OperationID]
	w.mu.Unlock()
	if r.Epoch < have.epoch || r.Epoch == have.epoch && have.by != p {
		w.broken("NoStaleWrite", "%s wrote %s of operation %s with epoch %d; %s has epoch %d", p.name, r.Step, r.OperationID, r.Epoch, have.by.name, have.epoch)
	}
}
