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
// tenant's has. It starts by BIOS; the persistent directories lie on it.
func (k *Kernel) Disk(ctx context.Context, imageDir string, _ fleet.Package, _ imagebuilder.DiskOptions, dir string) (_ string, err error) {
	b, err := readBuild(imageDir)
	if err != nil {
		return "", err
	}
	in, err := os.Open(filepath.Join(imageDir, diskName))
	if err != nil {
		return "", fleet.Errorf(fleet.KindInternal, "opening the image: %w", err)
	}
	defer in.Close()
	path := filepath.Join(dir, diskName)
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("writing the disk: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return "", fmt.Errorf("writing the disk: %w", err)
	}
	// The kernel takes the rest of the disk for its file system's.
	if err := out.Truncate(b.TenantBytes); err != nil {
		return "", fmt.Errorf("writing the disk: %w", err)
	}
	return path, ctx.Err()
}
