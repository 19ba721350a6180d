package imagebuilder

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a lock that another process holds is tried again. (In
// this process one waits on a channel instead.)
const lockPoll = 50 * time.Millisecond

const lockSuffix = ".lock"

// workDir is a directory in tmp that belongs to this process as long as it
// holds the lock on the file beside it; the kernel lets go of the lock however
// the process ends.
type workDir struct {
	path string
	lock *os.File
}

var errLocked = errors.New("another process is at it")

// acquireWorkDir takes the work directory of that name, empty, and waits while
// another process has it.
func (b *Builder) acquireWorkDir(ctx context.Context, name string) (*workDir, error) {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		w, err := b.tryWorkDir(name)
		if err == nil {
			if err := os.Mkdir(w.path, 0o755); err != nil {
				return nil, errors.Join(err, w.release())
			}
			return w, nil
		}
		if !errors.Is(err, errLocked) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// tryWorkDir takes the lock and removes what a predecessor left; errLocked if another process has it.
func (b *Builder) tryWorkDir(name string) (*workDir, error) {
	w := &workDir{path: filepath.Join(b.dir, "tmp", name)}
	for {
		f, err := os.OpenFile(w.path+lockSuffix, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = errLocked
			}
			return nil, errors.Join(err, f.Close())
		}
		// Its last holder may have removed the file between our open and our lock:
		// then the lock is on a file that no one else will find.
		if same, err := sameFile(f, w.path+lockSuffix); err != nil {
			return nil, errors.Join(err, f.Close())
		} else if !same {
			if err := f.Close(); err != nil {
				return nil, err
			}
			continue
		}
		w.lock = f
		break
	}
	if err := os.RemoveAll(w.path); err != nil {
		return nil, errors.Join(err, w.release())
	}
	return w, nil
}

func sameFile(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}

// release removes the directory and gives the lock up.
func (w *workDir) release() error {
	return errors.Join(os.RemoveAll(w.path), os.Remove(w.path+lockSuffix), w.lock.Close())
}

// removeLeftovers removes every work directory whose process is gone.
func (b *Builder) removeLeftovers() error {
	names, err := os.ReadDir(filepath.Join(b.dir, "tmp"))
	if err != nil {
		return err
	}
	for _, n := range names {
		w, err := b.tryWorkDir(strings.TrimSuffix(n.Name(), lockSuffix))
		switch {
		case errors.Is(err, errLocked):
			continue
		case err != nil:
			return err
		}
		if err := w.release(); err != nil {
			return err
		}
		b.log.WithField("leftover", n.Name()).Info("removed what was left half made")
	}
	return nil
}

// rename gives what is at from its name, durably. exists is true where that name was taken.
func rename(from, to string) (exists bool, err error) {
	err = os.Rename(from, to)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, syncPath(filepath.Dir(to))
}
