package nanos

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
	"dormouse/internal/imagebuilder/tfs"
)

// OpenRoot reads the root file system of a whole disk, a tenant's as well:
// what a running kernel has written to it is seen. A disk that is no Nanos image, or a
// damaged one, is KindPermanent.
func OpenRoot(disk io.ReaderAt, size int64) (*tfs.FS, error) {
	l, err := readLayout(disk, size)
	if err != nil {
		return nil, err
	}
	return openAt(disk, l.root)
}

func openAt(disk io.ReaderAt, p partition) (*tfs.FS, error) {
	f, err := tfs.Open(io.NewSectionReader(disk, p.offset, p.bytes), p.bytes)
	return f, permanent(err)
}

// permanent gives damage its kind.
func permanent(err error) error {
	if errors.Is(err, tfs.ErrDamaged) {
		return fleet.Errorf(fleet.KindPermanent, "%w", err)
	}
	return err
}

// Read implements imagebuilder.Reader. Modes are those that Nanos shows: it stores none.
func (k *Kernel) Read(ctx context.Context, dir string, visit func(source.Entry, io.Reader) error) error {
	f, err := os.Open(filepath.Join(dir, diskName))
	if err != nil {
		return fleet.Errorf(fleet.KindInternal, "reading the image's disk: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fleet.Errorf(fleet.KindInternal, "reading the image's disk: %w", err)
	}
	root, err := OpenRoot(f, info.Size())
	if err != nil {
		return err
	}
	entries, err := root.Entries()
	if err != nil {
		return permanent(err)
	}
	program, _ := root.Root.Get("program").(string)
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		out := source.Entry{Path: e.Path, Mode: 0o777, Size: e.Size, Target: e.Target}
		switch e.Kind {
		case tfs.Directory:
			out.Kind = source.Directory
		case tfs.Symlink:
			out.Kind = source.Symlink
		case tfs.File:
			out.Kind = source.File
		default:
			continue
		}
		if e.Path == strings.TrimPrefix(program, "/") {
			out.Mode = 0o555
		}
		var content io.Reader
		if e.Kind == tfs.File {
			if content, err = root.Content(e); err != nil {
				return permanent(err)
			}
		}
		if err := visit(out, content); err != nil {
			return err
		}
	}
	return nil
}

// verify reads a disk that was just written, and compares it with what it was made from.
func verify(ctx context.Context, f *os.File, r *release, m fleet.Manifest, p *plan) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	l, err := readLayout(f, info.Size())
	if err != nil {
		return err
	}
	c := &comparer{a: make([]byte, 256<<10), b: make([]byte, 256<<10)}
	boot, err := openAt(f, l.boot)
	if err != nil {
		return err
	}
	if _, err := boot.Verify(); err != nil {
		return permanent(err)
	}
	if err := c.file(boot, "kernel", bytes.NewReader(r.kernel)); err != nil {
		return err
	}
	for _, k := range wanted(m.Klibs) {
		if err := c.file(boot, "klib/"+k, bytes.NewReader(r.klibs[k])); err != nil {
			return err
		}
	}
	root, err := openAt(f, l.root)
	if err != nil {
		return err
	}
	if _, err := root.Verify(); err != nil {
		return permanent(err)
	}
	for _, i := range p.items {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.item(root, i); err != nil {
			return err
		}
	}
	if program, _ := root.Root.Get("program").(string); program != m.Program || !slices.Equal(root.Root.Strings("arguments"), append([]string{m.Program}, m.Args...)) {
		return damaged("the manifest reads otherwise than it was written")
	}
	return nil
}

// comparer compares contents through its two buffers.
type comparer struct{ a, b []byte }

func (c *comparer) item(root *tfs.FS, i item) error {
	if i.kind == source.File {
		return c.file(root, i.path, i.open())
	}
	e, err := root.Lookup(i.path)
	if err != nil {
		return damaged("%v", err)
	}
	if kind := map[source.Kind]tfs.Kind{source.Directory: tfs.Directory, source.Symlink: tfs.Symlink}[i.kind]; e.Kind != kind || e.Target != i.target {
		return damaged("/%s is not what was written", i.path)
	}
	return nil
}

func (c *comparer) file(root *tfs.FS, path string, want io.Reader) error {
	e, err := root.Lookup(path)
	if err != nil {
		return damaged("%v", err)
	}
	got, err := root.Content(e)
	if err != nil {
		return permanent(err)
	}
	for {
		n, err := io.ReadFull(want, c.a)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		m, gotErr := io.ReadFull(got, c.b)
		if gotErr != nil && gotErr != io.EOF && gotErr != io.ErrUnexpectedEOF {
			return gotErr
		}
		if !bytes.Equal(c.a[:n], c.b[:m]) {
			return damaged("the content of /%s is not what was written", path)
		}
		if n < len(c.a) {
			return nil
		}
	}
}
