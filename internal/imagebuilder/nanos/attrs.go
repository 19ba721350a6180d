package nanos

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/tfs"
)

// ours are the attributes of the root tuple that come from the package's own
// keys, with the key to use instead.
var ours = map[string]string{
	"children": "Files", "program": "Program", "arguments": "Args", "environment": "Env", "cwd": "Dir", "klibs": "Klibs",
	"imagesize": "BaseVolumeSz", "boot": "nothing", "en1": "nothing: the address is the installation's", "ipaddr": "nothing: the address is the installation's",
	"netmask": "nothing: the address is the installation's", "gateway": "nothing: the address is the installation's",
}

// addressSeconds is how long the program waits for an address at most.
const addressSeconds = 5

// rootAttrs returns the kernel's manifest (src/kernel/stage3.c, src/unix/exec.c).
func rootAttrs(m fleet.Manifest, r *release) ([]tfs.Attr, error) {
	attrs := map[string]tfs.Value{
		"program": m.Program, "arguments": arguments(m.Program, m.Args), "environment": stringTuple(m.Env),
		"exec_wait_for_ip4_secs": int64(addressSeconds),
		// So that the log says what of the program's wishes the kernel can't meet.
		"log_level": "warn",
	}
	if m.Dir != "" {
		attrs["cwd"] = m.Dir
	}
	mounts := map[string]tfs.Value{configLabel: "/" + configDir + ":ro", dataLabel: "/" + dataDir}
	for _, key := range slices.Sorted(maps.Keys(m.Passthrough)) {
		if instead, ok := ours[key]; ok {
			return nil, fleet.Failure(fleet.ReasonImageBuild, "ManifestPassthrough sets %s, which is not its to set: use %s", key, instead)
		}
		v, err := jsonValue(m.Passthrough[key], 0)
		if err != nil {
			return nil, fleet.Failure(fleet.ReasonImageBuild, "ManifestPassthrough: %s: %w", key, err)
		}
		if key != "mounts" {
			attrs[key] = v
			continue
		}
		more, ok := v.(*tfs.Tuple)
		if !ok {
			return nil, fleet.Failure(fleet.ReasonImageBuild, "ManifestPassthrough: mounts is no object of volume labels and directories")
		}
		for _, a := range more.Attrs() {
			if _, ok := mounts[a.Name]; ok {
				return nil, fleet.Failure(fleet.ReasonImageBuild, "ManifestPassthrough: mounts has the label %s, which is ours: take another", a.Name)
			}
			mounts[a.Name] = a.Value
		}
	}
	attrs["mounts"] = tupleOf(mounts)
	if len(m.Klibs) > 0 {
		for _, name := range m.Klibs {
			if _, ok := r.klibs[name]; !ok {
				return nil, fleet.Failure(fleet.ReasonImageBuild, "Klibs names %q, which the Nanos release does not hold: use some of %v", name, slices.Sorted(maps.Keys(r.klibs)))
			}
		}
		attrs["klibs"] = "bootfs"
	}
	return tupleOf(attrs).Attrs(), nil
}

func arguments(program string, args []string) []tfs.Value {
	all := []tfs.Value{program}
	for _, a := range args {
		all = append(all, a)
	}
	return all
}

func stringTuple(m map[string]string) *tfs.Tuple {
	t := make(map[string]tfs.Value, len(m))
	for k, v := range m {
		t[k] = v
	}
	return tupleOf(t)
}

// tupleOf is a tuple in the order of its names.
func tupleOf(m map[string]tfs.Value) *tfs.Tuple {
	var attrs []tfs.Attr
	for _, k := range slices.Sorted(maps.Keys(m)) {
		attrs = append(attrs, tfs.Attr{Name: k, Value: m[k]})
	}
	return tfs.NewTuple(attrs...)
}

const maxJSONDepth = 32

// jsonValue turns what encoding/json gives into a value. Flags are there or
// not: true is "t", as the kernel's own tools have it, and false nothing.
func jsonValue(v any, depth int) (tfs.Value, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("nested more than %d deep", maxJSONDepth)
	}
	switch v := v.(type) {
	case nil:
		return tfs.Null{}, nil
	case string:
		return v, nil
	case bool:
		if v {
			return "t", nil
		}
		return nil, fmt.Errorf("false says nothing to the kernel: leave the key out")
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), nil
		}
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case []any:
		all := []tfs.Value{}
		for _, e := range v {
			element, err := jsonValue(e, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, element)
		}
		return all, nil
	case map[string]any:
		t := make(map[string]tfs.Value, len(v))
		for k, e := range v {
			element, err := jsonValue(e, depth+1)
			if err != nil {
				return nil, err
			}
			t[k] = element
		}
		return tupleOf(t), nil
	}
	return nil, fmt.Errorf("a %T is no JSON", v)
}
