package export

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/qemuimg"
)

// Format is what a disk is exported as.
type Format string

// The formats.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
	VMDK  Format = "vmdk"
	VHD   Format = "vhd"
	VHDX  Format = "vhdx"
	OVA   Format = "ova"
	GCE   Format = "gce-tar.gz"
)

// Formats returns all of them.
func Formats() []Format { return []Format{Raw, QCOW2, VMDK, VHD, VHDX, OVA, GCE} }

// ParseFormat returns the format of that name; another is KindInvalid.
func ParseFormat(name string) (Format, error) {
	if f := Format(name); slices.Contains(Formats(), f) {
		return f, nil
	}
	var names []string
	for _, f := range Formats() {
		names = append(names, string(f))
	}
	return "", fleet.InvalidField("format", "there is no format %q: use one of %s", name, strings.Join(names, ", "))
}

// FileName is what a file of that format is called. Compute Engine's is anything that ends so.
func (f Format) FileName(name string) string {
	if f == GCE {
		return name + ".tar.gz"
	}
	return name + "." + string(f)
}

// Options say how a disk is exported.
type Options struct {
	// WorkDir is an absolute directory that exists, in which a private one is made meanwhile: with room
	// for the disk's content once, and where its size has to be rounded up twice.
	WorkDir string
	// Name is the machine's and its files' in an OVA: letters, digits, dots, dashes
	// and underscores, at most 63, a letter or digit first.
	Name string
	// MemoryMiB and VCPUs are the machine's in an OVA, at least 1.
	MemoryMiB, VCPUs int
}

const (
	mib = 1 << 20
	gib = 1 << 30
)

// Export writes the raw disk at the absolute path as that format to out. It
// ends soon after ctx does. Errors of out are returned as they are; the kinds are
// KindInvalid for a disk or options that the format can't have, KindCapacity for a full work directory.
func Export(ctx context.Context, disk string, format Format, out io.Writer, o Options) (err error) {
	if _, err := ParseFormat(string(format)); err != nil {
		return err
	}
	m := machine{name: o.Name, memoryMiB: o.MemoryMiB, vcpus: o.VCPUs}
	if format == OVA {
		if err := m.check(); err != nil {
			return err
		}
	}
	f, size, err := openDisk(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	switch format {
	case Raw:
		return copyContext(ctx, out, f)
	case GCE:
		return writeGCE(ctx, out, f, size)
	}
	if !filepath.IsAbs(o.WorkDir) {
		return fmt.Errorf("exporting a disk: the work directory %q is not absolute", o.WorkDir)
	}
	work, err := os.MkdirTemp(o.WorkDir, "export-")
	if err != nil {
		return spaceError("making a directory for the export", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	converted := filepath.Join(work, "disk")
	if err := convert(ctx, disk, size, format, work, converted); err != nil {
		return err
	}
	if format == OVA {
		m.capacity = size
		if m.uefi, err = startsByUEFI(f); err != nil {
			return err
		}
		return writeOVA(ctx, out, converted, m)
	}
	return copyFile(ctx, out, converted)
}

func openDisk(path string) (*os.File, int64, error) {
	if !filepath.IsAbs(path) {
		return nil, 0, fmt.Errorf("exporting a disk: its path %q is not absolute", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("exporting a disk: %w", err)
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() == 0 || info.Size()%512 != 0) {
		err = fleet.Errorf(fleet.KindInvalid, "exporting a disk: %s is no raw disk, whose size is a multiple of 512 bytes", filepath.Base(path))
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// convert has qemu-img write the disk into out.
func convert(ctx context.Context, disk string, size int64, format Format, work, out string) error {
	from := qemuimg.Source{Path: disk, Driver: "raw"}
	switch format {
	case QCOW2:
		return qemuimg.Convert(ctx, from, "qcow2", out, "compat=1.1")
	case VMDK: // can be run as it is
		return qemuimg.Convert(ctx, from, "vmdk", out, "subformat=monolithicSparse")
	case OVA: // what importers take; nobody can write to it
		return qemuimg.Convert(ctx, from, "vmdk", out, "subformat=streamOptimized")
	case VHDX:
		return qemuimg.Convert(ctx, from, "vhdx", out, "subformat=dynamic")
	case VHD:
		if size%mib != 0 {
			// Azure takes whole MiB; a converted disk has the size of what it is converted from.
			from.Path = filepath.Join(work, "rounded")
			if err := qemuimg.Convert(ctx, qemuimg.Source{Path: disk, Driver: "raw"}, "raw", from.Path); err != nil {
				return err
			}
			if err := os.Truncate(from.Path, roundUp(size, mib)); err != nil {
				return spaceError("rounding the disk's size up", err)
			}
		}
		// force_size: the size itself, and not the next that a geometry of cylinders and heads can have.
		return qemuimg.Convert(ctx, from, "vpc", out, "subformat=fixed", "force_size=on")
	}
	return fmt.Errorf("exporting a disk: qemu-img does not write %s", format)
}

func roundUp(v, unit int64) int64 { return (v + unit - 1) / unit * unit }

// startsByUEFI tells whether nothing but UEFI can start the disk: its first sector
// is a protective MBR (UEFI specification, 5.2.3) without a program for a BIOS.
func startsByUEFI(r io.ReaderAt) (bool, error) {
	var mbr [512]byte
	if _, err := r.ReadAt(mbr[:], 0); err != nil {
		return false, fmt.Errorf("reading the disk: %w", err)
	}
	return mbr[450] == 0xee && mbr[510] == 0x55 && mbr[511] == 0xaa && strings.Trim(string(mbr[:440]), "\x00") == "", nil
}

// StartsByUEFI tells whether nothing but UEFI can start the raw disk at path.
func StartsByUEFI(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("reading the disk: %w", err)
	}
	defer f.Close()
	return startsByUEFI(f)
}

// writeGCE writes what Compute Engine imports ("Import a bootable virtual disk":
// manually): a gzipped tar of GNU's old format with the one member disk.raw, a whole number of GiB.
func writeGCE(ctx context.Context, out io.Writer, disk io.Reader, size int64) error {
	zw, err := gzip.NewWriterLevel(out, gzip.BestSpeed) // all but the content is zeros
	if err != nil {
		return err
	}
	tw := tar.NewWriter(zw)
	rounded := roundUp(size, gib)
	err = tw.WriteHeader(&tar.Header{Name: "disk.raw", Typeflag: tar.TypeReg, Mode: 0o644, Size: rounded, ModTime: time.Unix(0, 0), Format: tar.FormatGNU})
	if err != nil {
		return err
	}
	if err := copyContext(ctx, tw, io.MultiReader(disk, io.LimitReader(zeroReader{}, rounded-size))); err != nil {
		return err
	}
	return errors.Join(tw.Close(), zw.Close())
}

type zeroReader struct{}

// Read implements io.Reader.
func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func copyFile(ctx context.Context, out io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the converted disk: %w", err)
	}
	defer f.Close()
	return copyContext(ctx, out, f)
}

func copyContext(ctx context.Context, w io.Writer, r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, contextReader{ctx, r}, make([]byte, mib))
	return err
}

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// spaceError says so where a disk is full.
func spaceError(doing string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fleet.Errorf(fleet.KindCapacity, "%s: the disk is full, free some space in the data directory: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// namePattern is what the names of machines and files are made of everywhere.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
