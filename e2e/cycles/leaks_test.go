package cycles

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"dormouse/e2e/harness"
)

// things are what may be left over, counted from outside.
type things struct {
	processes, taps, files, descriptors, goroutines int
	names                                           []string
}

// look counts what there is now.
func look(ctx context.Context, e *harness.Environment) (t things, err error) {
	pid := e.Provisioner()
	t.processes = len(e.Children(pid)) + len(e.Machines())
	taps, err := e.Taps(ctx)
	if err != nil {
		return t, err
	}
	t.taps = len(taps)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return t, err
	}
	t.descriptors = len(fds)
	if t.names, err = files(e.DataDir); err != nil {
		return t, err
	}
	t.files = len(t.names)
	answer, err := e.Call(ctx, http.MethodGet, "/metrics", "")
	if err != nil {
		return t, err
	}
	for line := range strings.Lines(answer.Body) {
		if value, ok := strings.CutPrefix(line, "go_goroutines "); ok {
			t.goroutines, err = strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return t, err
}

// files are the names of all files of a data directory, but the database's own.
func files(dir string) (names []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err):
			return nil
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "postgres":
			return filepath.SkipDir
		case !d.IsDir():
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return nil
	})
	return names, err
}

// slack is what the counts may grow by: the pools of connections to the database
// and to the guest open more as they need them, to a bound. What leaks at each
// sleep grows beyond it.
const slack = 40

// more says what there is more of than before.
func (t things) more(before things) []string {
	var more []string
	for _, each := range []struct {
		what        string
		now, before int
		slack       int
	}{
		{"processes", t.processes, before.processes, 0}, {"taps", t.taps, before.taps, 0}, {"files", t.files, before.files, 0},
		{"descriptors", t.descriptors, before.descriptors, slack}, {"goroutines", t.goroutines, before.goroutines, slack},
	} {
		if each.now > each.before+each.slack {
			more = append(more, fmt.Sprintf("%s: %d, and %d before", each.what, each.now, each.before))
		}
	}
	for _, name := range t.names {
		if !slices.Contains(before.names, name) {
			more = append(more, "the file "+name)
		}
	}
	return more
}

// settled looks until there is no more than before, or the time for that is over:
// connections that are not used any more are closed after a while.
func settled(ctx context.Context, e *harness.Environment, before things) (now things, err error) {
	deadline := time.Now().Add(time.Minute)
	for {
		if now, err = look(ctx, e); err != nil {
			return now, err
		}
		if len(now.more(before)) == 0 || time.Now().After(deadline) {
			return now, nil
		}
		if err := sleep(ctx, time.Second); err != nil {
			return now, err
		}
	}
}
