package linux

import (
	"context"
	"path/filepath"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
)

var _ imagebuilder.Disker = (*Kernel)(nil)

// Disk implements imagebuilder.Disker: see WriteDisk.
func (k *Kernel) Disk(ctx context.Context, imageDir string, p fleet.Package, o imagebuilder.DiskOptions, dir string) (string, error) {
	if k.o.Disk == nil {
		return "", fleet.Errorf(fleet.KindUnavailable, "there is nothing here that boots a disk of the kernel linux")
	}
	kernel, err := k.o.Disk(ctx)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "disk.img")
	return path, WriteDisk(ctx, path, DiskInput{Kernel: kernel, RootPath: filepath.Join(imageDir, rootName), Package: p, VolumeMiB: o.VolumeMiB})
}
