package source

import (
	"context"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"dormouse/internal/fleet"
)

// collector gathers the members of a package in whatever order they come.
type collector struct {
	limits    Limits
	tree      *Tree
	spool     *spool
	written   int64             // bytes of content so far
	hardLinks map[string]string // member → the member it is a link to
	nameBytes int64
}

func newCollector(s *spool, limits Limits) *collector {
	return &collector{limits: limits, tree: newTree(s.f), spool: s, hardLinks: map[string]string{}}
}

// memberName checks a member's name and returns it clean; "" is the top directory.
func memberName(name string) (string, error) {
	switch {
	case !utf8.ValidString(name):
		return "", invalid("the name of the member %q is not UTF-8: rename it", short(name))
	case strings.ContainsRune(name, 0):
		return "", invalid("the name of the member %q has a zero byte: rename it", short(name))
	case strings.HasPrefix(name, "/"):
		return "", invalid("the member %q has an absolute name: pack with names relative to the package directory (tar -C DIR -cz .)", short(name))
	case len(name) > maxPath:
		return "", invalid("the name of the member %.60q… has %d bytes, more than %d: shorten it", name, len(name), maxPath)
	}
	for c := range strings.SplitSeq(name, "/") {
		if c == ".." {
			return "", invalid("the member %q has .. in its name: pack with names relative to the package directory (tar -C DIR -cz .)", short(name))
		}
		if len(c) > maxName {
			return "", invalid("a name in the member %.60q… has %d bytes, more than %d: shorten it", name, len(c), maxName)
		}
	}
	clean := path.Clean(name)
	if clean == "." {
		clean = ""
	}
	return clean, nil
}

// add takes a member whose name has been checked by memberName.
func (c *collector) add(e Entry) error {
	if err := c.count(e.Path, e.Target); err != nil {
		return err
	}
	e.Mode &= 0o7777
	if e.Kind == Symlink {
		e.Mode = 0o777
		switch {
		case !validTarget(e.Target):
			return invalid("the target of the link %q is not UTF-8: point it elsewhere", e.Path)
		case e.Target == "" || len(e.Target) > maxPath:
			return invalid("the target of the link %q has %d bytes: it must have 1 to %d", e.Path, len(e.Target), maxPath)
		}
	}
	have, twice := c.tree.entries[e.Path]
	if e.Path == "" && e.Kind == Directory {
		have.Mode = e.Mode
		return nil
	}
	if _, link := c.hardLinks[e.Path]; link || (twice && (have.Kind != Directory || e.Kind != Directory || have.Mode != e.Mode)) {
		return duplicate(e.Path)
	}
	c.tree.put(&e)
	return nil
}

func validTarget(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// addHardLink takes a hard link; both names have been checked by memberName.
func (c *collector) addHardLink(name, target string) error {
	if err := c.count(name, target); err != nil {
		return err
	}
	_, file := c.tree.entries[name]
	if _, link := c.hardLinks[name]; file || link {
		return duplicate(name)
	}
	c.hardLinks[name] = target
	return nil
}

func duplicate(name string) error {
	if path.Base(name) == ManifestName {
		return invalid("the package holds the manifest %s twice: keep one", name)
	}
	return invalid("the package holds the member %q twice: keep one", name)
}

func (c *collector) count(names ...string) error {
	if len(c.tree.entries)+len(c.hardLinks) > c.limits.Members {
		return tooManyMembers(c.limits.Members)
	}
	for _, n := range names {
		c.nameBytes += int64(len(n))
	}
	if c.nameBytes > c.limits.NameBytes {
		return invalid("the names in the package have more than %d MiB together: leave out what the program does not need", c.limits.NameBytes>>20)
	}
	return nil
}

// store appends size bytes of content to the spool and returns their offset.
func (c *collector) store(ctx context.Context, r io.Reader, size int64) (int64, error) {
	if size > c.limits.Bytes-c.written {
		return 0, tooManyBytes(c.limits.Bytes)
	}
	offset, n, err := c.spool.store(ctx, r, size)
	c.written += n
	return offset, err
}

// finish resolves hard links, adds the directories that were only implied and
// checks that every member lies in a directory and every link in the package.
func (c *collector) finish() (*Tree, error) {
	var links []*Entry // placed only when all are known: the order must not matter
	for _, name := range slices.Sorted(maps.Keys(c.hardLinks)) {
		e, err := c.linked(name)
		if err != nil {
			return nil, err
		}
		linked := *e
		linked.Path = name
		links = append(links, &linked)
	}
	for _, e := range links {
		c.tree.put(e)
	}
	for _, p := range slices.Clone(c.tree.paths()) {
		for _, dir := range ancestors(p) {
			e, ok := c.tree.entries[dir]
			if !ok {
				if len(c.tree.entries) > c.limits.Members {
					return nil, tooManyMembers(c.limits.Members)
				}
				c.tree.put(&Entry{Path: dir, Kind: Directory, Mode: 0o755})
			} else if e.Kind != Directory {
				return nil, invalid("the member %q lies below %q, which is no directory: pack the directory anew", p, dir)
			}
		}
	}
	return c.tree, nil
}

// linked follows hard links to hard links.
func (c *collector) linked(name string) (*Entry, error) {
	target := c.hardLinks[name]
	for range maxLinks {
		if e, ok := c.tree.entries[target]; ok {
			if e.Kind == Directory {
				return nil, invalid("the hard link %q points to the directory %q: leave it out", name, target)
			}
			return e, nil
		}
		next, ok := c.hardLinks[target]
		if !ok {
			break
		}
		target = next
	}
	return nil, invalid("the hard link %q points to %q, which the package does not hold: pack the file itself (tar --hard-dereference)", name, c.hardLinks[name])
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func invalid(format string, args ...any) error {
	return fleet.Errorf(fleet.KindInvalid, format, args...)
}
