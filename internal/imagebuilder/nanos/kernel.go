package nanos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/tfs"
)

// format names how this package lays an image out; raise it with every change
// that gives other bytes.
const format = "nanos-bios-1"

// Names in an image's directory.
const (
	diskName  = "disk.img"
	buildName = "nanos.json"
	namesName = "root.names"
)

// Options configure a Kernel.
type Options struct {
	// Dir is a Nanos release directory: boot.img, kernel.img and klibs; absolute.
	// Empty: Find says where it is.
	Dir string
	// Find returns the release directory at each use; "" where there is none, and
	// nil is never one: then every build is KindUnavailable.
	Find func() string
}

// dir is where the release is; "" where there is none.
func (o Options) dir() string {
	if o.Dir == "" && o.Find != nil {
		return o.Find()
	}
	return o.Dir
}

// Kernel is Nanos as the image builder sees it.
type Kernel struct {
	o Options

	mu   sync.Mutex
	have *release
}

var (
	_ imagebuilder.Kernel      = (*Kernel)(nil)
	_ imagebuilder.Reader      = (*Kernel)(nil)
	_ imagebuilder.Specialiser = (*Kernel)(nil)
	_ imagebuilder.Disker      = (*Kernel)(nil)
)

// New returns a Kernel. The release is looked at only when it is needed.
func New(o Options) *Kernel { return &Kernel{o: o} }

// Kind implements imagebuilder.Kernel.
func (k *Kernel) Kind() fleet.KernelKind { return fleet.KernelNanos }

// Digest implements imagebuilder.Kernel: it names the release's files and the format.
func (k *Kernel) Digest(context.Context) (string, error) {
	r, err := k.load()
	if err != nil {
		return "", err
	}
	return r.digest, nil
}

// build is what has to be known of an image to make a tenant's disk; it lies beside it.
type build struct {
	// RootOffset is where the root file system begins, in bytes.
	RootOffset int64 `json:"root_offset"`
	// TenantBytes is how long a tenant's disk is: what lies beyond the image is room to write.
	TenantBytes int64     `json:"tenant_bytes"`
	Log         tfs.State `json:"log"`
	// EtcIndex and RootIndex are the tuples of what lies in /etc and in /.
	EtcIndex  uint64   `json:"etc_index"`
	RootIndex uint64   `json:"root_index"`
	Program   string   `json:"program"`
	Persist   []string `json:"persist,omitempty"`
	Klibs     []string `json:"klibs,omitempty"`
	// Release is the digest of the release that the image was built from.
	Release string `json:"release"`
}

// Build implements imagebuilder.Kernel. What it has written it reads back, and
// compares with the package.
func (k *Kernel) Build(ctx context.Context, in imagebuilder.BuildInput, dir string) (err error) {
	r, err := k.load()
	if err != nil {
		return err
	}
	if r.digest != in.KernelDigest {
		return fleet.Errorf(fleet.KindUnavailable, "the Nanos release was replaced while the image was built: ask again")
	}
	m := in.Package.Manifest
	attrs, err := rootAttrs(m, r)
	if err != nil {
		return err
	}
	plan, err := planRoot(in.Tree, m, in.Package.Name)
	if err != nil {
		return fleet.Failure(fleet.ReasonImageBuild, "the package leaves no room for what the kernel needs: %w", err)
	}
	disk, err := os.OpenFile(filepath.Join(dir, diskName), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("writing the disk: %w", err)
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	b, names, err := writeDisk(ctx, disk, r, m, plan, attrs)
	if err != nil {
		return fmt.Errorf("writing the disk: %w", err)
	}
	// The caller writes all of it out: let the disk begin while it is read back. Not
	// every file system can, which only costs time.
	_ = unix.SyncFileRange(int(disk.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	if err := verify(ctx, disk, r, m, plan); err != nil {
		return fmt.Errorf("reading the disk back: %w", err)
	}
	if r.efi != nil {
		if err := os.WriteFile(filepath.Join(dir, efiName), r.efi, 0o644); err != nil {
			return fmt.Errorf("writing the loader: %w", err)
		}
	}
	record, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, buildName), append(record, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the image's record: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, namesName), names, 0o644); err != nil {
		return fmt.Errorf("writing the image's names: %w", err)
	}
	return nil
}

// Files implements imagebuilder.Kernel.
func (k *Kernel) Files(dir string) (fleet.ImageFiles, error) {
	path := filepath.Join(dir, diskName)
	if _, err := os.Stat(path); err != nil {
		return fleet.ImageFiles{}, fleet.Errorf(fleet.KindInternal, "finding the image's disk: %w", err)
	}
	return fleet.ImageFiles{Kernel: fleet.KernelNanos, DiskPath: path}, nil
}

// readBuild returns the image's record.
func readBuild(dir string) (*build, error) {
	raw, err := os.ReadFile(filepath.Join(dir, buildName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fleet.Errorf(fleet.KindNotFound, "there is no Nanos image in %s", dir)
	}
	b := &build{}
	if err == nil {
		err = json.Unmarshal(raw, b)
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.KindInternal, "reading the image's record: %w", err)
	}
	return b, nil
}

// offsetWriter writes from an offset on.
func offsetWriter(f *os.File, offset int64) io.WriterAt { return io.NewOffsetWriter(f, offset) }
