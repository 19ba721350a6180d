package sim

import (
	"context"
	"slices"

	"dormouse/internal/fleet"
)

// EnsureVolume creates a volume if absent, or grows it while no instance uses it that
// is not off. Errors: KindFenced; KindConflict with ReasonInUse where it is in use; KindInvalid
// with ReasonVolumeTooSmall where it would shrink; KindCapacity; KindUnavailable.
func (p *Provider) EnsureVolume(ctx context.Context, spec fleet.VolumeSpec) (fleet.VolumeStatus, error) {
	o, err := p.begin(ctx, spec.ClusterID, CallEnsureVolume, string(spec.ID), spec.Epoch)
	if err != nil {
		return fleet.VolumeStatus{}, err
	}
	o.mu.Lock()
	v, err := o.ensureVolume(spec)
	o.mu.Unlock()
	if err = o.end(ctx, err); err != nil {
		return fleet.VolumeStatus{}, err
	}
	return v.status(), nil
}

func (o *call) ensureVolume(spec fleet.VolumeSpec) (volumeRecord, error) {
	if err := o.closedErr(); err != nil {
		return volumeRecord{}, err
	}
	v, exists := o.volumes[spec.ID]
	if err := o.fence(max(v.Epoch, o.graves[graveKey{string(spec.ID), true}].Epoch)); err != nil {
		return volumeRecord{}, err
	}
	if spec.ID == "" || spec.SizeMiB <= 0 {
		return volumeRecord{}, fleet.InvalidField("size_mib", "ensuring volume %q: it needs an ID and a size above 0", spec.ID)
	}
	effect := EffectNone
	switch {
	case !exists:
		v = volumeRecord{ID: spec.ID, Installation: spec.InstallationID, Host: spec.HostID, CreatedAt: o.now()}
		if v.Host == "" {
			v.Host = o.config.first
		}
		if !o.config.hosts[v.Host] {
			return volumeRecord{}, fleet.InvalidField("host_id", "ensuring volume %s: cluster %s has no host %s", spec.ID, o.id, v.Host)
		}
		effect = EffectCreated
	case v.Installation != spec.InstallationID:
		return volumeRecord{}, fleet.Errorf(fleet.KindConflict, "ensuring volume %s: it belongs to installation %s, not %s", spec.ID, v.Installation, spec.InstallationID)
	case spec.SizeMiB < v.SizeMiB:
		err := fleet.InvalidField("size_mib", "ensuring volume %s: it has %d MiB and can't shrink to %d: ask for at least what it has", spec.ID, v.SizeMiB, spec.SizeMiB)
		err.Reason = fleet.ReasonVolumeTooSmall
		return volumeRecord{}, err
	case spec.SizeMiB > v.SizeMiB:
		if err := o.idle(spec.ID); err != nil {
			return volumeRecord{}, err
		}
		effect = EffectGrown
	case spec.Epoch > v.Epoch:
		effect = EffectEpoch
	default:
		return v, nil
	}
	if free := o.config.DiskMiB - o.disk[v.Host]; int64(spec.SizeMiB-v.SizeMiB) > free {
		err := fleet.Errorf(fleet.KindCapacity, "ensuring volume %s: host %s has %d MiB of disk left, %d more are needed", spec.ID, v.Host, free, spec.SizeMiB-v.SizeMiB)
		err.Reason = fleet.ReasonCapacity
		return volumeRecord{}, err
	}
	v.SizeMiB, v.Epoch = spec.SizeMiB, spec.Epoch
	if err := o.put(change{Volume: &v}); err != nil {
		return volumeRecord{}, err
	}
	o.effect = effect
	return v, nil
}

// MoveVolume takes a volume to another host while no instance uses it that is not
// off. Idempotent. Errors: KindFenced; KindNotFound; KindConflict with ReasonInUse where it
// is in use; KindInvalid for a host that is not there; KindCapacity; KindUnavailable.
func (p *Provider) MoveVolume(ctx context.Context, ref fleet.VolumeRef, to fleet.HostID) (fleet.VolumeStatus, error) {
	o, err := p.begin(ctx, ref.ClusterID, CallMoveVolume, string(ref.ID), ref.Epoch)
	if err != nil {
		return fleet.VolumeStatus{}, err
	}
	o.mu.Lock()
	v, err := o.moveVolume(ref.ID, to)
	o.mu.Unlock()
	if err = o.end(ctx, err); err != nil {
		return fleet.VolumeStatus{}, err
	}
	return v.status(), nil
}

func (o *call) moveVolume(id fleet.VolumeID, to fleet.HostID) (volumeRecord, error) {
	v, err := o.volume(id)
	if err != nil {
		return volumeRecord{}, err
	}
	if !o.config.hosts[to] {
		return volumeRecord{}, fleet.InvalidField("host_id", "moving volume %s: cluster %s has no host %s", id, o.id, to)
	}
	effect := EffectEpoch
	switch {
	case v.Host != to:
		if err := o.idle(id); err != nil {
			return volumeRecord{}, err
		}
		if free := o.config.DiskMiB - o.disk[to]; int64(v.SizeMiB) > free {
			err := fleet.Errorf(fleet.KindCapacity, "moving volume %s: host %s has %d MiB of disk left, %d are needed", id, to, free, v.SizeMiB)
			err.Reason = fleet.ReasonCapacity
			return volumeRecord{}, err
		}
		v.Host, effect = to, EffectMoved
	case o.epoch == v.Epoch:
		return v, nil
	}
	v.Epoch = o.epoch
	if err := o.put(change{Volume: &v}); err != nil {
		return volumeRecord{}, err
	}
	o.effect = effect
	return v, nil
}

// DeleteVolume removes a volume; idempotent. Errors: KindFenced; KindConflict
// with ReasonInUse while an instance that is not off uses it; KindUnavailable.
func (p *Provider) DeleteVolume(ctx context.Context, ref fleet.VolumeRef) error {
	o, err := p.begin(ctx, ref.ClusterID, CallDeleteVolume, string(ref.ID), ref.Epoch)
	if err != nil {
		return err
	}
	o.mu.Lock()
	err = o.deleteVolume(ref.ID)
	o.mu.Unlock()
	return o.end(ctx, err)
}

func (o *call) deleteVolume(id fleet.VolumeID) error {
	v, exists := o.volumes[id]
	if err := o.fence(v.Epoch); err != nil {
		return err
	}
	if err := o.idle(id); err != nil {
		return err
	}
	return o.remove(grave{ID: string(id), Volume: true}, v.Epoch, exists)
}

// idle refuses a volume that an instance uses which is not off.
func (o *call) idle(id fleet.VolumeID) error {
	user, used := o.users[id]
	if !used {
		return nil
	}
	err := fleet.Errorf(fleet.KindConflict, "%s %s: instance %s uses it: stop that one first", o.kind, id, user)
	err.Reason = fleet.ReasonInUse
	return err
}

// ListVolumes returns all volumes of the cluster, in order of their IDs.
func (p *Provider) ListVolumes(ctx context.Context, cluster fleet.ClusterID) ([]fleet.VolumeStatus, error) {
	o, err := p.begin(ctx, cluster, CallListVolumes, string(cluster), 0)
	if err != nil {
		return nil, err
	}
	var all []fleet.VolumeStatus
	o.mu.Lock()
	if err = o.closedErr(); err == nil {
		ids := make([]fleet.VolumeID, 0, len(o.volumes))
		for id := range o.volumes {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		for _, id := range ids {
			v := o.volumes[id]
			all = append(all, v.status())
		}
	}
	o.mu.Unlock()
	return all, o.end(ctx, err)
}
