package nanos

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/fat32"
	"dormouse/internal/imagebuilder/tfs"
)

// efiVolumeID is the serial number of the EFI system partition: equal images, equal bytes.
const efiVolumeID = 0x4e4e4f53

// WriteUEFI writes the image built into imageDir as a disk that boots by UEFI, without Secure
// Boot, and by BIOS as well: an EFI system partition with the release's loader stands before
// the others, which takes 33 MiB. out must be empty; the sync is the caller's. A release
// without a loader is KindUnavailable.
func (k *Kernel) WriteUEFI(ctx context.Context, imageDir string, out *os.File) error {
	b, err := readBuild(imageDir)
	if err != nil {
		return err
	}
	disk, err := os.Open(filepath.Join(imageDir, diskName))
	if err != nil {
		return fleet.Errorf(fleet.KindInternal, "opening the image: %w", err)
	}
	defer disk.Close()
	info, err := disk.Stat()
	if err != nil {
		return err
	}
	l, err := readLayout(disk, info.Size())
	if err != nil {
		return err
	}
	loader, err := os.Open(filepath.Join(imageDir, efiName))
	if errors.Is(err, fs.ErrNotExist) {
		return fleet.Errorf(fleet.KindUnavailable, "the Nanos release that the image was built from has no %s: take one that has, and build the image anew", efiName)
	} else if err != nil {
		return fleet.Errorf(fleet.KindInternal, "opening the image's loader: %w", err)
	}
	defer loader.Close()
	loaderInfo, err := loader.Stat()
	if err != nil {
		return err
	}
	first := l.klog + klogBytes
	boot := make([]byte, l.klog)
	if _, err := io.ReadFull(io.NewSectionReader(disk, 0, l.klog), boot); err != nil {
		return err
	}
	size, err := fat32.Write(ctx, out, first, []fat32.File{{Path: "EFI/BOOT/BOOTX64.EFI", Size: loaderInfo.Size(), Content: loader}}, fat32.Options{Label: "EFI", ID: efiVolumeID})
	if err != nil {
		return err
	}
	clear(boot[partitionsAt:signatureAt])
	putPartition(boot, 0, partEFI, first, size)
	putPartition(boot, 1, partBootfs, l.boot.offset+size, l.boot.bytes)
	putPartition(boot, 2, partRootfs, l.root.offset+size, l.root.bytes)
	if _, err := out.WriteAt(boot, 0); err != nil {
		return err
	}
	// What follows is room to write: it is left a hole.
	used := b.RootOffset + b.Log.Sectors()*tfs.SectorSize
	if _, err := io.Copy(io.NewOffsetWriter(out, l.boot.offset+size), readerWithContext{ctx, io.NewSectionReader(disk, l.boot.offset, used-l.boot.offset)}); err != nil {
		return err
	}
	if err := out.Truncate(info.Size() + size); err != nil {
		return err
	}
	if _, err := OpenRoot(out, info.Size()+size); err != nil {
		return fleet.Errorf(fleet.KindInternal, "reading the disk back: %w", err)
	}
	return nil
}

// readerWithContext ends with the context.
type readerWithContext struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (r readerWithContext) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
