package fleet

import "time"

// KernelKind names what boots the application.
type KernelKind string

// The kernels.
const (
	// KernelLinux runs one process under a small init on a stock Linux kernel.
	KernelLinux KernelKind = "linux"
	// KernelNanos runs one process, which can't fork, as a unikernel (nanos.org).
	KernelNanos KernelKind = "nanos"
	// KernelDisk runs whatever a disk that was imported as it is starts by itself.
	KernelDisk KernelKind = "disk"
)

// Silent tells whether guests of this kernel say nothing to their host: only
// probes tell whether they serve.
func (k KernelKind) Silent() bool { return k != KernelLinux && k != "" }

// Package is an application ready to be built into an image.
type Package struct {
	ID      PackageID `json:"id"`
	Name    string    `json:"name"`
	Version string    `json:"version"`
	// Digest is the lower-case hex SHA-256 of the package's content in canonical form.
	Digest    string     `json:"digest"`
	SizeBytes int64      `json:"size_bytes"`
	Kernel    KernelKind `json:"kernel"`
	Manifest  Manifest   `json:"manifest"`
	// Warnings are what admission found and let pass.
	Warnings []string `json:"warnings"`
	// Evidence is what boots of it have told that reading could not, oldest first.
	Evidence  []string  `json:"evidence"`
	CreatedAt time.Time `json:"created_at"`
}

// Manifest is what a package says about how it runs, normalised: Program is an
// absolute path in the image, and defaults are filled in.
type Manifest struct {
	// Program is empty for KernelDisk.
	Program string            `json:"program"`
	Args    []string          `json:"args,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	// Dir is the working directory; "/" where empty.
	Dir   string `json:"dir,omitempty"`
	Ports []Port `json:"ports,omitempty"`
	// Health says how to tell that the program serves.
	Health Health `json:"health"`
	// Persist lists absolute directories that live on the installation's own volume;
	// of KernelDisk it is always "/".
	Persist []string      `json:"persist,omitempty"`
	Restart RestartPolicy `json:"restart"`
	// MinMemoryMiB is the least memory that the package says it needs; 0 is unsaid.
	MinMemoryMiB int `json:"min_memory_mib,omitempty"`
	// User is who the program runs as: a name in the image's /etc/passwd or a
	// number, and after a colon a group or its number. Empty is root; a kernel
	// without users runs everything as root.
	User string `json:"user,omitempty"`
	// NameServers are IP addresses for the guest's resolver; where there are none,
	// the provider has its own.
	NameServers []string `json:"name_servers,omitempty"`
	// RootBytes is how large the root file system is where the kernel has a
	// writable one (OPS: BaseVolumeSz); 0 is the content and some room to write.
	RootBytes int64 `json:"root_bytes,omitempty"`
	// Klibs names modules of the kernel to load besides those it needs; KernelNanos only.
	Klibs []string `json:"klibs,omitempty"`
	// Passthrough goes into the kernel's own manifest as it is, JSON (OPS:
	// ManifestPassthrough); KernelNanos only.
	Passthrough map[string]any `json:"passthrough,omitempty"`
}

// Protocol is how a port is spoken to.
type Protocol string

// The protocols of a port. The first HTTP port is what the gateway's URL reaches.
const (
	ProtocolHTTP Protocol = "http"
	ProtocolTCP  Protocol = "tcp"
)

// Port is a TCP port that the program listens on.
type Port struct {
	Number   int      `json:"number"`
	Protocol Protocol `json:"protocol"`
	Name     string   `json:"name,omitempty"`
}

// HealthType is how health is checked.
type HealthType string

// The ways to check health.
const (
	// HealthHTTP: a GET of Path answers with a status below 400.
	HealthHTTP HealthType = "http"
	// HealthTCP: the port accepts a connection.
	HealthTCP HealthType = "tcp"
	// HealthNone: the program has started.
	HealthNone HealthType = "none"
)

// Health says how to tell that the program serves.
type Health struct {
	Type HealthType `json:"type"`
	Port int        `json:"port,omitempty"`
	Path string     `json:"path,omitempty"`
	// Timeout bounds one probe.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// RestartPolicy says what happens when the program ends.
type RestartPolicy string

// The restart policies.
const (
	RestartAlways    RestartPolicy = "always"
	RestartOnFailure RestartPolicy = "on-failure"
	RestartNever     RestartPolicy = "never"
)
