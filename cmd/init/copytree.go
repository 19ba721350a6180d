package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// copyDirOnto copies the directory from to the path to, which must not exist, with
// all that is in it: contents, modes, owners, times and links. It returns to.
// Sockets, pipes and devices are left out: no image that we build has any.
func copyDirOnto(from, to string) (string, error) {
	info, err := os.Stat(from)
	if err != nil {
		return "", err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if err := copyEntry(from+"/"+e.Name(), to+"/"+e.Name()); err != nil {
			return "", err
		}
	}
	// Last, because a mode may forbid what was just done and a time would be overtaken.
	return to, copyAttributes(info, to)
}

func copyEntry(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	switch {
	case info.IsDir():
		_, err := copyDirOnto(from, to)
		return err
	case info.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, to); err != nil {
			return err
		}
		uid, gid := owner(info)
		return os.Lchown(to, uid, gid)
	case info.Mode().IsRegular():
		if err := copyFile(from, to); err != nil {
			return err
		}
		return copyAttributes(info, to)
	default:
		return nil
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// copyAttributes sets owner, then mode (a change of owner clears set-ID bits), then time.
func copyAttributes(info os.FileInfo, to string) error {
	uid, gid := owner(info)
	if err := os.Chown(to, uid, gid); err != nil {
		return err
	}
	if err := os.Chmod(to, info.Mode()); err != nil {
		return err
	}
	if err := os.Chtimes(to, info.ModTime(), info.ModTime()); err != nil {
		return fmt.Errorf("setting the time of %s: %w", to, err)
	}
	return nil
}

func owner(info os.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return 0, 0
}
