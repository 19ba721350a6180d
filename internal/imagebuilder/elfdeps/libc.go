package elfdeps

import (
	"bufio"
	"io"
	"path"
	"slices"
	"strings"
)

// libc is how one C library's loader looks for libraries.
type libc struct {
	name string
	// lib is what $LIB stands for.
	lib string
	// configured are the directories that its configuration file names.
	configured []string
	// defaults are built in.
	defaults []string
	// cached: there is a cache, without which glibc ignores its configuration.
	cached bool
}

const (
	maxConfig      = 64 << 10
	maxConfigFiles = 256
	muslPath       = "/etc/ld-musl-x86_64.path"
)

func isMusl(loader string) bool { return strings.HasPrefix(path.Base(loader), "ld-musl-") }

// isLoader tells whether a path is that of a dynamic loader, which may itself be the program.
func isLoader(p string) bool {
	return isMusl(p) || strings.HasPrefix(path.Base(p), "ld-linux-")
}

// glibc covers the built-in directories of Debian's and of other distributions' builds.
func glibc(tree Tree) libc {
	l := libc{name: "glibc", lib: "lib/x86_64-linux-gnu", defaults: []string{
		"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib",
	}}
	if _, err := tree.Open("/etc/ld.so.cache"); err == nil {
		l.cached = true
	}
	r := &configReader{tree: tree, seen: map[string]bool{}}
	r.read("/etc/ld.so.conf")
	l.configured = r.dirs
	return l
}

// musl has no cache; its configuration file replaces the built-in directories.
func musl(tree Tree) libc {
	l := libc{name: "musl", lib: "lib", cached: true, defaults: []string{"/lib", "/usr/local/lib", "/usr/lib"}}
	if lines, ok := readLines(tree, muslPath); ok {
		l.defaults = nil
		for _, line := range lines {
			for dir := range strings.SplitSeq(line, ":") {
				if path.IsAbs(dir) {
					l.defaults = append(l.defaults, path.Clean(dir))
				}
			}
		}
	}
	return l
}

// provides tells whether the loader itself is that library.
func (l libc) provides(name string) bool {
	if l.name != "musl" {
		return strings.HasPrefix(name, "ld-linux-") || strings.HasPrefix(name, "linux-vdso.")
	}
	if name == "libc.so" || strings.HasPrefix(name, "libc.musl-") || strings.HasPrefix(name, "ld-musl-") {
		return true
	}
	// The names that musl keeps for itself (its ldso's reserved list).
	base, suffix, _ := strings.Cut(strings.TrimPrefix(name, "lib"), ".")
	return strings.HasPrefix(name, "lib") && suffix == "so" && slices.Contains([]string{"c", "pthread", "rt", "m", "dl", "util", "xnet"}, base)
}

// foreign tells whether the library is the other C library.
func (l libc) foreign(name string) bool {
	if l.name == "musl" {
		return name == "libc.so.6" || strings.HasPrefix(name, "ld-linux-")
	}
	return strings.HasPrefix(name, "libc.musl-") || strings.HasPrefix(name, "ld-musl-")
}

// configReader reads ld.so.conf(5) with its includes.
type configReader struct {
	tree Tree
	seen map[string]bool
	dirs []string
}

func (r *configReader) read(name string) {
	if r.seen[name] || len(r.seen) >= maxConfigFiles {
		return
	}
	r.seen[name] = true
	lines, _ := readLines(r.tree, name)
	for _, line := range lines {
		if pattern, ok := strings.CutPrefix(line, "include"); ok && strings.TrimLeft(pattern, " \t") != pattern {
			r.include(path.Dir(name), strings.Fields(pattern))
			continue
		}
		dir, _, _ := strings.Cut(line, "=") // an obsolete library type may follow
		if dir = strings.TrimSpace(dir); path.IsAbs(dir) {
			r.dirs = append(r.dirs, path.Clean(dir))
		}
	}
}

func (r *configReader) include(from string, patterns []string) {
	for _, p := range patterns {
		if !path.IsAbs(p) {
			p = path.Join(from, p)
		}
		dir, pattern := path.Split(p)
		names, err := r.tree.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, n := range names {
			if ok, err := path.Match(pattern, n); err == nil && ok {
				r.read(dir + n)
			}
		}
	}
}

// readLines returns a file's lines without comments and blanks; false if it can't be read.
func readLines(tree Tree, name string) ([]string, bool) {
	r, err := tree.Open(name)
	if err != nil {
		return nil, false
	}
	var lines []string
	s := bufio.NewScanner(io.LimitReader(r, maxConfig))
	for s.Scan() {
		line, _, _ := strings.Cut(s.Text(), "#")
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, s.Err() == nil
}
