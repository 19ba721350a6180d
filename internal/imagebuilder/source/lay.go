package source

import (
	"maps"
	"path"
	"slices"
	"strings"
)

// sysroot is the directory of a package that becomes the image's root.
const sysroot = "sysroot"

// lay lays the image out: sysroot, then Dirs, MapDirs, Files and the program,
// of which later ones replace files of earlier ones.
func lay(pkg *Tree, m *ParsedManifest, top string, limits Limits, p *Package) error {
	image := newTree(pkg.data)
	if e, ok := pkg.entries[sysroot]; ok {
		if e.Kind != Directory {
			return invalid("%s in the package is no directory: put the image's root file system into it", sysroot)
		}
		image = pkg.subtree(sysroot)
	}
	l := layer{pkg: pkg, image: image, limits: limits}
	for _, d := range m.Dirs {
		if err := l.addDir("Dirs", d, d); err != nil {
			return err
		}
	}
	for _, from := range slices.Sorted(maps.Keys(m.MapDirs)) {
		if err := l.addMapped(from, m.MapDirs[from]); err != nil {
			return err
		}
	}
	for _, f := range m.Files {
		if err := l.addFile("Files", f, f); err != nil {
			return err
		}
	}
	program, err := l.program(m.Program, top)
	if err != nil {
		return err
	}
	if err := image.check(limits, "/"); err != nil {
		return err
	}
	p.Tree, p.Manifest = image, m.normalised(program)
	for _, dir := range p.Manifest.Persist {
		if e, err := image.Lookup(dir); err == nil && e.Kind != Directory || err != nil && !missing(err) {
			return invalid("Persist names %s, which is no directory in the image: name a directory, or leave the file out", dir)
		}
	}
	p.Executables, err = image.executables(program, p.Manifest.Env)
	return err
}

// layer adds files of a package to an image.
type layer struct {
	pkg, image *Tree
	limits     Limits
	added      int // placed so far; bounds what overlapping Dirs can cause
}

// inPackage returns the path in the package of what a manifest's key names.
func (l *layer) inPackage(key, name string) (string, error) {
	clean, err := memberName(strings.TrimPrefix(name, "./"))
	if err != nil || clean == "" {
		return "", invalid("%s: %s names %q, which is no path inside the package: write it relative to the package directory, without ..", ManifestName, key, name)
	}
	return clean, nil
}

func (l *layer) place(key, name string, e Entry) error {
	if l.added++; l.added > l.limits.Members || l.image.Len() > l.limits.Members {
		return tooManyMembers(l.limits.Members)
	}
	if err := l.image.place(name, e); err != nil {
		return invalid("%s: %s: %w", ManifestName, key, err)
	}
	return nil
}

// addFile places the regular file that from leads to, links followed.
func (l *layer) addFile(key, from, to string) error {
	from, err := l.inPackage(key, from)
	if err != nil {
		return err
	}
	to, err = l.inPackage(key, to)
	if err != nil {
		return err
	}
	e, err := l.pkg.Lookup(from)
	if err != nil {
		return invalid("%s: %s names a file that the package does not hold: %w", ManifestName, key, err)
	}
	if e.Kind != File {
		return invalid("%s: %s names %s, which is a directory: use Dirs for it", ManifestName, key, from)
	}
	return l.place(key, to, e)
}

// addDir places the content of the directory from below to.
func (l *layer) addDir(key, from, to string) error {
	from, err := l.inPackage(key, from)
	if err != nil {
		return err
	}
	e, err := l.pkg.Lookup(from)
	if err != nil {
		return invalid("%s: %s names a directory that the package does not hold: %w", ManifestName, key, err)
	}
	if e.Kind != Directory {
		return invalid("%s: %s names %s, which is a file: use Files for it", ManifestName, key, from)
	}
	if err := l.place(key, to, e); err != nil {
		return err
	}
	for _, p := range l.pkg.below(e.Path) {
		if err := l.place(key, to+"/"+p[len(prefix(e.Path)):], *l.pkg.entries[p]); err != nil {
			return err
		}
	}
	return nil
}

// addMapped adds what MapDirs maps: the content of a directory, or with a
// pattern as the last component (dir/*) what in the directory matches it.
func (l *layer) addMapped(from, to string) error {
	if !strings.HasPrefix(to, "/") {
		to = "/" + to
	}
	if to != path.Clean(to) {
		return invalid("%s: MapDirs maps to %q: write a clean absolute path in the image", ManifestName, to)
	}
	dir, pattern := path.Split(from)
	if !strings.ContainsAny(pattern, "*?[") {
		return l.addDir("MapDirs", from, to)
	}
	names, err := l.pkg.ReadDir(strings.TrimPrefix(dir, "./"))
	if err != nil {
		return invalid("%s: MapDirs names a directory that the package does not hold: %w", ManifestName, err)
	}
	matched := 0
	for _, n := range names {
		ok, err := path.Match(pattern, n)
		if err != nil {
			return invalid("%s: MapDirs has the malformed pattern %q: %w", ManifestName, from, err)
		}
		if !ok {
			continue
		}
		matched++
		e, err := l.pkg.Lookup(dir + n)
		switch {
		case err == nil && e.Kind == Directory:
			err = l.addDir("MapDirs", dir+n, to+"/"+n)
		case err == nil:
			err = l.place("MapDirs", to+"/"+n, e)
		default:
			err = invalid("%s: MapDirs: %w", ManifestName, err)
		}
		if err != nil {
			return err
		}
	}
	if matched == 0 {
		return invalid("%s: MapDirs has %q, which nothing in the package matches: mend the pattern", ManifestName, from)
	}
	return nil
}

// program returns the program's absolute path in the image, and puts it there
// where it is named as a file of the package: relative to the package
// directory, or as OPS does with the package directory's own name before that.
func (l *layer) program(name, top string) (string, error) {
	if name == "" {
		return "", invalid("%s has no Program: write {\"Program\": \"/path/in/the/image\"}", ManifestName)
	}
	if strings.HasPrefix(name, "/") {
		if !absolute(name) {
			return "", invalid("Program is %q: write a clean absolute path", name)
		}
		return name, nil
	}
	from, err := l.inPackage("Program", name)
	if err != nil {
		return "", err
	}
	if _, err := l.pkg.Lookup(from); missing(err) {
		if dir, rest, ok := strings.Cut(from, "/"); ok && (top == "" || dir == top) {
			if _, err := l.pkg.Lookup(rest); err == nil {
				from = rest
			}
		}
	}
	if in, ok := strings.CutPrefix(from, sysroot+"/"); ok {
		return "/" + in, nil
	}
	if err := l.addFile("Program", from, from); err != nil {
		return "", err
	}
	return "/" + from, nil
}
