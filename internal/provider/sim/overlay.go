package sim

import (
	"context"

	"dormouse/internal/fleet"
)

// BeginOverlay notes that what is written to a volume from now on may be dropped;
// nothing is ever written here. Idempotent. Errors: KindFenced; KindNotFound;
// KindConflict with ReasonInUse while an instance that is not off uses it; KindUnavailable.
func (p *Provider) BeginOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	return p.overlay(ctx, CallBeginOverlay, ref, true)
}

// CommitOverlay ends an overlay, whoever uses the volume. Idempotent; errors as
// BeginOverlay's, without KindConflict.
func (p *Provider) CommitOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	return p.overlay(ctx, CallCommitOverlay, ref, false)
}

// DropOverlay ends an overlay too, and fails like BeginOverlay; a volume that is
// not there has none.
func (p *Provider) DropOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	err := p.overlay(ctx, CallDropOverlay, ref, false)
	if fleet.KindOf(err) == fleet.KindNotFound {
		return nil
	}
	return err
}

func (p *Provider) overlay(ctx context.Context, kind Call, ref fleet.VolumeRef, lies bool) error {
	o, err := p.begin(ctx, ref.ClusterID, kind, string(ref.ID), ref.Epoch)
	if err != nil {
		return err
	}
	o.mu.Lock()
	err = o.setOverlay(ref.ID, lies)
	o.mu.Unlock()
	return o.end(ctx, err)
}

func (o *call) setOverlay(id fleet.VolumeID, lies bool) error {
	v, err := o.volume(id)
	if err != nil {
		return err
	}
	if v.Overlay != lies && o.kind != CallCommitOverlay {
		if err := o.idle(id); err != nil {
			return err
		}
	}
	if v.Overlay == lies && v.Epoch == o.epoch {
		return nil
	}
	v.Overlay, v.Epoch = lies, o.epoch
	if err := o.put(change{Volume: &v}); err != nil {
		return err
	}
	o.effect = EffectEpoch
	return nil
}

// volume finds a volume, and refuses an epoch lower than seen.
func (o *call) volume(id fleet.VolumeID) (volumeRecord, error) {
	if err := o.closedErr(); err != nil {
		return volumeRecord{}, err
	}
	v, exists := o.volumes[id]
	if err := o.fence(max(v.Epoch, o.graves[graveKey{string(id), true}].Epoch)); err != nil {
		return volumeRecord{}, err
	}
	if !exists {
		return volumeRecord{}, fleet.Errorf(fleet.KindNotFound, "%s %s: there is no such volume", o.kind, id)
	}
	return v, nil
}
