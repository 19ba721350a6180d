package sim

import (
	"context"

	"dormouse/internal/fleet"
)

// Suspend implements the provider: a stop after which the instance is asleep,
// with its memory where that is asked for, which takes no space. It lasts as long
// as a stop does, PowerPending meanwhile, and fails like one; KindConflict for an
// instance that is off and not asleep. It can't be called off. KindPermanent with
// ReasonCannotSleep where the cluster's settings say that nothing sleeps.
func (p *Provider) Suspend(ctx context.Context, ref fleet.InstanceRef, options fleet.SuspendOptions) (fleet.InstanceStatus, error) {
	o, err := p.begin(ctx, ref.ClusterID, CallSuspend, string(ref.ID), ref.Epoch)
	if err != nil {
		return fleet.InstanceStatus{}, err
	}
	o.mu.Lock()
	st, err := o.suspend(ref.ID, options)
	o.mu.Unlock()
	if err = o.end(ctx, err); err != nil {
		return fleet.InstanceStatus{}, err
	}
	return st, nil
}

func (o *call) suspend(id fleet.InstanceID, options fleet.SuspendOptions) (fleet.InstanceStatus, error) {
	in, err := o.admit(id)
	if err != nil {
		return fleet.InstanceStatus{}, err
	}
	if err := options.Check(); err != nil {
		return fleet.InstanceStatus{}, err
	}
	if !o.config.Sleep {
		return fleet.InstanceStatus{}, fleet.Failure(fleet.ReasonCannotSleep, "suspend %s: nothing sleeps in cluster %s (its setting sleep=false): stop it instead", id, o.cluster.id)
	}
	if in.wanted() == fleet.PowerOff && in.Asleep == "" {
		return fleet.InstanceStatus{}, fleet.Errorf(fleet.KindConflict, "suspend %s: it is off: only one that runs can be put to sleep", id)
	}
	rec := in.record
	rec.Epoch = o.epoch
	effect := EffectEpoch
	if in.wanted() != fleet.PowerOff {
		effect = EffectPowered
		if err := o.turn(&rec, fleet.PowerOff); err != nil {
			return fleet.InstanceStatus{}, err
		}
		rec.Asleep = fleet.TierWarm
		if options.Mode == fleet.SuspendCold {
			rec.Asleep = fleet.TierCold
		}
	}
	if effect == EffectPowered || rec.Epoch != in.Epoch {
		if err := o.put(change{Instance: &rec}); err != nil {
			return fleet.InstanceStatus{}, err
		}
		o.effect = effect
	}
	return o.status(in), nil
}

// EndSleep implements the provider.
func (p *Provider) EndSleep(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error) {
	o, err := p.begin(ctx, ref.ClusterID, CallEndSleep, string(ref.ID), ref.Epoch)
	if err != nil {
		return fleet.InstanceStatus{}, err
	}
	o.mu.Lock()
	st, err := o.endSleep(ref.ID)
	o.mu.Unlock()
	if err = o.end(ctx, err); err != nil {
		return fleet.InstanceStatus{}, err
	}
	return st, nil
}

func (o *call) endSleep(id fleet.InstanceID) (fleet.InstanceStatus, error) {
	in, err := o.admit(id)
	if err != nil {
		return fleet.InstanceStatus{}, err
	}
	if in.wanted() == fleet.PowerOn {
		err := fleet.Errorf(fleet.KindConflict, "ending the sleep of instance %s: it is awake", id)
		err.Reason = fleet.ReasonVisited
		return fleet.InstanceStatus{}, err
	}
	return o.change(in, fleet.PowerOff)
}
