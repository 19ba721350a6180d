package fleet

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
}

// GuestNetwork is the guest's one interface.
type GuestNetwork struct {
	// Address is in CIDR form; empty asks by DHCP.
	Address string
	Gateway string
	DNS     []string
}

// TenantFiles are the files that make an image one tenant's; absolute paths.
type TenantFiles struct {
	// OverlayPath is a qcow2 file over ImageFiles.DiskPath, which it does not name:
	// whoever opens it says what lies below.
	OverlayPath string
	// ConfigPath is a raw disk of a few KiB to be attached read-only; empty where there is none.
	ConfigPath string
}
