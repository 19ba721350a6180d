package source

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"dormouse/internal/fleet"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// configure makes a manifest of an image's configuration (OCI image
// specification, "Image Configuration").
func (b *base) configure(c v1.Config, o Options) (warnings []string, err error) {
	keys := map[string]json.RawMessage{}
	env := map[string]string{}
	for _, line := range c.Env {
		if k, v, ok := strings.Cut(line, "="); ok && k != "" {
			env[k] = v
		}
	}
	if len(env) > 0 {
		set(keys, "Env", env)
	}
	dir := path.Clean("/" + c.WorkingDir)
	if dir != "/" {
		set(keys, "Dir", dir)
		if _, err := b.image.EnsureDir(dir, 0o755); err != nil {
			return nil, invalid("the image's working directory: %w", err)
		}
	}
	if u := c.User; u != "" && u != "0" && u != "root" && u != "0:0" && u != "root:root" {
		set(keys, "User", u)
	}
	ports, more := tcpPorts(c.ExposedPorts)
	warnings = append(warnings, more...)
	if len(ports) > 0 {
		set(keys, "Ports", ports)
	}
	persist, more := b.volumes(c.Volumes)
	warnings = append(warnings, more...)
	if len(persist) > 0 {
		set(keys, "Persist", persist)
	}
	if c.Healthcheck != nil && len(c.Healthcheck.Test) > 0 && c.Healthcheck.Test[0] != "NONE" {
		warnings = append(warnings, "the image's HEALTHCHECK runs a command, which is not done here: write Health into a manifest that is laid over it")
	}
	if argv := append(slices.Clone(c.Entrypoint), c.Cmd...); len(argv) > 0 && argv[0] != "" {
		program, ok := b.image.command(argv[0], dir, cmp.Or(env["PATH"], defaultPath))
		if !ok && o.Overlay == nil {
			return nil, invalid("the image starts %s, which it does not hold in any of %s: lay a %s with Program over it", short(argv[0]), short(cmp.Or(env["PATH"], defaultPath)), ManifestName)
		}
		if ok { // else the overlay must name one
			set(keys, "Program", program)
			set(keys, "Args", append([]string{program}, argv[1:]...))
		}
	}
	b.manifest, err = json.Marshal(keys)
	if more := len(warnings) - maxReplaced; more > 0 {
		warnings = append(warnings[:maxReplaced], fmt.Sprintf("%d more warnings about the image's configuration were left out", more))
	}
	return warnings, err
}

// short is s as a message may show it: a configuration may hold megabytes.
func short(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// command finds a program as execvpe(3) does in the directory dir.
func (t *Tree) command(name, dir, search string) (string, bool) {
	if strings.Contains(name, "/") {
		if !strings.HasPrefix(name, "/") {
			name = path.Join(dir, name)
		}
		p := path.Clean(name)
		_, err := t.Lookup(p)
		return p, err == nil
	}
	for in := range strings.SplitSeq(search, ":") {
		p := path.Join("/", in, name)
		if e, err := t.Lookup(p); err == nil && e.Kind == File && e.Mode&0o111 != 0 {
			return p, true
		}
	}
	return "", false
}

// tcpPorts returns the exposed TCP ports in order, as a manifest has them.
func tcpPorts(exposed map[string]struct{}) (ports []string, warnings []string) {
	var numbers []int
	for _, spec := range slices.Sorted(maps.Keys(exposed)) {
		number, protocol, _ := strings.Cut(spec, "/")
		n, err := strconv.ParseUint(number, 10, 16)
		if protocol = strings.ToLower(protocol); err != nil || n == 0 || (protocol != "" && protocol != "tcp") {
			warnings = append(warnings, fmt.Sprintf("the image exposes %q, which is no TCP port: it is left out", short(spec)))
			continue
		}
		numbers = append(numbers, int(n))
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	if len(numbers) > maxPorts {
		warnings = append(warnings, fmt.Sprintf("the image exposes %d ports, of which the first %d are taken", len(numbers), maxPorts))
		numbers = numbers[:maxPorts]
	}
	for _, n := range numbers {
		ports = append(ports, fmt.Sprintf("%d/%s", n, fleet.ProtocolTCP))
	}
	return ports, warnings
}

// volumes makes the image's volumes persistent: what they hold is meant to
// outlive the container. Those that can't be are named.
func (b *base) volumes(given map[string]struct{}) (persist, warnings []string) {
	for _, v := range slices.Sorted(maps.Keys(given)) {
		at := path.Clean("/" + v)
		m := ParsedManifest{Persist: append(slices.Clone(persist), at)}
		slices.Sort(m.Persist)
		err := m.checkPersist()
		if err == nil {
			_, err = b.image.EnsureDir(at, 0o755)
		}
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("the image's volume %q is not kept: %s", short(v), short(err.Error())))
			continue
		}
		persist = append(persist, at)
		warnings = append(warnings, fmt.Sprintf("%s is kept on the installation's volume, since the image declares a volume there", at))
	}
	return persist, warnings
}
