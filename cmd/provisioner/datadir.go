package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// dataDir is the data directory, locked by this process.
type dataDir struct {
	path string
	lock *os.File
	// worker and host are names that live as long as the directory.
	worker fleet.WorkerID
	host   fleet.HostID
}

// openDataDir makes the directory and locks it. QEMU and Postgres run as users
// of their own and must be able to traverse it.
func openDataDir(path string) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "provisioner.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the data directory: %w", explainDisk(path, err))
	}
	if err := lockSoon(lock); err != nil {
		pid, _ := os.ReadFile(lock.Name())
		_ = lock.Close()
		return nil, fleet.Errorf(fleet.KindConflict, "another provisioner (process %s) uses %s: stop it, or name another --data-dir",
			strings.TrimSpace(string(pid)), path)
	}
	d := &dataDir{path: path, lock: lock}
	if err := d.begin(); err != nil {
		d.close()
		return nil, explainDisk(path, err)
	}
	return d, nil
}

// lockPatience is how long a lock is waited for: when a process is killed while it
// starts another one, that one has the lock too for the moment until its own program begins.
const lockPatience = 2 * time.Second

func lockSoon(f *os.File) error {
	for end := time.Now().Add(lockPatience); ; time.Sleep(lockPatience / 100) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

func (d *dataDir) begin() error {
	if err := d.lock.Truncate(0); err != nil {
		return fmt.Errorf("writing the process's ID: %w", err)
	}
	if _, err := d.lock.WriteAt([]byte(fmt.Sprintf("%d\n", os.Getpid())), 0); err != nil {
		return fmt.Errorf("writing the process's ID: %w", err)
	}
	worker, err := d.identity("worker-id")
	if err != nil {
		return err
	}
	host, err := d.identity("host-id")
	if err != nil {
		return err
	}
	d.worker, d.host = fleet.WorkerID(worker), fleet.HostID(host)
	return nil
}

// identity reads an ID from a file, or makes it once.
func (d *dataDir) identity(name string) (string, error) {
	path := filepath.Join(d.path, name)
	b, err := os.ReadFile(path)
	if err == nil && fleet.ValidID(strings.TrimSpace(string(b))) {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	id := fleet.NewID()
	if err := writeFile(path, []byte(id+"\n"), 0o644); err != nil {
		return "", err
	}
	return id, nil
}

func (d *dataDir) join(parts ...string) string {
	return filepath.Join(append([]string{d.path}, parts...)...)
}

func (d *dataDir) close() { _ = d.lock.Close() }

// writeFile writes a file so that a crash leaves the old one or the new one.
func writeFile(path string, content []byte, mode os.FileMode) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if _, err = tmp.Write(content); err != nil {
		return err
	}
	if err = tmp.Chmod(mode); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// explainDisk says what to do about a full disk.
func explainDisk(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fleet.Errorf(fleet.KindUnavailable, "the disk under %s is full: free some space, or name another --data-dir: %w", path, err)
	}
	return err
}
