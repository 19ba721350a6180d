package source

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"

	"dormouse/internal/fleet"
)

// ReadDirectory reads a package from a directory of this host. Links are kept
// as links and never followed, also where they change under our hands; hard
// links become files of their own. Errors are as with ReadArchive; the caller
// closes the Package.
func ReadDirectory(ctx context.Context, dir string, o Options) (*Package, error) {
	if abs, err := filepath.Abs(dir); err == nil {
		o.topDirectory = filepath.Base(abs)
	}
	return o.read(ctx, func(s *spool, o Options) (*base, error) {
		c := newCollector(s, o.Limits)
		if err := c.addDirectory(ctx, dir); err != nil {
			return nil, err
		}
		return c.base(ctx, o)
	})
}

func (c *collector) addFromRoot(ctx context.Context, root *os.Root, name string) error {
	clean, err := memberName(name)
	if err != nil {
		return err
	}
	info, err := root.Lstat(name)
	if err != nil {
		return fleet.Errorf(fleet.KindInvalid, "reading the package directory: %w", err)
	}
	e := Entry{Path: clean, Mode: unixMode(info.Mode())}
	switch info.Mode().Type() {
	case fs.ModeDir:
		e.Kind = Directory
	case fs.ModeSymlink:
		e.Kind = Symlink
		if e.Target, err = root.Readlink(name); err != nil {
			return fleet.Errorf(fleet.KindInvalid, "reading the package directory: %w", err)
		}
	case 0:
		f, err := root.Open(name)
		if err != nil {
			return fleet.Errorf(fleet.KindInvalid, "reading the package directory: %w", err)
		}
		defer f.Close()
		e.Kind, e.Size = File, info.Size()
		if e.offset, err = c.store(ctx, f, e.Size); err != nil {
			return readError(err)
		}
	case fs.ModeNamedPipe:
		return invalid("the member %q is a named pipe: let the program make it when it starts", name)
	default:
		return invalid("the member %q is a device or socket: leave it out", name)
	}
	return c.add(e)
}

func unixMode(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for flag, bit := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return bits
}
