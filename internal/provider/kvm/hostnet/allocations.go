package hostnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"dormouse/internal/fleet"
)

// allocations is the state of a User, as its file holds it.
type allocations struct {
	// Next is where the search for a free port begins.
	Next int `json:"next"`
	// Instances maps each instance's guest ports to loopback ports.
	Instances map[fleet.InstanceID]map[int]int `json:"instances"`
}

func allocationsPath(dir string) string { return filepath.Join(dir, "user-network.json") }

func (u *User) load() (allocations, error) {
	state := allocations{Instances: make(map[fleet.InstanceID]map[int]int)}
	content, err := os.ReadFile(u.path)
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	if err != nil {
		return state, fmt.Errorf("reading port allocations: %w", err)
	}
	if err := json.Unmarshal(content, &state); err != nil {
		return state, fmt.Errorf("reading port allocations: %s is damaged: %w; stop the instances and delete it", u.path, err)
	}
	if state.Instances == nil {
		state.Instances = make(map[fleet.InstanceID]map[int]int)
	}
	return state, nil
}

// save replaces the file: after a crash it is the old one or the new one, whole.
func (u *User) save(state allocations) error {
	content, err := json.Marshal(state)
	if err != nil {
		return err
	}
	dir := filepath.Dir(u.path)
	// A fixed name, so that a crash leaves at most one of them behind.
	temporary := u.path + ".new"
	err = writeSynced(temporary, content)
	if err == nil {
		err = os.Rename(temporary, u.path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("writing port allocations: %w", err)
	}
	return nil
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (u *User) remove() error {
	for _, path := range []string{u.path, u.path + ".new"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing port allocations: %w", err)
		}
	}
	return nil
}

// hypervisorRuns tells whether a process runs whose command line names the
// instance and forwards the port. Command lines are readable also where a
// sandbox hides the process's open sockets.
func hypervisorRuns(id fleet.InstanceID, forward string) bool {
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return false
	}
	for _, path := range paths {
		cmdline, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if bytes.Contains(cmdline, []byte(id)) && forwards(string(cmdline), forward) {
			return true
		}
	}
	return false
}

// forwards tells whether a command line (arguments end with a zero byte)
// contains a whole option value.
func forwards(cmdline, forward string) bool {
	for _, arg := range strings.Split(cmdline, "\x00") {
		for _, part := range strings.Split(arg, ",") {
			if part == forward {
				return true
			}
		}
	}
	return false
}
