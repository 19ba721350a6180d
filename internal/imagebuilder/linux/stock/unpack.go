package stock

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// Unpack takes the kernel and the modules that a guest needs out of a kernel
// package and puts them under destDir, made where it is missing. Where the
// modules lie in a package of their own (Ubuntu), both are given, in any order.
// What is there already and came from packages of the same names and sizes is
// left as it is, so calling it again costs nothing. Else it takes some seconds
// and, while it runs, as much disk as the packages unpack to.
func Unpack(ctx context.Context, destDir string, debPaths ...string) (Kernel, error) {
	var k Kernel
	packages, err := describe(debPaths)
	if err != nil {
		return k, err
	}
	if there, ok := unpackedFrom(destDir, packages); ok {
		return there, nil
	}
	if err := os.MkdirAll(destDir, 0o755); err != nil {
		return k, fmt.Errorf("making the kernel's directory: %w", err)
	}
	work, err := os.MkdirTemp(destDir, ".unpack-*")
	if err != nil {
		return k, fmt.Errorf("making the kernel's directory: %w", err)
	}
	defer os.RemoveAll(work)
	p := &pack{spool: filepath.Join(work, "spool"), files: map[string]string{}, built: map[string]bool{}}
	if err := os.Mkdir(p.spool, 0o755); err != nil {
		return k, fmt.Errorf("unpacking the kernel: %w", err)
	}
	for _, deb := range debPaths {
		if err := walkDeb(ctx, deb, p.take); err != nil {
			return k, err
		}
	}
	if err := p.check(debPaths); err != nil {
		return k, err
	}
	modules, content, err := resolve(p)
	if err != nil {
		return k, fleet.Errorf(fleet.KindInvalid, "unpacking kernel %s: %w", p.release, err)
	}
	k = Kernel{Format: format, Packages: packages, Release: p.release, Modules: modules}
	whole := filepath.Join(work, "whole")
	if err := p.write(&k, whole, content); err != nil {
		return k, fmt.Errorf("unpacking kernel %s: %w", p.release, err)
	}
	k.Dir = filepath.Join(destDir, k.Release)
	return k, publish(k, whole)
}

func describe(debPaths []string) ([]Package, error) {
	var packages []Package
	for _, deb := range debPaths {
		info, err := os.Stat(deb)
		if err != nil {
			return nil, fmt.Errorf("looking at the kernel's package: %w", err)
		}
		packages = append(packages, Package{Name: info.Name(), Size: info.Size()})
	}
	slices.SortFunc(packages, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return packages, nil
}

func unpackedFrom(dir string, packages []Package) (Kernel, bool) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Kernel{}, false
	}
	for _, e := range entries {
		if k, err := read(filepath.Join(dir, e.Name())); err == nil && slices.Equal(k.Packages, packages) {
			return k, true
		}
	}
	return Kernel{}, false
}

// pack is what was found in the packages. Modules are spooled to disk as they
// come, because what depends on what is known only when all have been seen.
type pack struct {
	spool   string
	release string
	vmlinuz string
	// files maps a module's name to its spooled file, whose ending is the package's.
	files map[string]string
	built map[string]bool
}

func (p *pack) take(name string, r io.Reader) error {
	switch {
	case strings.HasPrefix(name, "boot/vmlinuz-"):
		release := strings.TrimPrefix(name, "boot/vmlinuz-")
		if p.vmlinuz != "" || !validRelease(release) {
			return fleet.Errorf(fleet.KindInvalid, "the package holds more than one kernel, or one with a strange name (%q): give one kernel's packages", release)
		}
		p.release, p.vmlinuz = release, filepath.Join(p.spool, "vmlinuz")
		return save(p.vmlinuz, r)
	case strings.HasPrefix(name, "lib/modules/"):
		// Only the last element is used below: what the package says never becomes a path.
		if filepath.Base(name) == "modules.builtin" {
			list, err := io.ReadAll(io.LimitReader(r, maxFile))
			for line := range strings.FieldsSeq(string(list)) {
				p.built[moduleName(line)] = true
			}
			return err
		}
		if !strings.Contains(filepath.Base(name), ".ko") {
			return nil
		}
		module := moduleName(name)
		if !validRelease(module) {
			return fleet.Errorf(fleet.KindInvalid, "the package holds a module with a strange name (%q)", module)
		}
		p.files[module] = filepath.Join(p.spool, module+".ko"+strings.TrimPrefix(filepath.Ext(name), ".ko"))
		return save(p.files[module], r)
	}
	return nil
}

func (p *pack) check(debPaths []string) error {
	given := strings.Join(debPaths, ", ")
	if p.vmlinuz == "" {
		return fleet.Errorf(fleet.KindInvalid, "there is no /boot/vmlinuz-* in %s: give the package that holds the kernel itself, not the one that only depends on it", given)
	}
	if len(p.files) == 0 && len(p.built) == 0 {
		return fleet.Errorf(fleet.KindInvalid, "there are no modules in %s: give the linux-modules package of kernel %s too", given, p.release)
	}
	return nil
}

func (p *pack) builtin(name string) bool { return p.built[name] }

func (p *pack) has(name string) bool { return p.files[name] != "" }

func (p *pack) read(name string) ([]byte, error) {
	f, err := os.Open(p.files[name])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readModule(p.files[name], f)
}

// write lays the kernel directory out and fills in the digest.
func (p *pack) write(k *Kernel, dir string, content map[string][]byte) error {
	if err := os.MkdirAll(filepath.Join(dir, modulesDir), 0o755); err != nil {
		return err
	}
	if err := os.Rename(p.vmlinuz, filepath.Join(dir, vmlinuzFile)); err != nil {
		return err
	}
	packed, err := os.ReadFile(filepath.Join(dir, vmlinuzFile))
	if err != nil {
		return err
	}
	k.Boot = vmlinuzFile
	// Where this fails, the bzImage boots, only later.
	if image, err := extractVmlinux(packed); err == nil {
		k.Boot = vmlinuxFile
		if err := writeSparse(filepath.Join(dir, vmlinuxFile), image); err != nil {
			return err
		}
	}
	sum := sha256.New()
	sum.Write(packed)
	sum.Write([]byte(k.Boot))
	order := ModuleOrder(k.Modules)
	sum.Write(order)
	for _, m := range k.Modules {
		sum.Write(content[m.Name])
		if err := os.WriteFile(filepath.Join(dir, modulesDir, m.Name+".ko"), content[m.Name], 0o644); err != nil {
			return err
		}
	}
	k.Digest = hex.EncodeToString(sum.Sum(nil))
	if err := os.WriteFile(filepath.Join(dir, orderFile), order, 0o644); err != nil {
		return err
	}
	about, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, kernelFile), append(about, '\n'), 0o644)
}

// publish moves a whole kernel directory into place, on disk before it is seen.
// A kernel there that is the same stays, because guests may be booting from it;
// so does that of another process that was faster.
func publish(k Kernel, whole string) error {
	err := syncFileSystem(whole)
	if err == nil {
		err = replace(k, whole)
	}
	if err != nil {
		return fmt.Errorf("putting kernel %s in place: %w", k.Release, err)
	}
	return nil
}

func replace(k Kernel, whole string) error {
	if same(k) {
		return os.Rename(filepath.Join(whole, kernelFile), filepath.Join(k.Dir, kernelFile))
	}
	if err := os.RemoveAll(k.Dir); err != nil {
		return err
	}
	if err := os.Rename(whole, k.Dir); err != nil && (!errors.Is(err, os.ErrExist) || !same(k)) {
		return err
	}
	return syncFileSystem(k.Dir)
}

func same(k Kernel) bool {
	there, err := read(k.Dir)
	return err == nil && there.Digest == k.Digest
}

func syncFileSystem(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// validRelease admits what uname -r can say, and nothing that is more than one element of a path.
func validRelease(s string) bool {
	if s == "" || s[0] == '.' || len(s) > 100 {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._+-~", c) {
			return false
		}
	}
	return true
}

func save(file string, r io.Reader) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(r, maxFile+1))
	if err == nil && n > maxFile {
		err = fmt.Errorf("%s is larger than %d MiB", filepath.Base(file), maxFile>>20)
	}
	return errors.Join(err, f.Close())
}
