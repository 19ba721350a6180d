package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// newPrefix marks a data directory that is being made.
const newPrefix = "data.new-"

// removeLeftovers removes what a Start that was killed left half-made. The
// caller holds the lock.
func removeLeftovers(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, newPrefix+"*"))
	if err != nil {
		return fmt.Errorf("removing what an earlier start left in %s: %w", dir, err)
	}
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("removing what an earlier start left in %s: %w", dir, err)
		}
	}
	return nil
}

// initialise makes dataDir. It is whole and durable when it appears; on failure
// nothing is left.
func initialise(ctx context.Context, bin Installed, who account, dataDir string) error {
	parent := filepath.Dir(dataDir)
	tmp, err := os.MkdirTemp(parent, newPrefix)
	if err != nil {
		return fmt.Errorf("making the database in %s: %w", dataDir, err)
	}
	defer os.RemoveAll(tmp) // by then renamed, unless something failed
	if err := who.own(tmp); err != nil {
		return fmt.Errorf("making the database in %s: %w", dataDir, err)
	}
	initdb := filepath.Join(bin.BinDir, "initdb")
	// --no-sync and then one sync of all of it: the same durability as without,
	// but a failure is known before the disk is made to wait.
	for _, args := range [][]string{
		{"-D", tmp, "--no-sync", "-E", "UTF8", "--locale=C", "-U", superuser, "-A", "trust", "--no-instructions"},
		{"-D", tmp, "--sync-only"},
	} {
		if out, err := run(ctx, who, tmp, initdb, args...); err != nil {
			return initError(ctx, dataDir, out, err)
		}
	}
	if err := os.Rename(tmp, dataDir); err != nil {
		return fmt.Errorf("making the database in %s: %w", dataDir, err)
	}
	if err := syncDir(parent); err != nil {
		return fmt.Errorf("making the database in %s: %w", dataDir, err)
	}
	return nil
}

func initError(ctx context.Context, dataDir, out string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("making the database in %s: %w", dataDir, ctx.Err())
	}
	if strings.Contains(out, "Disk quota exceeded") {
		return fmt.Errorf("making the database in %s: the disk quota is used up: free at least 100 MB, or name another --data-dir: %w",
			dataDir, syscall.EDQUOT)
	}
	if errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("making the database in %s: root here may not become another user, and Postgres does not run as root: "+
			"run as an ordinary user, or allow CAP_SETUID and CAP_SETGID: %w", dataDir, err)
	}
	err = fullDisk(filepath.Dir(dataDir), out, fmt.Errorf("initdb: %w: %s", err, lastLines(out, 5)))
	return fmt.Errorf("making the database in %s: %w", dataDir, err)
}

// run runs a program as the account and returns all that it wrote. The program
// dies with this process, so that a killed start leaves no initdb behind.
func run(ctx context.Context, who account, dir, program string, args ...string) (string, error) {
	// The kernel ties Pdeathsig to the thread that forks, not to the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	// initdb has a child; the two must end together.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	who.prepare(cmd, dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// lastLines returns at most n of the last lines of s, joined for one line of a message.
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "; ")
}
