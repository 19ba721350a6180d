package kvm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process names one process for good: a PID alone is used again by the kernel.
type process struct {
	PID int `json:"pid"`
	// StartTicks is when it started, in clock ticks since boot (proc(5), stat field 22).
	StartTicks uint64 `json:"start_ticks"`
	// BootID is the host's boot in which it started (/proc/sys/kernel/random/boot_id).
	BootID    string    `json:"boot_id"`
	StartedAt time.Time `json:"started_at"`
}

func hostBootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the host's boot ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// identify returns the identity of a process that lives now. A zombie does not.
func identify(pid int) (process, error) {
	boot, err := hostBootID()
	if err != nil {
		return process{}, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, fmt.Errorf("looking at process %d: %w", pid, err)
	}
	// The second field is the name in brackets, and may hold anything.
	_, rest, found := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	fields := strings.Fields(string(rest))
	if !found || len(fields) < 20 {
		return process{}, fmt.Errorf("looking at process %d: its stat file is short", pid)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return process{}, fmt.Errorf("looking at process %d: it is dead", pid)
	}
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return process{}, fmt.Errorf("looking at process %d: %w", pid, err)
	}
	return process{PID: pid, StartTicks: ticks, BootID: boot}, nil
}

// lives tells whether exactly this process lives now.
func (p process) lives() bool {
	now, err := identify(p.PID)
	return err == nil && now.StartTicks == p.StartTicks && now.BootID == p.BootID
}

// watched is a handle on a process that is not fooled by a PID used again.
type watched struct {
	f   *os.File
	pid int
}

// watchChild returns a handle on a child that has not been reaped.
func watchChild(pid int) (*watched, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watching process %d: %w", pid, err)
	}
	return &watched{f: os.NewFile(uintptr(fd), "pidfd"), pid: pid}, nil
}

// watch returns a handle on p; an error if it does not live. The process need not be a child.
func watch(p process) (*watched, error) {
	w, err := watchChild(p.PID)
	if err != nil {
		return nil, err
	}
	// The handle holds whatever has the PID now; only then is its identity worth checking.
	if !p.lives() {
		_ = w.close()
		return nil, fmt.Errorf("watching process %d: %w", p.PID, unix.ESRCH)
	}
	return w, nil
}

// wait returns nil when the process has ended, or an error when the handle is
// closed. It waits in the runtime's poller, so that it costs no thread.
func (w *watched) wait() error {
	raw, err := w.f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0
	})
}

// signal sends sig; nil where the process has ended already.
func (w *watched) signal(sig unix.Signal) error {
	raw, err := w.f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return sent
}

func (w *watched) close() error { return w.f.Close() }

// reap collects the process where it is a child that has ended; nil where it is
// somebody else's.
func (w *watched) reap() *unix.WaitStatus {
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(w.pid, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || got != w.pid:
			return nil
		default:
			return &status
		}
	}
}

// qemuName is the argument by which a QEMU of ours is known among all processes.
func qemuName(id string) string { return "dormouse-" + id }

// isOurs tells whether the process is the QEMU of this instance: it has the
// name among its arguments, and the instance's own console log open.
func isOurs(pid int, id, consolePath string) bool {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !slices.Contains(strings.Split(string(cmdline), "\x00"), "guest="+qemuName(id)) {
		return false
	}
	console, err := os.Stat(consolePath)
	if err != nil {
		return false
	}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return slices.ContainsFunc(fds, func(fd string) bool {
		open, err := os.Stat(fd)
		return err == nil && os.SameFile(open, console)
	})
}

// qemuProcesses returns the PIDs of all processes that carry a name of ours, by
// the ID in it. Whether they belong to this data directory is for isOurs to say.
func qemuProcesses() (map[string][]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("looking for QEMU processes: %w", err)
	}
	found := map[string][]int{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		cmdline, err := commandLine(pid, time.Now().Add(executePatience))
		if err != nil {
			continue // it has just ended
		}
		for arg := range strings.SplitSeq(string(cmdline), "\x00") {
			if id, ok := strings.CutPrefix(arg, "guest="+qemuName("")); ok {
				found[id] = append(found[id], pid)
			}
		}
	}
	return found, nil
}

// executePatience is how long a process may take from closing what its program is
// not to have to having arguments.
const executePatience = 2 * time.Second

// commandLine returns a process's arguments, each with a zero byte after it. One that is
// just executing its program has let go of the data directory's lock already, and
// has no arguments yet: it is waited for.
func commandLine(pid int, until time.Time) ([]byte, error) {
	for {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(cmdline) > 0 {
			return cmdline, err
		}
		// Threads of the kernel and zombies have no program.
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || time.Now().After(until) {
			return nil, err
		}
		time.Sleep(time.Millisecond)
	}
}
