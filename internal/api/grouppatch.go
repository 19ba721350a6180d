package api

import (
	"context"
	"net/http"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func (s *server) updateGroup(w http.ResponseWriter, r *http.Request) error {
	id, err := resourceID(r, "group")
	if err != nil {
		return err
	}
	var in client.UpdateGroup
	m, body, err := decodeBody(r, &in, "application/merge-patch+json", "application/json")
	if err != nil {
		return err
	}
	if err := firstError(checkGroupPatch(in, m), s.checkSleep(nil, in.Idle, in.Wake, m)); err != nil {
		return err
	}
	c := ChangeGroup{IDOrName: id, Config: groupChange(in, m)}
	if c.IfMatch, err = ifMatch(r); err != nil {
		return err
	}
	if c.Key, err = s.idempotencyKey(r, body); err != nil {
		return err
	}
	v, err := s.changeGroup(r.Context(), c, in, m)
	if err != nil {
		return err
	}
	return writeGroup(w, http.StatusOK, v)
}

// checkGroupPatch validates what can be told without the group.
func checkGroupPatch(in client.UpdateGroup, m members) error {
	if len(m.present) == 0 {
		return fleet.Errorf(fleet.KindInvalid, "the patch changes nothing: name at least one field")
	}
	for _, field := range []string{"package", "unverifiable"} {
		if m.null[field] {
			return fleet.InvalidField(field, "%s can't be removed: leave it out to keep it as it is", field)
		}
	}
	return firstError(
		checkIf(in.Package, checkPackageRef),
		checkIf(in.MemoryMiB, func(v int) error { return checkGroupSize("memory_mib", v, minMemoryMiB, maxMemoryMiB) }),
		checkIf(in.VCPUs, func(v int) error { return checkGroupSize("vcpus", v, minVCPUs, maxVCPUs) }),
		checkIf(in.Unverifiable, checkUnverifiable),
		checkEach(in.Env, func(k, v string) error { return firstError(checkEnvName("env", k), checkEnvValue("env", k, v)) }),
		checkEach(in.Labels, func(k, v string) error { return checkLabel("labels", k, v) }),
	)
}

// groupChange is what a patch asks of the configuration; a size that it removes is left to the members.
func groupChange(in client.UpdateGroup, m members) fleet.GroupChange {
	c := fleet.GroupChange{PackageRef: in.Package, MemoryMiB: in.MemoryMiB, VCPUs: in.VCPUs, Env: in.Env,
		Idle: idleChange(in.Idle, m), Wake: wakeChange(in.Wake, m), Unverifiable: (*fleet.UnverifiablePolicy)(in.Unverifiable)}
	if m.null["memory_mib"] {
		c.MemoryMiB = new(int)
	}
	if m.null["vcpus"] {
		c.VCPUs = new(int)
	}
	return c
}

// maxGroupTries bounds how often a change of labels begins anew.
const maxGroupTries = 10

// changeGroup asks the store for a change. What labels become, and which keys an
// env that is emptied loses, depends on what is there: the group is read first,
// and again where somebody else has changed it in between.
func (s *server) changeGroup(ctx context.Context, c ChangeGroup, in client.UpdateGroup, m members) (GroupView, error) {
	if !m.present["labels"] && !m.null["env"] {
		return s.Store.ChangeGroup(ctx, c)
	}
	for range maxGroupTries {
		have, err := s.Store.Group(ctx, c.IDOrName)
		if err != nil {
			return s.groupGone(ctx, c, err)
		}
		now := c
		now.IDOrName = string(have.ID)
		now.Config.Env = expand(in.Env, have.LatestConfig.Env, m.null["env"])
		if m.present["labels"] {
			now.Labels = patched(have.Labels, expand(in.Labels, have.Labels, m.null["labels"]))
			if err := checkLabels(now.Labels); err != nil {
				return GroupView{}, err
			}
		}
		if c.IfMatch == 0 {
			now.IfMatch = have.Version
		}
		v, err := s.Store.ChangeGroup(ctx, now)
		if c.IfMatch != 0 || fleet.KindOf(err) != fleet.KindStale {
			return v, err
		}
	}
	return GroupView{}, fleet.Errorf(fleet.KindUnavailable, "others keep changing the group: try again")
}

// groupGone answers a patch whose group is not there: with the first answer
// where the request was accepted earlier. The store is asked under an ID that
// nothing has, so that it can do nothing but that.
func (s *server) groupGone(ctx context.Context, c ChangeGroup, cause error) (GroupView, error) {
	if fleet.KindOf(cause) != fleet.KindNotFound || c.Key.Key == "" {
		return GroupView{}, cause
	}
	c.IDOrName = s.NewID()
	if v, err := s.Store.ChangeGroup(ctx, c); fleet.KindOf(err) != fleet.KindNotFound {
		return v, err
	}
	return GroupView{}, cause
}
