package linux

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/source"
)

// format names how this package lays an image out; raise it with every change
// that gives other bytes.
const format = "squashfs-lz4-2"

// Names in an image's directory.
const (
	rootName    = "root.squashfs"
	kernelName  = "kernel"
	initrdName  = "initrd"
	cmdlineName = "cmdline"
)

// Options configure a Kernel.
type Options struct {
	// KernelPath is a kernel that QEMU boots (bzImage, or ELF with a PVH note), InitrdPath an initrd with the guest's init; both absolute.
	KernelPath, InitrdPath string
	// Cmdline is the kernel's command line, less what the provider adds.
	Cmdline string
	// Disk returns what disks boot that are exported; nil: there are none.
	Disk func(context.Context) (DiskKernel, error)
	// Mksquashfs is the tool's path; empty finds it in the PATH.
	Mksquashfs string
}

// Kernel is the linux kernel as the image builder sees it.
type Kernel struct {
	o       Options
	digests imagebuilder.Digests
}

var _ imagebuilder.Kernel = (*Kernel)(nil)

// New returns a Kernel. The files are looked at only when they are needed, so
// that one may still be fetched: until then Digest is KindUnavailable.
func New(o Options) *Kernel {
	return &Kernel{o: o}
}

// Kind implements imagebuilder.Kernel.
func (k *Kernel) Kind() fleet.KernelKind { return fleet.KernelLinux }

// Digest implements imagebuilder.Kernel: it names kernel, initrd, command line and format.
func (k *Kernel) Digest(context.Context) (string, error) {
	vmlinuz, err := k.digests.File(k.o.KernelPath)
	if err != nil {
		return "", unavailable(err)
	}
	initrd, err := k.digests.File(k.o.InitrdPath)
	if err != nil {
		return "", unavailable(err)
	}
	return digest(vmlinuz, initrd, k.o.Cmdline), nil
}

func digest(vmlinuz, initrd, cmdline string) string {
	sum := sha256.Sum256([]byte(format + "\x00" + vmlinuz + "\x00" + initrd + "\x00" + cmdline))
	return hex.EncodeToString(sum[:])
}

func unavailable(err error) error {
	return fleet.Errorf(fleet.KindUnavailable, "reading the guest's kernel, which `make run` or scripts/fetch-kernel.sh fetches: %w", err)
}

// Build implements imagebuilder.Kernel.
func (k *Kernel) Build(ctx context.Context, in imagebuilder.BuildInput, dir string) error {
	var sums []string
	for _, f := range []struct{ from, to string }{{k.o.KernelPath, kernelName}, {k.o.InitrdPath, initrdName}} {
		to := filepath.Join(dir, f.to)
		if err := linkOrCopy(f.from, to); err != nil {
			return fmt.Errorf("adding %s to the image: %w", f.to, err)
		}
		sum, err := k.digests.File(to) // which is known where it is a link
		if err != nil {
			return fmt.Errorf("reading the image's %s: %w", f.to, err)
		}
		sums = append(sums, sum)
	}
	if digest(sums[0], sums[1], k.o.Cmdline) != in.KernelDigest {
		return fleet.Errorf(fleet.KindUnavailable, "the guest's kernel was replaced while the image was built: ask again")
	}
	if err := os.WriteFile(filepath.Join(dir, cmdlineName), []byte(k.o.Cmdline), 0o644); err != nil {
		return fmt.Errorf("writing the image's command line: %w", err)
	}
	tree := in.Tree.Clone()
	if err := addMountPoints(tree, in.Package.Manifest.Persist); err != nil {
		return fleet.Failure(fleet.ReasonImageBuild, "the package leaves no room for the guest's own mounts: %w", err)
	}
	if err := squash(ctx, k.o.Mksquashfs, tree, filepath.Join(dir, rootName)); err != nil {
		return err
	}
	return k.verify(ctx, tree, dir)
}

// verify reads the image back and compares it with what it was to become.
func (k *Kernel) verify(ctx context.Context, tree *source.Tree, dir string) error {
	c := tree.Compare()
	err := k.Read(ctx, dir, c.Visit)
	if err == nil {
		err = c.End()
	}
	if err != nil && ctx.Err() == nil {
		return fleet.Failure(fleet.ReasonImageBuild, "reading the image back: %w", err)
	}
	return err
}

// linkOrCopy makes to the same file as from, or a copy of it where links can't
// go (another file system, or a file of another user).
func linkOrCopy(from, to string) error {
	if err := os.Link(from, to); err == nil {
		return nil
	} else if errors.Is(err, fs.ErrNotExist) {
		return unavailable(err)
	}
	in, err := os.Open(from)
	if err != nil {
		return unavailable(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Files implements imagebuilder.Kernel.
func (k *Kernel) Files(dir string) (fleet.ImageFiles, error) {
	cmdline, err := os.ReadFile(filepath.Join(dir, cmdlineName))
	if err != nil {
		return fleet.ImageFiles{}, fleet.Errorf(fleet.KindInternal, "reading the image's command line: %w", err)
	}
	return fleet.ImageFiles{
		Kernel:     fleet.KernelLinux,
		KernelPath: filepath.Join(dir, kernelName), InitrdPath: filepath.Join(dir, initrdName), RootPath: filepath.Join(dir, rootName),
		Cmdline: string(cmdline),
	}, nil
}
