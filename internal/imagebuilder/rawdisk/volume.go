package rawdisk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/qcow2"
)

// maxDisk is how large a guest's disk may become, in bytes: the overlay's first
// table has a MiB for it.
const maxDisk = 256 << 30

// fixedBytes is what of a volume is no disk at least: the first tables, and clusters
// that QEMU has lost count of when it was killed, which are never given again.
const fixedBytes = 8 << 20

// volumeBytes is how large a volume for a disk of that size must be, in bytes:
// besides the fixed part tables take a quarter of a per cent.
func volumeBytes(disk int64) int64 { return disk + disk/64 + fixedBytes }

// diskBytes is how large a guest's disk is: as large as the volume has room for,
// in whole MiB, and at least as large as it was imported.
func diskBytes(b build, volume int64) int64 {
	most := min((volume-fixedBytes)*64/65, maxDisk)
	return max(b.SizeBytes, most>>20<<20)
}

// FormatVolume implements imagebuilder.Specialiser: it writes the overlay into a
// volume that is blank, and makes the disk longer where the volume has become larger. The header comes last, when the rest is on the disk: a
// volume without one is begun again. A volume over another disk is
// KindPermanent, one that is too small KindInvalid; both stay as they are.
func (Kernel) FormatVolume(_ context.Context, imageDir string, _ []string, volume *os.File) error {
	b, err := readBuild(imageDir)
	if err != nil {
		return err
	}
	size, err := volume.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("reading the volume: %w", err)
	}
	if need := volumeBytes(b.SizeBytes); size < need {
		return fleet.Errorf(fleet.KindInvalid, "the disk has %d MiB, and the installation %d MiB for what is written to it: give it --disk %dMiB or more",
			mib(b.SizeBytes), size>>20, mib(need))
	}
	head := make([]byte, 1<<qcow2.ClusterBits)
	if _, err := volume.ReadAt(head, 0); err != nil {
		return fmt.Errorf("reading the volume: %w", err)
	}
	if !bytes.Equal(head, make([]byte, len(head))) {
		if err := check(volume, b); err != nil {
			return err
		}
		return qcow2.Grow(volume, diskBytes(b, size))
	}
	var whole memory
	layout := qcow2.Layout{Size: diskBytes(b, size), Room: max(maxDisk, b.SizeBytes), Mark: []byte(b.Disk)}
	if err := qcow2.CreateLayout(&whole, layout, bytes.NewReader(nil), nil); err != nil {
		return fmt.Errorf("formatting the volume: %w", err)
	}
	if _, err := volume.WriteAt(whole[len(head):], int64(len(head))); err != nil {
		return fmt.Errorf("formatting the volume: %w", err)
	}
	if err := volume.Sync(); err != nil {
		return fmt.Errorf("formatting the volume: %w", err)
	}
	if _, err := volume.WriteAt(whole[:len(head)], 0); err != nil {
		return fmt.Errorf("formatting the volume: %w", err)
	}
	return check(volume, b)
}

// check tells whether a volume is an overlay over that disk.
func check(volume *os.File, b build) error {
	mark, err := qcow2.Mark(volume)
	switch {
	case errors.Is(err, qcow2.ErrDamaged):
		return fleet.Failure(fleet.ReasonProvider, "the volume holds no overlay over a disk that can be read; it is left as it is: restore it, or create a new installation: %w", err)
	case err != nil:
		return err
	case string(mark) != b.Disk:
		return fleet.Failure(fleet.ReasonProvider, "the volume holds what was written to another disk than the package's, and would be nonsense over this one: go back to the package before, or create a new installation")
	}
	return nil
}

func mib(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

// memory is a file in memory that ends where it is told.
type memory []byte

// Truncate implements qcow2.File.
func (m *memory) Truncate(size int64) error {
	*m = make([]byte, size)
	return nil
}

// WriteAt implements io.WriterAt.
func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(*m)) {
		return 0, io.ErrShortWrite
	}
	return copy((*m)[off:], p), nil
}
