package nanos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
)

// Disk implements imagebuilder.Disker: the image with the room to write that a
// tenant's has. It starts by BIOS, and where it is asked for by UEFI too; the
// persistent directories lie on it.
func (k *Kernel) Disk(ctx context.Context, imageDir string, _ fleet.Package, o imagebuilder.DiskOptions, dir string) (_ string, err error) {
	b, err := readBuild(imageDir)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(filepath.Join(imageDir, diskName))
	if err != nil {
		return "", fleet.Errorf(fleet.KindInternal, "opening the image: %w", err)
	}
	path := filepath.Join(dir, diskName)
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("writing the disk: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if o.UEFI {
		err = k.WriteUEFI(ctx, imageDir, out)
	} else {
		err = copyDisk(filepath.Join(imageDir, diskName), out)
	}
	if err != nil {
		return "", fmt.Errorf("writing the disk: %w", err)
	}
	// The kernel takes the rest of the disk for its file system's.
	size, err := out.Seek(0, io.SeekEnd)
	if err == nil {
		err = out.Truncate(size + b.TenantBytes - info.Size())
	}
	if err != nil {
		return "", fmt.Errorf("writing the disk: %w", err)
	}
	return path, ctx.Err()
}

func copyDisk(from string, to io.Writer) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(to, in)
	return err
}
