package deb

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"dormouse/internal/fleet"
)

// record is what the archive says of a package.
type record struct {
	name, version, architecture string
	// source is the source package's name; sha256 the file's, as lower-case hex.
	source, sha256 string
	size           int64
	// depends are groups of alternatives, Pre-Depends included.
	depends [][]string
	// provides are virtual packages.
	provides []string
	// file is the verified archive, once it is there.
	file string
}

// closure is everything that would be installed, in apt's order.
type closure struct {
	all    []*record
	byName map[string]*record
	// providers are by virtual package.
	providers map[string][]*record
}

// maxPackages bounds a closure.
const maxPackages = 2000

var digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// readClosure reads the records (deb822) of the packages exact, each name=version.
func readClosure(exact []string, text string) (*closure, error) {
	if len(exact) == 0 || len(exact) > maxPackages {
		return nil, invalid("the named Debian packages come to %d with what they depend on: name fewer, at most %d are taken", len(exact), maxPackages)
	}
	c := &closure{byName: map[string]*record{}, providers: map[string][]*record{}}
	known := map[string]*record{}
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		r, err := readRecord(paragraph)
		if err != nil {
			return nil, err
		}
		if r == nil {
			continue
		}
		if key := r.name + "=" + r.version; known[key] == nil { // the first source of a version is the one that apt takes
			known[key] = r
		}
	}
	for _, key := range exact {
		r := known[key]
		if r == nil {
			return nil, fleet.Errorf(fleet.KindUnavailable, "apt has no record of %s: run `apt-get update` and ask again", key)
		}
		c.all = append(c.all, r)
		c.byName[r.name] = r
		for _, virtual := range r.provides {
			c.providers[virtual] = append(c.providers[virtual], r)
		}
	}
	return c, nil
}

// readRecord returns nil for an empty paragraph.
func readRecord(paragraph string) (*record, error) {
	r := &record{}
	for line := range strings.Lines(paragraph) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\n"), ":")
		if !ok || strings.HasPrefix(line, " ") {
			continue // a field goes on
		}
		value = strings.TrimSpace(value)
		switch key {
		case "Package":
			r.name = value
		case "Version":
			r.version = value
		case "Architecture":
			r.architecture = value
		case "Source":
			r.source, _, _ = strings.Cut(value, " ")
		case "SHA256":
			r.sha256 = value
		case "Size":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 {
				return nil, fleet.Errorf(fleet.KindUnavailable, "the archive says that %s has %q bytes: run `apt-get update` and ask again", r.name, value)
			}
			r.size = n
		case "Depends", "Pre-Depends":
			r.depends = append(r.depends, relations(value)...)
		case "Provides":
			for _, group := range relations(value) {
				r.provides = append(r.provides, group...)
			}
		}
	}
	if r.name == "" {
		return nil, nil
	}
	if r.source == "" {
		r.source = r.name
	}
	if !digestPattern.MatchString(r.sha256) {
		return nil, fleet.Errorf(fleet.KindInvalid, "the archive has no SHA-256 of %s %s: its package lists must have that field", r.name, r.version)
	}
	return r, nil
}

// relations reads a field like Depends (policy 7.1): groups of alternatives, names only.
func relations(field string) [][]string {
	var groups [][]string
	for group := range strings.SplitSeq(field, ",") {
		var names []string
		for alternative := range strings.SplitSeq(group, "|") {
			name, _, _ := strings.Cut(strings.TrimSpace(alternative), " ")
			name, _, _ = strings.Cut(name, "(")
			if name, _, _ = strings.Cut(name, ":"); name != "" {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			groups = append(groups, names)
		}
	}
	return groups
}

// dependencies are the packages of the closure that r depends on, libraries first.
func (c *closure) dependencies(r *record) []*record {
	var found []*record
	for _, group := range r.depends {
		for _, name := range group {
			if d := c.byName[name]; d != nil {
				found = append(found, d)
				continue
			}
			found = append(found, c.providers[name]...)
		}
	}
	slices.SortStableFunc(found, func(x, y *record) int { return isLibrary(y) - isLibrary(x) })
	return found
}

func isLibrary(r *record) int {
	if strings.HasPrefix(r.name, "lib") {
		return 1
	}
	return 0
}
