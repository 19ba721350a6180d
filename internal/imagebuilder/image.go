package imagebuilder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"dormouse/internal/fleet"
)

// recordName is the file in an image's directory that says what it was made from.
const recordName = "image.json"

type record struct {
	Kernel         fleet.KernelKind `json:"kernel"`
	KernelDigest   string           `json:"kernel_digest"`
	PackageDigest  string           `json:"package_digest"`
	BuilderVersion string           `json:"builder_version"`
	PackageName    string           `json:"package_name"`
	PackageVersion string           `json:"package_version"`
}

// id names an image: the hex SHA-256 over package digest, kernel digest and
// builder version, each ended by a zero byte.
func (r record) id() fleet.ImageID {
	sum := sha256.Sum256([]byte(r.PackageDigest + "\x00" + string(r.Kernel) + ":" + r.KernelDigest + "\x00" + r.BuilderVersion + "\x00"))
	return fleet.ImageID(hex.EncodeToString(sum[:]))
}

// Ensure sees to it that the package's image for its kernel is there, and
// returns its ID. It builds at most once however many ask; a build goes on
// when those who asked have gone, so that asking again finds it done.
//
// KindPermanent with fleet.ReasonImageBuild: trying again can't help.
// KindCapacity: the disk is full. KindUnavailable: a tool or kernel is missing.
func (b *Builder) Ensure(ctx context.Context, p fleet.Package) (fleet.ImageID, error) {
	k, err := b.kernel(p.Kernel)
	if err != nil {
		return "", fleet.Failure(fleet.ReasonImageBuild, "building the image of %s@%s: %w", p.Name, p.Version, err)
	}
	if !digestPattern.MatchString(p.Digest) {
		return "", fleet.Failure(fleet.ReasonImageBuild, "building the image of %s@%s: %q is no package digest", p.Name, p.Version, p.Digest)
	}
	rec, err := b.recordOf(ctx, k, p)
	if err != nil {
		return "", err
	}
	id := rec.id()
	if have, err := b.touch(id); have || err != nil {
		return id, storageError("looking for the image", err)
	}
	done := b.flights.DoChan(string(id), func() (any, error) {
		if !b.begin() {
			return nil, fleet.Errorf(fleet.KindUnavailable, "the image builder is shutting down: ask again")
		}
		defer b.running.Done()
		run := b.builds.begin(rec, time.Now())
		err := b.build(k, rec, p, run)
		b.builds.end(run, err)
		return nil, err
	})
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case result := <-done:
		if result.Err != nil {
			return "", fmt.Errorf("building the image of %s@%s: %w", p.Name, p.Version, result.Err)
		}
		return id, nil
	}
}

// recordOf says what the package's image would be made from now.
func (b *Builder) recordOf(ctx context.Context, k Kernel, p fleet.Package) (record, error) {
	digest, err := k.Digest(ctx)
	if err != nil {
		return record{}, fmt.Errorf("building the image of %s@%s: %w", p.Name, p.Version, err)
	}
	return record{
		Kernel: p.Kernel, KernelDigest: digest, PackageDigest: p.Digest, BuilderVersion: Version,
		PackageName: p.Name, PackageVersion: p.Version,
	}, nil
}

// ImageOf returns the ID that the package's image has, or would have if it were built now.
func (b *Builder) ImageOf(ctx context.Context, p fleet.Package) (fleet.ImageID, error) {
	k, err := b.kernel(p.Kernel)
	if err != nil {
		return "", err
	}
	rec, err := b.recordOf(ctx, k, p)
	return rec.id(), err
}

// Files tells where an image's files lie. KindNotFound: there is no such image here, call Ensure.
func (b *Builder) Files(_ context.Context, id fleet.ImageID) (fleet.ImageFiles, error) {
	rec, err := b.record(id)
	if err != nil {
		return fleet.ImageFiles{}, err
	}
	k, err := b.kernel(rec.Kernel)
	if err != nil {
		return fleet.ImageFiles{}, fmt.Errorf("finding the image %s: %w", id, err)
	}
	files, err := k.Files(b.imagePath(id))
	if err != nil {
		return fleet.ImageFiles{}, fmt.Errorf("finding the image %s: %w", id, err)
	}
	files.ID, files.Kernel = id, rec.Kernel
	_, err = b.touch(id)
	return files, storageError("finding the image", err)
}

// Specialise makes an image that is a disk one tenant's, by files in dir (see
// Specialiser). KindNotFound: there is no such image here.
func (b *Builder) Specialise(ctx context.Context, id fleet.ImageID, t fleet.Tenant, dir string) (fleet.TenantFiles, error) {
	k, err := b.specialiser(id)
	if err != nil {
		return fleet.TenantFiles{}, err
	}
	return k.Specialise(ctx, b.imagePath(id), t, dir)
}

// FormatVolume makes the file system that the image's kernel reads on a volume
// that has none (see Specialiser). KindNotFound: there is no such image here.
func (b *Builder) FormatVolume(ctx context.Context, id fleet.ImageID, persist []string, volume *os.File) error {
	k, err := b.specialiser(id)
	if err != nil {
		return err
	}
	return k.FormatVolume(ctx, b.imagePath(id), persist, volume)
}

func (b *Builder) specialiser(id fleet.ImageID) (Specialiser, error) {
	rec, err := b.record(id)
	if err != nil {
		return nil, err
	}
	k, err := b.kernel(rec.Kernel)
	if err != nil {
		return nil, fmt.Errorf("finding the image %s: %w", id, err)
	}
	s, ok := k.(Specialiser)
	if !ok {
		return nil, fleet.Errorf(fleet.KindInternal, "images of the kernel %s are not made a tenant's by files", rec.Kernel)
	}
	return s, nil
}

// RemovePackage removes a package and the images built from it. The caller sees
// to it that no installation wants or runs it. What is not there is no error.
func (b *Builder) RemovePackage(ctx context.Context, digest string) error {
	if !digestPattern.MatchString(digest) {
		return fleet.InvalidField("digest", "%q is no package digest: it has 64 hexadecimal digits", digest)
	}
	// The package first: from then on nobody can build from it.
	if err := os.Remove(b.packagePath(digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return storageError("removing the package", err)
	}
	images, err := os.ReadDir(filepath.Join(b.dir, "images"))
	if err != nil {
		return storageError("removing the package's images", err)
	}
	for _, entry := range images {
		id := fleet.ImageID(entry.Name())
		if rec, err := b.record(id); err != nil || rec.PackageDigest != digest {
			continue
		}
		if err := b.removeImage(ctx, id); err != nil {
			return storageError("removing the package's images", err)
		}
	}
	return nil
}

func (b *Builder) record(id fleet.ImageID) (record, error) {
	var rec record
	if !digestPattern.MatchString(string(id)) {
		return rec, fleet.Errorf(fleet.KindNotFound, "there is no image %q", id)
	}
	body, err := os.ReadFile(filepath.Join(b.imagePath(id), recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return rec, fleet.Errorf(fleet.KindNotFound, "there is no image %s on this host: build it first", id)
	}
	if err != nil {
		return rec, storageError("reading the image's record", err)
	}
	if err := json.Unmarshal(body, &rec); err != nil {
		return rec, fleet.Errorf(fleet.KindInternal, "reading the image's record: %w", err)
	}
	return rec, nil
}

func (b *Builder) have(id fleet.ImageID) (bool, error) {
	_, err := b.record(id)
	if fleet.KindOf(err) == fleet.KindNotFound {
		return false, nil
	}
	return err == nil, err
}

func (b *Builder) imagePath(id fleet.ImageID) string {
	return filepath.Join(b.dir, "images", string(id))
}
