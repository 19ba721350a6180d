package source

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// sysroot is the directory of a package that becomes the image's root.
const sysroot = "sysroot"

// layOut makes the image of a package directory: its sysroot, and on that what
// the manifest's keys name.
func layOut(pkg *Tree, m *ParsedManifest, limits Limits, p *Package) (*layer, error) {
	image := newTree(pkg.data)
	if e, ok := pkg.entries[sysroot]; ok {
		if e.Kind != Directory {
			return nil, notSysroot()
		}
		image = pkg.subtree(sysroot)
	}
	l := &layer{pkg: pkg, image: image, limits: limits, p: p}
	return l, l.addNamed(m)
}

func notSysroot() error {
	return invalid("%s in the package is no directory: put the image's root file system into it", sysroot)
}

// layer adds files of a package to an image. Later ones replace earlier ones.
type layer struct {
	pkg, image *Tree
	limits     Limits
	p          *Package // takes the warnings
	added      int      // placed so far; bounds what overlapping Dirs can cause
	replaced   int
}

// maxReplaced is how many replaced files are named one by one.
const maxReplaced = 20

// addSysroot places all of the package's sysroot.
func (l *layer) addSysroot() error {
	e, ok := l.pkg.entries[sysroot]
	if !ok {
		return nil
	}
	if e.Kind != Directory {
		return notSysroot()
	}
	for _, p := range l.pkg.below(sysroot) {
		if err := l.place(sysroot, p[len(sysroot)+1:], *l.pkg.entries[p]); err != nil {
			return err
		}
	}
	return nil
}

// addNamed places what Dirs, MapDirs and Files name.
func (l *layer) addNamed(m *ParsedManifest) error {
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
	return nil
}

// done says how many replaced files were not named.
func (l *layer) done() {
	if more := l.replaced - maxReplaced; more > 0 {
		l.p.addWarnings([]string{fmt.Sprintf("%d more files of the package were replaced by files laid over them", more)})
	}
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
	have, err := l.image.place(name, e)
	if err != nil {
		return invalid("%s: %s: %w", ManifestName, key, err)
	}
	// The same file twice, as when Dirs and Files name it both, is not worth a word.
	if have == nil || have.Kind == e.Kind && have.offset == e.offset && have.Size == e.Size && have.Target == e.Target {
		return nil
	}
	if l.replaced++; l.replaced <= maxReplaced {
		l.p.addWarnings([]string{fmt.Sprintf("/%s was replaced by what %s lays over it", have.Path, key)})
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
