package deb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// Options say how packages are fetched.
type Options struct {
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

// Fetch resolves, downloads and unpacks the named packages, each a name or
// name=version, into dir, which must be there and empty: it becomes the root file
// system. Name and version of the result are the first package's, the version
// less its epoch; its manifest says how a unit of that package runs it, or names
// the program that is called as the package is, or nothing.
//
// Where it fails, what lies in dir is the caller's to remove; while it runs there
// is a directory of apt's beside dir.
//
// KindInvalid, mostly with the field deb: a name that is unknown, virtual or for
// another architecture, dependencies that can't be satisfied, an archive that is not signed.
// KindUnavailable: apt, its lists or the archive can't be reached. KindCapacity: the disk is full.
func Fetch(ctx context.Context, dir string, names []string, o Options) (_ source.Laid, err error) {
	wanted, err := checkNames(names)
	if err != nil {
		return source.Laid{}, err
	}
	private, err := os.MkdirTemp(filepath.Dir(dir), "apt-*")
	if err != nil {
		return source.Laid{}, storageError("making room for Debian packages", err)
	}
	defer func() { err = errors.Join(err, storageError("removing apt's state", os.RemoveAll(private))) }()
	a, err := newApt(private, o)
	if err != nil {
		return source.Laid{}, err
	}
	all, err := a.resolve(ctx, wanted)
	if err != nil {
		return source.Laid{}, err
	}
	store, err := openArchives(o, private)
	if err != nil {
		return source.Laid{}, err
	}
	defer func() { err = errors.Join(err, store.close()) }()
	if err := store.download(ctx, a, all); err != nil {
		return source.Laid{}, err
	}
	laid, err := lay(ctx, dir, wanted, all, o)
	return laid, storageError("unpacking Debian packages", err)
}

// lay unpacks, selects and completes the file system.
func lay(ctx context.Context, dir string, wanted []want, all *closure, o Options) (source.Laid, error) {
	t, err := newTree(dir, maxBytes(o)*8)
	if err != nil {
		return source.Laid{}, err
	}
	defer t.close()
	s := &selection{tree: t, all: all, unpacked: map[string]bool{}, sought: map[string]bool{}}
	if err := s.run(ctx, wanted); err != nil {
		return source.Laid{}, err
	}
	units := s.units()
	manifest, err := s.manifest(units)
	if err != nil {
		return source.Laid{}, err
	}
	if err := s.complete(units); err != nil {
		return source.Laid{}, err
	}
	if err := t.finish(); err != nil {
		return source.Laid{}, err
	}
	first := all.byName[wanted[0].name]
	laid := source.Laid{Name: first.name, Version: withoutEpoch(first.version), Manifest: manifest, Warnings: s.warnings}
	laid.Origins, laid.Origin = t.origins()
	return laid, nil
}

// manifest is what the packages themselves say about how they run.
func (s *selection) manifest(units []unit) ([]byte, error) {
	program, args, user := s.program(units)
	if program == "" {
		return nil, nil
	}
	m := struct {
		Program string
		Args    []string
		User    string `json:",omitempty"`
	}{program, append([]string{program}, args...), user}
	return json.Marshal(m)
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
