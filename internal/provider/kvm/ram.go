package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// ramName is the file in an instance's directory that is the memory of its
// machine: there while the machine runs, and while it sleeps.
const ramName = "ram"

func (i *instance) ramPath() string { return i.clearPath(ramName) }

// clearPath is where a file of that name with the guest's memory in clear is: on
// the disk, or where that is not to be, in the host's memory.
func (i *instance) clearPath(name string) string {
	if i.rec.Sealed {
		return filepath.Join(i.p.o.MemoryDir, string(i.id)+"."+name)
	}
	return filepath.Join(i.dir(), name)
}

// ramBytes is how large the memory is.
func (i *instance) ramBytes() int64 { return int64(i.rec.Spec.MemoryMiB) << 20 }

// makeRAM makes the memory of a machine that boots: new, so that nothing of an
// earlier boot is in it.
func (i *instance) makeRAM() (*os.File, error) {
	if err := os.Remove(i.ramPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("making the machine's memory: %w", err)
	}
	f, err := os.OpenFile(i.ramPath(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, diskError("making the machine's memory", err)
	}
	if err := errors.Join(f.Truncate(i.ramBytes()), i.secureRAM(f)); err != nil {
		return nil, errors.Join(diskError("making the machine's memory", err), f.Close(), os.Remove(i.ramPath()))
	}
	return f, nil
}

// secureRAM makes the memory QEMU's user's own, who opens it once more, and takes
// the room for all of it now: a guest that touches a page for which the disk has
// none is killed by the kernel. Where a file system can't do that, it is hoped for.
func (i *instance) secureRAM(f *os.File) error {
	if !i.rec.Sealed { // in the host's memory, room that is taken is gone
		err := unix.Fallocate(int(f.Fd()), 0, 0, i.ramBytes())
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	if i.rec.UID == 0 {
		return nil
	}
	return f.Chown(i.rec.UID, i.rec.UID)
}

// dropRAM removes the memory of a machine that does not run.
func (i *instance) dropRAM() {
	if err := os.Remove(i.ramPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		i.p.log.WithField("instance", i.id).WithError(err).Warn("the memory of a machine that is off could not be removed")
	}
}

// openMemoryDir makes the directory for memories that are on no disk. It may be in
// a place where everybody writes: one that is not our own alone is refused.
func openMemoryDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the directory for guests' memory: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("looking at the directory for guests' memory: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return fmt.Errorf("%s is not a directory of this user alone: remove it, or name another as the directory for guests' memory", dir)
	}
	return nil
}

// sweepMemoryDir removes what nobody knows, or has no use for.
func (p *Provider) sweepMemoryDir() error {
	entries, err := os.ReadDir(p.o.MemoryDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for leftovers: %w", err)
	}
	for _, entry := range entries {
		id, _, _ := strings.Cut(entry.Name(), ".")
		if i := p.known(fleet.InstanceID(id)); i != nil && i.runs() {
			continue
		}
		if err := os.Remove(filepath.Join(p.o.MemoryDir, entry.Name())); err != nil {
			return fmt.Errorf("removing leftovers: %w", err)
		}
	}
	return nil
}
