package imagebuilder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// Images returns what is here, what is being built and what failed lately in
// this process, in the order of their IDs.
func (b *Builder) Images(ctx context.Context) ([]fleet.Image, error) {
	names, err := os.ReadDir(filepath.Join(b.dir, "images"))
	if err != nil {
		return nil, storageError("listing images", err)
	}
	ids := b.builds.all()
	for _, n := range names {
		ids = append(ids, fleet.ImageID(n.Name()))
	}
	ids = append(ids, b.builtElsewhere()...)
	slices.Sort(ids)
	images := []fleet.Image{}
	for _, id := range slices.Compact(ids) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		i, err := b.Image(id)
		switch {
		case fleet.KindOf(err) == fleet.KindNotFound: // went while we looked
		case err != nil:
			return nil, err
		default:
			images = append(images, i)
		}
	}
	return images, nil
}

// builtElsewhere returns the images that have a work directory. One whose
// process died is among them until it is removed.
func (b *Builder) builtElsewhere() []fleet.ImageID {
	names, _ := os.ReadDir(filepath.Join(b.dir, "tmp"))
	var ids []fleet.ImageID
	for _, n := range names {
		id, ok := strings.CutPrefix(n.Name(), "image-")
		if ok && n.IsDir() && digestPattern.MatchString(id) {
			ids = append(ids, fleet.ImageID(id))
		}
	}
	return ids
}

// Image tells what is known of an image; KindNotFound where it is neither here
// nor being built.
func (b *Builder) Image(id fleet.ImageID) (fleet.Image, error) {
	i := fleet.Image{ID: id, State: fleet.ImageReady}
	rec, err := b.record(id)
	if err == nil {
		err = b.measure(rec, &i)
	}
	run := b.builds.get(id)
	if err == nil {
		if run != nil {
			run.describe(&i)
		}
		return i, nil
	}
	if fleet.KindOf(err) != fleet.KindNotFound && !errors.Is(err, fs.ErrNotExist) {
		return i, err
	}
	i.State = fleet.ImageBuilding
	switch {
	case run != nil && !run.succeeded():
		run.describe(&i)
	case slices.Contains(b.builtElsewhere(), id):
	default:
		return i, fleet.Errorf(fleet.KindNotFound, "there is no image %s here", id)
	}
	return i, nil
}

func (r *build) succeeded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.over && r.err == nil
}

// describe adds what the image was made from.
func (r record) describe(i *fleet.Image) {
	i.Kernel, i.KernelDigest = r.Kernel, r.KernelDigest
	i.PackageDigest, i.BuilderVersion = r.PackageDigest, r.BuilderVersion
	i.PackageName, i.PackageVersion = r.PackageName, r.PackageVersion
}

// measure adds what the image's files tell.
func (b *Builder) measure(rec record, i *fleet.Image) error {
	rec.describe(i)
	dir := b.imagePath(i.ID)
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	i.UsedAt = info.ModTime().UTC()
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			return err
		}
		i.SizeBytes += info.Size()
		if f.Name() == recordName {
			i.CreatedAt = info.ModTime().UTC()
		}
	}
	return nil
}

// touch records that somebody uses the image, which keeps Collect from it. It
// tells whether the image is there.
func (b *Builder) touch(id fleet.ImageID) (bool, error) {
	now := time.Now()
	err := os.Chtimes(b.imagePath(id), now, now)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// reader returns what reads an image back.
func (b *Builder) reader(id fleet.ImageID) (Reader, error) {
	rec, err := b.record(id)
	if err != nil {
		return nil, err
	}
	k, err := b.kernel(rec.Kernel)
	if err != nil {
		return nil, err
	}
	r, ok := k.(Reader)
	if !ok {
		return nil, fleet.Errorf(fleet.KindNotAccepted, "images of the kernel %s can't be read back", rec.Kernel)
	}
	return r, nil
}

// errFound ends a walk early.
var errFound = errors.New("found")

// ListFiles visits what lies at path in an image and below it, in the order of
// paths; with digests the SHA-256 of every file's content too. The first error
// of visit ends it. KindNotFound: there is no such image, or no such path in it.
func (b *Builder) ListFiles(ctx context.Context, id fleet.ImageID, path string, digests bool, visit func(fleet.ImageFile) error) error {
	r, err := b.reader(id)
	if err != nil {
		return err
	}
	want := strings.Trim(path, "/")
	found := false
	err = r.Read(ctx, b.imagePath(id), func(e source.Entry, content io.Reader) error {
		if want != "" && e.Path != want && !strings.HasPrefix(e.Path, want+"/") {
			return nil
		}
		found = true
		f := fleet.ImageFile{Path: "/" + e.Path, Kind: e.Kind.String(), Mode: e.Mode, SizeBytes: e.Size, Target: e.Target}
		if digests && e.Kind == source.File {
			h := sha256.New()
			if _, err := io.Copy(h, content); err != nil {
				return err
			}
			f.SHA256 = hex.EncodeToString(h.Sum(nil))
		}
		return visit(f)
	})
	if err == nil && !found {
		return fleet.Errorf(fleet.KindNotFound, "the image holds nothing at /%s", want)
	}
	return err
}

// CopyFile writes the content of a regular file of an image to w, once size has
// been told of it. Links are not followed. KindNotFound: it is not there;
// KindInvalid: it is no regular file.
func (b *Builder) CopyFile(ctx context.Context, id fleet.ImageID, path string, size func(int64), w io.Writer) error {
	r, err := b.reader(id)
	if err != nil {
		return err
	}
	want := strings.Trim(path, "/")
	err = r.Read(ctx, b.imagePath(id), func(e source.Entry, content io.Reader) error {
		switch {
		case e.Path != want:
			return nil
		case e.Kind == source.Symlink:
			return fleet.InvalidField("path", "/%s is a symbolic link to %s: ask for what it leads to", want, e.Target)
		case e.Kind != source.File:
			return fleet.InvalidField("path", "/%s is a directory: list it", want)
		}
		size(e.Size)
		if _, err := io.Copy(w, content); err != nil {
			return err
		}
		return errFound
	})
	switch {
	case errors.Is(err, errFound):
		return nil
	case err == nil:
		return fleet.Errorf(fleet.KindNotFound, "the image holds no file /%s", want)
	}
	return err
}

// Provenance returns the image's provenance record (see provenance.go).
func (b *Builder) Provenance(id fleet.ImageID) ([]byte, error) {
	if _, err := b.record(id); err != nil {
		return nil, err
	}
	body, err := os.ReadFile(filepath.Join(b.imagePath(id), provenanceName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fleet.Errorf(fleet.KindNotFound, "the image was built before provenance was recorded: build it again")
	}
	return body, err
}
