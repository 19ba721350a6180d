package main

import (
	"archive/tar"
	"bytes"
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
	path string
	open func() (io.ReadCloser, error)
	// fileName is what the file is called; "" of a directory.
	fileName string
	mu       sync.Mutex
	err      error
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
func packageSource(path, opsHome string) (*source, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if at, found := opsPackage(opsHome, path); found {
			path = at
			info, err = os.Stat(path)
		}
	}
	if err != nil {
		return nil, usagef("reading the package: %w", err)
	}
	if info.IsDir() {
		if !holds(path, manifestName) && !holds(path, "oci-layout") {
			return nil, usagef("%s is no package: it has no %s; write one as the examples do", path, manifestName)
		}
		return packed(path), nil
	}
	if !info.Mode().IsRegular() {
		return nil, usagef("%s is neither a directory nor a file: give a program, an archive, or a directory with a %s", path, manifestName)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, usagef("reading the package: %w", err)
	}
	defer file.Close()
	head := make([]byte, 512)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, usagef("reading the package: %w", err)
	}
	if bytes.HasPrefix(head, []byte("QFI\xfb")) || bytes.HasPrefix(head, []byte("KDMV")) {
		return nil, usagef("%s is a disk: to have it booted as it is, give --disk %s", path, path)
	}
	if !isSource(head[:n]) {
		return nil, usagef("%s is neither a program for Linux (ELF) nor a tar archive: give one, or a directory with a %s", path, manifestName)
	}
	return &source{path: path, fileName: filepath.Base(path), open: func() (io.ReadCloser, error) { return os.Open(path) }}, nil
}

// diskSource looks at a disk that is to be imported; what it is, the server tells.
func diskSource(path string) (*source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, usagef("reading the disk: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, usagef("%s is no regular file: name a disk's file (qcow2, vmdk, raw or OVA)", path)
	}
	return &source{path: path, fileName: filepath.Base(path), open: func() (io.ReadCloser, error) { return os.Open(path) }}, nil
}

// isSource tells by its first bytes whether a file is worth sending; the server looks closer.
func isSource(head []byte) bool {
	for _, magic := range []string{"\x7fELF", "\x1f\x8b", "\x28\xb5\x2f\xfd"} { // a program, gzip, zstd
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return len(head) == 512 && err == nil
}

func holds(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// overlaySource looks at what is to be laid over a source: a directory with a
// manifest, or the manifest alone.
func overlaySource(path string) (*source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, usagef("reading the manifest: %w", err)
	}
	if !info.IsDir() {
		s := &source{path: path}
		s.open = func() (io.ReadCloser, error) {
			return s.piped(func(w io.Writer) error { return writeManifest(w, path) }), nil
		}
		return s, nil
	}
	if !holds(path, manifestName) {
		return nil, usagef("%s has no %s to lay over the source: write one, or name the file", path, manifestName)
	}
	return packed(path), nil
}

func packed(dir string) *source {
	s := &source{path: dir}
	s.open = func() (io.ReadCloser, error) {
		return s.piped(func(w io.Writer) error { return writeArchive(w, dir) }), nil
	}
	return s
}

// piped streams what write writes. Closing the reader ends the writing.
func (s *source) piped(write func(io.Writer) error) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		err := write(w)
		if err != nil && !errors.Is(err, io.ErrClosedPipe) {
			s.mu.Lock()
			s.err = err
			s.mu.Unlock()
		}
		_ = w.CloseWithError(err) // always nil
	}()
	return r
}

// writeManifest writes the archive of a directory that holds a manifest only.
func writeManifest(w io.Writer, path string) error {
	body, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	zipped := gzip.NewWriter(w)
	archive := tar.NewWriter(zipped)
	err = archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: manifestName, Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(0, 0)})
	if err == nil {
		_, err = archive.Write(body)
	}
	return errors.Join(err, closeAll(err, archive, zipped))
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
