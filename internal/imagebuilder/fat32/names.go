package fat32

import (
	"bytes"
	"slices"
	"strings"
)

// grow makes the tree of directories that the files lie in.
func grow(files []File) (*node, error) {
	if len(files) > maxFiles {
		return nil, invalid("it has %d files: at most %d are laid out", len(files), maxFiles)
	}
	root := &node{dir: true}
	for _, f := range files {
		if f.Size < 0 || f.Size > maxFileSize {
			return nil, invalid("%s has %d bytes: a file has at most %d", f.Path, f.Size, int64(maxFileSize))
		}
		at := root
		parts := strings.Split(f.Path, "/")
		if len(parts) > 16 {
			return nil, invalid("%s lies too deep: at most 15 directories lead to a file", f.Path)
		}
		for i, part := range parts {
			name, err := shortName(part)
			if err != nil {
				return nil, invalid("%q: %w", f.Path, err)
			}
			last := i == len(parts)-1
			next := at.child(name)
			switch {
			case next == nil:
				next = &node{name: name, parent: at, dir: !last}
				at.children = append(at.children, next)
			case last || !next.dir:
				return nil, invalid("%q is given twice, or as a file and as a directory", f.Path)
			}
			at = next
		}
		at.file = f
	}
	root.sort()
	return root, nil
}

func (n *node) child(name [11]byte) *node {
	for _, c := range n.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

// sort makes the result the same in whatever order the files were given.
func (n *node) sort() {
	slices.SortFunc(n.children, func(a, b *node) int { return bytes.Compare(a.name[:], b.name[:]) })
	for _, c := range n.children {
		c.sort()
	}
}

// shortName is a name in the format's form: 8 characters and 3 of the ending,
// padded with blanks, without the dot.
func shortName(s string) (name [11]byte, err error) {
	base, ending, dotted := strings.Cut(s, ".")
	if len(base) < 1 || len(base) > 8 || len(ending) > 3 || (dotted && ending == "") || !allowed(base) || !allowed(ending) {
		return name, invalid("%q is no 8.3 name in upper case: rename it", s)
	}
	copy(name[:], "           ")
	copy(name[:8], base)
	copy(name[8:], ending)
	return name, nil
}

// labelName is a volume's label in the form of a name.
func labelName(s string) (name [11]byte, err error) {
	if s == "" {
		s = "NO NAME"
	}
	if len(s) > len(name) || !allowed(strings.ReplaceAll(s, " ", "")) || strings.TrimSpace(s) != s {
		return name, invalid("%q can't be a volume's label: use up to 11 upper-case letters and digits", s)
	}
	copy(name[:], "           ")
	copy(name[:], s)
	return name, nil
}

// allowed tells whether the format admits all characters in a short name.
func allowed(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("$%'-_@~`!(){}^#&", rune(c)) {
			return false
		}
	}
	return true
}
