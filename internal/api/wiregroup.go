package api

import (
	"slices"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func wireGroup(v *GroupView) client.Group {
	out := client.Group{
		ID: string(v.ID), Name: v.Name, Labels: v.Labels,
		Revision: int64(v.Revision), Config: wireGroupConfig(v.Config),
		LatestRevision: int64(v.Latest), LatestConfig: wireGroupConfig(v.LatestConfig),
		MembersByRevision: make([]client.RevisionMembers, 0, len(v.Members)),
		Version:           v.Version, CreatedAt: v.CreatedAt, UpdatedAt: v.UpdatedAt,
	}
	for number, n := range v.Members {
		out.Members += n
		out.MembersByRevision = append(out.MembersByRevision, client.RevisionMembers{Revision: int64(number), Members: n})
	}
	slices.SortFunc(out.MembersByRevision, func(a, b client.RevisionMembers) int { return int(a.Revision - b.Revision) })
	if v.Rollout != nil {
		r := wireRolloutSummary(v.Rollout)
		out.Rollout = &r
	}
	return out
}

func wireGroupConfig(c fleet.GroupConfig) client.GroupConfig {
	return client.GroupConfig{
		Package: c.PackageRef, MemoryMiB: c.MemoryMiB, VCPUs: c.VCPUs, Env: c.Env, Unverifiable: string(c.Unverifiable),
		Idle: wireIdle(c.Idle), Wake: wireWake(c.Wake),
	}
}

func wireRevision(r *fleet.GroupRevision) client.GroupRevision {
	return client.GroupRevision{Revision: int64(r.Number), Config: wireGroupConfig(r.Config), CreatedAt: r.CreatedAt}
}

// wireOwn shows what a member sets itself; nothing for an installation in no group.
func wireOwn(v *InstallationView) *client.Own {
	if v.GroupID == "" {
		return nil
	}
	own := &client.Own{MemoryMiB: v.Own.MemoryMiB, VCPUs: v.Own.VCPUs, Env: v.Own.Env, Idle: wireIdle(v.Own.Idle), Wake: wireWake(v.Own.Wake)}
	if v.Own.PackageID != "" {
		own.Package = v.PackageRef // what it sets itself wins, and so is the desired one
	}
	return own
}
