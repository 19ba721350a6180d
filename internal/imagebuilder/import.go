package imagebuilder

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/elfdeps"
	"dormouse/internal/imagebuilder/source"
)

// ImportOptions say how a package is imported.
type ImportOptions struct {
	// Name and Version win over what the package itself says. Name must be a DNS
	// label, Version have 1 to 64 of 0-9 A-Z a-z . + ~ -.
	Name, Version string
	// Kernel is what images of it boot; empty is fleet.KernelLinux.
	Kernel fleet.KernelKind
}

var digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Import reads a package from a tar.gz stream, checks it, and keeps it in
// canonical form under its digest. What is imported again is recognised. The
// Package that it returns lacks ID and CreatedAt, which the store assigns.
//
// A package at fault is KindInvalid with what to do; a full disk KindCapacity.
// Nothing is kept where Import fails.
func (b *Builder) Import(ctx context.Context, r io.Reader, o ImportOptions) (fleet.Package, error) {
	return b.importPackage(ctx, o, func(so source.Options) (*source.Package, error) { return source.ReadArchive(ctx, r, so) })
}

// ImportDir does as Import does with a package directory of this host.
func (b *Builder) ImportDir(ctx context.Context, dir string, o ImportOptions) (fleet.Package, error) {
	return b.importPackage(ctx, o, func(so source.Options) (*source.Package, error) { return source.ReadDirectory(ctx, dir, so) })
}

func (b *Builder) importPackage(ctx context.Context, o ImportOptions, read func(source.Options) (*source.Package, error)) (_ fleet.Package, err error) {
	if o.Kernel == "" {
		o.Kernel = fleet.KernelLinux
	}
	if _, err := b.kernel(o.Kernel); err != nil {
		return fleet.Package{}, err
	}
	work, err := b.acquireWorkDir(ctx, "import-"+fleet.NewID())
	if err != nil {
		return fleet.Package{}, storageError("importing the package", err)
	}
	defer func() { err = errors.Join(err, storageError("importing the package", work.release())) }()
	src, err := read(source.Options{Name: o.Name, Version: o.Version, SpoolDir: work.path, Limits: b.limits})
	if err != nil {
		return fleet.Package{}, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	warnings, err := admit(src)
	if err != nil {
		return fleet.Package{}, err
	}
	digest, size, err := b.keep(ctx, src, work.path)
	if err != nil {
		return fleet.Package{}, storageError("storing the package", err)
	}
	b.log.WithFields(logrus.Fields{"package": src.Name, "version": src.Version, "digest": digest, "bytes": size}).Info("imported a package")
	return fleet.Package{
		Name: src.Name, Version: src.Version, Digest: digest, SizeBytes: size, Kernel: o.Kernel, Manifest: src.Manifest, Warnings: warnings,
	}, nil
}

// admit tells whether the program can start, as far as reading can tell.
func admit(src *source.Package) ([]string, error) {
	warnings := slices.Clone(src.Warnings)
	for _, program := range src.Executables {
		report, err := elfdeps.Check(src.Tree, program, src.Manifest.Env)
		if err != nil {
			return nil, err
		}
		warnings = append(warnings, report.Warnings...)
	}
	return warnings, nil
}

// keep writes the canonical form and gives it its name.
func (b *Builder) keep(ctx context.Context, src *source.Package, dir string) (digest string, size int64, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "package.tar"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", 0, err
	}
	buffered := bufio.NewWriterSize(f, 1<<20)
	digest, size, err = src.WriteCanonical(ctx, buffered)
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", 0, err
	}
	_, err = rename(f.Name(), b.packagePath(digest))
	return digest, size, err
}

func (b *Builder) packagePath(digest string) string {
	return filepath.Join(b.dir, "packages", digest+".tar")
}
