package deb

import (
	"context"
	"path"
	"regexp"
	"slices"
	"strings"

	"dormouse/internal/imagebuilder/elfdeps"
	"dormouse/internal/imagebuilder/source"
)

// droppedDirs are of use to a person, or to a Debian that is installed and runs an
// init, cron and package tools. unitDirs and the like are read before they go.
var droppedDirs = []string{
	"usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/help", "usr/share/gtk-doc",
	"usr/share/lintian", "usr/share/bug", "usr/share/doc-base", "usr/share/menu", "usr/share/apport", "usr/share/reportbug",
	"usr/share/bash-completion", "usr/share/zsh", "usr/share/fish", "etc/bash_completion.d",
	"usr/lib/debug", "usr/share/debhelper", "usr/share/initramfs-tools", "usr/share/metainfo", "usr/share/applications", "usr/share/icons",
	"etc/init.d", "etc/rcS.d", "etc/cron.d", "etc/cron.hourly", "etc/cron.daily", "etc/cron.weekly", "etc/cron.monthly",
	"etc/logrotate.d", "etc/logcheck", "etc/apparmor.d", "etc/ufw", "etc/apport", "etc/insserv.conf.d", "etc/update-motd.d", "etc/apt", "etc/kernel",
	"usr/lib/NetworkManager", "etc/network", "etc/ppp", "etc/dhcp", "etc/resolvconf", "usr/lib/resolvconf",
}

// queryCompiler is PostgreSQL's, which brings LLVM: more than all the rest of the
// image, for queries that small machines do not run. Where it is missing the
// server does without (its manual, "Pluggable JIT Providers"); newer releases of
// Debian's have it in a package of its own.
var queryCompiler = regexp.MustCompile(`^usr/lib/postgresql/[^/]+/lib/(bitcode|llvmjit)`)

// readDirs are kept until what they say has been read.
var readDirs = []string{
	"usr/lib/systemd/system", "usr/lib/systemd/user", "usr/lib/systemd/system-preset", "usr/lib/systemd/user-preset", "usr/lib/systemd/system-generators",
	"usr/lib/systemd/system-shutdown", "usr/lib/systemd/system-sleep", "usr/lib/systemd/catalog", "usr/lib/sysusers.d", "usr/lib/tmpfiles.d", "usr/lib/udev", "etc/systemd",
}

func isBelow(name string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return name == d || strings.HasPrefix(name, d+"/") })
}

// dropped tells whether a file of a package, by its name in it, is never unpacked.
func dropped(name string) bool {
	if top, _, _ := strings.Cut(name, "/"); slices.Contains(mergedDirs(), top) {
		name = "usr/" + name
	}
	if name == "usr/share/doc" || strings.HasPrefix(name, "usr/share/doc/") {
		return !isCopyright(name) // directories come with the file
	}
	return isBelow(name, droppedDirs) || queryCompiler.MatchString(name)
}

func isCopyright(name string) bool {
	return strings.HasPrefix(name, "usr/share/doc/") && strings.Count(name, "/") == 4 && path.Base(name) == "copyright"
}

// opened keeps what the C library and others open by name, of which no DT_NEEDED
// tells, for the ELF file p, whose libraries are kept.
func (s *selection) opened(ctx context.Context, p string, check checkFunc) error {
	report, err := check(kept{s.tree}, "/"+p, nil)
	if err != nil {
		return nil // it was warned of
	}
	const lib = "/usr/lib/x86_64-linux-gnu/"
	var names []string
	for _, w := range report.Wanted {
		by := s.tree.nodes[s.tree.file(w.WantedBy)]
		if strings.HasPrefix(w.Library, "gconv/") && (by == nil || !slices.Contains(s.whole, by.from)) {
			continue // 8 MB, for what a library could do and the program does not ask for
		}
		names = append(names, w.Library)
	}
	if slices.ContainsFunc(report.Libraries, func(l string) bool { return path.Base(l) == "libcrypto.so.3" }) {
		names = append(names, "ossl-modules/legacy.so") // old digests and ciphers, for programs that ask for them
	}
	for _, name := range names {
		if s.sought[name] {
			continue
		}
		s.sought[name] = true
		if s.tree.file(lib+name) == "" {
			if _, err := s.provide(ctx, &elfdeps.Missing{Library: path.Base(name), NeededBy: lib + "libc.so.6"}); err != nil {
				return err
			}
		}
		if found := s.tree.file(lib + name); found != "" && strings.HasPrefix(name, "gconv/") {
			s.tree.keepBelow(path.Dir(found))
		} else {
			s.tree.keep(lib + name)
		}
	}
	return nil
}

// dataOf are packages of data that are kept, in whole or in these directories, where a
// kept package depends on them: without it their users start, and then fail.
var dataOf = map[string][]string{
	"ca-certificates":     {"usr/share/ca-certificates"},
	"dns-root-data":       {"usr/share/dns"},
	"libicu-data":         {"usr/share/icu"},
	"libmagic-mgc":        {"usr/lib/file", "usr/share/misc"},
	"libsasl2-modules-db": {"usr/lib/x86_64-linux-gnu/sasl2"},
	"media-types":         {"etc"},
	"mysql-common":        {"etc/mysql"},
	"netbase":             {"etc"},
	"openssl":             {"etc/ssl", "usr/lib/ssl"},
	"tzdata":              {"usr/share/zoneinfo"},
}

// data keeps what dataOf names, until nothing more is wanted: data may depend on data.
func (s *selection) data(ctx context.Context) error {
	taken := map[*record]bool{}
	for again := true; again; {
		again = false
		for _, r := range s.all.all {
			dirs, ok := dataOf[r.name]
			if !ok || taken[r] || slices.Contains(s.whole, r) || !s.wantedBy(r) {
				continue
			}
			taken[r], again = true, true
			if err := s.unpack(ctx, r); err != nil {
				return err
			}
			for p, n := range s.tree.nodes {
				if n.from == r && n.kind != source.Directory && isBelow(p, dirs) {
					s.tree.keep(p)
				}
			}
		}
	}
	// They may hold libraries themselves, as SASL's do.
	return s.libraries(ctx)
}

// wantedBy tells whether a package of which something is kept depends on r.
func (s *selection) wantedBy(r *record) bool {
	asked := map[*record]bool{}
	for _, n := range s.tree.nodes {
		if n.keep && n.from != nil && n.kind != source.Directory && !asked[n.from] {
			asked[n.from] = true
			if slices.Contains(s.all.dependencies(n.from), r) {
				return true
			}
		}
	}
	return false
}

// copyrights keeps the copyright files of packages of which something is kept,
// and of no others.
func (s *selection) copyrights() {
	used := map[*record]bool{}
	for p, n := range s.tree.nodes {
		if n.keep && n.from != nil && n.kind != source.Directory && !isCopyright(p) {
			used[n.from] = true
		}
	}
	for p, n := range s.tree.nodes {
		if isCopyright(p) && used[n.from] {
			s.tree.keep(p)
		}
	}
}
