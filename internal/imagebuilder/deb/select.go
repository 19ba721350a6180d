package deb

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"dormouse/internal/imagebuilder/elfdeps"
	"dormouse/internal/imagebuilder/source"
)

// selection unpacks packages as they are needed and marks what is kept of them.
type selection struct {
	tree     *tree
	all      *closure
	unpacked map[string]bool
	// whole are the packages that are kept as they are: the named ones, and those of
	// the same sources.
	whole []*record
	// sought are files that libraries open and that packages were unpacked for.
	sought   map[string]bool
	warnings []string
}

func (s *selection) run(ctx context.Context, wanted []want) error {
	named, err := s.named(ctx, wanted)
	if err != nil {
		return err
	}
	sources := map[string]bool{}
	for _, r := range named {
		sources[r.source] = true
	}
	for _, r := range s.all.all {
		if sources[r.source] && !slices.Contains(named, r) {
			named = append(named, r)
		}
	}
	s.whole = named
	for _, r := range s.whole {
		if err := s.unpack(ctx, r); err != nil {
			return err
		}
	}
	for _, n := range s.tree.nodes {
		n.keep = n.keep || n.from != nil
	}
	if err := s.libraries(ctx); err != nil {
		return err
	}
	if err := s.data(ctx); err != nil {
		return err
	}
	s.copyrights()
	return nil
}

// named returns the packages that were asked for, first those by name. One that
// holds nothing of use (a metapackage) brings what it depends on.
func (s *selection) named(ctx context.Context, wanted []want) ([]*record, error) {
	var named []*record
	add := func(r *record) {
		if !slices.Contains(named, r) {
			named = append(named, r)
		}
	}
	for _, w := range wanted {
		r := s.all.byName[w.name]
		add(r)
		if err := s.unpack(ctx, r); err != nil {
			return nil, err
		}
		if s.holdsSomething(r) {
			continue
		}
		for _, d := range s.all.dependencies(r) {
			if isLibrary(d) == 0 {
				add(d)
			}
		}
	}
	return named, nil
}

func (s *selection) holdsSomething(r *record) bool {
	for p, n := range s.tree.nodes {
		if n.from == r && n.kind != source.Directory && !isCopyright(p) {
			return true
		}
	}
	return false
}

func (s *selection) unpack(ctx context.Context, r *record) error {
	if s.unpacked[r.name] {
		return nil
	}
	s.unpacked[r.name] = true
	return s.tree.unpack(ctx, r)
}

func (s *selection) warn(format string, args ...any) {
	if w := fmt.Sprintf(format, args...); !slices.Contains(s.warnings, w) {
		s.warnings = append(s.warnings, w)
	}
}

// libraries keeps what the loader needs for any kept ELF file, what those libraries
// open by themselves, and what that needs in turn.
func (s *selection) libraries(ctx context.Context) error {
	checked := map[string]bool{}
	for again := true; again; {
		again = false
		for _, p := range s.tree.paths() {
			n := s.tree.nodes[p]
			if !n.keep || n.kind != source.File || checked[p] || !mayBeELF(p, n.mode) {
				continue
			}
			checked[p] = true
			is, err := s.tree.elfMagic(p)
			if err != nil {
				return err
			}
			if !is {
				continue
			}
			again = true
			if err := s.librariesOf(ctx, p, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkFunc is elfdeps.Check or elfdeps.CheckLibrary.
type checkFunc func(elfdeps.Tree, string, map[string]string) (elfdeps.Report, error)

// mayBeELF spares the opening of files that can't be programs or libraries.
func mayBeELF(p string, mode uint32) bool {
	return mode&0o111 != 0 || strings.Contains(path.Base(p), ".so")
}

// librariesOf keeps what one ELF file needs, unpacking packages until all is
// there. What no package brings is warned of: it may be a plugin for what is not installed.
func (s *selection) librariesOf(ctx context.Context, p string, n *node) error {
	var check checkFunc = elfdeps.CheckLibrary
	if n.mode&0o111 != 0 && !strings.Contains(path.Base(p), ".so") {
		check = elfdeps.Check
	}
	for {
		report, err := check(s.tree, "/"+p, nil)
		missing := (*elfdeps.Missing)(nil)
		switch {
		case err == nil:
			if report.Interpreter != "" {
				s.tree.keep(report.Interpreter)
			}
			for _, library := range report.Libraries {
				s.tree.keep(library)
			}
			return s.opened(ctx, p, check)
		case !errors.As(err, &missing):
			s.warn("/%s: %v", p, err)
			return nil
		}
		found, err := s.provide(ctx, missing)
		if err != nil {
			return err
		}
		if !found {
			s.warn("/%s can't be used: %v", p, missing)
			return nil
		}
	}
}

// provide unpacks packages until the missing library is there: those that the
// asking package depends on, as Debian's policy promises (8.6), the nearest
// first, then all others.
func (s *selection) provide(ctx context.Context, missing *elfdeps.Missing) (bool, error) {
	var queue []*record
	if asking := s.tree.nodes[s.tree.file(missing.NeededBy)]; asking != nil && asking.from != nil {
		queue = append(queue, asking.from)
	}
	seen := map[*record]bool{}
	for rest := s.all.all; len(queue) > 0 || len(rest) > 0; {
		if len(queue) == 0 {
			queue, rest = rest[:1], rest[1:]
		}
		r := queue[0]
		queue = queue[1:]
		if seen[r] {
			continue
		}
		seen[r] = true
		if !s.unpacked[r.name] {
			if err := s.unpack(ctx, r); err != nil {
				return false, err
			}
			if s.holds(r, missing.Library) {
				return true, nil
			}
		}
		queue = append(slices.Clip(queue), s.all.dependencies(r)...)
	}
	return false, nil
}

// holds tells whether a package that was just unpacked has the library.
func (s *selection) holds(r *record, library string) bool {
	if strings.HasPrefix(library, "/") {
		return s.tree.file(library) != ""
	}
	for p, n := range s.tree.nodes {
		if n.from == r && n.kind != source.Directory && path.Base(p) == library {
			return true
		}
	}
	return false
}
