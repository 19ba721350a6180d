package deb

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"dormouse/internal/imagebuilder/source"
)

// node is one file, directory or link of the tree.
type node struct {
	kind   source.Kind
	mode   uint32
	target string
	// from is the package that brought it; nil where it was made here.
	from *record
	keep bool
}

// tree is the file system that is being made: a directory on disk, and an index
// of it, through which links are followed as in the guest. Names are relative
// and clean, "" is the root.
type tree struct {
	root  *os.Root
	nodes map[string]*node
	// left is how many more bytes may be unpacked.
	left int64
}

// maxNodes bounds the tree.
const maxNodes = source.DefaultMembers

// mergedDirs are links to those of the same name under /usr (Debian's merged-/usr).
func mergedDirs() []string { return []string{"bin", "lib", "lib64", "sbin"} }

// newTree makes the directories and links that every Debian system has (base-files).
func newTree(dir string, bytes int64) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	t := &tree{root: root, nodes: map[string]*node{"": {kind: source.Directory, mode: 0o755, keep: true}}, left: bytes}
	var errs []error
	for _, d := range mergedDirs() {
		errs = append(errs, t.makeDir("usr/"+d, 0o755), t.makeLink(d, "usr/"+d))
	}
	for _, d := range []string{"etc", "root", "run/lock", "tmp", "var/cache", "var/lib", "var/log", "var/tmp"} {
		mode := map[string]uint32{"root": 0o700, "tmp": 0o1777, "var/tmp": 0o1777, "run/lock": 0o1777}[d]
		if mode == 0 {
			mode = 0o755
		}
		errs = append(errs, t.makeDir(d, mode))
	}
	errs = append(errs, t.makeLink("var/run", "/run"), t.makeLink("var/lock", "/run/lock"))
	if err := errors.Join(errs...); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *tree) close() { _ = t.root.Close() } // a directory that was only looked through

// makeDir makes a directory of our own, with those above it. What is there stays.
func (t *tree) makeDir(name string, mode uint32) error {
	p, err := t.place(name, nil)
	if err != nil || t.nodes[p] != nil {
		return err
	}
	if err := t.root.Mkdir(p, 0o755); err != nil {
		return err
	}
	t.nodes[p] = &node{kind: source.Directory, mode: mode, keep: true}
	return nil
}

func (t *tree) makeLink(name, target string) error {
	p, err := t.place(name, nil)
	if err != nil || t.nodes[p] != nil {
		return err
	}
	if err := t.root.Symlink(target, p); err != nil {
		return err
	}
	t.nodes[p] = &node{kind: source.Symlink, mode: 0o777, target: target, keep: true}
	return nil
}

// makeFile makes a file of our own, unless there is something of that name.
func (t *tree) makeFile(name, content string) error {
	p, err := t.place(name, nil)
	if err != nil || t.nodes[p] != nil {
		return err
	}
	if err := errors.Join(t.root.WriteFile(p, []byte(content), 0o644), t.root.Chmod(p, 0o644)); err != nil { // whatever the umask
		return err
	}
	t.nodes[p] = &node{kind: source.File, mode: 0o644, keep: true}
	return nil
}

// place returns where name comes to lie once the links above it are followed,
// and makes the directories above it.
func (t *tree) place(name string, from *record) (string, error) {
	dir, err := t.resolve(path.Dir("/" + name))
	if err != nil {
		return "", fmt.Errorf("placing /%s: %w", name, err)
	}
	if len(t.nodes) >= maxNodes {
		return "", invalid("the named Debian packages have more than %d files with what they depend on: name a smaller one", maxNodes)
	}
	for at := ""; at != dir; {
		next, _, _ := strings.Cut(strings.TrimPrefix(dir[len(at):], "/"), "/")
		at = path.Join(at, next)
		switch n := t.nodes[at]; {
		case n == nil:
			if err := t.root.Mkdir(at, 0o755); err != nil {
				return "", err
			}
			t.nodes[at] = &node{kind: source.Directory, mode: 0o755, from: from, keep: from == nil}
		case n.kind != source.Directory:
			return "", invalid("the Debian packages don't fit together: /%s is a file of one and a directory of another", at)
		}
	}
	return path.Join(dir, path.Base(name)), nil
}

// paths returns every path in order.
func (t *tree) paths() []string { return slices.Sorted(maps.Keys(t.nodes)) }

// finish removes what is not kept and sets the modes of directories.
func (t *tree) finish() error {
	all := t.paths()
	slices.Reverse(all) // what a directory holds comes before it
	for _, p := range all {
		n := t.nodes[p]
		if n.keep && p != "" {
			t.nodes[parent(p)].keep = true
		}
		var err error
		switch {
		case !n.keep:
			delete(t.nodes, p)
			err = t.root.Remove(p)
		case n.kind == source.Directory:
			err = t.root.Chmod(cmp.Or(p, "."), fileMode(n.mode|0o700))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i > 0 {
		return p[:i]
	}
	return ""
}

// origins lists the packages of which something is there, and which file and link is of which.
func (t *tree) origins() ([]source.Origin, map[string]int) {
	from := map[string]*record{}
	for _, n := range t.nodes {
		if n.from != nil && n.kind != source.Directory {
			from[n.from.name] = n.from
		}
	}
	var origins []source.Origin
	index := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		r := from[name]
		index[name] = len(origins)
		origins = append(origins, source.Origin{Type: source.OriginDeb, Name: r.name, Version: r.version, Digest: r.sha256})
	}
	of := map[string]int{}
	for p, n := range t.nodes {
		if n.from != nil && n.kind != source.Directory {
			of[p] = index[n.from.name]
		}
	}
	return origins, of
}

// fileMode is a mode of Unix as Go has it.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}
