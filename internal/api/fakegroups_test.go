package api

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"dormouse/internal/fleet"
)

// fakeGroup is a group with all its revisions.
type fakeGroup struct {
	fleet.Group
	revisions []fleet.GroupRevision
}

// The part of the fake store that is about groups.

func (f *fakeStore) group(idOrName string) *fakeGroup {
	for _, g := range f.groups {
		if g.DeletedAt.IsZero() && (string(g.ID) == idOrName || g.Name == idOrName) {
			return g
		}
	}
	return nil
}

func noGroup(idOrName string) error {
	return fleet.Errorf(fleet.KindNotFound, "there is no group %q", idOrName)
}

func (f *fakeStore) view(g *fakeGroup) GroupView {
	v := GroupView{
		Group: g.Group, Config: g.revisions[g.Revision-1].Config, LatestConfig: g.revisions[g.Latest-1].Config,
		Members: map[fleet.RevisionNumber]int{},
	}
	for _, i := range f.installations {
		if i.GroupID == g.ID && i.State != fleet.StateDeleted {
			v.Members[i.GroupRevision]++
		}
	}
	for _, r := range f.rollouts {
		if r.GroupID == g.ID && (v.Rollout == nil || r.ID > v.Rollout.ID) {
			v.Rollout = &r.Rollout
		}
	}
	return v
}

// replayGroup finds the group that a key was used for.
func (f *fakeStore) replayGroup(key fleet.IdempotencyKey) (*GroupView, error) {
	used, ok := f.keys[key.Key]
	if key.Key == "" || !ok {
		return nil, nil
	}
	if used.hash != key.RequestHash {
		return nil, fleet.Errorf(fleet.KindConflict, "the Idempotency-Key was used for another request")
	}
	v := f.view(f.groups[fleet.GroupID(used.operation)])
	v.Replayed = true
	return &v, nil
}

func applied(c fleet.GroupConfig, in fleet.GroupChange) fleet.GroupConfig {
	if in.PackageRef != nil {
		name, version, ok := strings.Cut(*in.PackageRef, "@")
		if !ok {
			version = "1.0"
		}
		c.PackageID, c.PackageRef = fleet.PackageID(fleet.DeriveID(name, version)), name+"@"+version
	}
	if in.MemoryMiB != nil {
		c.MemoryMiB = *in.MemoryMiB
	}
	if in.VCPUs != nil {
		c.VCPUs = *in.VCPUs
	}
	if in.Unverifiable != nil {
		c.Unverifiable = *in.Unverifiable
	}
	c.Env = patched(c.Env, in.Env)
	in.Idle.Apply(&c.Idle)
	in.Wake.Apply(&c.Wake)
	return c
}

func (f *fakeStore) CreateGroup(_ context.Context, in NewGroup) (GroupView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return GroupView{}, err
	}
	if v, err := f.replayGroup(in.Key); err != nil || v != nil {
		return deref(v), err
	}
	if f.group(in.Name) != nil {
		return GroupView{}, fleet.Errorf(fleet.KindConflict, "a group named %q exists already", in.Name)
	}
	g := &fakeGroup{Group: fleet.Group{ID: in.ID, Name: in.Name, Labels: in.Labels, Revision: 1, Latest: 1, Version: 1, CreatedAt: epochTime, UpdatedAt: epochTime}}
	config := applied(fleet.GroupConfig{Unverifiable: fleet.UnverifiableKeep}, in.Config)
	g.revisions = []fleet.GroupRevision{{GroupID: in.ID, Number: 1, Config: config, CreatedAt: epochTime}}
	f.groups[in.ID] = g
	f.remember(in.Key, fleet.OperationID(in.ID))
	return f.view(g), nil
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func (f *fakeStore) ChangeGroup(_ context.Context, in ChangeGroup) (GroupView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return GroupView{}, err
	}
	if v, err := f.replayGroup(in.Key); err != nil || v != nil {
		return deref(v), err
	}
	g := f.group(in.IDOrName)
	if g == nil {
		return GroupView{}, noGroup(in.IDOrName)
	}
	f.meddle(g)
	if in.IfMatch != 0 && in.IfMatch != g.Version {
		return GroupView{}, fleet.Errorf(fleet.KindStale, "group %s is at version %d, not %d", g.Name, g.Version, in.IfMatch)
	}
	g.Version++
	if in.Labels != nil {
		g.Labels = in.Labels
	}
	before := g.revisions[g.Latest-1].Config
	after := applied(before, in.Config)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		g.Latest++
		g.revisions = append(g.revisions, fleet.GroupRevision{GroupID: g.ID, Number: g.Latest, Config: after, CreatedAt: epochTime})
	}
	f.remember(in.Key, fleet.OperationID(g.ID))
	return f.view(g), nil
}

func (f *fakeStore) Group(_ context.Context, idOrName string) (GroupView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return GroupView{}, err
	}
	g := f.group(idOrName)
	if g == nil {
		return GroupView{}, noGroup(idOrName)
	}
	return f.view(g), nil
}

func (f *fakeStore) ListGroups(_ context.Context, page Page) ([]GroupView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, err
	}
	var all []GroupView
	for _, g := range f.groups {
		if string(g.ID) > page.After && g.DeletedAt.IsZero() {
			all = append(all, f.view(g))
		}
	}
	return first(all, page.Limit, func(v GroupView) string { return string(v.ID) }), nil
}

func (f *fakeStore) DeleteGroup(_ context.Context, idOrName string, key IdempotencyKey) error {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return err
	}
	if v, err := f.replayGroup(key); err != nil || v != nil {
		return err
	}
	g := f.group(idOrName)
	if g == nil {
		return noGroup(idOrName)
	}
	v := f.view(g)
	if v.Rollout != nil && !v.Rollout.State.Finished() || len(v.Members) > 0 {
		return fleet.Errorf(fleet.KindNotAccepted, "group %s has members or a rollout", g.Name)
	}
	g.DeletedAt = epochTime
	f.remember(key, fleet.OperationID(g.ID))
	return nil
}

func (f *fakeStore) GroupRevisions(_ context.Context, idOrName string, after fleet.RevisionNumber, limit int) ([]fleet.GroupRevision, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, err
	}
	g := f.group(idOrName)
	if g == nil {
		return nil, noGroup(idOrName)
	}
	rest := g.revisions[min(int(after), len(g.revisions)):]
	return slices.Clone(rest[:min(limit, len(rest))]), nil
}

// enter is the membership that a request asks for, with what the group makes of the installation.
func (f *fakeStore) enter(v *fleet.InstallationView, m fleet.GroupMembership, own fleet.Own) error {
	g := f.group(m.Join)
	if m.Join == "" {
		g = f.emptiest(m.Match)
	}
	if g == nil {
		return fleet.InvalidField("group", "there is no such group")
	}
	config := g.revisions[g.Revision-1].Config
	v.GroupID, v.GroupName, v.GroupRevision, v.Own = g.ID, g.Name, g.Revision, own
	v.PackageRef, v.MemoryMiB, v.VCPUs = config.PackageRef, max(config.MemoryMiB, own.MemoryMiB), max(config.VCPUs, own.VCPUs, 1)
	if v.MemoryMiB == 0 {
		v.MemoryMiB = defaultMemoryMiB
	}
	v.Env = maps.Clone(config.Env)
	maps.Copy(v.Env, own.Env)
	return nil
}

func (f *fakeStore) emptiest(match map[string]string) *fakeGroup {
	var best *fakeGroup
	members := func(g *fakeGroup) (n int) {
		for _, count := range f.view(g).Members {
			n += count
		}
		return n
	}
	for _, g := range f.groups {
		fits := g.DeletedAt.IsZero()
		for k, want := range match {
			fits = fits && g.Labels[k] == want
		}
		if fits && (best == nil || members(g) < members(best) || members(g) == members(best) && g.ID < best.ID) {
			best = g
		}
	}
	return best
}
