package fleet

import "time"

// ImageState is how far an image is.
type ImageState string

// The states of an image.
const (
	ImageBuilding ImageState = "building"
	ImageReady    ImageState = "ready"
	// ImageFailed: the last build ended badly, and nothing is left of it but what is said here.
	ImageFailed ImageState = "failed"
)

// Image is what is known of an image on this host.
type Image struct {
	ID    ImageID
	State ImageState
	// Kernel and what follows is unknown of one that another process builds.
	Kernel                                      KernelKind
	KernelDigest, PackageDigest, BuilderVersion string
	PackageName, PackageVersion                 string
	// SizeBytes counts a file that images share in each of them.
	SizeBytes int64
	// CreatedAt is when the build ended, UsedAt when somebody last asked for the image or booted it.
	CreatedAt, UsedAt time.Time
	// StartedAt, and how many bytes of how many the build has read, are of one
	// that is being built, or that failed.
	StartedAt             time.Time
	DoneBytes, TotalBytes int64
	// Log are the last lines of the build, oldest first, where this process built it.
	Log []string
	// Detail says why it failed.
	Detail string
}

// ImageFile is one entry of an image's root file system.
type ImageFile struct {
	// Path is absolute.
	Path string
	// Kind is directory, file or symlink.
	Kind string
	Mode uint32
	// SizeBytes is a file's length.
	SizeBytes int64
	// Target is where a symbolic link points.
	Target string
	// SHA256 is the lower-case hex digest of a file's content; empty where it was not asked for.
	SHA256 string
}

// ImageFiles is a built image as files on this host, ready to boot. It boots
// either from KernelPath or, where that is empty, from DiskPath by itself.
type ImageFiles struct {
	ID     ImageID
	Kernel KernelKind
	// KernelPath, InitrdPath and RootPath are absolute; RootPath is read-only and shared.
	KernelPath, InitrdPath, RootPath string
	// Cmdline is the kernel's command line, less what the provider adds.
	Cmdline string
	// DiskPath is a raw disk with a boot sector, read-only and shared: each
	// instance writes to an overlay of its own, made with Tenant.
	DiskPath string
	// UEFI: nothing but UEFI firmware can start the disk.
	UEFI bool
}

// Tenant is what makes an image that is a disk one tenant's.
type Tenant struct {
	// Hostname is a DNS label.
	Hostname string
	// Program and Args replace the package's; Args come after the program's own name.
	Program string
	Args    []string
	// Env is the complete environment. It must not be logged.
	Env     map[string]string
	Network GuestNetwork
	// Persist lists the directories that lie on the volume; empty where there is none.
	Persist []string
	// Trace has the kernel write every system call to the console.
	Trace bool
}

// GuestNetwork is the guest's one interface.
type GuestNetwork struct {
	// Address is in CIDR form; empty asks by DHCP.
	Address string
	Gateway string
	DNS     []string
	// MAC is the interface's hardware address, colon-separated.
	MAC string
}

// TenantFiles are the files that make an image one tenant's; absolute paths.
type TenantFiles struct {
	// OverlayPath is a qcow2 file over ImageFiles.DiskPath, which it does not name:
	// whoever opens it says what lies below. Empty where the volume is that file.
	OverlayPath string
	// ConfigPath is a raw disk of a few KiB to be attached read-only; empty where there is none.
	ConfigPath string
}

// KernelRelease is a release of a kernel that came as an archive.
type KernelRelease struct {
	Kind   KernelKind `json:"kind"`
	SHA256 string     `json:"sha256"`
	URL    string     `json:"url"`
	// Current: new images are built with it.
	Current   bool      `json:"-"`
	CreatedAt time.Time `json:"created_at"`
}

// ImageExport says as what an image is exported.
type ImageExport struct {
	// Format is raw, qcow2, vmdk, vhd, vhdx, ova or gce-tar.gz.
	Format string
	// MemoryMiB and VCPUs are what the machine gets where the format describes one;
	// 0 is what the package asks for, and one.
	MemoryMiB, VCPUs int
	// VolumeMiB is how large the file system for persistent directories is; 0 is the kernel's choice.
	VolumeMiB int
	// UEFI has a disk start by UEFI that otherwise starts by BIOS only (KernelNanos).
	UEFI bool
}

// TraceOptions say how a package is traced.
type TraceOptions struct {
	// AtMost is how long the machine runs.
	AtMost    time.Duration
	MemoryMiB int
}

// TraceReport is what a traced boot of a package has told.
type TraceReport struct {
	// Evidence is what the kernel lacked for it, and how it ended badly; recorded
	// with the package too.
	Evidence []string
	// Exit tells how it ended by itself; nil where it ran until the time was over.
	Exit *Exit
	// Lines are the last of its console, the trace among them, oldest first.
	Lines []string
}
