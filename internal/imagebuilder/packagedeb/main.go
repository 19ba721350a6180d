// Command packagedeb makes a package directory of a program from the
// distribution's archive: the package itself and, found by the names in their
// ELF files, the shared libraries that it needs and no others. It downloads
// with apt-get (which checks signatures) and unpacks with dpkg-deb -x; nothing
// is installed and nothing of it is run.
//
// Usage: packagedeb OUTDIR NAME (see scripts/package-deb.sh)
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"dormouse/internal/imagebuilder/elfdeps"
	"dormouse/internal/imagebuilder/source"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: package-deb.sh OUTDIR NAME")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	syscall.Umask(0o022) // the same modes, and so the same digest, for everybody
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "package-deb:", err)
		os.Exit(1)
	}
}

// maxLibraries bounds the libraries that are looked for, each of which costs a download at most.
const maxLibraries = 200

func run(ctx context.Context, out, name string) (err error) {
	r, ok := recipes()[name]
	if !ok {
		return fmt.Errorf("no recipe for %q: add one to internal/imagebuilder/packagedeb/recipes.go", name)
	}
	temp, err := os.MkdirTemp("", "package-deb-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	sysroot := filepath.Join(out, "sysroot")
	if err := os.RemoveAll(sysroot); err != nil {
		return err
	}
	archive := &debs{dir: temp, unpacked: map[string]*deb{}}
	d, err := archive.get(ctx, name)
	if err != nil {
		return err
	}
	if err := lay(d, r, sysroot); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, source.ManifestName), []byte(r.manifest(name, d.version)), 0o644); err != nil {
		return err
	}
	owner := map[string]*deb{r.program: d}
	for range maxLibraries {
		missing, err := firstMissing(ctx, out, r.program)
		if err != nil || missing == nil {
			return err
		}
		by, ok := owner[missing.NeededBy]
		if !ok {
			return fmt.Errorf("finding the package of %s: %w", missing.NeededBy, missing)
		}
		from, file, err := archive.provider(ctx, by, missing.Library)
		if err != nil {
			return err
		}
		at := path.Join("/usr/lib/x86_64-linux-gnu", path.Base(missing.Library))
		if strings.HasPrefix(missing.Library, "/") {
			at = merged(missing.Library)
		}
		if err := copyFile(file, filepath.Join(sysroot, at), 0o755); err != nil {
			return err
		}
		// The loader names a library by where it found it.
		owner[strings.TrimPrefix(at, "/usr")], owner[at] = from, from
		fmt.Printf("%s from %s %s\n", at, from.name, from.version)
	}
	return fmt.Errorf("%s needs more than %d libraries", name, maxLibraries)
}

// firstMissing returns what the package still lacks; nil where it is complete.
func firstMissing(ctx context.Context, dir, program string) (*elfdeps.Missing, error) {
	p, err := source.ReadDirectory(ctx, dir, source.Options{})
	if err != nil {
		return nil, err
	}
	_, err = elfdeps.Check(p.Tree, program, p.Manifest.Env)
	if missing := (*elfdeps.Missing)(nil); errors.As(err, &missing) {
		return missing, p.Close()
	}
	return nil, errors.Join(err, p.Close())
}

// merged puts a path of the old layout under /usr, where the links at the top lead to.
func merged(p string) string {
	for _, dir := range mergedDirs() {
		if strings.HasPrefix(p, "/"+dir+"/") {
			return "/usr" + p
		}
	}
	return p
}

func mergedDirs() []string { return []string{"bin", "lib", "lib64", "sbin"} }

// lay copies what the recipe keeps of the package, and adds the recipe's own files.
func lay(d *deb, r recipe, sysroot string) error {
	for _, dir := range mergedDirs() {
		if err := os.MkdirAll(filepath.Join(sysroot, "usr", dir), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+dir, filepath.Join(sysroot, dir)); err != nil {
			return err
		}
	}
	for _, f := range append([]string{r.program}, r.keep...) {
		from, err := d.find(f)
		if err != nil {
			return err
		}
		info, err := os.Stat(from)
		if err != nil {
			return err
		}
		if err := copyFile(from, filepath.Join(sysroot, merged(f)), info.Mode().Perm()); err != nil {
			return err
		}
	}
	for name, body := range r.files {
		at := filepath.Join(sysroot, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, []byte(body), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string, mode os.FileMode) error {
	body, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(to, body, mode); err != nil {
		return err
	}
	return os.Chmod(to, mode)
}
