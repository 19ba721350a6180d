package main

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"dormouse/internal/guest"
)

// persistDir is where the volume holds the persistent paths; a path's name in
// it is escaped, so that two paths never meet. unfinished is the same for what
// a first copy has not completed.
const (
	persistDir = "persist"
	unfinished = "persist.new"
)

// persistPaths cleans and sorts, so that an outer path comes before an inner one.
func persistPaths(given []string) []string {
	var paths []string
	for _, p := range given {
		paths = append(paths, path.Clean(p))
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// escapeName makes a path one name: "/var/lib/x" becomes "var%2Flib%2Fx".
func escapeName(p string) string {
	return strings.NewReplacer("%", "%25", "/", "%2F").Replace(strings.TrimPrefix(p, "/"))
}

// bindPersistent puts the volume's copy over one path of the image, making the
// copy where there is none. It belongs to the program's user.
func bindPersistent(p string, volume *os.File, who *guest.User) error {
	info, err := os.Stat(p)
	if err != nil || !info.IsDir() {
		return fmt.Errorf("the persistent path %s is no directory of the image: the image must have it, even if empty", p)
	}
	there := fdPath(volume, persistDir+"/"+escapeName(p))
	if _, err := os.Lstat(there); os.IsNotExist(err) {
		err = fillPersistent(p, there, volume, who)
		if err != nil {
			return fmt.Errorf("copying the image's %s to the volume: %w", p, err)
		}
	} else if err != nil {
		return fmt.Errorf("looking for %s on the volume: %w", p, err)
	} else if err := give(there, who); err != nil { // another release may have run as somebody else
		return fmt.Errorf("giving the persistent path %s to user %d: %w", p, who.UID, err)
	}
	if err := syscall.Mount(there, p, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting the persistent path %s: %w", p, err)
	}
	return nil
}

// fillPersistent copies under another name, writes everything out, then renames:
// whatever interrupts it, the next boot finds all of it or starts over.
func fillPersistent(p, there string, volume *os.File, who *guest.User) error {
	for _, dir := range []string{persistDir, unfinished} {
		if err := os.Mkdir(fdPath(volume, dir), 0o755); err != nil && !os.IsExist(err) {
			return err
		}
	}
	temporary := fdPath(volume, unfinished+"/"+escapeName(p))
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	if _, err := copyDirOnto(p, temporary); err != nil {
		return err
	}
	if err := give(temporary, who); err != nil {
		return err
	}
	if err := syncFileSystem(volume); err != nil {
		return err
	}
	if err := os.Rename(temporary, there); err != nil {
		return err
	}
	return syncFileSystem(volume)
}

// syncFileSystem writes one file system out (syncfs(2)).
func syncFileSystem(dir *os.File) error {
	if _, _, errno := syscall.Syscall(sysSyncfs, dir.Fd(), 0, 0); errno != 0 {
		return fmt.Errorf("syncing: %w", errno)
	}
	return nil
}
