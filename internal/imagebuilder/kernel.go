package imagebuilder

import (
	"context"
	"io"
	"os"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/elfdeps"
	"dormouse/internal/imagebuilder/source"
)

// Kernel builds images of one kind. The images of a kernel differ only by the
// package: the kernel's own part is named by its Digest.
type Kernel interface {
	// Kind is what packages name it by.
	Kind() fleet.KernelKind
	// Digest names everything but the package that an image's content depends
	// on: the kernel's files, and how this kernel builds. Two calls give the same
	// as long as those files stay. Missing files are KindUnavailable.
	Digest(ctx context.Context) (string, error)
	// Build writes the image's files into dir, which is empty and private to the
	// call. Equal inputs give equal bytes. It leaves the sync to the caller, and
	// nothing outside of dir.
	Build(ctx context.Context, in BuildInput, dir string) error
	// Files tells what an image built into dir consists of; ID is left to the caller.
	Files(dir string) (fleet.ImageFiles, error)
}

// BuildInput is what an image is made from.
type BuildInput struct {
	Package fleet.Package
	// KernelDigest is what Digest said. Build returns KindUnavailable where the
	// kernel's files have changed since.
	KernelDigest string
	// Tree is the package's file system; Build must not change it (see source.Tree.Clone).
	Tree *source.Tree
}

// Admitter is a Kernel that can't run every Linux program.
type Admitter interface {
	// Admit tells, by reading, whether the kernel can run a package whose
	// libraries are all there. What it surely can't run is KindInvalid with what to
	// do; what can't be told by reading is admitted with a warning.
	Admit(ctx context.Context, in AdmitInput) (warnings []string, err error)
}

// AdmitInput is what is judged.
type AdmitInput struct {
	Package *source.Package
	// Reports are what each of Package.Executables loads.
	Reports []elfdeps.Report
}

// Reader is a Kernel that reads its images back.
type Reader interface {
	// Read visits all that the root file system of the image built into dir holds,
	// in the order of paths as source.Tree.Walk has it. content is nil but for
	// files, and valid only during the visit. The first error of visit ends it and
	// is returned; a damaged image is KindPermanent. Modes are those that the guest sees.
	Read(ctx context.Context, dir string, visit func(e source.Entry, content io.Reader) error) error
}

// Specialiser is a Kernel whose image is one disk for all tenants, which a few
// KiB make one tenant's.
type Specialiser interface {
	// Specialise writes the tenant's files into dir, replacing what it wrote there
	// before. It must be fast: every start of an instance goes through it.
	Specialise(ctx context.Context, imageDir string, t fleet.Tenant, dir string) (fleet.TenantFiles, error)
	// FormatVolume makes the kernel's file system on a volume that has none, with
	// what the image holds below the persistent directories. One that it has made
	// before gets what a later release persists besides, and keeps the rest; one with
	// another kernel's file system is KindConflict. It leaves the sync to the caller.
	FormatVolume(ctx context.Context, imageDir string, persist []string, volume *os.File) error
}

// Disker is a Kernel whose images can be made a disk that boots by itself, on a
// hypervisor or cloud of somebody else's.
type Disker interface {
	// Disk returns the absolute path of a raw disk that boots what the image holds
	// as its package says, with an address by DHCP. It is the image's own file, or
	// a new one in dir, which is private to the call. Equal inputs give equal bytes.
	Disk(ctx context.Context, imageDir string, p fleet.Package, o DiskOptions, dir string) (path string, err error)
}

// DiskOptions say what a disk is to be like.
type DiskOptions struct {
	// VolumeMiB is how large the file system for the persistent directories is,
	// where the kernel puts one on the same disk; 0 is the kernel's own choice.
	VolumeMiB int
	// UEFI has a disk that would start by BIOS only start by UEFI too. A kernel
	// whose disks do so anyway ignores it.
	UEFI bool
}
