package api

import (
	"maps"
	"net/http"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func (s *server) updateInstallation(w http.ResponseWriter, r *http.Request) error {
	id, err := resourceID(r, "installation")
	if err != nil {
		return err
	}
	var in client.UpdateInstallation
	m, body, err := decodeBody(r, &in, "application/merge-patch+json", "application/json")
	if err != nil {
		return err
	}
	if err := firstError(checkPatch(&in, m), checkMembership(in, m), s.checkSleep(in.DNSNames, in.Idle, in.Wake, m)); err != nil {
		return err
	}
	c := Change{
		IDOrName: id, Kind: fleet.OperationUpdate,
		PackageRef: in.Package, MemoryMiB: in.MemoryMiB, DiskMiB: in.DiskMiB, VCPUs: in.VCPUs,
		FromGroup: in.FromGroup, Group: membership(in, m),
		DNSNames: in.DNSNames, Idle: idleChange(in.Idle, m), Wake: wakeChange(in.Wake, m),
	}
	c.Env = in.Env
	if m.null["dns_names"] {
		c.DNSNames = &[]string{}
	}
	if m.present["secrets"] || m.present["labels"] || m.null["env"] {
		v, err := s.Store.Installation(r.Context(), "", id)
		if fleet.KindOf(err) == fleet.KindNotFound && r.Header.Get("Idempotency-Key") != "" {
			return s.replayGone(w, r, body, c, err)
		}
		if err != nil {
			return err
		}
		if err := s.patchMaps(&c, v, in, m); err != nil {
			return err
		}
	}
	return s.change(w, r, body, c)
}

// replayGone answers a patch whose installation is not there: with the first
// answer where the request was accepted earlier, else with notFound. The store
// is asked under an ID that nothing has, so that it can do nothing but that.
func (s *server) replayGone(w http.ResponseWriter, r *http.Request, body []byte, c Change, notFound error) error {
	c.IDOrName = s.NewID()
	if err := s.change(w, r, body, c); fleet.KindOf(err) != fleet.KindNotFound {
		return err
	}
	return notFound
}

// checkPatch validates what can be told without the installation.
func checkPatch(in *client.UpdateInstallation, m members) error {
	if len(m.present) == 0 {
		return fleet.Errorf(fleet.KindInvalid, "the patch changes nothing: name at least one field")
	}
	for _, field := range []string{"package", "memory_mib", "disk_mib", "vcpus"} {
		if m.null[field] {
			return fleet.InvalidField(field, "%s can't be removed: leave it out to keep it as it is", field)
		}
	}
	return firstError(
		checkIf(in.Package, checkPackageRef),
		checkIf(in.MemoryMiB, func(v int) error { return checkRange("memory_mib", v, minMemoryMiB, maxMemoryMiB) }),
		checkIf(in.DiskMiB, func(v int) error { return checkRange("disk_mib", v, minDiskMiB, maxDiskMiB) }),
		checkIf(in.VCPUs, func(v int) error { return checkRange("vcpus", v, minVCPUs, maxVCPUs) }),
		checkEach(in.Env, func(k, v string) error { return firstError(checkEnvName("env", k), checkEnvValue("env", k, v)) }),
		checkEach(in.Secrets, func(k, v string) error {
			return firstError(checkEnvName("secrets", k), checkEnvValue("secrets", k, v))
		}),
		checkEach(in.Labels, func(k, v string) error { return checkLabel("labels", k, v) }),
	)
}

func checkIf[T any](v *T, check func(T) error) error {
	if v == nil {
		return nil
	}
	return check(*v)
}

// checkEach checks names and values; a name that is to be removed has the value "".
func checkEach(m map[string]*string, check func(name, value string) error) error {
	for name, p := range m {
		value := ""
		if p != nil {
			value = *p
		}
		if err := check(name, value); err != nil {
			return err
		}
	}
	return nil
}

// patchMaps fills in the maps of a change, checks what they make of the
// installation's own, and seals secrets. From here on the change names the
// installation by ID: its secrets open for that one only.
func (s *server) patchMaps(c *Change, v InstallationView, in client.UpdateInstallation, m members) error {
	c.IDOrName = string(v.ID)
	c.Env = expand(in.Env, v.Env, m.null["env"])
	c.Labels = expand(in.Labels, v.Labels, m.null["labels"])
	secrets := expand(in.Secrets, v.Secrets, m.null["secrets"])
	if err := checkLabels(patched(v.Labels, c.Labels)); err != nil {
		return err
	}
	// The store bounds what the change makes of env and secrets, in the
	// transaction that writes it.
	for name, value := range secrets {
		if value == nil {
			continue
		}
		sealed, err := s.sealAll(v.ID, map[string]string{name: *value})
		if err != nil {
			return err
		}
		value := sealed[name]
		secrets[name] = &value
	}
	c.Secrets = secrets
	return nil
}

// expand makes a null in place of a map the removal of every key (RFC 7386).
func expand(patch map[string]*string, have map[string]string, null bool) map[string]*string {
	if null {
		patch = make(map[string]*string, len(have))
		for name := range have {
			patch[name] = nil
		}
	}
	return patch
}

// patched returns what a patch makes of a map.
func patched(have map[string]string, patch map[string]*string) map[string]string {
	out := maps.Clone(have)
	if out == nil {
		out = map[string]string{}
	}
	for name, value := range patch {
		if value == nil {
			delete(out, name)
		} else {
			out[name] = *value
		}
	}
	return out
}
