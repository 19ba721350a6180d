package tfs

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// ErrNoRoom is wrapped where a file system is too small for what is added to it.
var ErrNoRoom = errors.New("the file system has no room for it")

// writeReserve is what stays free, in sectors: the kernel sets two extents of the
// log aside before its first write, and then something is to be written.
const writeReserve = 2*LogSectors + 512

// Exists tells whether there is something at path.
func (w *Writer) Exists(path string) bool {
	at := w.root
	for name := range strings.SplitSeq(path, "/") {
		if path == "" {
			break
		}
		if at = at.children[name]; at == nil {
			return false
		}
	}
	return true
}

// Extend begins to add to a file system that a kernel may have written to, on
// the disk f was read from: what is there stays where it is. No one else may use
// it meanwhile. What is added shows once FinishExtension has returned. A file system in the
// old encoding is an error.
func (f *FS) Extend(w io.WriterAt) (*Writer, error) {
	if f.Version != version {
		return nil, fmt.Errorf("a TFS of version %d can't be extended", f.Version)
	}
	used, err := f.Verify()
	if err != nil {
		return nil, err
	}
	indices := make(map[*Tuple]uint64)
	seen := map[string]bool{}
	for i, entry := range f.dict {
		switch entry := entry.(type) {
		case *Tuple:
			indices[entry] = uint64(i + 1)
		case string:
			if seen[entry] {
				return nil, damaged("the name %q has two entries in the dictionary", entry)
			}
			seen[entry] = true
		}
	}
	out := &Writer{w: w, root: newDir(), next: used, extends: f, limit: f.sectors - writeReserve}
	entries, err := f.Entries()
	if err != nil {
		return nil, err
	}
	for _, e := range entries { // a directory stands before what it holds
		n := &node{kind: nodeFile, old: true}
		if e.Kind == Directory {
			n.kind, n.children = nodeDir, map[string]*node{}
			if children := e.tuple.Tuple(childrenName); children != nil {
				n.index = indices[children]
			}
		}
		if e.Path == "" {
			out.root = n
		} else if err := out.put(e.Path, n); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// FinishExtension writes the records of what was added. sync is called between the
// writes whose order matters, so that a power cut leaves either all of it or nothing.
func (w *Writer) FinishExtension(sync func() error) error {
	f := w.extends
	e := newEncoder()
	e.next = uint64(len(f.dict)) + 1
	for i, entry := range f.dict {
		if name, ok := entry.(string); ok {
			e.names[name] = uint64(i + 1)
		}
	}
	last := f.log[len(f.log)-1]
	a, err := NewAppender(State{ExtentStart: last.start, ExtentSectors: last.sectors, End: f.end, NextSector: w.next, NextIndex: e.next}, nil, f.r, f.sectors)
	if err != nil {
		return err
	}
	if err := w.root.encodeNew(e, a.log.record); err != nil {
		return fmt.Errorf("extending a TFS: %w", err)
	}
	patches, err := a.Patches()
	if err != nil {
		return fmt.Errorf("extending a TFS: %w", err)
	}
	// The last first: the sector in which the log ended is what makes the rest part of it.
	for _, p := range slices.Backward(patches) {
		for _, part := range []Patch{{p.Offset + SectorSize, p.Data[SectorSize:]}, {p.Offset, p.Data[:SectorSize]}} {
			if len(part.Data) == 0 {
				continue
			}
			if err := sync(); err != nil {
				return err
			}
			if _, err := w.w.WriteAt(part.Data, part.Offset); err != nil {
				return fmt.Errorf("extending a TFS: %w", err)
			}
		}
	}
	return sync()
}

// encodeNew gives a record for each directory that was there and has something new in it.
func (n *node) encodeNew(e *encoder, record func([]byte) error) error {
	var fresh []string
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		child := n.children[name]
		if !child.old {
			fresh = append(fresh, name)
		} else if child.kind == nodeDir {
			if err := child.encodeNew(e, record); err != nil {
				return err
			}
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if n.index == 0 {
		return damaged("a directory's entries are not in the dictionary")
	}
	e.buf = e.buf[:0]
	e.update(n.index, len(fresh))
	for _, name := range fresh {
		if err := e.name(name); err != nil {
			return err
		}
		child := n.children[name]
		if err := child.encode(e, 0); err != nil {
			return err
		}
	}
	return record(e.buf)
}
