package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"dormouse/internal/fleet"
)

// base is what a source holds before an overlay is laid over it.
type base struct {
	image *Tree
	// manifest is a package.manifest, its Program an absolute path in the image or
	// missing. Files, Dirs and MapDirs are laid out already.
	manifest []byte
	// name and version serve where nothing else says.
	name, version string
	origins       []Origin
	warnings      []string
	// disk: image is a disk as settleDisk wants it, over which nothing can be laid but keys.
	disk bool
}

// FromDirectory makes a package of a root file system that lies in a directory
// of this host, as ReadDirectory reads one. It is for sources that unpack what
// they fetch; o.Overlay is laid over it. The caller closes the Package, and
// may remove the directory at once.
func FromDirectory(ctx context.Context, dir string, d Laid, o Options) (*Package, error) {
	return o.read(ctx, func(s *spool, o Options) (*base, error) {
		c := newCollector(s, o.Limits)
		if err := c.addDirectory(ctx, dir); err != nil {
			return nil, err
		}
		tree, err := c.finish()
		if err != nil {
			return nil, err
		}
		for name, i := range d.Origin {
			if e, ok := tree.entries[name]; ok && i >= 0 && i < len(d.Origins) {
				e.Origin = i + 1
			}
		}
		manifest := d.Manifest
		if len(manifest) == 0 {
			manifest = []byte("{}")
		}
		return &base{
			image: tree, manifest: manifest, name: MendName(d.Name), version: MendVersion(d.Version),
			origins: slices.Clone(d.Origins), warnings: slices.Clone(d.Warnings),
		}, nil
	})
}

// read opens a spool, reads the overlay where there is one, then the source,
// and joins them. The spool becomes the package's, or is given up.
func (o Options) read(ctx context.Context, from func(*spool, Options) (*base, error)) (*Package, error) {
	o.Limits = o.Limits.withDefaults()
	s, err := newSpool(o.SpoolDir)
	if err != nil {
		return nil, err
	}
	p, err := o.join(ctx, s, from)
	if err != nil {
		return nil, errors.Join(err, s.f.Close())
	}
	p.spool = s.f
	return p, nil
}

func (o Options) join(ctx context.Context, s *spool, from func(*spool, Options) (*base, error)) (*Package, error) {
	over, err := o.overlay(ctx, s)
	if err != nil {
		return nil, err
	}
	b, err := from(s, o)
	if err != nil {
		return nil, err
	}
	return b.finish(over, o)
}

// finish lays the overlay over and judges the whole.
func (b *base) finish(over *overlay, o Options) (*Package, error) {
	p := &Package{Tree: b.image, Origins: b.origins, Warnings: b.warnings}
	manifest := b.manifest
	if over != nil {
		lay := over.layOver
		if b.disk {
			lay = over.layOverDisk
		}
		merged, err := lay(b.image, manifest, o.Limits, p)
		if err != nil {
			return nil, err
		}
		manifest = merged
	}
	m, err := ParseManifest(manifest)
	if err != nil {
		return nil, err
	}
	p.addWarnings(m.Warnings)
	switch disk := m.Kernel == fleet.KernelDisk; {
	case disk: // it says itself what starts
	case m.Program == "":
		return nil, fleet.InvalidField("Program", "the source does not say which program to start: lay a %s with {\"Program\": \"/path/in/the/image\"} over it", ManifestName)
	case !absolute(m.Program):
		return nil, fleet.InvalidField("Program", "Program is %q: write a clean absolute path in the image", m.Program)
	}
	if p.Name, p.Version, err = nameAndVersion(o, m, b.name, b.version); err != nil {
		return nil, err
	}
	return p, p.settle(m, m.Program, o.Limits)
}

// settle checks the laid out image and fills in what is known of it.
func (p *Package) settle(m *ParsedManifest, program string, limits Limits) error {
	if err := p.Tree.check(limits, "/"); err != nil {
		return err
	}
	if m.Kernel == fleet.KernelDisk {
		return p.settleDisk(m)
	}
	p.Manifest, p.Kernel = m.normalised(program), m.Kernel
	for _, dir := range p.Manifest.Persist {
		if e, err := p.Tree.Lookup(dir); err == nil && e.Kind != Directory || err != nil && !missing(err) {
			return invalid("Persist names %s, which is no directory in the image: name a directory, or leave the file out", dir)
		}
	}
	var err error
	p.Executables, err = p.Tree.executables(program, p.Manifest.Env)
	return err
}

func (p *Package) addWarnings(more []string) {
	for _, w := range more {
		if !slices.Contains(p.Warnings, w) {
			p.Warnings = append(p.Warnings, w)
		}
	}
}

// addDirectory adds all that lies in a directory of this host.
func (c *collector) addDirectory(ctx context.Context, dir string) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fleet.Errorf(fleet.KindInvalid, "opening the package directory, name one that holds %s: %w", ManifestName, err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fleet.Errorf(fleet.KindInvalid, "reading the package directory: %w", err)
		}
		return c.addFromRoot(ctx, root, name)
	})
}

// spool is an unnamed file of contents, one after another.
type spool struct {
	f *os.File
	n int64 // its length

	buf []byte // for copying: one for all files
}

// newSpool returns an unnamed file in dir: nothing is left of it however the process ends.
func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "spool-*")
	if err != nil {
		return nil, storageError("unpacking the package", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("unpacking the package: %w", err), f.Close())
	}
	return &spool{f: f}, nil
}

// Write implements io.Writer. It tells a failure of our disk from one of the input.
func (s *spool) Write(p []byte) (int, error) {
	n, err := s.f.Write(p)
	s.n += int64(n)
	if err != nil {
		err = storageError("unpacking the package", err)
	}
	return n, err
}

// store appends size bytes of r and returns where they begin and how many came.
func (s *spool) store(ctx context.Context, r io.Reader, size int64) (offset, n int64, err error) {
	offset = s.n
	if s.buf == nil {
		s.buf = make([]byte, 64<<10)
	}
	n, err = io.CopyBuffer(s, io.LimitReader(readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	}), size), s.buf)
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	return offset, n, err
}
