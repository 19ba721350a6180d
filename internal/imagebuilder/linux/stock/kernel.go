package stock

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"dormouse/internal/fleet"
)

// The files of a kernel directory.
const (
	vmlinuzFile = "vmlinuz"
	vmlinuxFile = "vmlinux"
	modulesDir  = "modules"
	orderFile   = "order"
	kernelFile  = "kernel.json"
)

// format is raised when Unpack lays out anything differently, so that what an
// older version left is made anew.
const format = 2

// Package is a package file that a kernel was taken from.
type Package struct {
	// Name is the file's name without its directory; it holds the version.
	Name string `json:"name"`
	// Size is in bytes.
	Size int64 `json:"size"`
}

// Kernel is a kernel that Unpack laid out.
type Kernel struct {
	// Format is the version of the layout.
	Format int `json:"format"`
	// Packages are where it came from.
	Packages []Package `json:"packages"`
	// Release is what uname -r says.
	Release string `json:"release"`
	// Digest is the SHA-256, in hex, of the kernel, the order and the modules.
	Digest string `json:"digest"`
	// Boot is the file that boots fastest: vmlinux where the kernel could be
	// unpacked beforehand, vmlinuz else.
	Boot string `json:"boot"`
	// Modules are what init loads, in that order.
	Modules []Module `json:"modules"`
	// Dir is where it lies.
	Dir string `json:"-"`
}

// BootPath is the file that QEMU gets as -kernel.
func (k Kernel) BootPath() string { return filepath.Join(k.Dir, k.Boot) }

// VmlinuzPath is the kernel as the package has it, for whatever can't start BootPath.
func (k Kernel) VmlinuzPath() string { return filepath.Join(k.Dir, vmlinuzFile) }

// Find returns the newest kernel (by its release, compared as versions are)
// that Unpack left under dir; KindNotFound where there is none.
func Find(dir string) (Kernel, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, fmt.Errorf("looking for a kernel: %w", err)
	}
	var best Kernel
	for _, e := range entries {
		if !e.IsDir() || !validRelease(e.Name()) {
			continue
		}
		k, err := read(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // Something else, or left by a newer version of ours.
		}
		if best.Release == "" || versionLess(best.Release, k.Release) {
			best = k
		}
	}
	if best.Release == "" {
		return best, fleet.Errorf(fleet.KindNotFound, "there is no kernel in %s: run scripts/fetch-kernel.sh and unpack what it fetched", dir)
	}
	return best, nil
}

// FindPackages returns the newest kernel's packages (*.deb) that
// scripts/fetch-kernel.sh left in dir, as Unpack takes them; KindNotFound where
// there are none.
func FindPackages(dir string) ([]string, error) {
	images, err := filepath.Glob(filepath.Join(dir, "linux-image-*.deb"))
	if err != nil {
		return nil, fmt.Errorf("looking for kernel packages: %w", err)
	}
	best := ""
	for _, deb := range images {
		if best == "" || versionLess(filepath.Base(best), filepath.Base(deb)) {
			best = deb
		}
	}
	if best == "" {
		return nil, fleet.Errorf(fleet.KindNotFound, "there is no kernel package in %s: run scripts/fetch-kernel.sh %s", dir, dir)
	}
	debs := []string{best}
	// linux-image-R_V_A.deb goes with linux-modules-R_V_A.deb; Ubuntu's image is
	// named linux-image-R or linux-image-unsigned-R.
	release, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(filepath.Base(best), "linux-image-"), "unsigned-"), "_")
	modules, err := filepath.Glob(filepath.Join(dir, "linux-modules-"+release+"_*.deb"))
	if err != nil {
		return nil, fmt.Errorf("looking for kernel packages: %w", err)
	}
	if len(modules) > 0 {
		newest := modules[0]
		for _, m := range modules[1:] {
			if versionLess(filepath.Base(newest), filepath.Base(m)) {
				newest = m
			}
		}
		debs = append(debs, newest)
	}
	return debs, nil
}

// read reads a kernel directory and checks that it is whole.
func read(dir string) (Kernel, error) {
	var k Kernel
	about, err := os.ReadFile(filepath.Join(dir, kernelFile))
	if err != nil {
		return k, err
	}
	if err := json.Unmarshal(about, &k); err != nil {
		return k, fmt.Errorf("reading %s: %w", filepath.Join(dir, kernelFile), err)
	}
	if k.Format != format || k.Digest == "" || (k.Boot != vmlinuzFile && k.Boot != vmlinuxFile) || k.Release != filepath.Base(dir) {
		return k, fmt.Errorf("reading %s: it describes something else", filepath.Join(dir, kernelFile))
	}
	needed := []string{vmlinuzFile, k.Boot, orderFile}
	for _, m := range k.Modules {
		needed = append(needed, filepath.Join(modulesDir, m.Name+".ko"))
	}
	for _, file := range needed {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			return k, err
		}
	}
	k.Dir = dir
	return k, nil
}

// versionLess compares runs of digits as numbers and all else as text, so that
// 6.1.0-9 comes before 6.1.0-56.
func versionLess(a, b string) bool {
	for a != "" && b != "" {
		an, bn := digits(a), digits(b)
		if an > 0 && bn > 0 {
			x, y := strings.TrimLeft(a[:an], "0"), strings.TrimLeft(b[:bn], "0")
			if len(x) != len(y) {
				return len(x) < len(y)
			}
			if x != y {
				return x < y
			}
			a, b = a[an:], b[bn:]
			continue
		}
		if a[0] != b[0] {
			return a[0] < b[0]
		}
		a, b = a[1:], b[1:]
	}
	return len(a) < len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
