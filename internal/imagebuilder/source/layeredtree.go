package source

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// maxStepsPerMember bounds the search for directories on the average: a path
// has a few names, and only a hostile image many with links among them.
const maxStepsPerMember = 64

// dir finds a directory, links followed as the guest's kernel will, and makes
// what is missing of it where create says so; else that is fs.ErrNotExist.
func (l *layered) dir(name string, create bool) (*node, error) {
	at := []*node{l.root}
	links := 0
	for rest := name; rest != ""; {
		if l.steps++; l.steps > maxStepsPerMember*2*(l.limits.Members+1) {
			return nil, invalid("the paths in the image's layers are too deep: use an image with less in it")
		}
		var c string
		c, rest, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
		switch c {
		case "", ".":
			continue
		case "..":
			if len(at) == 1 {
				return nil, invalid("in a layer, %q %w: build the image anew", name, errEscapes)
			}
			at = at[:len(at)-1]
			continue
		}
		top := at[len(at)-1]
		next := top.children[c]
		if next == nil {
			if !create {
				return nil, fs.ErrNotExist
			}
			next = newDir(0o755)
			if l.members++; l.members > 2*l.limits.Members {
				return nil, tooManyMembers(l.limits.Members)
			}
			top.children[c] = next
		}
		switch next.e.Kind {
		case Directory:
			at = append(at, next)
		case File:
			if !create {
				return nil, fs.ErrNotExist
			}
			return nil, invalid("a layer has something below %q, of which a part is a file: build the image anew", name)
		case Symlink:
			if links++; links > maxLinks {
				return nil, invalid("in a layer, %q %w: build the image anew", name, errTooFar)
			}
			if strings.HasPrefix(next.e.Target, "/") {
				at = at[:1]
			}
			rest = next.e.Target + "/" + rest
		}
	}
	return at[len(at)-1], nil
}

// tree returns what the layers made, as a Tree.
func (l *layered) tree() (*Tree, error) {
	t := newTree(l.spool.f)
	t.entries[""].Mode = l.root.e.Mode
	return t, l.flatten(t, l.root, "")
}

func (l *layered) flatten(t *Tree, n *node, at string) error {
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		child := n.children[name]
		e := child.e
		e.Path = prefix(at) + name
		if len(e.Path) > maxPath {
			return invalid("the path %.60q… in the image has %d bytes, more than %d: shorten it", e.Path, len(e.Path), maxPath)
		}
		if t.Len() > l.limits.Members {
			return tooManyMembers(l.limits.Members)
		}
		t.put(&e)
		if child.children != nil {
			if err := l.flatten(t, child, e.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

// warnings says what was left out. user is who the program is to run as.
func (l *layered) warnings(user string) []string {
	var w []string
	if l.devices > 0 {
		w = append(w, fmt.Sprintf("what the image has below /dev was left out (%d members): the guest has its own /dev", l.devices))
	}
	if l.others > 0 && user != "" {
		w = append(w, fmt.Sprintf("other users than root own members of the layers (%d), which is not kept: where %s must write, use Persist or a directory that all may write to", l.others, user))
	}
	return w
}
