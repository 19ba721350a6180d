package source

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"

	"dormouse/internal/fleet"
)

// storeFunc keeps a file's content and returns the offset at which it can be read again.
type storeFunc func(r io.Reader, size int64) (int64, error)

// ReadArchive reads a package from a stream and tells by its first bytes what it
// is: an ELF program; or a tar, plain or compressed with gzip or zstd, of a
// package directory (at top level, or under one single top directory), of an
// OCI image layout, or of what `docker save` writes.
//
// Errors are of KindInvalid where the package is at fault, KindCapacity where
// the disk of o.SpoolDir is full; errors of r itself come back wrapped. The
// caller closes the Package.
func ReadArchive(ctx context.Context, r io.Reader, o Options) (*Package, error) {
	return o.read(ctx, func(s *spool, o Options) (*base, error) {
		in, err := decompressed(r)
		if err != nil {
			return nil, err
		}
		defer in.close()
		head, err := in.r.Peek(512)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, readError(err)
		}
		switch {
		case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
			return programBase(ctx, in.r, s, o)
		case len(head) == 0:
			return nil, invalid("the package is empty: send a program, or the output of `tar -C DIR -cz .`")
		case !isTar(head):
			return nil, notKnown(head)
		}
		c := newCollector(s, o.Limits)
		if err := c.readTar(in.r, c.storing(ctx)); err != nil {
			return nil, err
		}
		return c.base(ctx, o)
	})
}

// notKnown says what to do with a stream of another form.
func notKnown(head []byte) error {
	for magic, what := range map[string]string{
		"QFI\xfb": "a qcow2 disk", "KDMV": "a VMDK disk", "conectix": "a VHD disk", "vhdxfile": "a VHDX disk", "PK\x03\x04": "a zip archive",
		"!<arch>\ndebian": "a Debian package", "\xfd7zXZ\x00": "compressed with xz", "BZh": "compressed with bzip2", "#!": "a script",
	} {
		if bytes.HasPrefix(head, []byte(magic)) {
			if strings.HasSuffix(what, " disk") {
				return invalid("the package is %s: to have it booted as it is, import it with --disk", what)
			}
			return invalid("the package is %s, which is no form of a package: send a program for Linux, or the output of `tar -C DIR -cz .`", what)
		}
	}
	return invalid("the package is neither a program (ELF) nor a tar archive of a package directory or a container image: send the output of `tar -C DIR -cz .`")
}

// programBase makes a package of a program by itself.
func programBase(ctx context.Context, r io.Reader, s *spool, o Options) (*base, error) {
	content := newHashing(&boundedReader{r: r, left: o.Limits.Bytes})
	offset := s.n
	if _, err := io.Copy(s, readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return content.Read(p)
	})); err != nil {
		return nil, readError(err)
	}
	name := cmp.Or(MendName(path.Base(o.FileName)), MendName(o.Name), "program")
	b := &base{image: newTree(s.f), name: MendName(path.Base(o.FileName))}
	b.image.put(&Entry{Path: name, Kind: File, Mode: 0o755, Size: content.n, Origin: 1, offset: offset})
	b.version = content.sum().Hex[:12] // a program says nothing of its version that can be read
	b.origins = []Origin{{Type: OriginFile, Name: name, Version: b.version, Digest: content.sum().Hex}}
	keys := map[string]json.RawMessage{}
	set(keys, "Program", "/"+name)
	raw, err := json.Marshal(keys)
	b.manifest = raw
	return b, err
}

// base makes a base of what c has gathered, whichever form it is of.
func (c *collector) base(ctx context.Context, o Options) (*base, error) {
	tree, err := c.finish()
	if err != nil {
		return nil, err
	}
	if _, _, err := packageDir(tree); err != nil && isImageArchive(tree) {
		img, err := archivedImage(ctx, tree)
		if err != nil {
			return nil, err
		}
		return img.base(ctx, c.spool, o)
	}
	return packageBase(tree, o)
}

func (c *collector) storing(ctx context.Context) storeFunc {
	return func(r io.Reader, size int64) (int64, error) { return c.store(ctx, r, size) }
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
			return invalid("the hard link %q points outside of the package, to %q: pack the file itself (tar --hard-dereference)", short(h.Name), short(h.Linkname))
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
	end := p[max(0, n-1024):n]
	trailing := len(end) - len(bytes.TrimRight(end, "\x00"))
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
