package imagebuilder

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// build makes the image in a work directory and gives it its name.
func (b *Builder) build(k Kernel, rec record, p fleet.Package, run *build) (err error) {
	ctx, id := b.life, rec.id()
	select {
	case b.tokens <- struct{}{}:
		defer func() { <-b.tokens }()
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() {
		if r := recover(); r != nil {
			err = fleet.Failure(fleet.ReasonImageBuild, "the kernel %s panicked: %v", rec.Kernel, r)
		}
	}()
	work, err := b.acquireWorkDir(ctx, "image-"+string(id))
	if err != nil {
		return storageError("making room for the image", err)
	}
	defer func() { err = errors.Join(err, storageError("removing the work directory", work.release())) }()
	if have, err := b.have(id); have || err != nil { // another process was faster
		return err
	}
	log := b.log.WithFields(logrus.Fields{"image": id, "package": p.Name, "version": p.Version, "kernel": rec.Kernel})
	begun := time.Now()
	// The digest is computed while the image is built, and the image has no name before it is right.
	src, verified, err := source.OpenUnverified(b.packagePath(rec.PackageDigest), rec.PackageDigest, b.limits)
	if err != nil {
		return permanent(err)
	}
	verified = sync.OnceValue(verified)
	defer func() {
		if damaged := verified(); damaged != nil && err != nil {
			err = permanent(damaged) // whatever else came of it
		}
		err = errors.Join(err, src.Close())
	}()
	p.Manifest = src.Manifest // what the digest stands for, whatever the row says
	run.total.Store(src.Tree.Bytes())
	run.note("opened the package: %d files, directories and links of %d bytes", src.Tree.Len(), src.Tree.Bytes())
	in := BuildInput{Package: p, KernelDigest: rec.KernelDigest, Tree: src.Tree.Counting(&run.done)}
	if err := k.Build(ctx, in, work.path); err != nil {
		return storageError("building", err)
	}
	run.note("built")
	if err := verified(); err != nil {
		return permanent(err)
	}
	if err := b.finish(work.path, rec); err != nil {
		return storageError("writing the image", err)
	}
	run.note("written out to disk")
	if _, err := rename(work.path, b.imagePath(id)); err != nil {
		return storageError("writing the image", err)
	}
	// RemovePackage takes the package away first and looks for images then: what
	// it could not see yet is for us to remove.
	if _, err := os.Stat(b.packagePath(rec.PackageDigest)); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(b.imagePath(id), work.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return storageError("removing the image of a removed package", err)
		}
		return fleet.Failure(fleet.ReasonImageBuild, "the package was removed while its image was built: create it again")
	}
	log.WithField("seconds", time.Since(begun).Seconds()).Info("built an image")
	return nil
}

// finish adds the records to an image that has been built, and writes all of it out to disk.
func (b *Builder) finish(dir string, rec record) error {
	var g errgroup.Group
	// What is hashed is in memory still, so that both go on at once.
	g.Go(func() error { return syncTree(dir) })
	provenance, err := provenanceOf(dir, rec, &b.digests)
	if err := errors.Join(err, g.Wait()); err != nil {
		return err
	}
	body, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		body []byte
	}{{provenanceName, provenance}, {recordName, body}} {
		if err := writeSynced(filepath.Join(dir, f.name), append(f.body, '\n')); err != nil {
			return err
		}
	}
	return syncPath(dir)
}

// permanent gives a package that can't be read the reason that a failed state records.
func permanent(err error) error {
	switch fleet.KindOf(err) {
	case fleet.KindPermanent, fleet.KindInvalid, fleet.KindNotFound:
		return fleet.Failure(fleet.ReasonImageBuild, "%w", err)
	}
	return err
}
