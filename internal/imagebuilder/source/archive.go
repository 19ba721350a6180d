package source

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"

	"dormouse/internal/fleet"
)

// storeFunc keeps a file's content and returns the offset at which it can be read again.
type storeFunc func(r io.Reader, size int64) (int64, error)

// ReadArchive reads a package from a tar.gz stream: the content of a package
// directory at top level, or under one single top directory.
//
// Errors are of KindInvalid where the package is at fault, KindCapacity where
// the disk of o.SpoolDir is full; errors of r itself come back wrapped. The
// caller closes the Package.
func ReadArchive(ctx context.Context, r io.Reader, o Options) (*Package, error) {
	o.Limits = o.Limits.withDefaults()
	zr, err := gzip.NewReader(r)
	switch {
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, invalid("the package is no gzip archive: send the output of `tar -C DIR -cz .`")
	case err != nil:
		return nil, readError(err)
	}
	return o.read(func(s *spool, o Options) (*base, error) {
		c := newCollector(s, o.Limits)
		if err := c.readTar(zr, c.storing(ctx)); err != nil {
			return nil, err
		}
		return c.base(ctx, o)
	})
}

func (c *collector) storing(ctx context.Context) storeFunc {
	return func(r io.Reader, size int64) (int64, error) { return c.store(ctx, r, size) }
}

// base makes a base of what c has gathered, whichever form it is of.
func (c *collector) base(_ context.Context, o Options) (*base, error) {
	tree, err := c.finish()
	if err != nil {
		return nil, err
	}
	return packageBase(tree, o)
}

// readTar adds every member of a tar stream and reads the stream to its end,
// so that checksums behind the archive's end are verified as well.
func (c *collector) readTar(r io.Reader, store storeFunc) error {
	in := &boundedReader{r: r, left: c.limits.Bytes}
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return in.drain()
		}
		if err != nil {
			return readError(err)
		}
		if err := c.addMember(h, tr, store); err != nil {
			return readError(err)
		}
	}
}

func (c *collector) addMember(h *tar.Header, r io.Reader, store storeFunc) error {
	if h.Typeflag == tar.TypeXGlobalHeader { // git archive's comment
		return nil
	}
	name, err := memberName(h.Name)
	if err != nil {
		return err
	}
	e := Entry{Path: name, Mode: uint32(h.Mode) & 0o7777}
	switch h.Typeflag {
	case tar.TypeDir:
		e.Kind = Directory
	case tar.TypeReg, tar.TypeGNUSparse:
		if name == "" {
			return invalid("the package holds a file without a name: pack the directory anew")
		}
		e.Kind, e.Size = File, h.Size
		if e.offset, err = store(r, h.Size); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if name == "" {
			return invalid("the package's top directory is a link: pack the directory that it points to")
		}
		e.Kind, e.Target = Symlink, h.Linkname
	case tar.TypeLink:
		target, err := memberName(h.Linkname)
		if err != nil {
			return invalid("the hard link %q points outside of the package, to %q: pack the file itself (tar --hard-dereference)", h.Name, h.Linkname)
		}
		return c.addHardLink(name, target)
	case tar.TypeBlock, tar.TypeChar:
		return invalid("the member %q is a device: leave it out, the image gets its own /dev", h.Name)
	case tar.TypeFifo:
		return invalid("the member %q is a named pipe: let the program make it when it starts", h.Name)
	default:
		return invalid("the member %q is of the unknown type %q: pack files, directories and links only", h.Name, h.Typeflag)
	}
	return c.add(e)
}

// readError gives an error from reading a stream its kind. What comes from
// the connection is not the package's fault and stays as it is.
func readError(err error) error {
	var typed *fleet.Error
	switch {
	case errors.As(err, &typed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fleet.Errorf(fleet.KindInvalid, "the package is cut short: send it again, whole: %w", err)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum),
		strings.HasPrefix(err.Error(), "archive/tar: "), strings.HasPrefix(err.Error(), "flate: "), strings.HasPrefix(err.Error(), "gzip: "):
		return fleet.Errorf(fleet.KindInvalid, "the package is a damaged archive, pack it anew: %w", err)
	}
	return fleet.Errorf(fleet.KindUnavailable, "reading the package: %w", err)
}

// boundedReader bounds a decompressed stream and remembers how it ended.
type boundedReader struct {
	r     io.Reader
	left  int64
	read  int64 // bytes so far
	zeros int64 // how many zero bytes the stream ends with so far
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, tooManyBytes(b.read)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	b.read += int64(n)
	trailing := n - len(strings.TrimRight(string(p[max(0, n-1024):n]), "\x00")) - max(0, n-1024)
	if trailing == min(n, 1024) {
		b.zeros += int64(trailing)
	} else {
		b.zeros = int64(trailing)
	}
	return n, err
}

// drain reads what follows the archive's end, which must be zeros: tar ends
// with two blocks of them, and an archive that was cut at a member's end has none.
func (b *boundedReader) drain() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := b.Read(buf)
		for _, c := range buf[:n] {
			if c != 0 {
				return invalid("the package has something behind the archive's end: pack the directory anew")
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return readError(err)
		}
	}
	if b.zeros < 512 {
		return invalid("the package is cut short, the archive's end is missing: send it again, whole")
	}
	return nil
}
