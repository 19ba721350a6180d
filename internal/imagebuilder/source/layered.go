package source

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"
	"strings"
)

// layered is the file system that the layers of a container image make, one
// upon the other (OCI image specification, "Image Layer Filesystem Changeset").
// It is a tree of nodes, so that a hostile image can't make removing expensive.
type layered struct {
	root   *node
	limits Limits
	spool  *spool

	members   int   // read so far, of all layers
	nameBytes int64 // of their names
	bytes     int64 // of their contents
	steps     int   // taken to find directories
	others    int   // members of other users than root
	devices   int   // members below /dev that were left out
}

type node struct {
	e        Entry
	children map[string]*node // of a directory
}

func newLayered(s *spool, limits Limits) *layered {
	return &layered{root: newDir(0o755), limits: limits, spool: s}
}

func newDir(mode uint32) *node {
	return &node{e: Entry{Kind: Directory, Mode: mode}, children: map[string]*node{}}
}

// Names with which a layer says that something of the layers below is gone.
const (
	whiteout       = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // of AUFS itself: says nothing about files
)

// change is a member of a layer.
type change struct {
	name     string
	e        Entry
	hardLink string // where it is not ""
}

// add reads a layer's tar and applies it. What a layer removes is of the layers
// below, wherever in the tar it says so.
func (l *layered) add(ctx context.Context, r io.Reader, origin int) error {
	var changes []change
	var gone, opaque []string
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return readError(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		// Absolute names are met with in images, and mean the same.
		name, err := memberName(strings.TrimLeft(h.Name, "/"))
		if err != nil {
			return err
		}
		if err := l.count(h, name); err != nil {
			return err
		}
		if isBelow(name, "dev") && name != "dev" {
			l.devices++
			continue
		}
		dir, last := splitLast(name)
		switch hidden, is := strings.CutPrefix(last, whiteout); {
		case last == whiteoutOpaque:
			opaque = append(opaque, dir)
		case strings.Contains("/"+name, "/"+whiteoutMeta):
		case is && (hidden == "" || hidden == "." || hidden == ".."):
			return invalid("the layer's member %q removes nothing that has a name: build the image anew", name)
		case is:
			gone = append(gone, path.Join(dir, hidden))
		default:
			c, err := l.change(ctx, h, name, tr)
			if err != nil {
				return err
			}
			c.e.Origin = origin
			changes = append(changes, c)
		}
	}
	for _, dir := range opaque {
		if n, err := l.dir(dir, false); err == nil {
			clear(n.children)
		} else if !missing(err) {
			return err
		}
	}
	for _, name := range gone {
		dir, last := splitLast(name)
		if n, err := l.dir(dir, false); err == nil {
			delete(n.children, last)
		} else if !missing(err) {
			return err
		}
	}
	for _, c := range changes {
		if err := l.apply(c); err != nil {
			return err
		}
	}
	return nil
}

// count bounds what all layers together hold; what a later one replaces counts as well.
func (l *layered) count(h *tar.Header, name string) error {
	if h.Uid != 0 || h.Gid != 0 {
		l.others++
	}
	if l.members++; l.members > 2*l.limits.Members {
		return tooManyMembers(l.limits.Members)
	}
	if l.nameBytes += int64(len(name) + len(h.Linkname)); l.nameBytes > 2*l.limits.NameBytes {
		return invalid("the names in the image's layers have more than %d MiB together: use an image with less in it", 2*l.limits.NameBytes>>20)
	}
	return nil
}

// change checks a member that adds something, and keeps its content.
func (l *layered) change(ctx context.Context, h *tar.Header, name string, r io.Reader) (change, error) {
	c := change{name: name, e: Entry{Mode: uint32(h.Mode) & 0o7777}}
	switch h.Typeflag {
	case tar.TypeDir:
		c.e.Kind = Directory
		return c, nil
	case tar.TypeReg, tar.TypeGNUSparse:
		if h.Size > l.limits.Bytes-l.bytes {
			return c, tooManyBytes(l.limits.Bytes)
		}
		offset, n, err := l.spool.store(ctx, r, h.Size)
		l.bytes += n
		c.e.Kind, c.e.Size, c.e.offset = File, h.Size, offset
		if err != nil {
			return c, readError(err)
		}
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxPath || !validTarget(h.Linkname) {
			return c, invalid("the target of the link %q in a layer is empty, too long or not UTF-8: build the image anew", name)
		}
		c.e.Kind, c.e.Mode, c.e.Target = Symlink, 0o777, h.Linkname
	case tar.TypeLink:
		target, err := memberName(strings.TrimLeft(h.Linkname, "/"))
		if err != nil || target == "" {
			return c, invalid("the hard link %q in a layer points outside of the image, to %q: build the image anew", name, short(h.Linkname))
		}
		c.hardLink = target
	case tar.TypeBlock, tar.TypeChar:
		return c, invalid("the layer's member %q is a device, which only the guest's own /dev has: leave it out of the image", name)
	case tar.TypeFifo:
		return c, invalid("the layer's member %q is a named pipe: let the program make it when it starts", name)
	default:
		return c, invalid("the layer's member %q is of the unknown type %q: build the image with files, directories and links only", name, h.Typeflag)
	}
	if name == "" {
		return c, invalid("a layer replaces the image's root directory: build the image anew")
	}
	return c, nil
}

// apply puts one member in its place, over whatever is there.
func (l *layered) apply(c change) error {
	if c.name == "" {
		l.root.e.Mode = c.e.Mode
		return nil
	}
	dir, last := splitLast(c.name)
	at, err := l.dir(dir, true)
	if err != nil {
		return err
	}
	if c.hardLink != "" {
		of, target := splitLast(c.hardLink)
		from, err := l.dir(of, false)
		if err != nil && !missing(err) {
			return err
		}
		if err != nil || from.children[target] == nil || from.children[target].e.Kind == Directory {
			return invalid("the hard link %q in a layer points to %q, which is no file of that layer or one below: build the image anew", c.name, c.hardLink)
		}
		c.e = from.children[target].e
	}
	have := at.children[last]
	switch {
	case c.e.Kind != Directory:
		at.children[last] = &node{e: c.e}
	case have != nil && have.e.Kind == Directory:
		have.e.Mode = c.e.Mode
	default:
		at.children[last] = newDir(c.e.Mode)
	}
	return nil
}
