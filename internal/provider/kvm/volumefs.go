package kvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// The tools from e2fsprogs, and the one from qemu-utils.
const (
	toolImage  = "qemu-img"
	toolMkfs   = "mkfs.ext4"
	toolCheck  = "e2fsck"
	toolResize = "resize2fs"
)

// format makes the file of a new volume. It appears under its name when it is
// whole and on disk; until the journal names it, it may be made again.
func (v *volume) format(ctx context.Context) (err error) {
	temp := v.path() + tempSuffix
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return diskError("making volume "+string(v.id), err)
	}
	defer func() {
		err = errors.Join(err, unlockAndClose(f))
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	// A tool of a provisioner that was killed may still be at it.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fleet.Errorf(fleet.KindUnavailable, "making volume %s: an earlier attempt is still at it: %w", v.id, err)
	}
	if err := f.Truncate(int64(v.rec.SizeMiB) << 20); err != nil {
		return diskError("making volume "+string(v.id), err)
	}
	if v.kernel() == fleet.KernelLinux {
		// Nothing is reserved for root, and the tables are written by the first guest, not here.
		_, err = v.tool(ctx, f, toolMkfs, "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0", "-L", "dm-volume")
		if err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return diskError("making volume "+string(v.id), err)
	}
	if err := os.Rename(temp, v.path()); err != nil {
		return diskError("making volume "+string(v.id), err)
	}
	return syncDir(filepath.Dir(temp))
}

// grow makes file and file system larger. Cut anywhere, it can be done again:
// the journal tells of the new size only after all is on disk.
func (v *volume) grow(ctx context.Context, sizeMiB int) (err error) {
	f, err := v.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlockAndClose(f)) }()
	size := int64(sizeMiB) << 20
	info, err := f.Stat()
	if err == nil && info.Size() < size {
		err = f.Truncate(size)
	}
	if err != nil {
		return diskError("growing volume "+string(v.id), err)
	}
	if v.kernel() == fleet.KernelLinux { // others take the disk's size for theirs
		// e2fsck says 1 where it has mended something, which is well; resize2fs wants it to have been run.
		if code, err := v.tool(ctx, f, toolCheck, "-f", "-p"); err != nil && code != 1 {
			return err
		}
		if _, err := v.tool(ctx, f, toolResize, "-f"); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return diskError("growing volume "+string(v.id), err)
	}
	v.rec.SizeMiB = sizeMiB
	return nil
}

// tool runs a program of e2fsprogs on an open file, which it gets as its first operand.
func (v *volume) tool(ctx context.Context, f *os.File, name string, args ...string) (code int, err error) {
	return v.run(ctx, []*os.File{f}, name, append(args, inheritedPath(3))...)
}

// run runs a program with open files, from the descriptor 3 on, and returns its
// exit code. What is on a volume was written by a tenant's guest: as root, the
// program runs as a user that may do nothing but this.
func (v *volume) run(ctx context.Context, files []*os.File, name string, args ...string) (code int, err error) {
	path, err := exec.LookPath(name)
	if err != nil {
		from := "e2fsprogs"
		if name == toolImage {
			from = "qemu-utils"
		}
		return -1, fleet.Errorf(fleet.KindUnavailable, "running %s: it is not installed: apt-get install %s: %w", name, from, err)
	}
	uid, err := v.p.uids.take("volume " + string(v.id))
	if err != nil {
		return -1, err
	}
	defer v.p.uids.release(uid)
	for _, f := range files {
		if uid == 0 {
			break
		}
		if err := f.Chown(uid, uid); err != nil {
			return -1, fmt.Errorf("running %s: %w", name, err)
		}
		defer func() { err = errors.Join(err, f.Chown(0, 0)) }()
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = "/", &said, &said, files
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	err = cmd.Run()
	code = cmd.ProcessState.ExitCode()
	if err == nil {
		return code, nil
	}
	if ctx.Err() != nil {
		return code, fleet.Errorf(fleet.KindUnavailable, "running %s on volume %s: %w", name, v.id, ctx.Err())
	}
	words := strings.Join(strings.Fields(said.String()), " ")
	if strings.Contains(words, "No space left on device") {
		return code, diskError("running "+name+" on volume "+string(v.id), syscall.ENOSPC)
	}
	return code, fleet.Errorf(fleet.KindUnavailable, "running %s on volume %s: %s: %w", name, v.id, words, err)
}
