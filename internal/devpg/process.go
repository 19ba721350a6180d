package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// pidFile is what a postmaster writes into postmaster.pid; see
// src/include/utils/pidfile.h of Postgres for its lines.
type pidFile struct {
	pid       int
	socketDir string
	// ready: the server takes connections.
	ready bool
}

// readPidFile reads the pid file of a data directory; false where there is none
// or it is not whole (the postmaster is just writing it, or died doing so).
func readPidFile(dataDir string) (pidFile, bool) {
	b, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return pidFile{}, false
	}
	lines := strings.Split(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 1 {
		return pidFile{}, false
	}
	f := pidFile{pid: pid}
	if len(lines) > 5 { // line 5 is whole once line 6 has begun
		f.socketDir = strings.TrimSpace(lines[4])
	}
	if len(lines) > 7 {
		f.ready = strings.TrimSpace(lines[7]) == "ready"
	}
	return f, true
}

// runs tells whether process pid is a Postgres process of dataDir: every one of
// them has it as its working directory. A zombie does not run.
func runs(pid int, dataDir string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	cwd, err := os.Stat(filepath.Join(proc, "cwd"))
	if err != nil {
		return false
	}
	data, err := os.Stat(dataDir)
	if err != nil || !os.SameFile(cwd, data) {
		return false
	}
	comm, err := os.ReadFile(filepath.Join(proc, "comm"))
	return err == nil && strings.TrimSpace(string(comm)) == "postgres"
}

// postmaster returns the running postmaster of dataDir.
func postmaster(dataDir string) (pidFile, bool) {
	f, ok := readPidFile(dataDir)
	if !ok || !runs(f.pid, dataDir) {
		return pidFile{}, false
	}
	return f, true
}

// processes lists every running Postgres process of dataDir.
func processes(dataDir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && runs(pid, dataDir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// process is a handle on one process, which stays good when the number is used again.
type process struct {
	pid, fd int
}

// openProcess opens a process of dataDir; false where it has ended.
func openProcess(pid int, dataDir string) (process, bool, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return process{}, false, nil
	}
	if err != nil {
		return process{}, false, fmt.Errorf("opening process %d: %w", pid, err)
	}
	// Only now is it certain that the number means the process that was looked at.
	if !runs(pid, dataDir) {
		unix.Close(fd)
		return process{}, false, nil
	}
	return process{pid: pid, fd: fd}, true, nil
}

func (p process) close() { unix.Close(p.fd) }

func (p process) signal(sig syscall.Signal) error {
	err := unix.PidfdSendSignal(p.fd, sig, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("sending %s to Postgres (process %d): %w", unix.SignalName(sig), p.pid, err)
	}
	return nil
}

// wait returns nil once the process has ended, whether its parent has noticed or
// not. It sleeps in the kernel until then, or until ctx ends.
func (p process) wait(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("waiting for process %d: %w", p.pid, err)
	}
	defer r.Close()
	wake := context.AfterFunc(ctx, func() { w.Close() })
	defer func() {
		if wake() {
			w.Close()
		}
	}()
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}, {Fd: int32(r.Fd())}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for process %d: %w", p.pid, err)
		} else if err == nil && fds[0].Revents != 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// endAll signals every process of dataDir until none is left.
func endAll(ctx context.Context, dataDir string, sig syscall.Signal) error {
	return eachUntilNone(ctx, dataDir, func(p process) error { return p.signal(sig) })
}

// awaitAll waits until no process of dataDir is left.
func awaitAll(ctx context.Context, dataDir string) error {
	return eachUntilNone(ctx, dataDir, func(process) error { return nil })
}

// eachUntilNone does something with every process of dataDir, waits until they
// have ended, and looks again: they may have had children meanwhile.
func eachUntilNone(ctx context.Context, dataDir string, do func(process) error) error {
	for {
		pids := processes(dataDir)
		if len(pids) == 0 {
			return nil
		}
		if err := eachOf(ctx, pids, dataDir, do); err != nil {
			return err
		}
	}
}

func eachOf(ctx context.Context, pids []int, dataDir string, do func(process) error) error {
	var open []process
	defer func() {
		for _, p := range open {
			p.close()
		}
	}()
	for _, pid := range pids {
		p, ok, err := openProcess(pid, dataDir)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		open = append(open, p)
		if err := do(p); err != nil {
			return err
		}
	}
	for _, p := range open {
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}
