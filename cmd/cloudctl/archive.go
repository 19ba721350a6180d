package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// source is where a package's content is read from, as often as it must be sent.
type source struct {
	open func() (io.ReadCloser, error)
	mu   sync.Mutex
	err  error
}

// failed returns why reading the content failed; nil if it did not. It tells
// an unreadable file from a connection that broke while it was sent.
func (s *source) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

const manifestName = "package.manifest"

// packageSource looks at what is to be uploaded.
func packageSource(path string) (*source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, usagef("reading the package: %w", err)
	}
	if info.IsDir() {
		if _, err := os.Stat(filepath.Join(path, manifestName)); err != nil {
			return nil, usagef("%s is no package: it has no %s; write one as the examples do", path, manifestName)
		}
		s := &source{}
		s.open = func() (io.ReadCloser, error) { return s.pack(path), nil }
		return s, nil
	}
	if !info.Mode().IsRegular() {
		return nil, usagef("%s is neither a directory nor a .tar.gz", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, usagef("reading the package: %w", err)
	}
	defer file.Close()
	magic := make([]byte, 2)
	if _, err := io.ReadFull(file, magic); err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		return nil, usagef("%s is neither a directory nor a .tar.gz: give a directory with a %s, or that directory packed with tar -cz", path, manifestName)
	}
	return &source{open: func() (io.ReadCloser, error) { return os.Open(path) }}, nil
}

// pack streams a directory as tar.gz. Closing the reader ends the packing.
func (s *source) pack(dir string) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		err := writeArchive(w, dir)
		if err != nil && !errors.Is(err, io.ErrClosedPipe) {
			s.mu.Lock()
			s.err = err
			s.mu.Unlock()
		}
		_ = w.CloseWithError(err) // always nil
	}()
	return r
}

// writeArchive writes a directory as tar.gz in one canonical form: entries in
// lexical order of their paths, permissions kept, no owner, no time, and no
// name or time in the gzip header (RFC 1952), so that the same files always
// give the same bytes. What is neither file, directory nor symbolic link is refused.
func writeArchive(w io.Writer, dir string) error {
	zipped := gzip.NewWriter(w)
	archive := tar.NewWriter(zipped)
	// Resolved, so that a link to the directory is walked.
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return addEntry(archive, path, filepath.ToSlash(relative), entry)
	})
	return errors.Join(err, closeAll(err, archive, zipped))
}

// closeAll finishes an archive that was written without error; one that was
// not must stay without its end, so that nobody takes it for whole.
func closeAll(err error, closers ...io.Closer) error {
	if err != nil {
		return nil
	}
	for _, c := range closers {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

func addEntry(archive *tar.Writer, path, name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	header := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: time.Unix(0, 0)}
	switch mode := info.Mode(); {
	case mode.IsDir():
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
	case mode&fs.ModeSymlink != 0:
		header.Typeflag, header.Mode = tar.TypeSymlink, 0o777
		if header.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
	case mode.IsRegular():
		header.Typeflag, header.Size = tar.TypeReg, info.Size()
		return addFile(archive, path, header)
	default:
		return fmt.Errorf("%s is a %s, which a package can't hold: remove it", name, strings.TrimSpace(kindOf(mode)))
	}
	return archive.WriteHeader(header)
}

func addFile(archive *tar.Writer, path string, header *tar.Header) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	n, err := io.Copy(archive, io.LimitReader(file, header.Size+1))
	if errors.Is(err, tar.ErrWriteTooLong) || err == nil && n != header.Size {
		return fmt.Errorf("%s changed while it was read: try again when nothing writes to it", header.Name)
	}
	return err
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeNamedPipe != 0:
		return "named pipe"
	case mode&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}
