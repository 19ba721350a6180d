package deb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"dormouse/internal/fleet"
)

// Options say how packages are fetched.
type Options struct {
	// WorkDir is where Result.Dir is made; os.TempDir where empty.
	WorkDir string
	// CacheDir keeps what was downloaded, for the next time; made if missing. Where
	// it is empty nothing is kept.
	CacheDir string
	// CacheBytes bounds what CacheDir holds after a Fetch; 0 is DefaultCacheBytes.
	CacheBytes int64
	// MaxBytes bounds what is downloaded, and eight times of it what is unpacked; 0 is DefaultMaxBytes.
	MaxBytes int64
	// AptConfig is a further configuration file for apt (apt.conf(5)), which wins
	// over the host's own; it may name other sources and lists.
	AptConfig string
}

// The default bounds, in bytes.
const (
	DefaultCacheBytes = 1 << 30
	DefaultMaxBytes   = 1 << 30
)

// Package is a Debian package that files come from.
type Package struct {
	Name, Version, Architecture string
	// Source is the source package's name.
	Source string
	// SHA256 is of the .deb file, as lower-case hex.
	SHA256 string
}

// Result is a laid out file system. The caller closes it.
type Result struct {
	// Dir is a directory that holds nothing but sysroot/, the file system.
	Dir string
	// Name is the first named package's, as a DNS label; Version its version, less the epoch.
	Name, Version string
	// Program is the program of a unit of the named packages, or the one that has
	// the first package's name; "" where there is neither. Args and User are the unit's.
	Program string
	Args    []string
	User    string
	// Packages are those of which something is kept, by name.
	Packages []Package
	// Origins tells of every file and link, by its path relative to sysroot, from
	// which of Packages (by index) it is. What is not in it was made here.
	Origins map[string]int
	// Warnings are what was found and let pass.
	Warnings []string
}

// Close removes Dir.
func (r Result) Close() error { return os.RemoveAll(r.Dir) }

// Fetch resolves, downloads and unpacks the named packages, each a name or
// name=version. Where it fails nothing is left.
//
// KindInvalid, with the field deb: a name that is unknown, virtual or for another
// architecture, or dependencies that can't be satisfied. KindUnavailable: apt, its lists or the archive can't be
// reached. KindCapacity: the disk is full.
func Fetch(ctx context.Context, names []string, o Options) (r Result, err error) {
	wanted, err := checkNames(names)
	if err != nil {
		return Result{}, err
	}
	r.Dir, err = os.MkdirTemp(o.WorkDir, "deb-*")
	if err != nil {
		return Result{}, storageError("making room for Debian packages", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
			r = Result{}
		}
	}()
	a, err := newApt(r.Dir, o)
	if err != nil {
		return r, err
	}
	all, err := a.resolve(ctx, wanted)
	if err != nil {
		return r, err
	}
	store, err := openArchives(o, a.private)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, store.close()) }()
	if err := store.download(ctx, a, all); err != nil {
		return r, err
	}
	if err := r.lay(ctx, wanted, all, o); err != nil {
		return r, storageError("unpacking Debian packages", err)
	}
	// What is only apt's own business is nothing of the result.
	return r, storageError("removing apt's state", os.RemoveAll(a.private))
}

// lay unpacks, selects and completes the file system.
func (r *Result) lay(ctx context.Context, wanted []want, all *closure, o Options) error {
	sysroot := filepath.Join(r.Dir, "sysroot")
	if err := os.Mkdir(sysroot, 0o755); err != nil {
		return err
	}
	t, err := newTree(sysroot, maxBytes(o)*8)
	if err != nil {
		return err
	}
	defer t.close()
	s := &selection{tree: t, all: all, unpacked: map[string]bool{}, sought: map[string]bool{}}
	if err := s.run(ctx, wanted); err != nil {
		return err
	}
	first := all.byName[wanted[0].name]
	r.Name, r.Version = label(first.Name), withoutEpoch(first.Version)
	units := s.units()
	r.Program, r.Args, r.User = s.program(units)
	if err := s.complete(units); err != nil {
		return err
	}
	if err := t.finish(); err != nil {
		return err
	}
	r.Packages, r.Origins = t.origins()
	r.Warnings = s.warnings
	return nil
}

// label makes a Debian name a DNS label: the dots and pluses are no part of one.
func label(name string) string {
	name = strings.NewReplacer(".", "-", "+", "-").Replace(name)
	return strings.Trim(name[:min(len(name), 63)], "-")
}

func withoutEpoch(version string) string {
	if _, after, ok := strings.Cut(version, ":"); ok {
		return after
	}
	return version
}

func maxBytes(o Options) int64 {
	if o.MaxBytes > 0 {
		return o.MaxBytes
	}
	return DefaultMaxBytes
}

func invalid(format string, args ...any) error {
	return fleet.InvalidField("deb", format, args...)
}

// storageError gives a failure of our own files its kind.
func storageError(doing string, err error) error {
	var typed *fleet.Error
	switch {
	case err == nil || errors.As(err, &typed) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fleet.Errorf(fleet.KindCapacity, "%s: the disk is full, free some space in the data directory: %w", doing, err)
	case errors.Is(err, fs.ErrPermission):
		return fleet.Errorf(fleet.KindInternal, "%s: %w: give the directory to the user who runs this", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
