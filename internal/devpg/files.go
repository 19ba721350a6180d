package devpg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// port names the socket's file; nothing listens on TCP.
const port = "5432"

// socketName is the socket's file in its directory.
const socketName = ".s.PGSQL." + port

// maxSocketPath is what fits into sockaddr_un.sun_path with its final zero byte (unix(7)).
const maxSocketPath = 107

// maxLogBytes bounds postgres.log; as much again is kept in postgres.log.1.
const maxLogBytes = 8 << 20

// makeDirs makes dir and what is missing above it. As root they are made
// passable for everybody whatever the umask says, because the accounts that
// Postgres and the VMs run as must get through.
func makeDirs(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("starting Postgres: %s is no directory", dir)
		}
		return nil
	}
	if err := makeDirs(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("starting Postgres: %w", err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chmod(dir, 0o755); err != nil {
			return fmt.Errorf("starting Postgres: %w", err)
		}
	}
	return nil
}

// lockDir takes the lock of dir and returns what releases it. It waits while
// another process has it.
func lockDir(ctx context.Context, dir string) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("locking %s: another process is starting or stopping this Postgres: %w", dir, ctx.Err())
		case <-tick.C:
		}
	}
}

// socketDir says where the socket of dir goes: into dir where the path fits
// into a socket's address, else into a short one keyed by a hash of dir.
func socketDir(dir string, who account) string {
	if d := filepath.Join(dir, "socket"); socketFits(d) {
		return d
	}
	sum := sha256.Sum256([]byte(dir))
	key := hex.EncodeToString(sum[:8])
	if os.Geteuid() == 0 {
		return "/run/dormouse-pg-" + key
	}
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
		if d := filepath.Join(run, "dormouse-pg-"+key); socketFits(d) {
			return d
		}
	}
	return "/tmp/dormouse-pg-" + strconv.Itoa(who.uid) + "-" + key
}

func socketFits(dir string) bool {
	return len(dir)+len("/"+socketName) <= maxSocketPath
}

// makeSocketDir makes the socket's directory, which is the access control: it
// must be the account's, and nobody else's to enter. Outside our own directory
// somebody else may have made it first.
func makeSocketDir(path string, who account) error {
	err := os.Mkdir(path, 0o700)
	if err == nil {
		err = who.own(path)
	} else if errors.Is(err, os.ErrExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("making the socket directory of Postgres: %w", err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("making the socket directory of Postgres: %w", err)
	}
	uid, _, err := ownerOf(path)
	if err != nil {
		return fmt.Errorf("making the socket directory of Postgres: %w", err)
	}
	if !info.IsDir() || (uid != who.uid && uid != os.Geteuid()) {
		return fmt.Errorf("making the socket directory of Postgres: %s is not a directory of user %s: remove it", path, who.name)
	}
	// Also after a kill between Mkdir and Chown.
	if err := who.own(path); err != nil {
		return fmt.Errorf("making the socket directory of Postgres: %w", err)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return fmt.Errorf("making the socket directory of Postgres: %w", err)
	}
	return nil
}

// removeSocketFiles removes a socket on which nobody listens, and its lock.
func removeSocketFiles(dir string) error {
	for _, name := range []string{socketName, socketName + ".lock"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing a stale socket: %w", err)
		}
	}
	return nil
}

// removeSocket removes the socket and its directory.
func removeSocket(dir string) error {
	if err := removeSocketFiles(dir); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the socket directory of Postgres: %w", err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// neededBytes is below what Postgres starts with: it must be able to make a
// segment of its log (16 MiB).
const neededBytes = 16 << 20

// fullDisk says so where what was said names a full disk, or the disk is full:
// the server often can't say it, for its log lies on the same disk.
func fullDisk(dir, said string, err error) error {
	var fs unix.Statfs_t
	if !strings.Contains(said, "No space left on device") && (unix.Statfs(dir, &fs) != nil || uint64(fs.Bsize)*fs.Bavail >= neededBytes) {
		return err
	}
	return fmt.Errorf("the disk is full: free at least 100 MB in %s, or name another --data-dir: %w: %w", dir, syscall.ENOSPC, err)
}

// boundLog keeps a log that a process has open for appending below maxLogBytes:
// it is copied to its .1 and cut to nothing. The writer appends, so it goes on
// at the start; lines written in between are lost.
func boundLog(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Size() <= maxLogBytes {
		return nil
	}
	old, err := os.Open(path)
	if err != nil {
		return err
	}
	defer old.Close()
	if _, err := old.Seek(-maxLogBytes, io.SeekEnd); err != nil {
		return err
	}
	kept, err := os.OpenFile(path+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(kept, old, maxLogBytes)
	if cerr := kept.Close(); err == nil {
		err = cerr
	}
	// A full disk is no reason to keep the log: it may be the reason for it.
	if terr := os.Truncate(path, 0); err == nil {
		err = terr
	}
	return err
}

// logSince returns what was written to a log after offset, its last 64 KiB at most.
func logSince(path string, offset int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		offset = max(offset, info.Size()-64<<10)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, offset, 64<<10))
	if err != nil {
		return ""
	}
	return string(b)
}
