package tfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// Kind is what an Entry is.
type Kind uint8

// The kinds of entry. Sockets and devices, which a running kernel may leave, are Other.
const (
	Directory Kind = iota + 1
	File
	Symlink
	Other
)

// Entry is one member of the tree.
type Entry struct {
	// Path is relative to the root, slash-separated; "" is the root itself.
	Path string
	Kind Kind
	// Size is a file's length in bytes. What no extent covers reads as zeros, so
	// that it may be far more than the volume holds.
	Size int64
	// Target is where a symbolic link points.
	Target string

	tuple *Tuple
}

// Entries returns all that the tree holds in the order of paths, the root first.
func (f *FS) Entries() ([]Entry, error) {
	var all []Entry
	seen := map[*Tuple]bool{}
	// A list of what is to do, for a deep tree is no reason for a deep stack.
	queue := []Entry{{Kind: Directory, tuple: f.Root}}
	for len(queue) > 0 {
		e := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		all = append(all, e)
		if e.Kind != Directory {
			continue
		}
		children := e.tuple.Tuple(childrenName)
		if children == nil {
			continue
		}
		if seen[children] {
			return nil, damaged("the directory %s lies in more than one place", e.Path)
		}
		seen[children] = true
		for _, a := range children.attrs {
			child, err := newEntry(e.Path, a)
			if err != nil {
				return nil, err
			}
			queue = append(queue, child)
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

func newEntry(parent string, a Attr) (Entry, error) {
	if err := checkName(a.Name); err != nil {
		return Entry{}, damaged("in the directory %q: %v", parent, err)
	}
	t, ok := a.Value.(*Tuple)
	e := Entry{Path: a.Name, Kind: Other, tuple: t}
	if parent != "" {
		e.Path = parent + "/" + a.Name
	}
	if len(e.Path) > maxPath {
		return Entry{}, damaged("a path has more than %d bytes", maxPath)
	}
	if !ok {
		return Entry{}, damaged("%s is neither file nor directory", e.Path)
	}
	switch {
	case t.Tuple(childrenName) != nil:
		e.Kind = Directory
	case t.Get(targetName) != nil:
		e.Kind = Symlink
		if e.Target, ok = t.Get(targetName).(string); !ok || len(e.Target) > maxPath {
			return Entry{}, damaged("the target of the link %s is no path", e.Path)
		}
	case t.Get(extentsName) != nil:
		e.Kind = File
		if e.Size, ok = t.Int(lengthName); t.Get(lengthName) != nil && (!ok || e.Size < 0 || e.Size > 1<<50) {
			return Entry{}, damaged("the length of the file %s is no length", e.Path)
		}
	}
	return e, nil
}

// Lookup returns the entry at a clean path below the root; links are not
// followed. The error is fs.ErrNotExist where there is none.
func (f *FS) Lookup(path string) (Entry, error) {
	e := Entry{Kind: Directory, tuple: f.Root}
	for name := range strings.SplitSeq(path, "/") {
		if path == "" {
			break
		}
		children := e.tuple.Tuple(childrenName)
		if children == nil || children.Get(name) == nil {
			return Entry{}, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
		}
		var err error
		if e, err = newEntry(e.Path, Attr{name, children.Get(name)}); err != nil {
			return Entry{}, err
		}
	}
	return e, nil
}

// Content returns the content of a file.
func (f *FS) Content(e Entry) (*io.SectionReader, error) {
	if e.Kind != File {
		return nil, fmt.Errorf("%s is no file", e.Path)
	}
	extents, err := f.extents(e)
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(&content{f.r, extents, e.Size}, 0, e.Size), nil
}

// extent is a piece of a file, in sectors.
type extent struct {
	at, sectors, start, allocated int64
	uninited                      bool
}

// extents returns a file's extents in the order of their places in it. They
// don't overlap there, and lie in the file system.
func (f *FS) extents(e Entry) ([]extent, error) {
	t := e.tuple.Tuple(extentsName)
	if t == nil {
		return nil, damaged("the extents of the file %s can't be read", e.Path)
	}
	if t.Len() > maxFileExtent {
		return nil, damaged("the file %s has more than %d extents", e.Path, maxFileExtent)
	}
	var all []extent
	for _, a := range t.attrs {
		at, ok := toInt(a.Name)
		x, isTuple := a.Value.(*Tuple)
		if !ok || !isTuple {
			return nil, damaged("an extent of the file %s can't be read", e.Path)
		}
		sectors, ok1 := x.Int(exLengthName)
		start, ok2 := x.Int(exOffsetName)
		allocated, ok3 := x.Int(exAllocName)
		if !ok1 || !ok2 || !ok3 || at < 0 || at > 1<<50 || sectors < 0 || start < 0 || allocated < sectors ||
			start > f.sectors || allocated > f.sectors-start {
			return nil, damaged("an extent of the file %s lies beyond the end", e.Path)
		}
		all = append(all, extent{at, sectors, start, allocated, x.Get(exUninitName) != nil})
	}
	slices.SortFunc(all, func(a, b extent) int { return int(min(max(a.at-b.at, -1), 1)) })
	for i := 1; i < len(all); i++ {
		if all[i].at < all[i-1].at+all[i-1].sectors {
			return nil, damaged("extents of the file %s overlap", e.Path)
		}
	}
	return all, nil
}

// content reads a file.
type content struct {
	r       io.ReaderAt
	extents []extent
	size    int64
}

// ReadAt implements io.ReaderAt.
func (c *content) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= c.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), c.size-off))
	clear(p[:n])
	first, _ := slices.BinarySearchFunc(c.extents, off, func(x extent, off int64) int {
		if (x.at+x.sectors)*SectorSize <= off {
			return -1
		}
		return 1
	})
	for _, x := range c.extents[first:] {
		begin, end := max(x.at*SectorSize, off), min((x.at+x.sectors)*SectorSize, off+int64(n))
		if x.at*SectorSize >= off+int64(n) {
			break
		}
		if x.uninited || begin >= end {
			continue
		}
		piece := p[begin-off : end-off]
		if m, err := c.r.ReadAt(piece, (x.start-x.at)*SectorSize+begin); m < len(piece) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, fmt.Errorf("reading a file of a TFS: %w", err)
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Verify checks the whole tree: names, lengths, and that no sector belongs to
// two of the log's and the files' extents. It returns how many sectors are in use,
// from the beginning to the last one.
func (f *FS) Verify() (used int64, err error) {
	entries, err := f.Entries()
	if err != nil {
		return 0, err
	}
	type owned struct {
		start, sectors int64
		by             string
	}
	var all []owned
	for _, x := range f.log {
		all = append(all, owned{x.start, x.sectors, "the log"})
	}
	seen := map[*Tuple]bool{}
	for _, e := range entries {
		if e.Kind != File || seen[e.tuple] {
			continue
		}
		seen[e.tuple] = true // a file with two names is one file
		extents, err := f.extents(e)
		if err != nil {
			return 0, err
		}
		for _, x := range extents {
			all = append(all, owned{x.start, x.allocated, e.Path})
		}
	}
	slices.SortFunc(all, func(a, b owned) int { return int(min(max(a.start-b.start, -1), 1)) })
	for i, o := range all {
		if i > 0 && o.start < used {
			return 0, damaged("sector %d belongs to %s and to %s", o.start, all[i-1].by, o.by)
		}
		used = max(used, o.start+o.sectors)
	}
	return used, nil
}
