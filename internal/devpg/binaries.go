package devpg

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
	"strconv"
	"strings"
	"time"
)

// OldestMajor is the oldest major version of Postgres that Dormouse works with.
const OldestMajor = 15

// Installed is one installation of the Postgres server.
type Installed struct {
	// BinDir holds initdb and postgres.
	BinDir string
	// Major is the major version, such as 15.
	Major int
	// Version is the whole version, such as 15.8.
	Version string
}

// Find returns the installed Postgres servers of OldestMajor or newer, the
// newest first. Where there are none, the error names the package to install.
//
// It looks where pg_config points, in the directories of the Debian and Red Hat
// packages, and in PATH.
func Find(ctx context.Context) ([]Installed, error) {
	return findIn(ctx, candidateDirs(ctx))
}

// candidateDirs lists the directories that may hold a server, without repeats.
func candidateDirs(ctx context.Context) []string {
	var dirs []string
	add := func(dir string) {
		// Links such as /usr/bin/postgres would show one server twice.
		if real, err := filepath.EvalSymlinks(dir); err == nil && !slices.Contains(dirs, real) {
			dirs = append(dirs, real)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		add(strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin"} {
		found, _ := filepath.Glob(pattern) // fails on a bad pattern only
		for _, dir := range found {
			add(dir)
		}
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			add(filepath.Dir(real))
		}
	}
	return dirs
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`)

func findIn(ctx context.Context, dirs []string) ([]Installed, error) {
	var found []Installed
	var tooOld []string
	for _, dir := range dirs {
		if !executable(filepath.Join(dir, "initdb")) || !executable(filepath.Join(dir, "postgres")) {
			continue // client programs only
		}
		out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
		if err != nil {
			continue // broken, or for another machine: as good as not there
		}
		m := versionLine.FindSubmatch(bytes.TrimSpace(out))
		if m == nil {
			continue
		}
		major, err := strconv.Atoi(string(m[2]))
		if err != nil {
			continue
		}
		if major < OldestMajor {
			tooOld = append(tooOld, fmt.Sprintf("%s in %s", m[1], dir))
			continue
		}
		found = append(found, Installed{BinDir: dir, Major: major, Version: string(m[1])})
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("looking for a Postgres server: %w", err)
	}
	if len(found) == 0 {
		return nil, missing(tooOld)
	}
	slices.SortStableFunc(found, func(a, b Installed) int { return b.Major - a.Major })
	return found, nil
}

func missing(tooOld []string) error {
	if len(tooOld) > 0 {
		return fmt.Errorf("looking for a Postgres server: version %d or newer is needed, found only %s: install a newer one, "+
			"on Debian and Ubuntu from https://wiki.postgresql.org/wiki/Apt (apt-get install postgresql-%d)",
			OldestMajor, strings.Join(tooOld, ", "), OldestMajor+2)
	}
	return errors.New("looking for a Postgres server: none is installed: run scripts/setup.sh, " +
		"or install the package postgresql (Debian, Ubuntu) or postgresql-server (Fedora), version " +
		strconv.Itoa(OldestMajor) + " or newer")
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Library tells whether the server has a loadable module of that name, such as
// pg_stat_statements.
func (i Installed) Library(name string) bool {
	for _, dir := range []string{"../lib", "../lib/postgresql", "../lib64/pgsql"} {
		if _, err := os.Stat(filepath.Join(i.BinDir, dir, name+".so")); err == nil {
			return true
		}
	}
	return false
}

// choose picks the server for a data directory: the newest for a new one, and
// the one of the same major version for one that exists, for Postgres reads no other's.
func choose(all []Installed, dataDir string, major int) (Installed, error) {
	if major == 0 {
		return all[0], nil
	}
	have := make([]string, 0, len(all))
	for _, i := range all {
		if i.Major == major {
			return i, nil
		}
		have = append(have, i.Version)
	}
	return Installed{}, fmt.Errorf("starting Postgres: %s was made by Postgres %d, and installed is %s: "+
		"install the package postgresql-%d, or move the data into the newer version with pg_upgrade, "+
		"or, to begin anew and lose what is in it, move that directory away",
		dataDir, major, strings.Join(have, ", "), major)
}

// dataMajor reads the major version of a data directory; 0 where there is none yet.
func dataMajor(dataDir string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Lstat(dataDir); errors.Is(err, os.ErrNotExist) {
			return 0, nil
		}
		return 0, fmt.Errorf("starting Postgres: %s is there but is not a Postgres data directory (it has no PG_VERSION): move it away", dataDir)
	}
	if err != nil {
		return 0, fmt.Errorf("starting Postgres: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("starting Postgres: %s/PG_VERSION says %q, which is no version: restore the directory from a backup, or move it away",
			dataDir, strings.TrimSpace(string(b)))
	}
	return major, nil
}
