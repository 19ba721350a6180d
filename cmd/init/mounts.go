package main

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"dormouse/internal/guest"
)

// Mount points in the initrd. None is reachable from the root that the program sees.
const (
	newRoot      = "/newroot"
	volumeMount  = "/volume"
	scratchMount = "/scratch"
)

func mountKernelFileSystems() error {
	for _, m := range []struct {
		kind, at string
		flags    uintptr
	}{
		{"proc", "/proc", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
		{"sysfs", "/sys", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
		{"devtmpfs", "/dev", syscall.MS_NOSUID},
	} {
		if err := syscall.Mount(m.kind, m.at, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.at, err)
		}
	}
	return nil
}

func mountRoot() error {
	disk, err := findDisk(guest.DiskRoot)
	if err != nil {
		return err
	}
	if err := syscall.Mount(disk, newRoot, "squashfs", syscall.MS_RDONLY|syscall.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mounting the root disk as squashfs: %w", err)
	}
	return nil
}

// mountVolume mounts the volume and returns its root. Once init has moved into
// the new root no path leads there any more; the open directory does.
func mountVolume() (*os.File, error) {
	disk, err := findDisk(guest.DiskVolume)
	if err != nil {
		return nil, err
	}
	if err := syscall.Mount(disk, volumeMount, "ext4", syscall.MS_NOSUID|syscall.MS_NODEV, ""); err != nil {
		return nil, fmt.Errorf("mounting the volume as ext4: %w", err)
	}
	dir, err := os.Open(volumeMount)
	if err != nil {
		return nil, fmt.Errorf("opening the volume: %w", err)
	}
	return dir, nil
}

// mountScratch mounts the one tmpfs from which all writable places that do not
// persist are taken, so that together they can't eat more than half of the memory.
func mountScratch() (*os.File, error) {
	if err := syscall.Mount("tmpfs", scratchMount, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755,size=50%"); err != nil {
		return nil, fmt.Errorf("mounting a tmpfs: %w", err)
	}
	dir, err := os.Open(scratchMount)
	if err != nil {
		return nil, fmt.Errorf("opening the tmpfs: %w", err)
	}
	return dir, nil
}

// enterRoot makes the new root the root of everything and removes the initrd's
// files, which frees their memory (what of init itself is in use stays).
func enterRoot() error {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := syscall.Mount(dir, newRoot+dir, "", syscall.MS_MOVE, ""); err != nil {
			return fmt.Errorf("mounting %s in the root: %w: the image must have that directory", dir, err)
		}
	}
	for _, file := range []string{"/modules", "/init"} {
		if err := os.RemoveAll(file); err != nil {
			return fmt.Errorf("removing the initrd's files: %w", err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root into place: %w", err)
	}
	if err := syscall.Chroot("."); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	return os.Chdir("/")
}

// scratchPlaces are made writable where the image has them as directories.
func scratchPlaces() []string {
	return []string{"/tmp", "/run", "/var/tmp", "/var/run", "/var/lock", "/var/log", "/var/cache"}
}

// makeWritable puts persistent paths and scratch places over the read-only root.
func makeWritable(c guest.Config, volume, scratch *os.File, who *guest.User) error {
	persist := persistPaths(c.Persist)
	for _, p := range persist {
		if err := bindPersistent(p, volume, who); err != nil {
			return err
		}
	}
	for _, p := range scratchPlaces() {
		// What lies below a link would be mounted where the link leads, which is another place's business.
		if !isDir(p) || isLink(path.Dir(p)) || slices.ContainsFunc(persist, func(q string) bool { return within(p, q) }) {
			continue
		}
		source, err := copyDirOnto(p, fdPath(scratch, escapeName(p)))
		if err != nil {
			return fmt.Errorf("making %s writable: %w", p, err)
		}
		// The place itself stays root's, as everywhere; what the image has in it is there for the program.
		if !isRoot(who) {
			if err := giveContent(source, 0, who); err != nil {
				return fmt.Errorf("making %s writable: %w", p, err)
			}
		}
		if err := syscall.Mount(source, p, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("making %s writable: %w", p, err)
		}
	}
	return mountDevices()
}

// mountDevices completes /dev: terminals, shared memory and the links that
// programs write their logs to.
func mountDevices() error {
	for _, m := range []struct{ kind, at, data string }{
		{"devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "mode=1777,size=50%"},
	} {
		if err := os.Mkdir(m.at, 0o755); err != nil && !os.IsExist(err) {
			return fmt.Errorf("making %s: %w", m.at, err)
		}
		if err := syscall.Mount(m.kind, m.at, m.kind, syscall.MS_NOSUID|syscall.MS_NOEXEC, m.data); err != nil {
			return fmt.Errorf("mounting %s: %w", m.at, err)
		}
	}
	for link, to := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.Symlink("/proc/self/fd"+to, "/dev/"+link); err != nil && !os.IsExist(err) {
			return fmt.Errorf("making /dev/%s: %w", link, err)
		}
	}
	return nil
}

// fdPath is a path that leads through an open directory, which no mount hides.
func fdPath(dir *os.File, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + name
}

// within tells whether p is q or lies below it; both are clean.
func within(p, q string) bool { return p == q || strings.HasPrefix(p, q+"/") }

func isDir(p string) bool {
	info, err := os.Lstat(p)
	return err == nil && info.IsDir()
}

func isLink(p string) bool {
	info, err := os.Lstat(p)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}
