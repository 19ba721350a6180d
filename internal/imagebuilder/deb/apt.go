package deb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

// apt runs apt's tools on a state of our own: nothing is installed there, and
// the host's is only read.
type apt struct {
	private string
	config  string
	options []string
}

func newApt(private string, o Options) (*apt, error) {
	a := &apt{private: private, config: o.AptConfig}
	if err := os.Mkdir(filepath.Join(private, "cache"), 0o755); err != nil {
		return nil, storageError("making apt's state", err)
	}
	if err := os.WriteFile(filepath.Join(a.private, "status"), nil, 0o644); err != nil {
		return nil, storageError("making apt's state", err)
	}
	for _, option := range []string{
		"Dir::State::status=" + filepath.Join(a.private, "status"),
		"Dir::State::extended_states=" + filepath.Join(a.private, "extended_states"),
		"Dir::Cache=" + filepath.Join(a.private, "cache"),
		// Three runs read the same lists: the index that the first makes serves the others.
		"Dir::Cache::pkgcache=pkgcache.bin", "Dir::Cache::srcpkgcache=srcpkgcache.bin",
		"APT::Architecture=amd64", "APT::Architectures=amd64",
		"APT::Install-Recommends=false", "APT::Install-Suggests=false",
		"APT::Get::AllowUnauthenticated=false",
		// apt would hand the download to a user of its own, who may not enter our directory.
		"APT::Sandbox::User=",
		// The locks are the host's; ours are the directories, which nobody else has.
		"Debug::NoLocking=true",
	} {
		a.options = append(a.options, "-o", option)
	}
	return a, nil
}

// passedOn is what of our environment is apt's business: where to find programs,
// a proxy, and its own configuration. Our secrets are not.
var passedOn = []string{"PATH", "APT_CONFIG", "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}

// maxOutput bounds what a tool may say, in bytes.
const maxOutput = 64 << 20

func (a *apt) run(ctx context.Context, tool string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, append(slices.Clone(a.options), args...)...)
	cmd.Dir = a.private
	cmd.Env = []string{"LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	for _, v := range passedOn {
		if value, ok := os.LookupEnv(v); ok {
			cmd.Env = append(cmd.Env, v+"="+value)
		}
	}
	if a.config != "" {
		cmd.Env = append(cmd.Env, "APT_CONFIG="+a.config)
	}
	cmd.WaitDelay = 5 * time.Second
	var out, said limited
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return "", fleet.Errorf(fleet.KindUnavailable, "running %s: %w: Debian packages can be fetched on Debian and its relatives only", tool, err)
	case err != nil:
		return out.String(), &aptError{tool: tool, said: said.String(), err: err}
	}
	return out.String(), nil
}

// aptError is a tool that ended badly, and what it said.
type aptError struct {
	tool, said string
	err        error
}

func (e *aptError) Error() string {
	var lines []string
	for line := range strings.Lines(e.said) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "E: "); ok {
			lines = append(lines, text)
		}
	}
	if len(lines) == 0 {
		return fmt.Sprintf("running %s: %v", e.tool, e.err)
	}
	return fmt.Sprintf("%s says: %s", e.tool, strings.Join(lines, " "))
}

func (e *aptError) Unwrap() error { return e.err }

// limited keeps the first maxOutput bytes.
type limited struct{ bytes.Buffer }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if l.Len() < maxOutput {
		l.Buffer.Write(p[:min(len(p), maxOutput-l.Len())])
	}
	return len(p), nil
}

// installs is a line of apt-get --simulate: Inst NAME [installed] (VERSION ORIGINS [ARCHITECTURE]) [...]
var installs = regexp.MustCompile(`^Inst (\S+) \((\S+) .*?\[(\w+)\]\)`)

// resolve asks apt what would be installed, and for the records of that. The
// names in wanted become those of packages that exist.
func (a *apt) resolve(ctx context.Context, wanted []want) (*closure, error) {
	args := []string{"--simulate", "--quiet", "install"}
	for _, w := range wanted {
		args = append(args, w.String())
	}
	out, err := a.run(ctx, "apt-get", args...)
	if err != nil {
		return nil, a.explain(ctx, wanted, out, err)
	}
	var exact []string
	for line := range strings.Lines(out) {
		found := installs.FindStringSubmatch(line)
		if found == nil {
			continue
		}
		if found[3] != "amd64" && found[3] != "all" {
			return nil, invalid("the Debian package %s is there for the architecture %s only: images are for amd64", found[1], found[3])
		}
		exact = append(exact, found[1]+"="+found[2])
	}
	records, err := a.run(ctx, "apt-cache", append([]string{"show"}, exact...)...)
	if err != nil {
		return nil, fleet.Errorf(fleet.KindUnavailable, "reading what the archive says of the packages: %w", err)
	}
	all, err := readClosure(exact, records)
	if err != nil {
		return nil, err
	}
	for i, w := range wanted {
		if all.byName[w.name] != nil {
			continue
		}
		// apt takes the only provider of a virtual package; it would also take a pattern.
		providers := all.providers[w.name]
		if len(providers) != 1 {
			return nil, unknown(w)
		}
		wanted[i].name = providers[0].name
	}
	return all, nil
}

func unknown(w want) error {
	return invalid("the package lists of this host have no Debian package %s: `apt-cache search` finds names, `apt-get update` renews the lists", w)
}

var (
	unmet    = regexp.MustCompile(`(?s)The following packages have unmet dependencies:\n(.*)`)
	virtual  = regexp.MustCompile(`(?s)Package (\S+) is a virtual package provided by:\n(.*?)\n\s*\n`)
	noChoice = regexp.MustCompile(`E: Package '(\S+)' has no installation candidate`)
	unlisted = regexp.MustCompile(`E: Unable to locate package (\S+)`)
	noSuch   = regexp.MustCompile(`E: Version '(\S+)' for '(\S+)' was not found`)
)

// explain says in our words what apt refused.
func (a *apt) explain(ctx context.Context, wanted []want, out string, err error) error {
	failed := (*aptError)(nil)
	if !errors.As(err, &failed) {
		return err
	}
	if found := virtual.FindStringSubmatch(out); found != nil {
		var providers []string
		for line := range strings.Lines(found[2]) {
			if words := strings.Fields(line); len(words) > 0 {
				providers = append(providers, words[0])
			}
		}
		slices.Sort(providers)
		return invalid("%s is a virtual Debian package: name one of those that provide it: %s", found[1], strings.Join(slices.Compact(providers), ", "))
	}
	if found := noSuch.FindStringSubmatch(failed.said); found != nil {
		return invalid("the package lists of this host have no version %s of the Debian package %s: `apt-cache policy %s` lists what there is", found[1], found[2], found[2])
	}
	if found := noChoice.FindStringSubmatch(failed.said); found != nil {
		return invalid("the Debian package %s has no version that may be installed here: it is held back by a pin, or its sources are not in the lists; `apt-cache policy %s` says which", found[1], found[1])
	}
	if found := unlisted.FindStringSubmatch(failed.said); found != nil {
		if there, err := a.haveLists(ctx); err != nil || !there {
			return errors.Join(fleet.Errorf(fleet.KindUnavailable, "this host has no package lists: run `apt-get update`"), err)
		}
		for _, w := range wanted {
			if w.name == found[1] {
				return unknown(w)
			}
		}
		return unknown(want{name: found[1]})
	}
	if found := unmet.FindStringSubmatch(out); found != nil {
		return invalid("the dependencies of the named Debian packages can't be satisfied together, they may be held back or of different releases: %s", strings.Join(strings.Fields(found[1]), " "))
	}
	return fleet.Errorf(fleet.KindUnavailable, "resolving Debian packages: %w", err)
}

// haveLists tells whether there are package lists at all.
func (a *apt) haveLists(ctx context.Context) (bool, error) {
	out, err := a.run(ctx, "apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages")
	if err != nil {
		return false, err
	}
	return strings.TrimSpace(out) != "", nil
}
