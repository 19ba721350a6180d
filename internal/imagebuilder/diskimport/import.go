package diskimport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/qemuimg"
)

// Format is what a disk came as.
type Format string

// The formats.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
	VMDK  Format = "vmdk"
	OVA   Format = "ova"
)

// DefaultMaxBytes is how large a disk may be, and DefaultMaxDataBytes how much of
// that no hole, where Options does not say.
const (
	DefaultMaxBytes     = 64 << 30
	DefaultMaxDataBytes = 16 << 30
)

// Options say how a disk is imported.
type Options struct {
	// WorkDir is an absolute directory that exists; what comes out of a package is put
	// into a private one in it meanwhile.
	WorkDir string
	// MaxBytes bounds the disk's size as its guest sees it; 0 is DefaultMaxBytes.
	MaxBytes int64
	// MaxDataBytes bounds what of that is no hole: a few MiB, packed, can be a full
	// disk. 0 is DefaultMaxDataBytes.
	MaxDataBytes int64
}

// Imported says what was imported.
type Imported struct {
	Format Format
	// SizeBytes is the size of the raw disk.
	SizeBytes int64
}

// Import reads the disk in the file from and writes it to the new file to, raw and
// sparse; both paths are absolute. It ends when ctx does.
//
// What is no disk, is damaged, too large, or needs other files is KindInvalid with
// what to do; a full disk KindCapacity. On failure nothing is left at to.
func Import(ctx context.Context, from, to string, o Options) (_ Imported, err error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxDataBytes == 0 {
		o.MaxDataBytes = DefaultMaxDataBytes
	}
	if !filepath.IsAbs(from) || !filepath.IsAbs(to) || !filepath.IsAbs(o.WorkDir) {
		return Imported{}, fmt.Errorf("importing a disk: %q, %q and %q must be absolute paths", from, to, o.WorkDir)
	}
	// Whatever is there is somebody else's, and would be written into.
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return Imported{}, storageError("importing a disk", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(to)
		}
	}()
	if err := f.Close(); err != nil {
		return Imported{}, storageError("importing a disk", err)
	}
	work, err := os.MkdirTemp(o.WorkDir, "import-")
	if err != nil {
		return Imported{}, storageError("importing a disk", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	d, err := look(ctx, from, work, o.MaxBytes)
	if err != nil {
		return Imported{}, err
	}
	switch {
	case d.size < 512 || d.size%512 != 0:
		return Imported{}, invalid("its size, %d bytes, is no multiple of 512", d.size)
	case d.size > o.MaxBytes:
		return Imported{}, invalid("it has %d bytes, at most %d are taken: make it smaller", d.size, o.MaxBytes)
	}
	source := qemuimg.Source{Path: d.path, Driver: d.driver}
	if d.driver != "raw" {
		if err := qemuimg.Check(ctx, source); err != nil {
			return Imported{}, fmt.Errorf("importing a disk: %w", err)
		}
	}
	data, err := qemuimg.DataBytes(ctx, source)
	if err != nil {
		return Imported{}, fmt.Errorf("importing a disk: %w", err)
	}
	if data > o.MaxDataBytes {
		return Imported{}, invalid("it holds %d MiB of data, at most %d are taken: make it smaller, or free what is unused with `virt-sparsify` or `fstrim`", data>>20, o.MaxDataBytes>>20)
	}
	if err := qemuimg.Convert(ctx, source, "raw", to); err != nil {
		return Imported{}, fmt.Errorf("importing a disk: %w", err)
	}
	info, err := os.Stat(to)
	if err != nil {
		return Imported{}, fmt.Errorf("importing a disk: %w", err)
	}
	if info.Size() != d.size {
		return Imported{}, invalid("it says that it has %d bytes, and it has %d", d.size, info.Size())
	}
	return Imported{Format: d.format, SizeBytes: d.size}, bootable(to)
}

// disk is one file with a disk in it, looked at.
type disk struct {
	format Format
	path   string
	driver string // QEMU's name for what is at path
	size   int64  // as the guest sees it, in bytes
}

// look tells what the file holds; a package's disk is unpacked into work.
func look(ctx context.Context, path, work string, maxBytes int64) (disk, error) {
	f, err := os.Open(path)
	if err != nil {
		return disk{}, fmt.Errorf("importing a disk: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return disk{}, fmt.Errorf("importing a disk: %w", err)
	}
	if !info.Mode().IsRegular() {
		return disk{}, invalid("%s is no regular file", filepath.Base(path))
	}
	head := make([]byte, 4096)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return disk{}, fmt.Errorf("importing a disk: %w", err)
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		size, err := lookQCOW2(head)
		return disk{QCOW2, path, "qcow2", size}, err
	case bytes.HasPrefix(head, []byte("KDMV")):
		size, err := lookVMDK(f, info.Size())
		return disk{VMDK, path, "vmdk", size}, err
	case len(head) > 262 && string(head[257:262]) == "ustar":
		unpacked, err := unpackOVA(ctx, f, work, maxBytes)
		if err != nil {
			return disk{}, err
		}
		d, err := lookPacked(unpacked)
		return d, err
	case len(head) >= 512 && head[510] == 0x55 && head[511] == 0xaa:
		return disk{Raw, path, "raw", info.Size()}, nil
	}
	return disk{}, invalid("%s", unknown(head))
}

// unknown says what a file is that is none of the formats, as far as one can tell.
func unknown(head []byte) string {
	for magic, says := range map[string]string{
		"# Disk DescriptorFile": "it is the descriptor of a vmdk whose content lies in other files: convert it with `qemu-img convert -O qcow2`",
		"COWD":                  "it is a vmdk of an old kind: convert it with `qemu-img convert -O qcow2`",
		"vhdxfile":              "it is a vhdx: convert it with `qemu-img convert -O qcow2`",
		"conectix":              "it is a vhd: convert it with `qemu-img convert -O qcow2`",
		"\x1f\x8b":              "it is compressed with gzip: unpack it first",
		"\xfd7zXZ":              "it is compressed with xz: unpack it first",
		"\x28\xb5\x2f\xfd":      "it is compressed with zstd: unpack it first",
		"BZh":                   "it is compressed with bzip2: unpack it first",
		"PK\x03\x04":            "it is a zip archive: unpack it first",
	} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return says
		}
	}
	return "it is no disk that boots: neither qcow2, vmdk nor OVA, and without a boot sector (55 AA at byte 510) no raw disk"
}

// bootable tells whether the disk has a boot sector, which a BIOS needs and the
// table of partitions for UEFI has too.
func bootable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("importing a disk: %w", err)
	}
	defer f.Close()
	var sector [512]byte
	if _, err := io.ReadFull(f, sector[:]); err != nil {
		return fmt.Errorf("importing a disk: %w", err)
	}
	if sector[510] != 0x55 || sector[511] != 0xaa {
		return invalid("nothing can boot from it: it has no boot sector (55 AA at byte 510)")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fleet.Errorf(fleet.KindInvalid, "importing a disk: "+format, args...)
}

// storageError says so where our own disk is full.
func storageError(doing string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fleet.Errorf(fleet.KindCapacity, "%s: the disk is full, free some space in the data directory: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
