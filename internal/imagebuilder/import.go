package imagebuilder

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
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
	// Kernel is what images of it boot; empty is what the manifest asks for, else fleet.KernelLinux.
	Kernel fleet.KernelKind
	// Force has what the kernel surely can't run admitted with a warning.
	Force bool
	// Overlay and FileName are as in source.Options.
	Overlay  io.Reader
	FileName string
	// Signature is of SignedText in base64; needed where Options.Trust has keys.
	Signature string

	// signed is called when the source and its overlay have been read.
	signed func() error
}

// Fetch lays the files of a source into dir, which is empty and private to the
// call, and says what it knows about them.
type Fetch func(ctx context.Context, dir string) (source.Laid, error)

var digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Import reads a package from a stream of any form that source.ReadArchive
// takes, checks it, and keeps it in canonical form under its digest. What is
// imported again is recognised. The Package that it returns lacks ID and
// CreatedAt, which the store assigns.
//
// A package at fault is KindInvalid with what to do; a full disk KindCapacity.
// Nothing is kept where Import fails.
func (b *Builder) Import(ctx context.Context, r io.Reader, o ImportOptions) (fleet.Package, error) {
	r = b.trust.watch(&o, r)
	return b.importPackage(ctx, o, func(so source.Options) (*source.Package, error) { return source.ReadArchive(ctx, r, so) })
}

// ImportDir does as Import does with a package directory of this host.
func (b *Builder) ImportDir(ctx context.Context, dir string, o ImportOptions) (fleet.Package, error) {
	return b.importPackage(ctx, o, func(so source.Options) (*source.Package, error) { return source.ReadDirectory(ctx, dir, so) })
}

// ImportOCI does as Import does with an image in a registry, see source.Pull. A
// signature is of the digest by which ref names it.
func (b *Builder) ImportOCI(ctx context.Context, ref string, o ImportOptions) (fleet.Package, error) {
	if err := b.trust.watchRef(&o, ref); err != nil {
		return fleet.Package{}, err
	}
	return b.importPackage(ctx, o, func(so source.Options) (*source.Package, error) { return source.Pull(ctx, ref, so) })
}

// ImportFetched does as Import does with what fetch lays out. Whether that is to be
// trusted is fetch's to tell; a signature is of the overlay alone.
func (b *Builder) ImportFetched(ctx context.Context, fetch Fetch, o ImportOptions) (fleet.Package, error) {
	if o.Overlay != nil {
		b.trust.watch(&o, nil)
	}
	return b.importPackage(ctx, o, func(so source.Options) (*source.Package, error) {
		dir := filepath.Join(so.SpoolDir, "fetched")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, storageError("making room for what is fetched", err)
		}
		laid, err := fetch(ctx, dir)
		if err != nil {
			return nil, storageError("fetching the source", err)
		}
		return source.FromDirectory(ctx, dir, laid, so)
	})
}

func (b *Builder) importPackage(ctx context.Context, o ImportOptions, read func(source.Options) (*source.Package, error)) (_ fleet.Package, err error) {
	if o.Kernel != "" {
		if _, err := b.kernel(o.Kernel); err != nil {
			return fleet.Package{}, err
		}
	}
	work, err := b.acquireWorkDir(ctx, "import-"+fleet.NewID())
	if err != nil {
		return fleet.Package{}, storageError("importing the package", err)
	}
	defer func() { err = errors.Join(err, storageError("importing the package", work.release())) }()
	src, err := read(source.Options{
		Name: o.Name, Version: o.Version, SpoolDir: work.path, Limits: b.limits, Overlay: o.Overlay, FileName: o.FileName,
	})
	if err != nil {
		return fleet.Package{}, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if o.signed != nil {
		if err := o.signed(); err != nil {
			return fleet.Package{}, err
		}
	}
	kind := cmp.Or(o.Kernel, src.Kernel, fleet.KernelLinux)
	if (kind == fleet.KernelDisk) != (src.Kernel == fleet.KernelDisk) {
		return fleet.Package{}, fleet.InvalidField("kernel", "a disk that is imported as it is starts what is on it, and nothing else can be started so: leave the kernel out, or import a disk with --disk")
	}
	kernel, err := b.kernel(kind)
	if err != nil {
		return fleet.Package{}, err
	}
	warnings, err := admit(ctx, kernel, src, o.Force)
	if err != nil {
		return fleet.Package{}, err
	}
	digest, size, err := b.keep(ctx, src, work.path)
	if err != nil {
		return fleet.Package{}, storageError("storing the package", err)
	}
	b.log.WithFields(logrus.Fields{"package": src.Name, "version": src.Version, "digest": digest, "bytes": size, "kernel": kind}).Info("imported a package")
	return fleet.Package{
		Name: src.Name, Version: src.Version, Digest: digest, SizeBytes: size, Kernel: kind, Manifest: src.Manifest, Warnings: warnings,
	}, nil
}

// admit tells whether the program can start, as far as reading can tell.
func admit(ctx context.Context, kernel Kernel, src *source.Package, force bool) ([]string, error) {
	warnings := append(slices.Clone(src.Warnings), idle(kernel.Kind(), src.Manifest)...)
	in := AdmitInput{Package: src}
	for _, program := range src.Executables {
		report, err := elfdeps.Check(src.Tree, program, src.Manifest.Env)
		if err != nil {
			return nil, err
		}
		in.Reports = append(in.Reports, report)
		warnings = append(warnings, report.Warnings...)
	}
	admitter, ok := kernel.(Admitter)
	if !ok {
		return warnings, nil
	}
	more, err := admitter.Admit(ctx, in)
	if err != nil && force && fleet.KindOf(err) == fleet.KindInvalid {
		more, err = append(more, fmt.Sprintf("admitted by force, although the kernel %s refuses it: %v", kernel.Kind(), err)), nil
	}
	return append(warnings, more...), err
}

// idle names what of a manifest the kernel has no use for.
func idle(kind fleet.KernelKind, m fleet.Manifest) []string {
	var warnings []string
	unused := func(key string, is bool) {
		if is {
			warnings = append(warnings, fmt.Sprintf("%s: the key %s has no effect with the kernel %s", source.ManifestName, key, kind))
		}
	}
	switch kind {
	case fleet.KernelLinux:
		unused("BaseVolumeSz", m.RootBytes != 0)
		unused("Klibs", len(m.Klibs) > 0)
		unused("ManifestPassthrough", len(m.Passthrough) > 0)
	case fleet.KernelNanos:
		unused("User", m.User != "")
	}
	return warnings
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
