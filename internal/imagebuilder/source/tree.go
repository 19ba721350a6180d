package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// Kind is what an Entry is. There are no others: devices, pipes and sockets
// are refused, and hard links become files of their own.
type Kind uint8

// The kinds of entry.
const (
	Directory Kind = iota + 1
	File
	Symlink
)

// Entry is one member of a Tree.
type Entry struct {
	// Path is relative to the root, slash-separated and clean; "" is the root itself.
	Path string
	Kind Kind
	// Mode holds the permission, setuid, setgid and sticky bits (07777); 0777 for symlinks.
	Mode uint32
	// Size is a file's length in bytes.
	Size int64
	// Target is where a symlink points, as written.
	Target string
	// Origin is where a file or link came from: 1 for the first of
	// Package.Origins and so on; 0 where it is the package's own.
	Origin int

	offset int64 // of a file's content in Tree.data
}

// Tree is a file system of root's, held as an index over one file of contents.
// It is not safe for concurrent change; concurrent reading is all right.
type Tree struct {
	entries map[string]*Entry
	data    io.ReaderAt
	sorted  []string // keys of entries in order; nil after a change
}

// Errors of a look-up that fs.ErrNotExist does not cover.
var (
	errEscapes = errors.New("leads out of the tree")
	errTooFar  = errors.New("goes through too many links or directories")
)

const (
	maxLinks = 40   // as Linux: MAXSYMLINKS
	maxSteps = 1024 // bounds the work that a hostile tree of links can cause
)

func newTree(data io.ReaderAt) *Tree {
	return &Tree{entries: map[string]*Entry{"": {Kind: Directory, Mode: 0o755}}, data: data}
}

// Clone returns a tree that can be changed without changing t; both read the same contents.
func (t *Tree) Clone() *Tree {
	return &Tree{entries: maps.Clone(t.entries), data: t.data}
}

// Len is the number of entries, the root included.
func (t *Tree) Len() int { return len(t.entries) }

// Walk calls visit for every entry in the order of their paths, a directory
// before what it holds. It stops at the first error and returns it.
func (t *Tree) Walk(visit func(Entry) error) error {
	for _, p := range t.paths() {
		if err := visit(*t.entries[p]); err != nil {
			return err
		}
	}
	return nil
}

// Content returns the content of a file entry of this tree.
func (t *Tree) Content(e Entry) *io.SectionReader {
	return io.NewSectionReader(t.data, e.offset, e.Size)
}

// Lookup returns the entry at name, following symbolic links as the guest's
// kernel will: absolute targets begin at the root of the tree. The errors are
// fs.ErrNotExist, or say that a link leads out of the tree or in a circle.
func (t *Tree) Lookup(name string) (Entry, error) {
	p, err := t.resolve(name)
	if err != nil {
		return Entry{}, fmt.Errorf("%s: %w", name, err)
	}
	if e, ok := t.entries[p]; ok {
		return *e, nil
	}
	return Entry{}, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

// Open returns the content of the regular file at name, links followed.
func (t *Tree) Open(name string) (*io.SectionReader, error) {
	e, err := t.Lookup(name)
	if err != nil {
		return nil, err
	}
	if e.Kind != File {
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	return t.Content(e), nil
}

// ReadDir returns the names in the directory at name in order.
func (t *Tree) ReadDir(name string) ([]string, error) {
	e, err := t.Lookup(name)
	if err != nil {
		return nil, err
	}
	if e.Kind != Directory {
		return nil, fmt.Errorf("%s: not a directory", name)
	}
	var names []string
	for _, p := range t.below(e.Path) {
		if n := p[len(prefix(e.Path)):]; !strings.Contains(n, "/") {
			names = append(names, n)
		}
	}
	return names, nil
}

// paths returns every path in order.
func (t *Tree) paths() []string {
	if t.sorted == nil {
		t.sorted = slices.Sorted(maps.Keys(t.entries))
	}
	return t.sorted
}

// below returns the paths under dir, dir excluded: they lie side by side in the order.
func (t *Tree) below(dir string) []string {
	all := t.paths()
	if dir == "" {
		return all[1:]
	}
	from, _ := slices.BinarySearch(all, dir+"/")
	to, _ := slices.BinarySearch(all, dir+"0") // '0' follows '/'
	return all[from:to]
}

func prefix(dir string) string {
	if dir == "" {
		return ""
	}
	return dir + "/"
}

func parent(p string) string { return p[:max(strings.LastIndexByte(p, '/'), 0)] }

// resolve walks name from the root, links followed, and returns the path it
// comes to, which need not exist.
func (t *Tree) resolve(name string) (string, error) { return t.resolveFrom("", name) }

// resolveFrom walks name from the directory at.
func (t *Tree) resolveFrom(at, name string) (string, error) {
	rest := name
	links := 0
	for steps := 0; rest != ""; steps++ {
		if steps > maxSteps {
			return "", errTooFar
		}
		var c string
		c, rest, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
		switch c {
		case "", ".":
			continue
		case "..":
			if at == "" {
				return "", errEscapes
			}
			at = parent(at)
			continue
		}
		next := prefix(at) + c
		e := t.entries[next]
		if e == nil || e.Kind != Symlink {
			if e != nil && e.Kind == File && strings.Trim(rest, "/") != "" {
				return "", fmt.Errorf("/%s is a file: %w", next, fs.ErrNotExist)
			}
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", errTooFar
		}
		if strings.HasPrefix(e.Target, "/") {
			at = ""
		}
		rest = e.Target + "/" + rest
	}
	return at, nil
}
