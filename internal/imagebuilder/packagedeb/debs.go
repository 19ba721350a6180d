package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// debs downloads and unpacks packages as they are needed, each once.
type debs struct {
	dir      string
	unpacked map[string]*deb
}

// deb is an unpacked package.
type deb struct {
	name, version string
	root          string
	// depends names the packages that it depends on, those of libraries first.
	depends []string
}

func (a *debs) get(ctx context.Context, name string) (*deb, error) {
	if d, ok := a.unpacked[name]; ok {
		return d, nil
	}
	work := filepath.Join(a.dir, name)
	if err := os.Mkdir(work, 0o755); err != nil {
		return nil, err
	}
	if _, err := command(ctx, work, "apt-get", "-q", "-o", "APT::Sandbox::User=", "download", name); err != nil {
		return nil, fmt.Errorf("%w (is the package list there? `apt-get update` fetches it)", err)
	}
	files, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(files) != 1 {
		return nil, fmt.Errorf("downloading %s: %d files came", name, len(files))
	}
	d := &deb{name: name, root: filepath.Join(work, "root")}
	if _, err := command(ctx, work, "dpkg-deb", "-x", files[0], d.root); err != nil {
		return nil, err
	}
	fields, err := command(ctx, work, "dpkg-deb", "-f", files[0], "Version", "Depends", "Pre-Depends")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(fields) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if key == "Version" {
			d.version = value
			continue
		}
		for dependency := range strings.SplitSeq(value, ",") {
			first, _, _ := strings.Cut(dependency, "|")
			first, _, _ = strings.Cut(strings.TrimSpace(first), " ")
			first, _, _ = strings.Cut(first, ":")
			if first != "" {
				d.depends = append(d.depends, first)
			}
		}
	}
	slices.SortStableFunc(d.depends, func(x, y string) int { return isLibrary(y) - isLibrary(x) })
	a.unpacked[name] = d
	return d, nil
}

func isLibrary(name string) int {
	if strings.HasPrefix(name, "lib") {
		return 1
	}
	return 0
}

// provider finds a library in the package that needs it or in one that this
// depends on, as Debian's policy promises, and returns the file.
func (a *debs) provider(ctx context.Context, by *deb, library string) (*deb, string, error) {
	if file, err := by.library(library); err == nil {
		return by, file, nil
	}
	var failed error
	for _, name := range by.depends {
		d, err := a.get(ctx, name)
		if err != nil { // a virtual package, which has no file
			failed = errors.Join(failed, err)
			continue
		}
		if file, err := d.library(library); err == nil {
			return d, file, nil
		}
	}
	return nil, "", errors.Join(fmt.Errorf("no package that %s depends on holds %s", by.name, library), failed)
}

// library returns the file of that name, wherever in the package it lies.
func (d *deb) library(name string) (string, error) {
	if strings.HasPrefix(name, "/") {
		return d.find(name)
	}
	found := ""
	err := filepath.WalkDir(d.root, func(p string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() == name && strings.Contains(p, "/lib") {
			found = strings.TrimPrefix(p, d.root)
			return fs.SkipAll
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if found == "" {
		return "", fs.ErrNotExist
	}
	return d.find(found)
}

// find follows the links of the package within the package, with or without /usr.
func (d *deb) find(name string) (string, error) {
	for _, p := range []string{name, "/usr" + name, strings.TrimPrefix(name, "/usr")} {
		for range 8 {
			at := filepath.Join(d.root, p)
			info, err := os.Lstat(at)
			if err != nil {
				break
			}
			if info.Mode().IsRegular() {
				return at, nil
			}
			target, err := os.Readlink(at)
			if err != nil {
				break
			}
			if !path.IsAbs(target) {
				target = path.Join(path.Dir(p), target)
			}
			p = target
		}
	}
	return "", fmt.Errorf("finding %s in %s: %w", name, d.name, fs.ErrNotExist)
}

func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := c.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("running %s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), nil
}
