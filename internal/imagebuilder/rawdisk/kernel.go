package rawdisk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/diskimport"
	"dormouse/internal/imagebuilder/export"
	"dormouse/internal/imagebuilder/qemuimg"
	"dormouse/internal/imagebuilder/source"
)

// format names how this package lays an image out; raise it with every change
// that gives other bytes.
const format = "rawdisk-1"

// Names in an image's directory.
const (
	diskName  = "disk.img"
	buildName = "disk.json"
)

// Kernel is an imported disk as the image builder sees it.
type Kernel struct{}

var (
	_ imagebuilder.Kernel      = Kernel{}
	_ imagebuilder.Specialiser = Kernel{}
	_ imagebuilder.Disker      = Kernel{}
)

// New returns a Kernel.
func New() Kernel { return Kernel{} }

// Kind implements imagebuilder.Kernel.
func (Kernel) Kind() fleet.KernelKind { return fleet.KernelDisk }

// Digest implements imagebuilder.Kernel: there are no files but the package's.
func (Kernel) Digest(context.Context) (string, error) {
	sum := sha256.Sum256([]byte(format))
	return hex.EncodeToString(sum[:]), nil
}

// build is what has to be known of an image; it lies beside the disk.
type build struct {
	// Disk is the SHA-256 of the disk as the package has it: what a volume belongs to.
	Disk string `json:"disk"`
	// SizeBytes is the disk's size.
	SizeBytes int64 `json:"size_bytes"`
	// UEFI: nothing else can start it.
	UEFI bool `json:"uefi,omitempty"`
}

// Build implements imagebuilder.Kernel. The package's disk is looked at as if it
// had just come from outside, and what has been written is compared with it.
func (Kernel) Build(ctx context.Context, in imagebuilder.BuildInput, dir string) (err error) {
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return fmt.Errorf("unpacking the disk: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	packed := qemuimg.Source{Path: filepath.Join(work, source.DiskName), Driver: "qcow2"}
	digest, err := copyOut(ctx, in.Tree, packed.Path)
	if err != nil {
		return fmt.Errorf("unpacking the disk: %w", err)
	}
	disk := filepath.Join(dir, diskName)
	got, err := diskimport.Import(ctx, packed.Path, disk, diskimport.Options{WorkDir: work})
	if err == nil && got.Format != diskimport.QCOW2 {
		err = fleet.Errorf(fleet.KindInvalid, "the package's disk is %s and no qcow2 image", got.Format)
	}
	if fleet.KindOf(err) == fleet.KindInvalid {
		return fleet.Failure(fleet.ReasonImageBuild, "%w", err)
	}
	if err != nil {
		return err
	}
	switch err := qemuimg.Compare(ctx, packed, qemuimg.Source{Path: disk, Driver: "raw"}); {
	case errors.Is(err, qemuimg.ErrDiffers):
		return fleet.Failure(fleet.ReasonImageBuild, "reading the disk back: it is not what the package holds")
	case err != nil:
		return fmt.Errorf("reading the disk back: %w", err)
	}
	b := build{Disk: digest, SizeBytes: got.SizeBytes}
	if b.UEFI, err = export.StartsByUEFI(disk); err != nil {
		return err
	}
	record, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, buildName), append(record, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the image's record: %w", err)
	}
	return nil
}

// copyOut writes the package's disk to a file, since that is what qemu-img reads,
// and returns its SHA-256.
func copyOut(ctx context.Context, tree *source.Tree, path string) (_ string, err error) {
	e, err := tree.Lookup("/" + source.DiskName)
	if err != nil || e.Kind != source.File {
		return "", fleet.Failure(fleet.ReasonImageBuild, "the package holds no %s: import it with --disk", source.DiskName)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	content := tree.Content(e)
	for buf := make([]byte, 256<<10); ; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := content.Read(buf)
		if _, err := f.Write(buf[:n]); err != nil {
			return "", err
		}
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// Files implements imagebuilder.Kernel.
func (Kernel) Files(dir string) (fleet.ImageFiles, error) {
	b, err := readBuild(dir)
	if err != nil {
		return fleet.ImageFiles{}, err
	}
	return fleet.ImageFiles{Kernel: fleet.KernelDisk, DiskPath: filepath.Join(dir, diskName), UEFI: b.UEFI}, nil
}

// Disk implements imagebuilder.Disker: it is the disk as it was imported, and
// nothing of any installation's.
func (Kernel) Disk(_ context.Context, imageDir string, _ fleet.Package, _ imagebuilder.DiskOptions, _ string) (string, error) {
	if _, err := readBuild(imageDir); err != nil {
		return "", err
	}
	return filepath.Join(imageDir, diskName), nil
}

// readBuild returns the image's record.
func readBuild(dir string) (build, error) {
	var b build
	raw, err := os.ReadFile(filepath.Join(dir, buildName))
	if errors.Is(err, fs.ErrNotExist) {
		return b, fleet.Errorf(fleet.KindNotFound, "there is no imported disk in %s", dir)
	}
	if err == nil {
		err = json.Unmarshal(raw, &b)
	}
	if err != nil {
		return b, fleet.Errorf(fleet.KindInternal, "reading the image's record: %w", err)
	}
	return b, nil
}
