package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ramName is the file in an instance's directory that is the memory of its
// machine: there while the machine runs, and while it sleeps.
const ramName = "ram"

func (i *instance) ramPath() string { return filepath.Join(i.dir(), ramName) }

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
	err := unix.Fallocate(int(f.Fd()), 0, 0, i.ramBytes())
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
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
