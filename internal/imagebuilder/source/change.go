package source

import (
	"errors"
	"fmt"
	"strings"
)

// EnsureDir makes the directory name and its parents where they are missing,
// through links as the guest's kernel will follow them, and returns its path. A
// directory that exists keeps its mode.
func (t *Tree) EnsureDir(name string, mode uint32) (string, error) {
	p, err := t.resolve(name)
	if err != nil {
		return "", fmt.Errorf("making the directory %s: %w", name, err)
	}
	if e, ok := t.entries[p]; ok {
		if e.Kind != Directory {
			return "", fmt.Errorf("making the directory %s: /%s is no directory", name, p)
		}
		return p, nil
	}
	for _, at := range ancestors(p) {
		switch e, ok := t.entries[at]; {
		case !ok:
			t.put(&Entry{Path: at, Kind: Directory, Mode: 0o755})
		case e.Kind != Directory:
			return "", fmt.Errorf("making the directory %s: /%s is no directory", name, at)
		}
	}
	t.put(&Entry{Path: p, Kind: Directory, Mode: mode})
	return p, nil
}

// EnsureFile sees to it that name is a regular file that something can be
// mounted upon: an empty one is made where there is none, also in the place of
// a symbolic link.
func (t *Tree) EnsureFile(name string, mode uint32) error {
	dir, base := splitLast(name)
	at, err := t.EnsureDir(dir, 0o755)
	if err != nil {
		return err
	}
	p := prefix(at) + base
	if e, ok := t.entries[p]; ok && e.Kind != Symlink {
		if e.Kind != File {
			return fmt.Errorf("making the file %s: /%s is a directory", name, p)
		}
		return nil
	}
	t.put(&Entry{Path: p, Kind: File, Mode: mode})
	return nil
}

// place puts e at name, in directories that are made where missing, and returns
// the file or link that was there. What is there already is replaced, but a
// directory never by a file or the reverse.
func (t *Tree) place(name string, e Entry) (replaced *Entry, err error) {
	if strings.Trim(name, "/") == "" {
		if e.Kind != Directory {
			return nil, errors.New("a file can't be placed at the root")
		}
		return nil, nil
	}
	dir, base := splitLast(name)
	at, err := t.EnsureDir(dir, 0o755)
	if err != nil {
		return nil, err
	}
	e.Path = prefix(at) + base
	have, ok := t.entries[e.Path]
	switch {
	case !ok:
	case have.Kind == Directory && e.Kind == Directory:
		return nil, nil
	case e.Kind == Directory:
		if target, err := t.Lookup(e.Path); err == nil && target.Kind == Directory {
			return nil, nil
		}
		return nil, fmt.Errorf("placing the directory /%s: a file is there already", e.Path)
	case have.Kind == Directory:
		return nil, fmt.Errorf("placing the file /%s: a directory is there already", e.Path)
	}
	t.put(&e)
	return have, nil
}

func (t *Tree) put(e *Entry) {
	if _, ok := t.entries[e.Path]; !ok {
		t.sorted = nil
	}
	t.entries[e.Path] = e
}

// check tells whether every symbolic link stays in the tree and whether the
// image is within the limits.
func (t *Tree) check(limits Limits, where string) error {
	if len(t.entries) > limits.Members+1 {
		return tooManyMembers(limits.Members)
	}
	var bytes int64
	for _, p := range t.paths() {
		e := t.entries[p]
		if e.Kind == File {
			if bytes += e.Size; bytes > limits.Bytes {
				return tooManyBytes(limits.Bytes)
			}
		}
		if e.Kind != Symlink {
			continue
		}
		if _, err := t.resolveFrom(parent(p), e.Target); errors.Is(err, errEscapes) {
			return invalid("the link %s%s points to %q, outside of the package: let it point to a file in the package (an absolute target begins at the image's root)", where, p, e.Target)
		}
	}
	return nil
}

// ancestors lists the directories above p, outermost first, the root excluded.
func ancestors(p string) []string {
	var dirs []string
	for i, c := range []byte(p) {
		if c == '/' {
			dirs = append(dirs, p[:i])
		}
	}
	return dirs
}

func splitLast(name string) (dir, base string) {
	name = strings.Trim(name, "/")
	i := strings.LastIndexByte(name, '/')
	return name[:max(i, 0)], name[i+1:]
}
