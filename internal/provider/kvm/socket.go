package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// The sockets in an instance's directory, on which QEMU listens.
const (
	qmpSocket     = "qmp.sock"
	channelSocket = "guest.sock"
	// Those of one that only verifies.
	verifyQMPSocket     = "verify-qmp.sock"
	verifyChannelSocket = "verify-guest.sock"
)

// sockets are all of them.
func sockets() []string {
	return []string{qmpSocket, channelSocket, verifyQMPSocket, verifyChannelSocket}
}

// atDir calls use with a path of a few bytes that leads into dir. The address of
// a unix socket has room for 107 bytes (unix(7)), and a data directory may be
// deeper than that.
func atDir(dir string, use func(short string) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return use("/proc/self/fd/" + strconv.Itoa(fd))
}

// listenSocket makes a socket that listens, for QEMU to inherit: it accepts
// connections from now on, before QEMU looks at it.
func listenSocket(dir, name string) (*os.File, error) {
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("making the socket %s: %w", name, err)
	}
	var f *os.File
	err := atDir(dir, func(short string) error {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(short, name)})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		f, err = l.File()
		return errors.Join(err, l.Close())
	})
	if err != nil {
		return nil, diskError("making the socket "+name, err)
	}
	return f, nil
}

// dialSocket connects to a socket made by listenSocket.
func dialSocket(ctx context.Context, dir, name string) (net.Conn, error) {
	var conn net.Conn
	err := atDir(dir, func(short string) (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(short, name))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to the socket %s: %w", name, err)
	}
	return conn, nil
}

// inherited collects the files that a child gets, in the order of their numbers.
type inherited struct{ files []*os.File }

// add hands f over, to be closed with the others, and returns its number in the child.
func (h *inherited) add(f *os.File) int {
	const first = 3 // after standard input, output and error
	h.files = append(h.files, f)
	return first + len(h.files) - 1
}

func (h *inherited) close() {
	for _, f := range h.files {
		_ = f.Close()
	}
}

// memoryFile returns content as an open file without a name, for reading.
func memoryFile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making %s in memory: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return nil, fmt.Errorf("making %s in memory: %w", name, err)
	}
	return os.Open("/proc/self/fd/" + strconv.Itoa(fd))
}

// openShared opens a file that another user opens again through /proc/self/fd,
// for which the file itself must be readable by that user. A file that is not
// is copied into memory.
func openShared(path string, otherUser bool) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !otherUser || info.Mode().Perm()&0o004 != 0 {
		return f, nil
	}
	content, err := os.ReadFile(path)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return memoryFile(filepath.Base(path), content)
}
