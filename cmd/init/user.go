package main

import (
	"fmt"
	"io"
	"os"
	"syscall"

	"dormouse/internal/guest"
)

// findUser looks the configuration's user up in the image; nil where it names nobody.
func findUser(spec string) (*guest.User, error) {
	if spec == "" {
		return nil, nil
	}
	who, err := guest.FindUser(spec, func(name string) (io.ReadCloser, error) { return os.Open("/etc/" + name) })
	if err != nil {
		return nil, fmt.Errorf("finding the program's user: %w", err)
	}
	return &who, nil
}

// isRoot tells of a program that may do everything anyway.
func isRoot(who *guest.User) bool { return who == nil || who.UID == 0 }

// admit gives the program's user what root would have had: the console, which
// programs open again by way of /dev/stderr, and low port numbers.
func admit(who *guest.User) error {
	if isRoot(who) {
		return nil
	}
	for _, fd := range []int{1, 2} {
		if err := syscall.Fchown(fd, who.UID, -1); err != nil {
			return fmt.Errorf("giving the console to user %d: %w", who.UID, err)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0o644); err != nil {
		return fmt.Errorf("giving low ports to user %d: %w", who.UID, err)
	}
	return nil
}

// give makes the program's user the owner of a directory and of what in it was
// root's or the directory's owner's. Nothing is done where the directory is the
// user's already: it comes last, so that a cut is made up for.
func give(dir string, who *guest.User) error {
	if isRoot(who) {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	before, _ := owner(info)
	if before == who.UID {
		return nil
	}
	return giveEntry(dir, before, who)
}

func giveEntry(p string, before int, who *guest.User) error {
	info, err := os.Lstat(p)
	if err != nil {
		return err
	}
	if info.IsDir() {
		if err := giveContent(p, before, who); err != nil {
			return err
		}
	}
	uid, _ := owner(info)
	if uid != 0 && uid != before {
		return nil
	}
	if err := os.Lchown(p, who.UID, who.GID); err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		return nil
	}
	return os.Chmod(p, info.Mode()) // a change of owner clears set-ID bits
}

// giveContent gives what lies in a directory, but not the directory.
func giveContent(dir string, before int, who *guest.User) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := giveEntry(dir+"/"+e.Name(), before, who); err != nil {
			return err
		}
	}
	return nil
}
