package store

import (
	"context"

	"dormouse/internal/fleet"
)

// apply changes what is desired of an installation as a request says.
func (t *Tx) apply(ctx context.Context, r forChange, inst *fleet.Installation, in fleet.Change) error {
	if in.PackageRef != nil && r.PackageID == "" {
		return fleet.InvalidField("package", "there is no package %q: see `cloudctl package list`", *in.PackageRef)
	}
	var config fleet.GroupConfig
	if err := r.GroupConfig.into(&config); err != nil {
		return err
	}
	if in.Group != nil {
		m, err := t.moveTo(ctx, inst, *in.Group)
		if err != nil {
			return err
		}
		config = m.config
	}
	if in.DiskMiB != nil && *in.DiskMiB < inst.DiskMiB {
		return fleet.InvalidField("disk_mib", "the volume has %d MiB and cannot shrink to %d: ask for as much or more", inst.DiskMiB, *in.DiskMiB)
	}
	set(&inst.DiskMiB, in.DiskMiB)
	inst.Secrets = merge(inst.Secrets, in.Secrets)
	inst.Labels = merge(inst.Labels, in.Labels)
	if in.DNSNames != nil {
		inst.DNSNames = *in.DNSNames
	}
	if err := r.applyOwn(inst, in, config); err != nil {
		return err
	}
	least := r.MinMemoryMiB
	if in.Group != nil && in.PackageRef == nil && inst.PackageID == config.PackageID {
		p, err := t.pkg(ctx, string(config.PackageID))
		if err != nil {
			return err
		}
		least = p.Manifest.MinMemoryMiB
	}
	if least > inst.MemoryMiB {
		return fleet.InvalidField("memory_mib", "the package needs at least %d MiB of memory, %d were asked for", least, inst.MemoryMiB)
	}
	return fleet.CheckSealedEnvironment(inst.Env, inst.Secrets)
}

// applyOwn changes what the installation sets itself, and what comes of it.
func (r forChange) applyOwn(inst *fleet.Installation, in fleet.Change, config fleet.GroupConfig) error {
	if inst.GroupID == "" {
		if len(in.FromGroup) > 0 {
			return fleet.InvalidField("from_group", "installation %s is in no group", inst.Name)
		}
		if in.PackageRef != nil {
			inst.PackageID = fleet.PackageID(r.PackageID)
		}
		set(&inst.MemoryMiB, in.MemoryMiB)
		set(&inst.VCPUs, in.VCPUs)
		inst.Env = merge(inst.Env, in.Env)
		in.Idle.Apply(&inst.Idle)
		in.Wake.Apply(&inst.Wake)
		return nil
	}
	own := &inst.Own
	for _, field := range in.FromGroup {
		switch field {
		case "package":
			own.PackageID = ""
		case "memory_mib":
			own.MemoryMiB = 0
		case "vcpus":
			own.VCPUs = 0
		default:
			return fleet.InvalidField("from_group", "%q is not what a group sets: name package, memory_mib or vcpus; env keys are given back with null", field)
		}
	}
	if in.PackageRef != nil {
		own.PackageID = fleet.PackageID(r.PackageID)
	}
	set(&own.MemoryMiB, in.MemoryMiB)
	set(&own.VCPUs, in.VCPUs)
	own.Env = merge(own.Env, in.Env)
	in.Idle.Apply(&own.Idle)
	in.Wake.Apply(&own.Wake)
	config.Settle(inst)
	return nil
}

// moveTo changes the group of an installation; its own settings stay its own.
func (t *Tx) moveTo(ctx context.Context, inst *fleet.Installation, to fleet.GroupMembership) (membership, error) {
	if to.Join == "" && len(to.Match) == 0 {
		if !to.KeepConfiguration && inst.GroupID != "" {
			inst.Env, inst.Idle, inst.Wake = inst.Own.Env, inst.Own.Idle, inst.Own.Wake
		}
		inst.GroupID, inst.GroupRevision, inst.Own = "", 0, fleet.Own{}
		return membership{}, nil
	}
	m, err := t.join(ctx, to)
	if err != nil {
		return m, err
	}
	if inst.GroupID == "" {
		inst.Own = fleet.Own{Env: inst.Env, Idle: inst.Idle, Wake: inst.Wake}
	}
	inst.GroupID, inst.GroupRevision = m.group.ID, m.group.Revision
	return m, nil
}

func set(into, from *int) {
	if from != nil {
		*into = *from
	}
}
