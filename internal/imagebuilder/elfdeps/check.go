package elfdeps

import (
	"debug/elf"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"dormouse/internal/fleet"
)

// Tree is the image's file system as the check needs it. Names are absolute;
// links are followed as the guest's kernel will follow them.
type Tree interface {
	// Open returns the content of a regular file, or an error.
	Open(name string) (*io.SectionReader, error)
	// ReadDir returns the names in a directory in order, or an error.
	ReadDir(name string) ([]string, error)
}

// Report is what a program needs to start.
type Report struct {
	// Interpreter is the dynamic loader's path; "" for a static program.
	Interpreter string
	// Libraries are the paths, in the image and in order of discovery, at which the
	// loader will find what is needed.
	Libraries []string
	// Wanted is what the C library will open by itself while the program runs, as
	// far as can be told, and the image lacks.
	Wanted []Want
	// Warnings are what was found and let pass.
	Warnings []string
}

// Bounds on one check: how many files a program may need in all, and how many
// places may be looked at for them.
const (
	maxLibraries = 2048
	maxProbes    = 500_000
)

// Check reads the ELF file program and all that it needs from the tree. env is
// the program's environment, of which LD_LIBRARY_PATH and LD_PRELOAD count. Every error is a
// fleet.Error of KindInvalid; where something is missing it wraps a *Missing.
func Check(tree Tree, program string, env map[string]string) (Report, error) {
	c := newChecker(tree, env)
	f, err := c.read(program)
	if err != nil {
		return Report{}, err
	}
	if !f.native() {
		return Report{}, invalid("%s is an ELF for %s; build it for x86-64 (GOARCH=amd64)", program, f.foreign())
	}
	if f.kind != elf.ET_EXEC && f.kind != elf.ET_DYN {
		return Report{}, invalid("%s is an ELF file of type %s, which can't be started: name the linked program", program, f.kind)
	}
	if f.entry == 0 || (f.interp == "" && len(f.needed) > 0 && !isLoader(program)) {
		return Report{}, invalid("%s is a shared library, not a program: name the program", program)
	}
	if f.interp == "" {
		return Report{}, nil
	}
	if err := c.start(program, f); err != nil {
		return Report{}, err
	}
	return c.report, nil
}

// object is a file in the order of loading, and who asked for it first.
type object struct {
	path   string
	file   *file
	parent *object
}

type checker struct {
	tree    Tree
	env     map[string]string
	libc    libc
	seen    map[string]*object // by DT_NEEDED name and by path
	files   map[string]*file   // candidates by path; nil where not usable
	foreign map[string]string  // what candidates for other machines are for, by path
	order   []*object          // as loaded, the program first
	probes  int
	report  Report
}

func newChecker(tree Tree, env map[string]string) *checker {
	return &checker{tree: tree, env: env, seen: map[string]*object{}, files: map[string]*file{}, foreign: map[string]string{}}
}

func (c *checker) start(program string, f *file) error {
	loader, err := c.tree.Open(f.interp)
	if err != nil {
		return missing(f.interp, program)
	}
	l, err := readELF(loader, loader.Size())
	if err != nil || !l.native() {
		return invalid("the loader %s of %s is no ELF file for x86-64: put the right one into sysroot", f.interp, program)
	}
	c.report.Interpreter = f.interp
	c.libc = glibc(c.tree)
	if isMusl(f.interp) {
		c.libc = musl(c.tree)
	}
	return c.follow(&object{path: program, file: f})
}

// CheckLibrary is Check for a file that a program loads while it runs, as a
// plugin is, by glibc's loader. What is no ELF file for Linux on x86-64 needs nothing.
func CheckLibrary(tree Tree, name string, env map[string]string) (Report, error) {
	c := newChecker(tree, env)
	c.libc = glibc(tree)
	f := c.usable(name)
	if f == nil {
		return Report{}, nil
	}
	err := c.follow(&object{path: name, file: f})
	return c.report, err
}

// follow finds all that root needs, directly or not.
func (c *checker) follow(root *object) error {
	queue := []*object{root}
	c.order = []*object{root}
	for _, name := range strings.FieldsFunc(c.env["LD_PRELOAD"], func(r rune) bool { return r == ':' || r == ' ' }) {
		o, err := c.load(name, root)
		if err != nil {
			return err
		}
		if o != nil {
			queue = append(queue, o)
		}
	}
	for len(queue) > 0 { // breadth first, as loaders do
		o := queue[0]
		queue = queue[1:]
		for _, name := range o.file.needed {
			found, err := c.load(name, o)
			if err != nil {
				return err
			}
			if found != nil {
				queue = append(queue, found)
			}
			if len(c.report.Libraries) > maxLibraries {
				return invalid("%s needs more than %d libraries: link it statically", root.path, maxLibraries)
			}
		}
	}
	c.want()
	return nil
}

// load finds a library for the object that needs it; nil where it is loaded already.
func (c *checker) load(name string, by *object) (*object, error) {
	if _, ok := c.seen[name]; ok {
		return nil, nil
	}
	if c.libc.provides(name) || path.Base(c.report.Interpreter) == name {
		c.seen[name] = nil
		return nil, nil
	}
	if c.libc.foreign(name) {
		return nil, invalid("%s needs %s, but %s is linked for %s (its loader is %s): build both against the same C library, or link statically",
			by.path, name, c.root(by).path, c.libc.name, c.report.Interpreter)
	}
	o, err := c.find(name, by)
	if err != nil {
		return nil, err
	}
	_, loaded := c.seen[o.path]
	c.seen[name], c.seen[o.path] = o, o
	if loaded {
		return nil, nil
	}
	c.report.Libraries = append(c.report.Libraries, o.path)
	c.order = append(c.order, o)
	return o, nil
}

func (c *checker) root(o *object) *object {
	for o.parent != nil {
		o = o.parent
	}
	return o
}

// find looks for a library in the order in which the loader does.
func (c *checker) find(name string, by *object) (*object, error) {
	if name == "" {
		return nil, invalid("%s needs a library without a name: link it again", by.path)
	}
	if strings.Contains(name, "/") {
		full := c.expand(name, by.path)
		if !path.IsAbs(full) {
			return nil, invalid("%s needs the library %s by a path that depends on the working directory: link it by its plain name", by.path, name)
		}
		if f := c.usable(full); f != nil {
			return &object{full, f, by}, nil
		}
		return nil, c.missing(full, by.path, []place{{dir: path.Dir(full)}})
	}
	places := c.places(by)
	for _, place := range places {
		if c.probes++; c.probes > maxProbes {
			return nil, invalid("%s and its libraries name too many directories to look in: link with fewer", c.root(by).path)
		}
		full := path.Join(place.dir, name)
		f := c.usable(full)
		if f == nil {
			continue
		}
		if place.onlyByCache && !c.libc.cached {
			c.warn("%s finds %s only through /etc/ld.so.conf, which needs /etc/ld.so.cache: run `ldconfig -r sysroot` before packing, or set LD_LIBRARY_PATH=%s", by.path, name, place.dir)
		}
		return &object{full, f, by}, nil
	}
	return nil, c.missing(name, by.path, places)
}

type place struct {
	dir         string
	onlyByCache bool
}

// places lists where a library needed by an object is looked for.
func (c *checker) places(by *object) []place {
	var all []place
	add := func(dirs []string, origin string) {
		for _, d := range dirs {
			if d = c.expand(d, origin); path.IsAbs(d) {
				all = append(all, place{dir: path.Clean(d)})
			}
		}
	}
	library := strings.FieldsFunc(c.env["LD_LIBRARY_PATH"], func(r rune) bool { return r == ':' || r == ';' })
	if c.libc.name == "musl" {
		add(library, c.root(by).path)
		for o := by; o != nil; o = o.parent { // musl inherits both
			add(append(slices.Clone(o.file.rpath), o.file.runpath...), o.path)
		}
	} else {
		if len(by.file.runpath) == 0 {
			for o := by; o != nil; o = o.parent {
				if len(o.file.runpath) == 0 {
					add(o.file.rpath, o.path)
				}
			}
		}
		add(library, c.root(by).path)
		add(by.file.runpath, by.path)
	}
	for _, d := range c.libc.configured {
		all = append(all, place{dir: d, onlyByCache: !slices.Contains(c.libc.defaults, d)})
	}
	add(c.libc.defaults, "/")
	return all
}

// expand replaces the loader's own variables (ld.so(8), "Dynamic string tokens").
func (c *checker) expand(dir, origin string) string {
	for _, token := range [][2]string{{"ORIGIN", path.Dir(origin)}, {"LIB", c.libc.lib}, {"PLATFORM", "x86_64"}} {
		dir = strings.ReplaceAll(dir, "${"+token[0]+"}", token[1])
		dir = strings.ReplaceAll(dir, "$"+token[0], token[1])
	}
	return dir
}

// usable reads a candidate; nil where it isn't there or is for another machine, which loaders pass over.
func (c *checker) usable(full string) *file {
	if f, ok := c.files[full]; ok {
		return f
	}
	var usable *file
	if r, err := c.tree.Open(full); err == nil {
		switch f, err := readELF(r, r.Size()); {
		case err == nil && !f.native():
			c.foreign[full] = f.foreign()
		case err == nil && f.kind == elf.ET_DYN:
			usable = f
		}
	}
	c.files[full] = usable
	return usable
}

func (c *checker) read(name string) (*file, error) {
	r, err := c.tree.Open(name)
	if err != nil {
		return nil, fleet.Errorf(fleet.KindInvalid, "reading the program: %w", err)
	}
	f, err := readELF(r, r.Size())
	if err != nil {
		return nil, fleet.Errorf(fleet.KindInvalid, "%s is %w: build or pack it anew", name, err)
	}
	return f, nil
}

func (c *checker) warn(format string, args ...any) {
	if w := fmt.Sprintf(format, args...); !slices.Contains(c.report.Warnings, w) {
		c.report.Warnings = append(c.report.Warnings, w)
	}
}

func invalid(format string, args ...any) error {
	return fleet.Errorf(fleet.KindInvalid, format, args...)
}
