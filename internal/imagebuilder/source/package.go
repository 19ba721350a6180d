package source

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"

	"dormouse/internal/fleet"
)

// Options say how a package is read.
type Options struct {
	// Name and Version win over what the manifest or the top directory say.
	Name, Version string
	// SpoolDir is where contents are kept, in an unnamed file; os.TempDir where empty.
	SpoolDir string
	Limits   Limits
	// Overlay is a tar, compressed or not, of a directory with package.manifest
	// that is laid over the source: its keys win, its files are placed on top. It is
	// read to its end before the first byte of the source. nil where there is none.
	Overlay io.Reader
	// FileName is what the user's file was called, for sources that know no better name.
	FileName string

	topDirectory string // of a directory on this host
}

// Package is a package that has been read and judged.
type Package struct {
	// Name is a DNS label; Version has 1 to 64 of 0-9 A-Z a-z . + ~ - (see ValidVersion).
	Name, Version string
	Manifest      fleet.Manifest
	// Kernel is what the manifest asks for; "" where it does not say.
	Kernel fleet.KernelKind
	// Origins are what files came from, see Entry.Origin.
	Origins []Origin
	// Tree is the image's file system, less what a kernel adds.
	Tree *Tree
	// Executables are the ELF files in Tree, by absolute path, that starting the
	// program executes: the program itself, or a script's interpreters.
	Executables []string
	// Warnings are what was found and let pass.
	Warnings []string

	spool *os.File
}

// Close gives up the contents; the Tree can't be read afterwards.
func (p *Package) Close() error { return p.spool.Close() }

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	versionPattern = regexp.MustCompile(`^[0-9A-Za-z.+~-]{1,64}$`)
)

// ValidName tells whether s is a DNS label in lower case (RFC 1123).
func ValidName(s string) bool { return namePattern.MatchString(s) }

// ValidVersion tells whether s may be a package's version.
func ValidVersion(s string) bool { return versionPattern.MatchString(s) }

// assemble makes a Package of a tree that holds a package directory.
func assemble(tree *Tree, o Options) (*Package, error) {
	b, err := packageBase(tree, o)
	if err != nil {
		return nil, err
	}
	return b.finish(nil, o)
}

// packageBase finds the package directory in tree, reads its manifest and lays
// the image out.
func packageBase(tree *Tree, o Options) (*base, error) {
	dir, top, err := packageDir(tree)
	if err != nil {
		return nil, err
	}
	if top == "" {
		top = o.topDirectory
	}
	pkg, raw, m, err := readPackageDir(tree, dir, o.Limits)
	if err != nil {
		return nil, err
	}
	b := &base{}
	b.name, b.version, _ = strings.Cut(top, "_") // as OPS names it: name_version
	w := &Package{}
	l, err := layOut(pkg, m, o.Limits, w)
	if err != nil {
		return nil, err
	}
	b.image = l.image
	program := ""
	if m.Kernel != fleet.KernelDisk && (m.Program != "" || o.Overlay == nil) {
		if program, err = l.program(m.Program, top); err != nil {
			return nil, err
		}
	}
	l.done()
	b.warnings = w.Warnings
	b.manifest, err = laidManifest(raw, m, program)
	return b, err
}

// readPackageDir returns the package directory at dir in tree, and its manifest.
func readPackageDir(tree *Tree, dir string, limits Limits) (pkg *Tree, raw []byte, m *ParsedManifest, err error) {
	pkg = tree.subtree(dir)
	if err := pkg.checkOutsideSysroot(limits); err != nil {
		return nil, nil, nil, err
	}
	if raw, err = pkg.manifestBytes(limits); err != nil {
		return nil, nil, nil, err
	}
	m, err = ParseManifest(raw)
	return pkg, raw, m, err
}

// packageDir returns where in tree the manifest lies: "" or the single top directory.
func packageDir(tree *Tree) (base, top string, err error) {
	if _, ok := tree.entries[ManifestName]; ok {
		return "", "", nil
	}
	names, err := tree.ReadDir("")
	if err != nil {
		return "", "", err
	}
	if len(names) == 1 {
		if _, ok := tree.entries[names[0]+"/"+ManifestName]; ok {
			return names[0], names[0], nil
		}
	}
	return "", "", invalid("the package has no %s at its top or in its single top directory: add one with at least {\"Program\": \"/path/in/the/image\"}", ManifestName)
}

// subtree returns the tree whose root is dir.
func (t *Tree) subtree(dir string) *Tree {
	if dir == "" {
		return t
	}
	sub := newTree(t.data)
	if e, ok := t.entries[dir]; ok {
		sub.entries[""].Mode = e.Mode
	}
	for _, p := range t.below(dir) {
		e := *t.entries[p]
		e.Path = p[len(dir)+1:]
		sub.put(&e)
	}
	return sub
}

// checkOutsideSysroot checks the links of the package that do not lie in
// sysroot, whose links are checked in the image. Absolute ones mean the image.
func (t *Tree) checkOutsideSysroot(limits Limits) error {
	outside := newTree(t.data)
	for p, e := range t.entries {
		if p == sysroot || strings.HasPrefix(p, sysroot+"/") || (e.Kind == Symlink && strings.HasPrefix(e.Target, "/")) {
			continue
		}
		outside.put(e)
	}
	return outside.check(limits, "")
}

func (t *Tree) manifestBytes(limits Limits) ([]byte, error) {
	e := t.entries[ManifestName]
	if e.Kind != File {
		return nil, invalid("%s is no regular file: put the file itself into the package", ManifestName)
	}
	if e.Size > limits.ManifestBytes {
		return nil, invalid("%s has %d bytes, more than %d: shorten it", ManifestName, e.Size, limits.ManifestBytes)
	}
	raw := make([]byte, e.Size)
	if _, err := t.Content(*e).ReadAt(raw, 0); err != nil && e.Size > 0 {
		return nil, storageError("reading the manifest again", err)
	}
	return raw, nil
}

// nameAndVersion takes each from the options, else the manifest, else what the
// source has.
func nameAndVersion(o Options, m *ParsedManifest, sourceName, sourceVersion string) (name, version string, err error) {
	name = cmp.Or(o.Name, m.Name, sourceName)
	version = cmp.Or(o.Version, m.Version, sourceVersion)
	switch {
	case name == "":
		return "", "", fleet.InvalidField("name", "the package has no name: give one, or write \"Name\" into %s", ManifestName)
	case !ValidName(name):
		return "", "", fleet.InvalidField("name", "the package's name %q is no DNS label: use 1 to 63 of a-z 0-9 -, beginning and ending with a letter or digit", name)
	case version == "":
		return "", "", fleet.InvalidField("version", "the package has no version: give one, or write \"Version\" into %s", ManifestName)
	case !ValidVersion(version):
		return "", "", fleet.InvalidField("version", "the package's version %q is not valid: use 1 to 64 of 0-9 A-Z a-z . + ~ -", version)
	}
	return name, version, nil
}

// absolute tells whether p is a clean absolute path of a length that Linux takes.
func absolute(p string) bool {
	return strings.HasPrefix(p, "/") && path.Clean(p) == p && len(p) <= maxPath && !strings.ContainsRune(p, 0)
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
