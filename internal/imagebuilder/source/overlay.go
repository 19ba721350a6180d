package source

import (
	"context"
	"encoding/json"

	"dormouse/internal/fleet"
)

// overlay is a manifest's directory that is laid over a source.
type overlay struct {
	pkg *Tree
	raw []byte
	m   *ParsedManifest
	top string
}

// overlay reads what Options name; nil where they name none.
func (o Options) overlay(ctx context.Context, s *spool) (*overlay, error) {
	if o.Overlay == nil {
		return nil, nil
	}
	c := newCollector(s, o.Limits)
	in, err := decompressed(o.Overlay)
	if err != nil {
		return nil, overlayError(err)
	}
	defer in.close()
	if err := c.readTar(in.r, c.storing(ctx)); err != nil {
		return nil, overlayError(err)
	}
	tree, err := c.finish()
	if err != nil {
		return nil, overlayError(err)
	}
	dir, top, err := packageDir(tree)
	if err != nil {
		return nil, overlayError(err)
	}
	over := &overlay{top: top}
	if over.pkg, over.raw, over.m, err = readPackageDir(tree, dir, o.Limits); err != nil {
		return nil, overlayError(err)
	}
	return over, nil
}

func overlayError(err error) error {
	return fleet.Errorf(fleet.KindOf(err), "the overlay: %w", err)
}

// layOver places the overlay's files on the image, and returns the manifest of both.
func (v *overlay) layOver(image *Tree, manifest []byte, limits Limits, p *Package) ([]byte, error) {
	l := &layer{pkg: v.pkg, image: image, limits: limits, p: p}
	if err := l.addSysroot(); err != nil {
		return nil, err
	}
	if err := l.addNamed(v.m); err != nil {
		return nil, err
	}
	program := ""
	if v.m.Program != "" {
		var err error
		if program, err = l.program(v.m.Program, v.top); err != nil {
			return nil, err
		}
	}
	l.done()
	laid, err := laidManifest(v.raw, v.m, program)
	if err != nil {
		return nil, err
	}
	return mergeManifests(manifest, laid)
}

// laidManifest is a manifest whose files have been laid out: without the keys
// that name them, and with the program where it is in the image; "" leaves it out.
func laidManifest(raw []byte, m *ParsedManifest, program string) ([]byte, error) {
	keys, err := splitManifest(raw)
	if err != nil {
		return nil, err
	}
	for _, key := range []string{"Files", "Dirs", "MapDirs", "Program"} {
		delete(keys, key)
	}
	if program != "" {
		set(keys, "Program", program)
		if keys["Args"] != nil {
			set(keys, "Args", append([]string{program}, m.Args...)) // its own name may have been another
		}
	}
	return json.Marshal(keys)
}

// set puts what can always be JSON.
func set(keys map[string]json.RawMessage, key string, value any) {
	if raw, err := json.Marshal(value); err == nil {
		keys[key] = raw
	}
}

// mergeManifests lays the keys of over upon those of under. Environments are
// merged by variable and RunConfig by key. What depends on a replaced key goes
// with it: arguments with the program, the health check with the ports.
func mergeManifests(under, over []byte) ([]byte, error) {
	merged, err := splitManifest(under)
	if err != nil {
		return nil, err
	}
	keys, err := splitManifest(over)
	if err != nil {
		return nil, err
	}
	run := map[string]json.RawMessage{}
	for _, m := range []map[string]json.RawMessage{merged, keys} {
		if err := objectInto(run, "RunConfig.", m["RunConfig"], append(ownRunKeys(), idleRunKeys...)); err != nil {
			return nil, err
		}
	}
	given := map[string]json.RawMessage{}
	if err := objectInto(given, "RunConfig.", keys["RunConfig"], append(ownRunKeys(), idleRunKeys...)); err != nil {
		return nil, err
	}
	for _, key := range []struct {
		name   string
		given  bool
		gone   string
		unless string
	}{
		{"Program", keys["Program"] != nil, "Args", "Args"},
		{"Ports", keys["Ports"] != nil || given["Ports"] != nil, "Health", "Health"},
		{"RunConfig.Ports", given["Ports"] != nil, "Ports", "Ports"},
		{"RunConfig.Memory", given["Memory"] != nil, "MinMemory", "MinMemory"},
	} {
		if key.given && keys[key.unless] == nil {
			delete(merged, key.gone)
		}
	}
	env := map[string]json.RawMessage{}
	for _, m := range []map[string]json.RawMessage{merged, keys} {
		if raw := m["Env"]; raw != nil {
			if err := json.Unmarshal(raw, &env); err != nil {
				return nil, wrongType("Env", err)
			}
		}
	}
	for key, value := range keys {
		merged[key] = value
	}
	if len(env) > 0 {
		set(merged, "Env", env)
	}
	if len(run) > 0 {
		set(merged, "RunConfig", run)
	}
	return json.Marshal(merged)
}

// splitManifest returns a manifest's keys as ParseManifest spells them.
func splitManifest(raw []byte) (map[string]json.RawMessage, error) {
	keys := map[string]json.RawMessage{}
	return keys, objectInto(keys, "", raw, append(ownKeys(), idleKeys...))
}

// objectInto puts the keys of a JSON object into keys; an absent one has none.
func objectInto(keys map[string]json.RawMessage, where string, raw []byte, names []string) error {
	if raw == nil {
		return nil
	}
	into := map[string]any{}
	for _, name := range names {
		into[name] = func(value json.RawMessage) error {
			keys[name] = value
			return nil
		}
	}
	return decodeObject(where, raw, into, nil, &ParsedManifest{})
}
