package imagebuilder

import (
	"context"

	"dormouse/internal/fleet"
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
