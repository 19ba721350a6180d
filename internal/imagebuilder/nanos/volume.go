package nanos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/tfs"
)

// formatting is the beginning of a volume on which FormatVolume was cut short.
const formatting = "dormouse: a TFS is being made here\n"

// blankBytes is how much of a volume must be zero for it to be blank, at its beginning and at
// its end: file systems, partition tables, LVM and RAID all leave something there.
const blankBytes = 1 << 20

// minVolume is the smallest volume that is worth mounting: log, reserve, and a little.
const minVolume = 2 << 20

// FormatVolume implements imagebuilder.Specialiser. Until all is written and
// synced the volume has a mark of ours in its first sector: whoever finds it begins again.
func (k *Kernel) FormatVolume(ctx context.Context, imageDir string, persist []string, volume *os.File) error {
	size, err := volume.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("reading the volume: %w", err)
	}
	size = size / tfs.SectorSize * tfs.SectorSize
	if size < minVolume {
		return fleet.Errorf(fleet.KindInvalid, "a volume of %d bytes is too small: make it %d MiB or larger", size, minVolume>>20)
	}
	done, err := inspect(volume, size)
	if done || err != nil {
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
	root, err := OpenRoot(disk, info.Size())
	if err != nil {
		return err
	}
	mark := make([]byte, tfs.SectorSize)
	copy(mark, formatting)
	if _, err := volume.WriteAt(mark, 0); err != nil {
		return fmt.Errorf("formatting the volume: %w", err)
	}
	if err := volume.Sync(); err != nil {
		return fmt.Errorf("formatting the volume: %w", err)
	}
	return seed(ctx, root, persist, volume, size)
}

// inspect tells whether the volume is ours already, or refuses it.
func inspect(volume io.ReaderAt, size int64) (done bool, err error) {
	head := make([]byte, blankBytes)
	if _, err := io.ReadFull(io.NewSectionReader(volume, 0, size), head); err != nil {
		return false, fmt.Errorf("reading the volume: %w", err)
	}
	if tfs.Probe(head) {
		f, err := tfs.Open(volume, size)
		switch {
		case errors.Is(err, tfs.ErrDamaged):
			return false, fleet.Errorf(fleet.KindConflict, "the volume holds a TFS that can't be read; it is left as it is: restore it, or delete the volume: %w", err)
		case err != nil:
			return false, err
		case f.Label != dataLabel:
			return false, fleet.Errorf(fleet.KindConflict, "the volume holds a TFS with the label %q, which is not ours; it is left as it is: take another volume", f.Label)
		}
		return true, nil
	}
	if strings.HasPrefix(string(head), formatting) {
		return false, nil
	}
	tail := make([]byte, blankBytes)
	if _, err := io.ReadFull(io.NewSectionReader(volume, size-blankBytes, blankBytes), tail); err != nil {
		return false, fmt.Errorf("reading the volume: %w", err)
	}
	if blank := make([]byte, blankBytes); !bytes.Equal(head, blank) || !bytes.Equal(tail, blank) {
		return false, fleet.Errorf(fleet.KindConflict, "the volume holds something that is not Nanos's file system, perhaps that of another kernel; it is left as it is: keep the package's kernel, or take a new volume")
	}
	return false, nil
}

// seed writes the file system, with what the image has where the volume will be mounted.
func seed(ctx context.Context, root *tfs.FS, persist []string, volume *os.File, size int64) error {
	w, err := tfs.NewWriter(volume, tfs.Options{Label: dataLabel, BeforeHead: volume.Sync})
	if err != nil {
		return err
	}
	entries, err := root.Entries()
	if err != nil {
		return permanent(err)
	}
	need := int64(tfs.LogSectors) * tfs.SectorSize
	for _, dir := range persist {
		if err := w.Dir(strings.Trim(dir, "/")); err != nil {
			return fleet.InvalidField("persist", "%s can't be made on the volume: %w", dir, err)
		}
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		path, ok := strings.CutPrefix(e.Path, dataDir+"/")
		if !ok {
			continue
		}
		switch e.Kind {
		case tfs.Directory:
			err = w.Dir(path)
		case tfs.Symlink:
			err = w.Symlink(path, e.Target)
		case tfs.File:
			if need += e.Size + tfs.SectorSize; need+logReserve+imageRoom > size {
				return fleet.Errorf(fleet.KindInvalid, "the volume of %d MiB is too small for what the image holds in %s: make it larger", size>>20, strings.Join(persist, ", "))
			}
			var content io.Reader
			if content, err = root.Content(e); err == nil {
				err = w.File(path, e.Size, content)
			}
		}
		if err != nil {
			return fmt.Errorf("formatting the volume: %w", permanent(err))
		}
	}
	if _, err := w.Finish(); err != nil {
		return fmt.Errorf("formatting the volume: %w", err)
	}
	f, err := tfs.Open(volume, size)
	if err == nil {
		_, err = f.Verify()
	}
	if err != nil {
		return fleet.Errorf(fleet.KindInternal, "reading the volume back: %w", err)
	}
	return nil
}
