package source

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"dormouse/internal/fleet"
)

// The keys of a manifest that are about the machine around the program, with
// OPS's meaning where they are OPS's.

// jsonBytes is a size as OPS writes it for a file system: bytes, or with k, m
// or g behind, all binary ("512m", "2g"); also "512MiB", "2GiB".
type jsonBytes int64

var bytesPattern = regexp.MustCompile(`^([0-9]{1,18})\s*(?:([kmgt])(?:i?b)?)?$`)

// UnmarshalJSON implements json.Unmarshaler.
func (b *jsonBytes) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		text = string(raw)
	}
	if text == "null" || text == "" {
		return nil
	}
	parts := bytesPattern.FindStringSubmatch(strings.ToLower(text))
	if parts == nil {
		return fmt.Errorf("%q is no size: write it like \"512m\" or \"2g\"", text)
	}
	n, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return err
	}
	unit := int64(1) << (10 * (1 + strings.Index("kmgt", parts[2])))
	if parts[2] == "" {
		unit = 1
	}
	if n > math.MaxInt64/unit || n*unit > maxRootBytes {
		return fmt.Errorf("%q is more than %d GiB: ask for less", text, int64(maxRootBytes)>>30)
	}
	*b = jsonBytes(n * unit)
	return nil
}

// setKernel takes ours, one of the kinds; OPS's is a path on the machine that builds.
func (m *ParsedManifest) setKernel(given string) {
	switch kind := fleet.KernelKind(strings.ToLower(given)); kind {
	case "", fleet.KernelLinux, fleet.KernelNanos, fleet.KernelDisk:
		m.Kernel = kind
	default:
		m.Warnings = append(m.Warnings, fmt.Sprintf("%s: the key Kernel has no effect here: %q is neither %s nor %s",
			ManifestName, given, fleet.KernelLinux, fleet.KernelNanos))
	}
}

// addMounts makes persistent directories of OPS's mounts: a label or UUID of a
// volume and the path to mount it at ("label:/path" within RunConfig). An
// installation has one volume, so the labels say nothing here.
func (m *ParsedManifest) addMounts(mounts map[string]string, run []string) error {
	add := func(key, at string) error {
		if !absolute(at) {
			return fleet.InvalidField(key, "%s: %s mounts a volume at %q: write a clean absolute directory", ManifestName, key, at)
		}
		if !slices.Contains(m.Persist, at) {
			m.Persist = append(m.Persist, at)
		}
		return nil
	}
	for _, at := range mounts {
		if err := add("Mounts", at); err != nil {
			return err
		}
	}
	for _, mount := range run {
		_, at, _ := strings.Cut(mount, ":")
		if err := add("RunConfig.Mounts", at); err != nil {
			return err
		}
	}
	return nil
}

// setPassthrough keeps numbers as they are written. What a database could not
// hold or give back is refused.
func (m *ParsedManifest) setPassthrough(raw json.RawMessage) error {
	const key = "ManifestPassthrough"
	var plain map[string]any
	if err := json.Unmarshal(raw, &plain); err != nil { // numbers that are too large among them
		return wrongType(key, err)
	}
	if hasZero(plain) {
		return fleet.InvalidField(key, "%s: %s has a zero byte in a string: leave it out", ManifestName, key)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&m.Passthrough); err != nil {
		return wrongType(key, err)
	}
	return nil
}

func hasZero(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.ContainsRune(v, 0)
	case []any:
		return slices.ContainsFunc(v, hasZero)
	case map[string]any:
		for k, e := range v {
			if hasZero(k) || hasZero(e) {
				return true
			}
		}
	}
	return false
}

// userPattern is a name as useradd(8) takes it, or a number; then a group.
var userPattern = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_.-]{0,31}|[0-9]{1,10})(:([a-zA-Z_][a-zA-Z0-9_.-]{0,31}|[0-9]{1,10}))?$`)

var klibPattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

func (m *ParsedManifest) checkMachine() error {
	if m.User != "" && !userPattern.MatchString(m.User) {
		return fleet.InvalidField("User", "%s: User is %q: write a name of /etc/passwd or a number, with :GROUP behind it where needed", ManifestName, m.User)
	}
	if len(m.NameServers) > maxNameServers {
		return fleet.InvalidField("NameServers", "%s: there are %d NameServers: name at most %d", ManifestName, len(m.NameServers), maxNameServers)
	}
	for _, s := range m.NameServers {
		if a, err := netip.ParseAddr(s); err != nil || a.Zone() != "" {
			return fleet.InvalidField("NameServers", "%s: the name server %q is no IP address", ManifestName, s)
		}
	}
	if len(m.Klibs) > maxKlibs {
		return fleet.InvalidField("Klibs", "%s: there are %d Klibs: name at most %d", ManifestName, len(m.Klibs), maxKlibs)
	}
	for _, k := range m.Klibs {
		if !klibPattern.MatchString(k) {
			return fleet.InvalidField("Klibs", "%s: %q is no name of a klib: write its file name without a directory", ManifestName, k)
		}
	}
	return nil
}

func uniq(s []string) []string {
	var out []string
	for _, v := range s {
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// isBelow tells whether p is dir or lies in it.
func isBelow(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(path.Clean(dir), "/")+"/")
}
