package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// namespaceDir is where `ip netns` looks for names.
const namespaceDir = "/run/netns"

// ownNamespace is the calling thread's network namespace.
const ownNamespace = "/proc/thread-self/ns/net"

// namespace is a named network namespace and a thread in it.
type namespace struct {
	*thread
	path string
	// created tells whether this call made it.
	created bool
	// fd refers to the namespace, also when its name has been taken away.
	fd int
}

// openNamespace enters the namespace of that name, and makes it first where
// there is none.
func openNamespace(name string) (*namespace, error) {
	n := &namespace{path: filepath.Join(namespaceDir, name), fd: -1}
	t, err := startThread(n.enter)
	if err != nil {
		return nil, fmt.Errorf("opening network namespace %s: %w", name, err)
	}
	n.thread = t
	return n, nil
}

func (n *namespace) enter() error {
	err := n.enterNamed()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		// EINVAL: the file is there, but a crash kept the mount from it.
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making it: %w", err)
		}
		err = n.bind(ownNamespace)
		n.created = err == nil
	}
	if err != nil {
		return err
	}
	n.fd, err = unix.Open(ownNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return err
}

func (n *namespace) enterNamed() error {
	f, err := os.Open(n.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

// bind gives the namespace that source refers to its name. Like `ip netns`, it
// makes the directory a shared mount, so that a deletion in one mount
// namespace is one in all.
func (n *namespace) bind(source string) error {
	if err := os.MkdirAll(namespaceDir, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", namespaceDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // no mount point yet
		if err = unix.Mount(namespaceDir, namespaceDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", namespaceDir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("sharing %s: %w", namespaceDir, err)
	}
	f, err := os.OpenFile(n.path, os.O_RDONLY|os.O_CREATE, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := unix.Mount(source, n.path, "none", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("naming it: %w", err), os.Remove(n.path))
	}
	return nil
}

// keepName gives the namespace its name again if somebody took it away: without
// it, the next start would make another namespace and lose the running guests.
func (n *namespace) keepName() error {
	var ours, named unix.Stat_t
	if err := unix.Fstat(n.fd, &ours); err != nil {
		return err
	}
	err := unix.Stat(n.path, &named)
	switch {
	case err == nil && named.Dev == ours.Dev && named.Ino == ours.Ino:
		return nil
	case err != nil && !errors.Is(err, unix.ENOENT):
		return err
	}
	return n.bind(fmt.Sprintf("/proc/self/fd/%d", n.fd))
}

// removeName takes the name away; the namespace ends with its last user.
func (n *namespace) removeName() error {
	err := unix.Unmount(n.path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmounting %s: %w", n.path, err)
	}
	if err := os.Remove(n.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (n *namespace) close() error {
	n.thread.close()
	return unix.Close(n.fd)
}
