package api

import (
	"net/http"
	"strconv"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func (s *server) listGroups(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	p, err := page(query)
	if err != nil {
		return err
	}
	views, err := s.Store.ListGroups(r.Context(), p)
	if err != nil {
		return err
	}
	views, next := cut(p, views, func(v *GroupView) string { return string(v.ID) })
	items := make([]client.Group, len(views))
	for i := range views {
		items[i] = wireGroup(&views[i])
	}
	return writeJSON(w, http.StatusOK, client.Page[client.Group]{Items: items, NextCursor: next})
}

func (s *server) createGroup(w http.ResponseWriter, r *http.Request) error {
	var in client.CreateGroup
	m, body, err := decodeBody(r, &in, "application/json")
	if err != nil {
		return err
	}
	idle, wake := idleOf(in.Idle), wakeOf(in.Wake)
	if err := firstError(checkCreateGroup(in, m), s.checkSleep(nil, idle, wake, m)); err != nil {
		return err
	}
	key, err := s.idempotencyKey(r, body)
	if err != nil {
		return err
	}
	n := NewGroup{
		Key: key, ID: fleet.GroupID(s.NewID()), Name: in.Name, Labels: in.Labels,
		Config: fleet.GroupChange{PackageRef: &in.Package, MemoryMiB: &in.MemoryMiB, VCPUs: &in.VCPUs, Env: pointers(in.Env),
			Idle: idleChange(idle, m), Wake: wakeChange(wake, m)},
	}
	if in.Unverifiable != "" {
		n.Config.Unverifiable = (*fleet.UnverifiablePolicy)(&in.Unverifiable)
	}
	v, err := s.Store.CreateGroup(r.Context(), n)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/groups/"+string(v.ID))
	return writeGroup(w, http.StatusCreated, v)
}

func checkCreateGroup(in client.CreateGroup, m members) error {
	unverifiable := &in.Unverifiable
	if !m.present["unverifiable"] {
		unverifiable = nil
	}
	return firstError(
		m.noNull(), checkName("name", in.Name), checkPackageRef(in.Package), checkLabels(in.Labels),
		checkGroupSize("memory_mib", in.MemoryMiB, minMemoryMiB, maxMemoryMiB),
		checkGroupSize("vcpus", in.VCPUs, minVCPUs, maxVCPUs),
		checkIf(unverifiable, checkUnverifiable),
		checkEnv("env", in.Env), fleet.CheckEnvironment(in.Env, nil),
	)
}

// checkGroupSize accepts 0 as well, which leaves the size to the members.
func checkGroupSize(field string, value, low, high int) error {
	if value != 0 && checkRange(field, value, low, high) != nil {
		return fleet.InvalidField(field, "%s must be from %d to %d, or 0 to leave it to the members", field, low, high)
	}
	return nil
}

func checkUnverifiable(policy string) error {
	switch fleet.UnverifiablePolicy(policy) {
	case fleet.UnverifiableKeep, fleet.UnverifiableMove:
		return nil
	}
	return fleet.InvalidField("unverifiable", "unverifiable must be keep or move")
}

// pointers makes a patch that sets every key of a map.
func pointers(m map[string]string) map[string]*string {
	out := make(map[string]*string, len(m))
	for name, value := range m {
		out[name] = &value
	}
	return out
}

// writeGroup answers with a group as it is after what was asked for.
func writeGroup(w http.ResponseWriter, status int, v GroupView) error {
	w.Header()["Etag"] = []string{etag(v.Version)}
	if v.Replayed {
		w.Header()["Idempotency-Replayed"] = []string{"true"}
	}
	return writeJSON(w, status, wireGroup(&v))
}

func (s *server) getGroup(w http.ResponseWriter, r *http.Request) error {
	id, err := resourceID(r, "group")
	if err != nil {
		return err
	}
	v, err := s.Store.Group(r.Context(), id)
	if err != nil {
		return err
	}
	return writeGroup(w, http.StatusOK, v)
}

func (s *server) listGroupRevisions(w http.ResponseWriter, r *http.Request) error {
	id, err := resourceID(r, "group")
	if err != nil {
		return err
	}
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	p, after, err := revisionPage(query)
	if err != nil {
		return err
	}
	revisions, err := s.Store.GroupRevisions(r.Context(), id, after, p.Limit)
	if err != nil {
		return err
	}
	revisions, next := cut(p, revisions, func(v *fleet.GroupRevision) string { return strconv.FormatInt(int64(v.Number), 10) })
	items := make([]client.GroupRevision, len(revisions))
	for i := range revisions {
		items[i] = wireRevision(&revisions[i])
	}
	return writeJSON(w, http.StatusOK, client.Page[client.GroupRevision]{Items: items, NextCursor: next})
}

// deleteGroup removes a group that has no members, at once.
func (s *server) deleteGroup(w http.ResponseWriter, r *http.Request) error {
	id, err := resourceID(r, "group")
	if err != nil {
		return err
	}
	body, err := emptyBody(r)
	if err != nil {
		return err
	}
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	key, err := s.idempotencyKey(r, body)
	if err != nil {
		return err
	}
	if version != 0 {
		v, err := s.Store.Group(r.Context(), id)
		switch {
		case err == nil && v.Version != version:
			return fleet.Errorf(fleet.KindStale, "group %s is at version %d, not %d: read it again", v.Name, v.Version, version)
		case err != nil && fleet.KindOf(err) != fleet.KindNotFound: // one that is gone was perhaps deleted under this key
			return err
		}
	}
	if err := s.Store.DeleteGroup(r.Context(), id, key); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
