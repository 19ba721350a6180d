package deb

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"dormouse/internal/imagebuilder/source"
)

var errTooFar = errors.New("it goes through too many links")

// maxLinks is how many links a path may go through (Linux: MAXSYMLINKS).
const maxLinks = 40

// resolve follows links from the root; what the path leads to need not exist.
func (t *tree) resolve(name string) (string, error) {
	return t.walk(name, func(*node) {})
}

// walk is resolve, and shows whatever exists on the way.
func (t *tree) walk(name string, visit func(*node)) (string, error) {
	at, rest, links := "", name, 0
	for rest != "" {
		var c string
		c, rest, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
		switch c {
		case "", ".":
			continue
		case "..":
			if at = path.Dir(at); at == "." {
				at = ""
			}
			continue
		}
		next := path.Join(at, c)
		n := t.nodes[next]
		if n != nil {
			visit(n)
		}
		if n == nil || n.kind != source.Symlink {
			at = next
			continue
		}
		if links++; links > maxLinks || len(rest) > 1<<16 {
			return "", errTooFar
		}
		if strings.HasPrefix(n.target, "/") {
			at = ""
		}
		rest = n.target + "/" + rest
	}
	return at, nil
}

// file returns the path of the regular file that name leads to; "" where there is none.
func (t *tree) file(name string) string {
	p, err := t.resolve(name)
	if err != nil || t.nodes[p] == nil || t.nodes[p].kind != source.File {
		return ""
	}
	return p
}

// keep marks the file at name and every link and directory on the way to it.
func (t *tree) keep(name string) {
	// Of links that lead nowhere, those that were followed are kept.
	_, _ = t.walk(name, func(n *node) { n.keep = true })
}

// keepBelow marks what lies at or below a directory.
func (t *tree) keepBelow(dir string) {
	for p := range t.nodes {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			t.keep(p)
		}
	}
}

// Open implements elfdeps.Tree. The file is opened for each read: a program may
// have hundreds of libraries, and a process only so many files.
func (t *tree) Open(name string) (*io.SectionReader, error) {
	p := t.file(name)
	if p == "" {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	info, err := t.root.Lstat(p)
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(fileAt{t.root, p}, 0, info.Size()), nil
}

// kept is a tree as it will be in the image.
type kept struct{ *tree }

// Open implements elfdeps.Tree.
func (k kept) Open(name string) (*io.SectionReader, error) {
	if n := k.nodes[k.file(name)]; n == nil || !n.keep {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return k.tree.Open(name)
}

type fileAt struct {
	root *os.Root
	name string
}

// ReadAt implements io.ReaderAt.
func (f fileAt) ReadAt(p []byte, off int64) (int, error) {
	file, err := f.root.Open(f.name)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return file.ReadAt(p, off)
}

// ReadDir implements elfdeps.Tree.
func (t *tree) ReadDir(name string) ([]string, error) {
	p, err := t.resolve(name)
	if err != nil || t.nodes[p] == nil || t.nodes[p].kind != source.Directory {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	var names []string
	for q := range t.nodes {
		if path.Dir("/"+q) == "/"+p && q != "" {
			names = append(names, path.Base(q))
		}
	}
	slices.Sort(names)
	return names, nil
}
