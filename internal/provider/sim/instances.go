package sim

import (
	"context"
	"fmt"
	"slices"

	"dormouse/internal/fleet"
)

// Ensure implements the provider: it creates the instance if absent and powers
// it on. With no boot time, the answer is that it is on and healthy; else
// PowerPending, and OnChange tells the end. Errors: KindFenced; KindConflict
// where another instance uses the volume; KindCapacity where the host is full; KindInvalid
// for a host or a volume that is not there; KindUnavailable.
func (p *Provider) Ensure(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	return p.make(ctx, CallEnsure, spec)
}

// make is Ensure and Clone.
func (p *Provider) make(ctx context.Context, kind Call, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	o, err := p.begin(ctx, spec.ClusterID, kind, string(spec.ID), spec.Epoch)
	if err != nil {
		return fleet.InstanceStatus{}, err
	}
	o.mu.Lock()
	st, err := o.ensure(spec)
	o.mu.Unlock()
	if err = o.end(ctx, err); err != nil {
		return fleet.InstanceStatus{}, err
	}
	return st, nil
}

func (o *call) ensure(spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	if err := o.closedErr(); err != nil {
		return fleet.InstanceStatus{}, err
	}
	if err := o.cloneable(); err != nil {
		return fleet.InstanceStatus{}, err
	}
	if in := o.instances[spec.ID]; in != nil {
		switch {
		case in.Installation != spec.InstallationID:
			return fleet.InstanceStatus{}, fleet.Errorf(fleet.KindConflict, "%s %s: it belongs to installation %s, not %s", o.kind, spec.ID, in.Installation, spec.InstallationID)
		case in.Clone != (o.kind == CallClone):
			return fleet.InstanceStatus{}, fleet.Errorf(fleet.KindConflict, "%s %s: an instance is a clone for all its life or never: give the other one an ID of its own", o.kind, spec.ID)
		}
		return o.change(in, fleet.PowerOn)
	}
	if err := o.fence(o.graves[graveKey{id: string(spec.ID)}].Epoch); err != nil {
		return fleet.InstanceStatus{}, err
	}
	rec, err := o.newRecord(spec)
	if err != nil {
		return fleet.InstanceStatus{}, err
	}
	if o.hit(FaultCapacity) {
		return fleet.InstanceStatus{}, fleet.Errorf(fleet.KindCapacity, "ensuring instance %s: injected fault: no room on host %s", spec.ID, rec.Host)
	}
	if err := o.turn(&rec, fleet.PowerOn); err != nil {
		return fleet.InstanceStatus{}, err
	}
	if err := o.put(change{Instance: &rec}); err != nil {
		return fleet.InstanceStatus{}, err
	}
	o.effect = EffectCreated
	in := o.instances[spec.ID]
	if f := o.config.Faults[FaultNotFoundAfterCreate]; f > 0 && o.draw(string(FaultNotFoundAfterCreate)) < f {
		in.hidden = 2
	}
	return o.status(in), nil
}

// newRecord makes the record of an instance that is off.
func (o *call) newRecord(spec fleet.InstanceSpec) (record, error) {
	if spec.ID == "" || spec.MemoryMiB < 0 {
		return record{}, fleet.Errorf(fleet.KindInvalid, "ensuring instance %q: it needs an ID and memory that is not negative", spec.ID)
	}
	rec := record{
		ID: spec.ID, Installation: spec.InstallationID, Name: spec.Name, Host: spec.HostID, Image: spec.Image,
		MemoryMiB: int64(spec.MemoryMiB), Ports: slices.Clone(spec.Manifest.Ports), CreatedAt: o.now(),
		Epoch: spec.Epoch, Power: fleet.PowerOff, Health: fleet.HealthUnknown,
		Role: spec.Role, Clone: o.kind == CallClone, Behaviour: spec.Env[BehaviourVariable],
	}
	if rec.Behaviour != "" {
		if _, err := ParseBehaviour(rec.Behaviour); err != nil {
			return record{}, fmt.Errorf("ensuring instance %s: %w", spec.ID, err)
		}
	}
	if rec.Host == "" {
		rec.Host = o.config.first
	}
	if !o.config.hosts[rec.Host] {
		return record{}, fleet.InvalidField("host_id", "ensuring instance %s: cluster %s has no host %s", spec.ID, o.id, rec.Host)
	}
	if spec.Volume != nil {
		if _, ok := o.volumes[spec.Volume.ID]; !ok {
			return record{}, fleet.InvalidField("volume.id", "ensuring instance %s: there is no volume %s: ensure it first", spec.ID, spec.Volume.ID)
		}
		if !rec.Clone {
			rec.Volume = spec.Volume.ID
		}
	}
	return rec, nil
}

// change takes an instance to a target, where it is not there or on its way.
func (o *call) change(in *instance, target fleet.Power) (fleet.InstanceStatus, error) {
	if err := o.fence(in.Epoch); err != nil {
		return fleet.InstanceStatus{}, err
	}
	rec := in.record
	rec.Epoch = o.epoch
	effect := EffectEpoch
	if in.wanted() != target || in.Asleep != "" {
		if in.wanted() == target {
			rec.Asleep = "" // it is off for good, until somebody switches it on
		} else if err := o.turn(&rec, target); err != nil {
			return fleet.InstanceStatus{}, err
		}
		effect = EffectPowered
	}
	if effect == EffectPowered || rec.Epoch != in.Epoch {
		if err := o.put(change{Instance: &rec}); err != nil {
			return fleet.InstanceStatus{}, err
		}
		o.effect = effect
	}
	return o.status(in), nil
}

// turn changes rec as the way to the target, or its end, asks for.
func (o *call) turn(rec *record, target fleet.Power) error {
	span, kind := o.config.StopTime, CallPowerOff
	if target == fleet.PowerOn {
		if err := o.room(rec); err != nil {
			return err
		}
		span, kind = o.config.BootTime, CallPowerOn
		if err := o.behave(rec); err != nil {
			return err
		}
		rec.Boots++
		rec.Exit = nil
		rec.Resumed = rec.Asleep == fleet.TierWarm
	}
	rec.Asleep = ""
	// Drawn by the number of the boot, which outlives this process.
	drawn := func(what string) float64 { return draw(o.config.Seed, what, kind, o.object, rec.Boots) }
	now := o.now()
	rec.Power, rec.Target, rec.Health, rec.HealthDetail = fleet.PowerPending, target, fleet.HealthUnknown, ""
	rec.BadEnd = false
	if f := o.config.Faults[FaultBadEnd]; f > 0 && o.fault == "" && drawn(string(FaultBadEnd)) < f {
		rec.BadEnd, o.fault = true, FaultBadEnd
	}
	if span.Zero() {
		rec.finish(now)
		return nil
	}
	rec.DueAt = now.Add(span.at(drawn("time"), drawn("time-2")))
	return nil
}

// room checks that an instance may go on: its volume is free and its memory is there.
func (o *call) room(rec *record) error {
	if user, used := o.users[rec.Volume]; used && rec.Volume != "" && user != rec.ID {
		err := fleet.Errorf(fleet.KindConflict, "powering on instance %s: instance %s uses volume %s: stop that one first", rec.ID, user, rec.Volume)
		err.Reason = fleet.ReasonInUse
		return err
	}
	if v, ok := o.volumes[rec.Volume]; ok && v.Host != rec.Host {
		return fleet.InvalidField("host_id", "powering on instance %s: it is on host %s, and volume %s is on host %s", rec.ID, rec.Host, v.ID, v.Host)
	}
	used := o.memory[rec.Host]
	if rec.Power != fleet.PowerOff {
		used -= rec.MemoryMiB // on its way to off, and counted still
	}
	if used+rec.MemoryMiB > o.config.MemoryMiB {
		err := fleet.Errorf(fleet.KindCapacity, "powering on instance %s: host %s has %d MiB of memory left, %d are needed", rec.ID, rec.Host, o.config.MemoryMiB-used, rec.MemoryMiB)
		err.Reason = fleet.ReasonCapacity
		return err
	}
	return nil
}

// Observe implements the provider; KindNotFound if the instance is unknown.
func (p *Provider) Observe(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error) {
	o, err := p.begin(ctx, ref.ClusterID, CallObserve, string(ref.ID), ref.Epoch)
	if err != nil {
		return fleet.InstanceStatus{}, err
	}
	o.mu.Lock()
	st, err := o.observe(ref.ID)
	o.mu.Unlock()
	return st, o.end(ctx, err)
}

func (o *call) observe(id fleet.InstanceID) (fleet.InstanceStatus, error) {
	in, err := o.find(id)
	if err != nil {
		return fleet.InstanceStatus{}, err
	}
	if in.hidden > 0 {
		in.hidden--
		o.fault = FaultNotFoundAfterCreate
		return fleet.InstanceStatus{}, fleet.Errorf(fleet.KindNotFound, "observe instance %s: injected fault: not visible yet", id)
	}
	return o.look(in), nil
}

func (o *call) find(id fleet.InstanceID) (*instance, error) {
	if err := o.closedErr(); err != nil {
		return nil, err
	}
	in := o.instances[id]
	if in == nil {
		return nil, fleet.Errorf(fleet.KindNotFound, "%s: there is no instance %s", o.kind, id)
	}
	return in, nil
}

// Power implements the provider: it switches to PowerOn or PowerOff. Errors as
// Ensure's, and KindNotFound.
func (p *Provider) Power(ctx context.Context, ref fleet.InstanceRef, target fleet.Power) (fleet.InstanceStatus, error) {
	kind := CallPowerOn
	switch target {
	case fleet.PowerOn:
	case fleet.PowerOff:
		kind = CallPowerOff
	default:
		return fleet.InstanceStatus{}, fleet.InvalidField("power", "powering instance %s: the target is %q; want %q or %q", ref.ID, target, fleet.PowerOn, fleet.PowerOff)
	}
	o, err := p.begin(ctx, ref.ClusterID, kind, string(ref.ID), ref.Epoch)
	if err != nil {
		return fleet.InstanceStatus{}, err
	}
	o.mu.Lock()
	st, err := o.power(ref.ID, target)
	o.mu.Unlock()
	if err = o.end(ctx, err); err != nil {
		return fleet.InstanceStatus{}, err
	}
	return st, nil
}

func (o *call) power(id fleet.InstanceID, target fleet.Power) (fleet.InstanceStatus, error) {
	in, err := o.admit(id)
	if err != nil {
		return fleet.InstanceStatus{}, err
	}
	return o.change(in, target)
}

// admit finds an instance, and refuses an epoch lower than seen.
func (o *call) admit(id fleet.InstanceID) (*instance, error) {
	if err := o.fence(o.graves[graveKey{id: string(id)}].Epoch); err != nil {
		return nil, err
	}
	in, err := o.find(id)
	if err != nil {
		return nil, err
	}
	return in, o.fence(in.Epoch)
}

// Delete implements the provider. It is idempotent, and leaves a tombstone with
// the epoch for an hour, also where there was nothing. Errors: KindFenced, KindUnavailable.
func (p *Provider) Delete(ctx context.Context, ref fleet.InstanceRef) error {
	o, err := p.begin(ctx, ref.ClusterID, CallDelete, string(ref.ID), ref.Epoch)
	if err != nil {
		return err
	}
	o.mu.Lock()
	seen := fleet.Epoch(0)
	in := o.instances[ref.ID]
	if in != nil {
		seen = in.Epoch
	}
	err = o.remove(grave{ID: string(ref.ID)}, seen, in != nil)
	o.mu.Unlock()
	return o.end(ctx, err)
}

// remove puts a tombstone in the place of an instance or a volume.
func (o *call) remove(g grave, seen fleet.Epoch, exists bool) error {
	if err := o.closedErr(); err != nil {
		return err
	}
	before, dead := o.graves[g.key()]
	if err := o.fence(max(seen, before.Epoch)); err != nil {
		return err
	}
	if !exists && dead && before.Epoch == o.epoch {
		return nil
	}
	g.Epoch, g.At, g.Born = o.epoch, o.now(), before.Born || exists && !g.Volume
	if err := o.put(change{Grave: &g}); err != nil {
		return err
	}
	if exists {
		o.effect = EffectDeleted
	} else {
		o.effect = EffectEpoch
	}
	return nil
}

// List implements the provider: pages of Options.PageSize, in order of the IDs.
func (p *Provider) List(ctx context.Context, cluster fleet.ClusterID, after string) (page []fleet.InstanceStatus, next string, err error) {
	o, err := p.begin(ctx, cluster, CallList, string(cluster), 0)
	if err != nil {
		return nil, "", err
	}
	partial := o.hit(FaultPartialList)
	o.mu.Lock()
	if err = o.closedErr(); err == nil {
		page, next = o.list(fleet.InstanceID(after))
	}
	o.mu.Unlock()
	if partial {
		page = page[:len(page)/2]
	}
	return page, next, o.end(ctx, err)
}

func (o *call) list(after fleet.InstanceID) (page []fleet.InstanceStatus, next string) {
	ids := o.sortedIDs()
	from, found := slices.BinarySearch(ids, after)
	if found {
		from++
	}
	for _, id := range ids[from:] {
		in := o.instances[id]
		if in == nil {
			continue
		}
		if len(page) == o.p.options.PageSize {
			return page, string(page[len(page)-1].ID)
		}
		page = append(page, o.look(in))
	}
	return page, ""
}
