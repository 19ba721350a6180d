package nanos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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
// To a volume that is ours it adds those persistent directories that it has not, for a
// package may name more of them than its last release did; a power cut
// leaves all of that or nothing. What is there stays.
func (k *Kernel) FormatVolume(ctx context.Context, imageDir string, persist []string, volume *os.File) error {
	size, err := volume.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("reading the volume: %w", err)
	}
	size = size / tfs.SectorSize * tfs.SectorSize
	if size < minVolume {
		return fleet.Errorf(fleet.KindInvalid, "a volume of %d bytes is too small: make it %d MiB or larger", size, minVolume>>20)
	}
	have, err := inspect(volume, size)
	if err != nil {
		return err
	}
	missing := persist
	if have != nil {
		missing = slices.DeleteFunc(slices.Clone(persist), func(dir string) bool {
			_, err := have.Lookup(strings.Trim(dir, "/"))
			return err == nil
		})
		if len(missing) == 0 {
			return nil
		}
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
	if have == nil {
		err = makeVolume(ctx, root, missing, volume, size)
	} else {
		err = extend(ctx, root, missing, volume, have)
	}
	if errors.Is(err, tfs.ErrNoRoom) {
		return fleet.Errorf(fleet.KindInvalid, "the volume of %d MiB is too small for what the image holds in %s: make it larger", size>>20, strings.Join(missing, ", "))
	}
	if err != nil {
		return fmt.Errorf("formatting the volume: %w", permanent(err))
	}
	after, err := tfs.Open(volume, size)
	if err == nil {
		_, err = after.Verify()
	}
	if err != nil {
		return fleet.Errorf(fleet.KindInternal, "reading the volume back: %w", err)
	}
	return nil
}

// makeVolume writes the file system of a volume that has none.
func makeVolume(ctx context.Context, root *tfs.FS, persist []string, volume *os.File, size int64) error {
	mark := make([]byte, tfs.SectorSize)
	copy(mark, formatting)
	if _, err := volume.WriteAt(mark, 0); err != nil {
		return err
	}
	if err := volume.Sync(); err != nil {
		return err
	}
	w, err := tfs.NewWriter(volume, tfs.Options{Label: dataLabel, Sectors: size / tfs.SectorSize, BeforeHead: volume.Sync})
	if err != nil {
		return err
	}
	if err := seed(ctx, w, root, persist); err != nil {
		return err
	}
	_, err = w.Finish()
	return err
}

// extend adds to one that is there.
func extend(ctx context.Context, root *tfs.FS, persist []string, volume *os.File, have *tfs.FS) error {
	w, err := have.Extend(volume)
	if err != nil {
		return err
	}
	if err := seed(ctx, w, root, persist); err != nil {
		return err
	}
	return w.FinishExtension(volume.Sync)
}

// seed makes the persistent directories, with what the image has where the volume will be mounted.
func seed(ctx context.Context, w *tfs.Writer, root *tfs.FS, persist []string) error {
	entries, err := root.Entries()
	if err != nil {
		return err
	}
	for _, dir := range persist {
		dir = strings.Trim(dir, "/")
		if err := w.Dir(dir); err != nil {
			return err
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return err
			}
			path, ours := strings.CutPrefix(e.Path, dataDir+"/")
			if !ours || !strings.HasPrefix(path, dir+"/") || (e.Kind != tfs.Directory && w.Exists(path)) {
				continue
			}
			switch e.Kind {
			case tfs.Directory:
				err = w.Dir(path)
			case tfs.Symlink:
				err = w.Symlink(path, e.Target)
			case tfs.File:
				var content io.Reader
				if content, err = root.Content(e); err == nil {
					err = w.File(path, e.Size, content)
				}
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// inspect returns the file system of a volume that is ours already, nil for one that is blank, or refuses it.
func inspect(volume io.ReaderAt, size int64) (*tfs.FS, error) {
	head := make([]byte, blankBytes)
	if _, err := io.ReadFull(io.NewSectionReader(volume, 0, size), head); err != nil {
		return nil, fmt.Errorf("reading the volume: %w", err)
	}
	if tfs.Probe(head) {
		f, err := tfs.Open(volume, size)
		switch {
		case errors.Is(err, tfs.ErrDamaged):
			return nil, fleet.Errorf(fleet.KindConflict, "the volume holds a TFS that can't be read; it is left as it is: restore it, or delete the volume: %w", err)
		case err != nil:
			return nil, err
		case f.Label != dataLabel:
			return nil, fleet.Errorf(fleet.KindConflict, "the volume holds a TFS with the label %q, which is not ours; it is left as it is: take another volume", f.Label)
		}
		return f, nil
	}
	if strings.HasPrefix(string(head), formatting) {
		return nil, nil
	}
	tail := make([]byte, blankBytes)
	if _, err := io.ReadFull(io.NewSectionReader(volume, size-blankBytes, blankBytes), tail); err != nil {
		return nil, fmt.Errorf("reading the volume: %w", err)
	}
	if blank := make([]byte, blankBytes); !bytes.Equal(head, blank) || !bytes.Equal(tail, blank) {
		return nil, fleet.Errorf(fleet.KindConflict, "the volume holds something that is not Nanos's file system, perhaps that of another kernel; it is left as it is: keep the package's kernel, or take a new volume")
	}
	return nil, nil
}
