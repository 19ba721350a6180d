package powercut

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// watcher looks every few milliseconds for two machines of one instance.
type watcher struct {
	mu       sync.Mutex
	instance string
	looks    int
	// most is how many machines were seen at once, verifiers how often one of those.
	most, verifiers int
	twice           []string
}

// watch looks until ctx ends.
func (w *watcher) watch(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.mu.Lock()
		pids := machines(w.instance)
		w.looks++
		w.most = max(w.most, len(pids))
		w.verifiers += len(verifiers(w.instance))
		if len(pids) > 1 {
			w.twice = append(w.twice, fmt.Sprintf("processes %v at %s", pids, time.Now().UTC().Format(time.RFC3339Nano)))
		}
		w.mu.Unlock()
	}
}

// machines returns the QEMUs of an instance that may run its guest: those that
// carry its name, and not that of a verifier. One that has been killed and is still going
// has no arguments any more.
func machines(instance string) []int { return qemus(instance, "") }

// verifiers returns those that only load what was saved.
func verifiers(instance string) []int { return qemus(instance, ".verify") }

func qemus(instance, suffix string) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		comm, err := os.ReadFile("/proc/" + entry.Name() + "/comm")
		if err != nil || !bytes.HasPrefix(comm, []byte("qemu-system-")) {
			continue
		}
		line, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if err == nil && named(line, "dormouse-"+instance+suffix) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// named tells whether that is QEMU's -name.
func named(cmdline []byte, want string) bool {
	arguments := bytes.Split(cmdline, []byte{0})
	for n, a := range arguments {
		if string(a) != "-name" || n+1 == len(arguments) {
			continue
		}
		name, _, _ := bytes.Cut(bytes.TrimPrefix(arguments[n+1], []byte("guest=")), []byte(","))
		return string(name) == want
	}
	return false
}
