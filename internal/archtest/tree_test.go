package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// use is one import, or one literal of interest, in a file.
type use struct {
	what string
	// at is file:line, relative to the module.
	at   string
	test bool
}

// pkg is a directory with Go files.
type pkg struct {
	imports, literals []use
	// tests are the names of its test functions.
	tests []string
}

// tree is a module: its packages by their path within it.
type tree struct {
	module   string
	packages map[string]*pkg
}

// readTree parses every Go file of a module, whatever its build tags. What the
// go tool ignores (testdata, and names that begin with a dot or an underscore)
// is not of the module.
func readTree(root string) (tree, error) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return tree{}, err
	}
	first, _, _ := strings.Cut(string(mod), "\n")
	t := tree{module: strings.TrimSpace(strings.TrimPrefix(first, "module ")), packages: make(map[string]*pkg)}
	err = filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := entry.Name()
		if name != root && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata") {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if entry.IsDir() || !strings.HasSuffix(base, ".go") {
			return nil
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		return t.add(name, filepath.ToSlash(relative))
	})
	return t, err
}

func (t tree) add(name, relative string) error {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	dir := path.Dir(relative)
	if t.packages[dir] == nil {
		t.packages[dir] = new(pkg)
	}
	p := t.packages[dir]
	inspect := func(literal *ast.BasicLit) (use, error) {
		what, err := strconv.Unquote(literal.Value)
		return use{what: what, test: strings.HasSuffix(relative, "_test.go"),
			at: fmt.Sprintf("%s:%d", relative, files.Position(literal.Pos()).Line)}, err
	}
	for _, spec := range file.Imports {
		u, err := inspect(spec.Path)
		if err != nil {
			return err
		}
		p.imports = append(p.imports, u)
	}
	for _, declared := range file.Decls {
		if f, ok := declared.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") && strings.HasSuffix(relative, "_test.go") {
			p.tests = append(p.tests, f.Name.Name)
		}
	}
	hypervisors := hypervisors()
	ast.Inspect(file, func(node ast.Node) bool {
		if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if u, err := inspect(literal); err == nil && slices.Contains(hypervisors, path.Base(u.what)) {
				p.literals = append(p.literals, u)
			}
		}
		return true
	})
	return nil
}

// within returns an import's path within the module; false if it is of another.
func (t tree) within(imported string) (string, bool) {
	if imported == t.module {
		return ".", true
	}
	return strings.CutPrefix(imported, t.module+"/")
}

// paths returns all packages, sorted.
func (t tree) paths() []string {
	var paths []string
	for p := range t.packages {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

// matches tells whether a package is one that a pattern names.
func matches(pattern, name string) bool {
	if pattern == "..." {
		return true
	}
	parent, ok := strings.CutSuffix(pattern, "/...")
	return name == pattern || ok && (name == parent || strings.HasPrefix(name, parent+"/"))
}

func anyMatches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
}

func isStandard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

// check returns every breach of the rules, in order.
func (t tree) check(rooms []room, fences []fence) []string {
	var breaches []string
	report := func(format string, args ...any) { breaches = append(breaches, fmt.Sprintf(format, args...)) }
	for _, r := range rooms {
		if r.reason == "" {
			report("the row %s says no reason", r.path)
		}
		if !slices.ContainsFunc(t.paths(), func(p string) bool { return matches(r.path, p) }) {
			report("the row %s names a package that is gone: remove it", r.path)
		}
	}
	for _, name := range t.paths() {
		var own []room
		for _, r := range rooms {
			if matches(r.path, name) {
				own = append(own, r)
			}
		}
		if len(own) != 1 {
			report("package %s has %d rows instead of one", name, len(own))
			continue
		}
		breaches = append(breaches, t.checkPackage(name, own[0], fences)...)
	}
	return breaches
}

func (t tree) checkPackage(name string, r room, fences []fence) []string {
	var breaches []string
	report := func(u use, reason string) {
		breaches = append(breaches, fmt.Sprintf("%s: %s must not import %s: %s", u.at, name, u.what, reason))
	}
	for _, u := range t.packages[name].imports {
		target, ours := t.within(u.what)
		switch {
		case ours:
			// A test in package x_test imports what it tests.
			if !anyMatches(r.may, target) && !(u.test && (target == name || anyMatches(r.tests, target))) {
				report(u, r.reason)
			}
			continue
		case r.standardOnly && !u.test && !isStandard(u.what):
			report(u, r.reason)
			continue
		}
		for _, f := range fences {
			fenced := slices.ContainsFunc(f.imports, func(i string) bool { return matches(i+"/...", u.what) })
			if fenced && !anyMatches(f.only, name) && !(u.test && anyMatches(f.tests, name)) {
				report(u, f.reason)
			}
		}
	}
	for _, u := range t.packages[name].literals {
		if !u.test && !anyMatches(runsHypervisor(), name) && name != "internal/archtest" {
			breaches = append(breaches, fmt.Sprintf("%s: %s names %s: only a provider runs a hypervisor", u.at, name, u.what))
		}
	}
	return breaches
}

// graph returns the block of ARCHITECTURE.md: each package with what it imports
// of the module, tests apart.
func (t tree) graph(rooms []room) string {
	var b strings.Builder
	b.WriteString("| package | imports | why no more |\n|---|---|---|\n")
	for _, name := range t.paths() {
		imports := make(map[string]bool)
		for _, u := range t.packages[name].imports {
			if target, ours := t.within(u.what); ours && !u.test {
				imports[target] = true
			}
		}
		var list []string
		for target := range imports {
			list = append(list, "`"+target+"`")
		}
		slices.SortFunc(list, func(a, b string) int { return strings.Compare(strings.Trim(a, "`"), strings.Trim(b, "`")) })
		reason := ""
		for _, r := range rooms {
			if matches(r.path, name) {
				reason = r.reason
			}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, strings.Join(list, " "), reason)
	}
	return b.String()
}
