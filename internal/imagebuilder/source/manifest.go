package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

// ManifestName is the file in a package directory that says how it runs.
const ManifestName = "package.manifest"

// ParsedManifest is a package.manifest, checked as far as it can be without the
// files that it names.
type ParsedManifest struct {
	Name, Version string
	// Program is absolute in the image, or relative to the package directory.
	Program string
	// Args are the arguments after the program's own name.
	Args []string
	Env  map[string]string
	// Dir is the working directory; "" where unsaid.
	Dir string
	// Files, Dirs and MapDirs (from → to) name what of the package is put into the image.
	Files, Dirs  []string
	MapDirs      map[string]string
	Ports        []fleet.Port
	Health       fleet.Health
	Persist      []string
	Restart      fleet.RestartPolicy
	MinMemoryMiB int
	// Kernel is what images of the package boot; "" where unsaid.
	Kernel      fleet.KernelKind
	User        string
	NameServers []string
	RootBytes   int64
	Klibs       []string
	Passthrough map[string]any
	// Warnings name what has no effect here.
	Warnings []string
}

// DefaultHealthTimeout bounds one probe where the manifest does not say.
const DefaultHealthTimeout = 2 * time.Second

// The longest a probe may take, and how much memory a package may ask for.
const (
	maxHealthTimeout = time.Minute
	maxMemoryMiB     = 1 << 20
	maxPorts         = 32
	maxPersist       = 16
	maxNameServers   = 3 // as many as resolvers heed (resolv.conf(5): MAXNS)
	maxKlibs         = 64
	maxRootBytes     = 16 << 40
)

// ownKeys are the keys that ParseManifest reads.
func ownKeys() []string {
	return []string{
		"Args", "BaseVolumeSz", "Dir", "Dirs", "Env", "Files", "Health", "Kernel", "Klibs", "ManifestPassthrough", "MapDirs", "MinMemory", "Mounts",
		"Name", "NameServer", "NameServers", "Persist", "Ports", "Program", "Restart", "RunConfig", "User", "Version",
	}
}

// ownRunKeys are those within RunConfig.
func ownRunKeys() []string { return []string{"Klibs", "Memory", "Mounts", "Ports"} }

// Keys of OPS (nanovms' configuration.md) that say nothing about an
// application here: they are accepted, and a warning says that they do nothing.
var idleKeys = []string{
	"Boot", "BuildDir", "CloudConfig", "Debugflags", "Description", "DisableArgsCopy", "Force", "Home",
	"KlibDir", "Language", "LocalFilesParentDirectory",
	"NanosVersion", "NightlyBuild", "NoTrace", "PackageBaseURL", "PackageManifestURL", "ProgramPath", "RebootOnExit",
	"Runtime", "TFSv4", "TargetConfig", "TargetRoot", "Uefi", "UefiBoot", "VolumesDir",
}

var idleRunKeys = []string{
	"Accel", "AtExit", "Attach", "Background", "BridgeIPAddress", "BridgeName", "Bridged", "CPUs", "CanIPForward", "Debug", "DomainName",
	"GPUType", "GPUs", "Gateway", "GdbPort", "IPAddress", "IPv6Address", "Imagename", "ImageName", "InstanceGroup", "InstanceName", "InstanceProfile", "JSON",
	"Kernel", "Mgmt", "AttachVolumeOnInstanceCreate", "BackgroundDetach", "NetMask", "Nics", "QMP", "ShowDebug", "ShowErrors", "ShowWarnings", "TapName", "ThreadsPerCore",
	"UDPPorts", "Verbose", "Vga", "VolumeSizeInGb",
}

// ParseManifest reads a package.manifest: one JSON object. Keys are matched
// without regard to case, as OPS does; a key that is unknown or given twice is
// an error that names it. All errors are of KindInvalid with the key as Field.
func ParseManifest(raw []byte) (*ParsedManifest, error) {
	m := &ParsedManifest{}
	var health healthKeys
	var hasHealth bool
	var memory, runMemory jsonMemory
	var ports, runPorts jsonPorts
	var kernel, nameServer string
	var rootSize jsonBytes
	var mounts map[string]string
	var runMounts, runKlibs []string
	keys := map[string]any{
		"Name": &m.Name, "Version": &m.Version, "Program": &m.Program, "Args": &m.Args, "Env": &m.Env, "Dir": &m.Dir,
		"Files": &m.Files, "Dirs": &m.Dirs, "MapDirs": &m.MapDirs, "Persist": &m.Persist, "Restart": &m.Restart,
		"Ports": &ports, "MinMemory": &memory, "User": &m.User, "NameServers": &m.NameServers, "NameServer": &nameServer,
		"BaseVolumeSz": &rootSize, "Klibs": &m.Klibs, "Mounts": &mounts, "Kernel": &kernel,
		"ManifestPassthrough": m.setPassthrough,
		"Health": func(raw json.RawMessage) error {
			hasHealth = !bytes.Equal(raw, []byte("null"))
			return decodeObject("Health.", raw, map[string]any{"Type": &health.Type, "Port": &health.Port, "Path": &health.Path, "Timeout": &health.Timeout}, nil, m)
		},
		"RunConfig": func(raw json.RawMessage) error {
			return decodeObject("RunConfig.", raw, map[string]any{"Memory": &runMemory, "Ports": &runPorts, "Klibs": &runKlibs, "Mounts": &runMounts}, idleRunKeys, m)
		},
	}
	if err := decodeObject("", raw, keys, idleKeys, m); err != nil {
		return nil, err
	}
	m.MinMemoryMiB = int(memory)
	if memory == 0 {
		m.MinMemoryMiB = int(runMemory)
	}
	m.Ports = ports
	if len(ports) == 0 {
		m.Ports = runPorts
	}
	m.dropProgramName()
	m.RootBytes = int64(rootSize)
	m.Klibs = uniq(append(m.Klibs, runKlibs...))
	if nameServer != "" && len(m.NameServers) == 0 {
		m.NameServers = []string{nameServer}
	}
	m.setKernel(kernel)
	if err := m.addMounts(mounts, runMounts); err != nil {
		return nil, err
	}
	slices.Sort(m.Persist)
	slices.Sort(m.Warnings)
	for _, check := range []func() error{m.checkPlain, m.checkPorts, func() error { return m.setHealth(health, hasHealth) }, m.checkPersist, m.checkMachine} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// decodeObject decodes one JSON object key by key: into the pointer or by the
// function that keys holds, with a warning where idle has it.
func decodeObject(where string, raw []byte, keys map[string]any, idle []string, m *ParsedManifest) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	malformed := func(err error) error {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fleet.InvalidField(strings.TrimSuffix(where, "."), "%s: malformed JSON at byte %d: %w", ManifestName, d.InputOffset(), err)
	}
	first, err := d.Token()
	if err != nil {
		return malformed(err)
	}
	if first == nil && where != "" {
		return nil // null, as if absent
	}
	if first != json.Delim('{') {
		return fleet.InvalidField(strings.TrimSuffix(where, "."), "%s: %sa JSON object is needed", ManifestName, where)
	}
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return malformed(err)
		}
		given, _ := token.(string)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return malformed(err)
		}
		key, idleKey, err := knownKey(where, given, keys, idle)
		if err != nil {
			return err
		}
		if seen[key] {
			return fleet.InvalidField(where+key, "%s: the key %s%s is given twice: keep one", ManifestName, where, given)
		}
		seen[key] = true
		if idleKey {
			m.Warnings = append(m.Warnings, fmt.Sprintf("%s: the key %s%s has no effect here", ManifestName, where, key))
			continue
		}
		if decode, ok := keys[key].(func(json.RawMessage) error); ok {
			err = decode(value)
		} else if err = json.Unmarshal(value, keys[key]); err != nil {
			err = wrongType(where+key, err)
		}
		if err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return malformed(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fleet.InvalidField("", "%s: something follows the JSON object: keep one object", ManifestName)
	}
	return nil
}

func wrongType(field string, err error) error {
	var typeError *json.UnmarshalTypeError
	if errors.As(err, &typeError) {
		return fleet.InvalidField(field, "%s: %s can't be a JSON %s", ManifestName, field, typeError.Value)
	}
	return fleet.InvalidField(field, "%s: %s: %w", ManifestName, field, err)
}

func knownKey(where, given string, keys map[string]any, idle []string) (key string, isIdle bool, err error) {
	names := slices.Sorted(maps.Keys(keys))
	for _, k := range names {
		if strings.EqualFold(k, given) {
			return k, false, nil
		}
	}
	for _, k := range idle {
		if strings.EqualFold(k, given) {
			return k, true, nil
		}
	}
	return "", false, fleet.InvalidField(where+given, "%s: unknown key %q: take it out, or use one of %s", ManifestName, where+given, strings.Join(names, ", "))
}

// dropProgramName takes the program's own name off the arguments: in OPS's
// packages the first argument is argv[0].
func (m *ParsedManifest) dropProgramName() {
	if len(m.Args) > 0 && m.Program != "" && (m.Args[0] == m.Program || m.Args[0] == path.Base(m.Program)) {
		m.Args = m.Args[1:]
	}
}

// normalised returns the domain's manifest, with the program's path in the image.
func (m *ParsedManifest) normalised(program string) fleet.Manifest {
	return fleet.Manifest{
		Program: program, Args: orNil(m.Args), Env: m.Env, Dir: m.Dir, Ports: orNil(m.Ports), Health: m.Health,
		Persist: orNil(m.Persist), Restart: m.Restart, MinMemoryMiB: m.MinMemoryMiB,
		User: m.User, NameServers: orNil(m.NameServers), RootBytes: m.RootBytes, Klibs: orNil(m.Klibs), Passthrough: m.Passthrough,
	}
}

func orNil[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}
