package kvm

import (
	"context"

	"dormouse/internal/fleet"
)

// Instances counts the instances of this host, whatever their power, clones apart.
func (p *Provider) Instances() int {
	p.mu.Lock()
	all := p.all()
	p.mu.Unlock()
	n := 0
	for _, i := range all {
		_ = i.lock(context.Background())
		if i.exists() {
			n++
		}
		i.unlock()
	}
	return n
}

// EndSleep makes a sleeper an instance that is off: its memory is dropped, and no
// visit wakes it any more. Nothing where it is off already; KindConflict with
// ReasonVisited where it runs, because a visit was quicker. Fenced like Power.
func (p *Provider) EndSleep(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error) {
	none := fleet.InstanceStatus{}
	i := p.known(ref.ID)
	if i == nil {
		return none, errUnknown(ref.ID)
	}
	if err := i.lock(ctx); err != nil {
		return none, err
	}
	defer i.unlock()
	if !i.exists() {
		return none, errUnknown(ref.ID)
	}
	if err := admit("instance", string(ref.ID), i.rec.Epoch, ref.Epoch); err != nil {
		return none, err
	}
	switch {
	case i.rec.Deleting:
		return none, errDeleting(ref.ID)
	case i.rec.Want == fleet.PowerOn:
		e := fleet.Errorf(fleet.KindConflict, "ending the sleep of instance %s: it is awake", ref.ID)
		e.Reason = fleet.ReasonVisited
		return none, e
	}
	if i.raise(ref.Epoch) || i.rec.Asleep {
		if err := i.endSleep(); err != nil {
			return none, err
		}
	}
	return i.status(), nil
}
