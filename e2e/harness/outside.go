package harness

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// owned returns the processes that belong to a directory: those that name it
// on their command line, work in it, or have a file in it open. The test's own
// process and its guard are not among them.
func owned(base string) []int {
	var all []int
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() || pid == os.Getppid() || isGuard(pid) || isZombie(pid) {
			continue
		}
		if belongs(pid, base) {
			all = append(all, pid)
		}
	}
	return all
}

func belongs(pid int, base string) bool {
	proc := fmt.Sprintf("/proc/%d/", pid)
	if cmdline, err := os.ReadFile(proc + "cmdline"); err == nil && bytes.Contains(cmdline, []byte(base+"/")) {
		return true
	}
	inside := func(link string) bool {
		target, err := os.Readlink(link)
		return err == nil && strings.HasPrefix(target, base+"/")
	}
	if inside(proc + "cwd") {
		return true
	}
	// An environment's log is open in whoever it was given to; others are not ours to look into.
	fds, err := os.ReadDir(proc + "fd")
	return err == nil && slices.ContainsFunc(fds, func(fd os.DirEntry) bool { return inside(proc + "fd/" + fd.Name()) })
}

func isZombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true // it is gone
	}
	_, after, _ := bytes.Cut(stat, []byte(") "))
	return bytes.HasPrefix(after, []byte("Z"))
}

// describeProcess is a process in one line, for people.
func describeProcess(pid int) string {
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	text := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
	return fmt.Sprintf("process %d: %.200s", pid, text)
}

// Leftovers tells what is left of an environment whose provisioner has ended
// as by Ctrl-C: processes, the network namespace, mounts. Files stay for the
// next start.
func (e *Environment) Leftovers() []string {
	var left []string
	for _, pid := range owned(e.Base) {
		left = append(left, describeProcess(pid))
	}
	for _, name := range []string{e.Namespace(), e.Namespace() + "-clones"} {
		if _, err := os.Stat("/run/netns/" + name); err == nil {
			left = append(left, "network namespace "+name)
		}
	}
	for _, m := range mounts(e.Base) {
		if m != e.DataDir || e.options.Filesystem == 0 && e.unmount == nil {
			left = append(left, "mount "+m)
		}
	}
	return left
}

// mounts returns the mount points below a directory, the deepest first.
func mounts(base string) []string {
	body, _ := os.ReadFile("/proc/self/mounts")
	var all []string
	for line := range strings.Lines(string(body)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], base+"/") {
			all = append(all, f[1])
		}
	}
	slices.Sort(all)
	slices.Reverse(all)
	return all
}

// end kills all processes that belong to a directory, and returns once they are gone.
func end(base string) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		pids := owned(base)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("sweeping %s: %s does not end", base, describeProcess(pids[0]))
		}
		// Nobody is to do anything about the end of another.
		for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
			for _, pid := range pids {
				_ = syscall.Kill(pid, sig)
			}
		}
		<-time.After(20 * time.Millisecond) // a killed process tells nobody but its parent
	}
}

// PowerOff ends all processes of the environment as a power cut does: at once, and
// with the state of the network. What is on the disk is the caller's matter.
func (e *Environment) PowerOff() error {
	p := e.running()
	err := errors.Join(end(e.Base), removeNamespaces(e.DataDir))
	if p != nil {
		<-p.done
		e.forget(p)
	}
	return err
}

// removeNamespaces removes the network namespaces of a data directory: the
// guests', and that of clones.
func removeNamespaces(dataDir string) error {
	var errs []error
	for _, suffix := range []string{"", "-clones"} {
		path := "/run/netns/" + namespaceOf(dataDir) + suffix
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EPERM) {
			errs = append(errs, err)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sweep removes all that belongs to a directory, by force, and the directory.
func sweep(base string) error {
	if err := end(base); err != nil {
		return err
	}
	errs := []error{removeNamespaces(filepath.Join(base, "data"))}
	for _, m := range mounts(base) {
		errs = append(errs, syscall.Unmount(m, syscall.MNT_DETACH))
	}
	return errors.Join(append(errs, os.RemoveAll(base))...)
}

// Machine is a running virtual machine, as /proc shows it.
type Machine struct {
	PID int
	// Instance is the ID of its directory.
	Instance string
	// MemoryBytes is what it holds of the machine's memory.
	MemoryBytes int64
	// Verifies: it only loads what was saved of the machine, and runs no instruction.
	Verifies bool
}

// Machines returns the virtual machines of this environment.
func (e *Environment) Machines() []Machine {
	var all []Machine
	entries, _ := os.ReadDir("/proc")
	prefix := filepath.Join(e.DataDir, "host", "instances") + "/"
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		comm, err := os.ReadFile("/proc/" + entry.Name() + "/comm")
		if err != nil || !bytes.HasPrefix(comm, []byte("qemu-system-")) {
			continue
		}
		dir := "/proc/" + entry.Name() + "/fd/"
		fds, _ := os.ReadDir(dir)
		for _, fd := range fds {
			target, err := os.Readlink(dir + fd.Name())
			if rest, ok := strings.CutPrefix(target, prefix); err == nil && ok {
				// The console is open in the machine itself; its standard output is so also before it is one.
				id, file, _ := strings.Cut(rest, "/")
				if strings.HasPrefix(file, "console.") {
					all = append(all, Machine{PID: pid, Instance: id, Verifies: verifies(pid), MemoryBytes: resident(pid)})
					break
				}
			}
		}
	}
	return all
}

// MachinesOf returns the virtual machines of one instance.
func (e *Environment) MachinesOf(instance string) []Machine {
	return slices.DeleteFunc(e.Machines(), func(m Machine) bool { return m.Instance != instance })
}

// verifies tells whether a QEMU only loads what was saved, and runs no instruction.
func verifies(pid int) bool {
	body, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	for arg := range strings.SplitSeq(string(body), "\x00") {
		if strings.HasPrefix(arg, "guest=") {
			return strings.HasSuffix(arg, ".verify")
		}
	}
	return false
}

func resident(pid int) int64 {
	body, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	f := strings.Fields(string(body))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// Taps returns the taps in the environment's network namespace.
func (e *Environment) Taps(ctx context.Context) ([]string, error) {
	cmd := exec.CommandContext(ctx, "ip", "-n", e.Namespace(), "-o", "link", "show", "type", "tun")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	body, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing taps: %w: %s", err, &stderr)
	}
	var all []string
	for line := range strings.Lines(string(body)) {
		if f := strings.Fields(line); len(f) > 1 {
			all = append(all, strings.TrimSuffix(f[1], ":"))
		}
	}
	return all, nil
}

// Files returns the names in a directory of the data directory; none where it is not there.
func (e *Environment) Files(parts ...string) []string {
	entries, _ := os.ReadDir(filepath.Join(append([]string{e.DataDir}, parts...)...))
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// Query asks the database, with psql. Each row has its columns as text.
func (e *Environment) Query(ctx context.Context, sql string) ([][]string, error) {
	url := []byte(e.options.Database)
	if len(url) == 0 {
		var err error
		if url, err = os.ReadFile(filepath.Join(e.DataDir, "database-url")); err != nil {
			return nil, fmt.Errorf("finding the database: %w", err)
		}
	}
	cmd := exec.CommandContext(ctx, "psql", "-X", "--csv", "-t", "-v", "ON_ERROR_STOP=1", "-d", strings.TrimSpace(string(url)), "-c", sql)
	cmd.Env = append(os.Environ(), "PGCONNECT_TIMEOUT=10")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("asking the database: %w: %s", err, &stderr)
	}
	return csv.NewReader(bytes.NewReader(out)).ReadAll()
}

// Postmaster returns the process ID of the private database.
func (e *Environment) Postmaster() (int, error) {
	body, err := os.ReadFile(filepath.Join(e.DataDir, "postgres", "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(body), "\n")
	return strconv.Atoi(strings.TrimSpace(first))
}

// PostmasterChanged tells whether another private database than the process
// given has been started.
func (e *Environment) PostmasterChanged(pid int) bool {
	now, err := e.Postmaster()
	return err == nil && now != pid
}

// Provisioner returns the provisioner's process ID; 0 where it does not run.
func (e *Environment) Provisioner() int {
	if p := e.running(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Children returns the processes whose parent is pid.
func (e *Environment) Children(pid int) []int {
	var all []int
	body, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, f := range strings.Fields(string(body)) {
		if child, err := strconv.Atoi(f); err == nil {
			all = append(all, child)
		}
	}
	return all
}
