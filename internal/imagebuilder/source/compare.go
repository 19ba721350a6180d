package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Comparison tells whether what is read back from an image is a tree.
type Comparison struct {
	tree *Tree
	next int
	a, b []byte
}

// Compare begins a comparison with t, which must not change meanwhile.
func (t *Tree) Compare() *Comparison {
	return &Comparison{tree: t, a: make([]byte, 256<<10), b: make([]byte, 256<<10)}
}

// Visit takes what comes next in the order of Walk, and says in what it is not
// what the tree holds there.
func (c *Comparison) Visit(e Entry, content io.Reader) error {
	paths := c.tree.paths()
	if c.next >= len(paths) {
		return fmt.Errorf("/%s should not be there", e.Path)
	}
	want := c.tree.entries[paths[c.next]]
	c.next++
	switch {
	case e.Path != want.Path:
		return fmt.Errorf("/%s is there where /%s should be", e.Path, want.Path)
	case e.Kind != want.Kind:
		return fmt.Errorf("/%s is a %s and should be a %s", e.Path, e.Kind, want.Kind)
	case e.Mode&0o7777 != want.Mode&0o7777:
		return fmt.Errorf("/%s has the mode %o and should have %o", e.Path, e.Mode, want.Mode)
	case e.Target != want.Target:
		return fmt.Errorf("/%s points to %q and should to %q", e.Path, e.Target, want.Target)
	case e.Kind != File:
		return nil
	case e.Size != want.Size:
		return fmt.Errorf("/%s has %d bytes and should have %d", e.Path, e.Size, want.Size)
	}
	return c.content(e.Path, content, c.tree.Content(*want))
}

// content compares two readers of equal length.
func (c *Comparison) content(path string, got, want io.Reader) error {
	for {
		n, err := io.ReadFull(want, c.a)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return err
		}
		if _, err := io.ReadFull(got, c.b[:n]); err != nil {
			return fmt.Errorf("reading /%s back: %w", path, err)
		}
		if !bytes.Equal(c.a[:n], c.b[:n]) {
			return fmt.Errorf("/%s has another content", path)
		}
		if end {
			return nil
		}
	}
}

// End tells whether all of the tree has come.
func (c *Comparison) End() error {
	if paths := c.tree.paths(); c.next < len(paths) {
		return fmt.Errorf("/%s is missing", paths[c.next])
	}
	return nil
}
