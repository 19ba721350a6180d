package stock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"dormouse/internal/fleet"
)

// BuildInitrd writes the initrd of the kernel in kernelDir with the given init
// (a static executable): /init, /modules/*.ko, /modules/order, /dev/console and
// the empty directories that init mounts on. The same input gives the same bytes.
//
// It is for guests of our own hosts; BuildDiskInitrd is for others. It is a newc cpio archive (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst),
// not compressed: an emulated guest boots in the same 2.04 s with it as with gzip
// or zstd, so the form is taken whose bytes depend on no compressor's version.
func BuildInitrd(w io.Writer, kernelDir string, initBinary []byte) error {
	return buildInitrd(w, kernelDir, initBinary, func(m Module) (Module, bool) { return m, m.Phase != PhaseDisk })
}

// BuildDiskInitrd writes what BuildInitrd does, for a guest that boots from a disk
// by itself: with the drivers for the machines of clouds and hypervisors. It is
// another one, so that the guests of our own hosts stay small.
func BuildDiskInitrd(w io.Writer, kernelDir string, initBinary []byte) error {
	return buildInitrd(w, kernelDir, initBinary, func(m Module) (Module, bool) {
		// Drivers may depend on what else only a volume needs.
		if m.Phase == PhaseVolume {
			m.Phase = PhaseBoot
		}
		return m, true
	})
}

func buildInitrd(w io.Writer, kernelDir string, initBinary []byte, take func(Module) (Module, bool)) error {
	if !bytes.HasPrefix(initBinary, []byte("\x7fELF")) {
		return fleet.Errorf(fleet.KindInvalid, "building the initrd: the given init is no executable: build cmd/init with CGO_ENABLED=0")
	}
	k, err := read(kernelDir)
	if err != nil {
		return fleet.Errorf(fleet.KindNotFound, "building the initrd: %w: unpack the kernel's package again", err)
	}
	c := &cpioWriter{w: w}
	for _, dir := range []string{"dev", "proc", "sys", "newroot", "volume", "scratch", "modules"} {
		c.entry(dir, modeDir|0o755, nil)
	}
	// The kernel opens it for init before init can mount anything.
	c.device("dev/console", modeChar|0o600, 5, 1)
	c.entry("init", modeFile|0o755, initBinary)
	var modules []Module
	for _, m := range k.Modules {
		m, ok := take(m)
		if !ok {
			continue
		}
		modules = append(modules, m)
		content, err := os.ReadFile(filepath.Join(k.Dir, modulesDir, m.Name+".ko"))
		if err != nil {
			return fmt.Errorf("building the initrd: %w", err)
		}
		c.entry("modules/"+m.Name+".ko", modeFile|0o644, content)
	}
	c.entry("modules/order", modeFile|0o644, ModuleOrder(modules))
	if err := c.close(); err != nil {
		return fmt.Errorf("building the initrd: %w", err)
	}
	return nil
}

// File types of st_mode.
const (
	modeDir  = 0o040000
	modeChar = 0o020000
	modeFile = 0o100000
)

// cpioWriter writes newc: every field 8 hex digits, names and contents padded to
// 4 bytes. Times, owners and devices are zero.
type cpioWriter struct {
	w   io.Writer
	ino int
	err error
}

func (c *cpioWriter) entry(name string, mode int, content []byte) {
	c.header(name, mode, len(content), 0, 0)
	c.padded(content)
}

func (c *cpioWriter) device(name string, mode, major, minor int) {
	c.header(name, mode, 0, major, minor)
}

func (c *cpioWriter) close() error {
	c.header("TRAILER!!!", 0, 0, 0, 0)
	return c.err
}

func (c *cpioWriter) header(name string, mode, size, major, minor int) {
	c.ino++
	links := 1
	if mode&modeDir != 0 {
		links = 2
	}
	if size >= 1<<32 {
		c.err = errors.New("a file is too large for an initrd")
	}
	// ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
	head := fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.ino, mode, 0, 0, links, 0, size, 0, 0, major, minor, len(name)+1, 0)
	c.padded(append(append(head, name...), 0))
}

func (c *cpioWriter) padded(b []byte) {
	if c.err != nil {
		return
	}
	if _, c.err = c.w.Write(b); c.err != nil {
		return
	}
	if rest := len(b) % 4; rest != 0 {
		_, c.err = c.w.Write(make([]byte, 4-rest))
	}
}
