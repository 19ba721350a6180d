package imagebuilder

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"dormouse/internal/fleet"
)

// Collect removes images that nothing refers to and that nobody has used for
// the grace period, and returns their IDs. Each call counts as a use of what is
// referred to here: another process on the same directory knows others'
// references by that. An image that is asked for at the same moment stays, or is
// built again.
func (b *Builder) Collect(ctx context.Context, used func(fleet.ImageID) bool, grace time.Duration) ([]fleet.ImageID, error) {
	names, err := os.ReadDir(filepath.Join(b.dir, "images"))
	if err != nil {
		return nil, storageError("looking for images that nobody uses", err)
	}
	var removed []fleet.ImageID
	var failed error
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		id := fleet.ImageID(n.Name())
		if used(id) {
			_, err := b.touch(id)
			failed = errors.Join(failed, err)
			continue
		}
		stale := func(path string) (bool, error) {
			info, err := os.Stat(path)
			return err == nil && time.Since(info.ModTime()) >= grace && !used(id), err
		}
		if old, err := stale(b.imagePath(id)); err != nil || !old {
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed = errors.Join(failed, err)
			}
			continue
		}
		gone, err := b.takeAway(ctx, id, stale)
		failed = errors.Join(failed, err)
		if gone {
			removed = append(removed, id)
		}
	}
	return removed, storageError("removing images that nobody uses", failed)
}

// RemoveImage removes one image; the caller sees to it that nothing runs it.
// KindNotFound: there is no such image here.
func (b *Builder) RemoveImage(ctx context.Context, id fleet.ImageID) error {
	if _, err := b.record(id); err != nil {
		return err
	}
	return storageError("removing the image", b.removeImage(ctx, id))
}

// removeImage removes an image, whatever may use it.
func (b *Builder) removeImage(ctx context.Context, id fleet.ImageID) error {
	_, err := b.takeAway(ctx, id, func(string) (bool, error) { return true, nil })
	return err
}

// takeAway takes the image's name away in one step, then its files. Where
// still says no to what it was by then, it gets its name back.
func (b *Builder) takeAway(ctx context.Context, id fleet.ImageID, still func(path string) (bool, error)) (gone bool, err error) {
	work, err := b.acquireWorkDir(ctx, "image-"+string(id))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, work.release()) }()
	aside := filepath.Join(work.path, "removed")
	if err := os.Rename(b.imagePath(id), aside); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	if yes, err := still(aside); err != nil || !yes {
		return false, errors.Join(err, os.Rename(aside, b.imagePath(id)))
	}
	return true, syncPath(filepath.Join(b.dir, "images"))
}
