package linux

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
	"dormouse/internal/imagebuilder/fat32"
	"dormouse/internal/imagebuilder/gpt"
)

// DiskKernel are the files that make a disk boot; absolute paths.
type DiskKernel struct {
	// VmlinuzPath is a bzImage with an EFI stub of its own (CONFIG_EFI_STUB), InitrdPath
	// an initrd that stock.BuildDiskInitrd made for it.
	VmlinuzPath, InitrdPath string
	// StubPath is systemd's linuxx64.efi.stub, which scripts/fetch-efi-stub.sh fetches.
	StubPath string
	// Cmdline is the kernel's command line, see stock.DiskCmdline.
	Cmdline string
}

// DiskInput is what a bootable disk is made from.
type DiskInput struct {
	Kernel DiskKernel
	// RootPath is the squashfs of an image that Kernel.Build made.
	RootPath string
	// Package is that image's: what it runs and how is written into the disk.
	Package fleet.Package
	// Config is what the guest is told; nil is the package's own program, arguments,
	// environment and persistent directories, and an address by DHCP.
	Config *guest.Config
	// VolumeMiB is the size of the volume for the persistent directories; 0 is
	// DefaultVolumeMiB. Without such directories there is none.
	VolumeMiB int
}

const (
	// DefaultVolumeMiB is how large the volume in a disk is where nobody says.
	DefaultVolumeMiB = 1024
	maxVolumeMiB     = 1 << 20
	// diskUnit is what a disk's size is a multiple of, in bytes: Compute Engine and
	// EC2 take whole GiB only, and a partition table has its second copy at the end.
	// What nothing was written to costs nothing: the file is sparse.
	diskUnit = 1 << 30
	// configSpace is the configuration's partition, in bytes: whatever guest.EncodeConfig can make fits.
	configSpace = 2 << 20
	// maxLoaded bounds what is read into memory or by firmware, in bytes.
	maxLoaded = 512 << 20
)

// WriteDisk writes a disk that boots by UEFI to the new file path, raw and sparse,
// a whole number of GiB. It holds an EFI system partition with kernel, initrd and
// command line, and partitions named as package guest says: the root, the
// configuration, and where there are persistent directories a volume for them. A
// configuration for another machine can be written over it: guest.EncodeConfig's bytes at the partition's beginning.
//
// The same input gives the same bytes. It leaves the sync to the caller; on failure nothing is left at path. A file that is
// missing is KindUnavailable, one that can't boot KindInvalid, a full disk KindCapacity.
func WriteDisk(ctx context.Context, path string, in DiskInput) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return spaceError("making the disk", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(path)
		}
	}()
	return spaceError("writing the disk", writeDisk(ctx, f, in))
}

func writeDisk(ctx context.Context, f *os.File, in DiskInput) error {
	tells := diskConfig(in.Package)
	if in.Config != nil {
		tells = *in.Config
	}
	config, err := guest.EncodeConfig(tells)
	if err != nil {
		return fleet.Errorf(fleet.KindInvalid, "writing the disk's configuration: %w", err)
	}
	loader, err := openLoader(in.Kernel, in.Package)
	if err != nil {
		return err
	}
	defer loader.close()
	root, err := openFile(in.RootPath)
	if err != nil {
		return fleet.Errorf(fleet.KindUnavailable, "reading the image's root: %w", err)
	}
	defer root.Close()
	rootSize, err := root.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = root.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("reading the image's root: %w", err)
	}
	espSize, err := fat32.Size([]fat32.File{loader.file})
	if err != nil {
		return err
	}
	parts := []gpt.Partition{
		{Type: gpt.ESP, Name: "dormouse-esp", Size: espSize},
		{Type: gpt.LinuxData, Name: guest.PartitionRoot, Size: rootSize},
		{Type: gpt.LinuxData, Name: guest.PartitionConfig, Size: configSpace},
	}
	if len(tells.Persist) > 0 {
		size := in.VolumeMiB
		if size == 0 {
			size = DefaultVolumeMiB
		}
		if size < 16 || size > maxVolumeMiB {
			return fleet.InvalidField("volume_mib", "a volume can't have %d MiB: say 16 to %d", size, maxVolumeMiB)
		}
		parts = append(parts, gpt.Partition{Type: gpt.LinuxData, Name: guest.PartitionVolume, Size: int64(size) << 20})
	}
	size, err := gpt.Lay(parts)
	if err != nil {
		return err
	}
	size = (size + diskUnit - 1) / diskUnit * diskUnit
	if err := f.Truncate(size); err != nil {
		return err
	}
	// All that tells this disk from another, for its identifiers.
	sum := sha256.New()
	to := io.NewOffsetWriter(f, parts[1].Offset)
	if err := copyContext(ctx, io.MultiWriter(to, sum), root); err != nil {
		return fmt.Errorf("copying the image's root: %w", err)
	}
	loader.file.Content = io.TeeReader(loader.file.Content, sum)
	id := gpt.Derive("kernel", in.Package.Digest)
	if _, err := fat32.Write(ctx, f, parts[0].Offset, []fat32.File{loader.file}, fat32.Options{Label: "DORMOUSE", ID: binary.LittleEndian.Uint32(id[:])}); err != nil {
		return err
	}
	if _, err := io.MultiWriter(io.NewOffsetWriter(f, parts[2].Offset), sum).Write(config); err != nil {
		return err
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	for i := range parts {
		parts[i].ID = gpt.Derive(digest, parts[i].Name)
	}
	if len(parts) > 3 {
		if err := formatVolume(ctx, f, parts[3]); err != nil {
			return err
		}
	}
	return gpt.Write(f, size, gpt.Derive(digest, "disk"), parts)
}

// diskConfig is what a guest that nobody configures does.
func diskConfig(p fleet.Package) guest.Config {
	m := p.Manifest
	c := guest.Config{
		Hostname: p.Name, Program: m.Program, Args: m.Args, Env: m.Env, Dir: m.Dir, User: m.User, Restart: string(m.Restart),
		Persist: m.Persist, Network: guest.Network{DHCP: true, DNS: m.NameServers},
	}
	for _, port := range m.Ports {
		c.Ports = append(c.Ports, port.Number)
	}
	return c
}

// openFile opens a regular file for reading.
func openFile(path string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%q is no absolute path", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is no regular file", path), f.Close())
	}
	return f, nil
}

func copyContext(ctx context.Context, w io.Writer, r io.Reader) error {
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// spaceError says so where a disk is full.
func spaceError(doing string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fleet.Errorf(fleet.KindCapacity, "%s: the disk is full, free some space in the data directory: %w", doing, err)
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
