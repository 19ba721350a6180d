package linux

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// addMountPoints adds what the guest's init mounts upon.
func addMountPoints(t *source.Tree, persist []string) error {
	for _, d := range []struct {
		path string
		mode uint32
	}{{"/proc", 0o555}, {"/sys", 0o555}, {"/dev", 0o755}, {"/tmp", 0o1777}, {"/run", 0o755}, {"/etc", 0o755}} {
		if _, err := t.EnsureDir(d.path, d.mode); err != nil {
			return err
		}
	}
	for _, p := range persist {
		if _, err := t.EnsureDir(p, 0o755); err != nil {
			return err
		}
	}
	for _, f := range []string{"/etc/resolv.conf", "/etc/hostname", "/etc/hosts"} {
		if err := t.EnsureFile(f, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// squash writes the tree as a squashfs file.
func squash(ctx context.Context, tool string, tree *source.Tree, out string) error {
	tool, err := exec.LookPath(cmp.Or(tool, "mksquashfs"))
	if err != nil {
		return fleet.Errorf(fleet.KindUnavailable, "finding mksquashfs, which `apt-get install squashfs-tools` brings: %w", err)
	}
	root, err := tree.Lookup("/")
	if err != nil {
		return err
	}
	// -no-duplicates: in 4.5.1 the search for duplicates compares fragments that
	// another thread may still be compressing when the input is a tar, and so the
	// same input gives another file each time. Without it, it does not.
	//
	// lz4 decompresses fastest, and a guest pays for that at every boot (0.1 to
	// 0.3 s under emulation against gzip and zstd). Its slow way of compressing (-Xhc) takes
	// twenty times as long and saves a sixth, of a file that is stored once.
	cmd := exec.CommandContext(ctx, tool, "-", out, "-tar", "-noappend", "-quiet", "-no-progress",
		"-reproducible", "-no-duplicates", "-mkfs-time", "0", "-all-time", "0", "-all-root", "-no-xattrs", "-root-mode", strconv.FormatUint(uint64(root.Mode), 8),
		"-comp", "lz4", "-mem", "512M")
	// Nothing of our environment: SOURCE_DATE_EPOCH and SQFS_* would change the result.
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	said := &tail{}
	cmd.Stdout, cmd.Stderr = said, said
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("starting mksquashfs: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fleet.Errorf(fleet.KindUnavailable, "starting mksquashfs: %w", err)
	}
	// If we die the pipe closes, and mksquashfs ends by itself.
	feed := errors.Join(tree.WriteTar(ctx, in), in.Close())
	if err := cmd.Wait(); err != nil || feed != nil {
		return toolError(ctx, tool, err, feed, said.String())
	}
	return verify(out, tree.Len())
}

// toolError says what a failed run of a tool means.
func toolError(ctx context.Context, tool string, run, feed error, said string) error {
	tool = filepath.Base(tool)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case strings.Contains(said, "No space left on device"), strings.Contains(said, "Disk quota exceeded"), errors.Is(feed, syscall.ENOSPC):
		return fleet.Errorf(fleet.KindCapacity, "writing the image: the disk is full, free some space in the data directory")
	case run == nil:
		return fmt.Errorf("feeding %s: %w", tool, feed)
	}
	var exit *exec.ExitError
	if errors.As(run, &exit) && !exit.Exited() { // by a signal, as when memory is short
		return fleet.Errorf(fleet.KindUnavailable, "%s was ended by a signal (%w): ask again when the host has more memory free", tool, run)
	}
	return fleet.Failure(fleet.ReasonImageBuild, "%s could not build the image (%w): %s", tool, run, said)
}

// verify checks the superblock (Documentation/filesystems/squashfs.rst): the
// magic number, and as many inodes as the tree has entries.
func verify(path string, entries int) error {
	f, err := os.Open(path)
	if err != nil {
		return fleet.Failure(fleet.ReasonImageBuild, "mksquashfs left no image: %w", err)
	}
	defer f.Close()
	var head [8]byte
	if _, err := io.ReadFull(f, head[:]); err != nil || !bytes.Equal(head[:4], []byte("hsqs")) {
		return fleet.Failure(fleet.ReasonImageBuild, "mksquashfs left something that is no squashfs file")
	}
	if n := binary.LittleEndian.Uint32(head[4:]); int64(n) != int64(entries) {
		return fleet.Failure(fleet.ReasonImageBuild, "mksquashfs wrote %d files, directories and links where the package has %d: upgrade squashfs-tools to 4.5 or newer", n, entries)
	}
	return nil
}

// tail keeps the end of what a command says.
type tail struct{ buf []byte }

const tailSize = 2048

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if len(t.buf) > tailSize {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailSize:]...)
	}
	return len(p), nil
}

// String returns it as one line.
func (t *tail) String() string { return strings.Join(strings.Fields(string(t.buf)), " ") }
