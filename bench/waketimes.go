package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// wakeTimes is where the time of a visit that woke went.
type wakeTimes struct {
	total time.Duration
	// queue is until the machine's turn came, restore until the guest ran, and ready
	// until it said so, as the host tells.
	queue, restore, ready time.Duration
	start                 string
}

// wakeParts are the parts of a visit, in their order; rest is what is around the
// host's wake: the gateway on the way in, and the request itself.
var wakeParts = []string{"queue", "restore", "ready", "rest"}

func (t wakeTimes) parts() map[string]time.Duration {
	return map[string]time.Duration{"queue": t.queue, "restore": t.restore, "ready": t.ready, "rest": t.total - t.queue - t.restore - t.ready}
}

// String implements fmt.Stringer.
func (t wakeTimes) String() string {
	var words []string
	for _, name := range wakeParts {
		words = append(words, fmt.Sprintf("%s %.0f", name, ms(t.parts()[name])))
	}
	return strings.Join(words, ", ")
}

// wakeTimes reads from the provisioner's log how the wake of an instance went that
// began after that time.
func (p *provisioner) wakeTimes(ctx context.Context, instance string, began time.Time, took time.Duration) (wakeTimes, error) {
	t := wakeTimes{total: took}
	return t, until(ctx, 5*time.Millisecond, 10*time.Second, "the log tells of the wake of "+instance, func() (bool, error) {
		content, err := os.ReadFile(p.logPath)
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(string(content)) {
			var entry struct {
				Msg, Instance, Start string
				QueueMS              float64 `json:"queue_ms"`
				RestoreMS            float64 `json:"restore_ms"`
				ReadyMS              float64 `json:"ready_ms"`
				Time                 time.Time
			}
			if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "woken by a visit" || entry.Instance != instance || !entry.Time.After(began) {
				continue
			}
			each := func(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }
			t.queue, t.restore, t.ready, t.start = each(entry.QueueMS), each(entry.RestoreMS), each(entry.ReadyMS), entry.Start
			return true, nil
		}
		return false, nil
	})
}

// pollEvery is how often it is looked whether a process is there.
const pollEvery = 5 * time.Millisecond

// watch looks for the QEMU processes of an instance, from outside.
type watch struct {
	cancel context.CancelFunc
	done   chan struct{}
	// seen are the instances of the processes that were seen, looks how often it was looked.
	seen  map[int]string
	looks int
	err   error
}

// watchMachines begins to look, for those of all instances where none is named.
func watchMachines(ctx context.Context, instance string) *watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{cancel: cancel, done: make(chan struct{}), seen: map[int]string{}}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for {
			found, err := machines(instance)
			if err != nil {
				w.err = err
				return
			}
			w.looks++
			maps.Copy(w.seen, found)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return w
}

// stop looks no more.
func (w *watch) stop() error {
	w.cancel()
	<-w.done
	return w.err
}

// none is a watch that must see nothing.
type none struct{ *watch }

func watchNone(ctx context.Context, instance string) none { return none{watchMachines(ctx, instance)} }

// end stops, and fails where a machine was seen, or nobody looked.
func (n none) end() error {
	if err := n.stop(); err != nil {
		return err
	}
	if len(n.seen) > 0 {
		return fmt.Errorf("there was a QEMU of an installation that sleeps: processes %v", n.seen)
	}
	if n.looks == 0 {
		return errors.New("nobody looked for processes")
	}
	return nil
}

// of counts the processes of one instance.
func (w *watch) of(instance string) int {
	n := 0
	for _, each := range w.seen {
		if each == instance {
			n++
		}
	}
	return n
}

// machines are the QEMU processes of our instances, or of one, those that only
// verify included, by their IDs.
func machines(instance string) (map[int]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	found := map[int]string{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		if err != nil || !strings.HasPrefix(string(comm), "qemu-system") {
			continue
		}
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		_, name, ok := strings.Cut(string(args), "\x00guest=dormouse-")
		name, _, _ = strings.Cut(name, "\x00")
		name, _, _ = strings.Cut(name, ".") // what only verifies has more
		if ok && (instance == "" || name == instance) {
			found[pid] = name
		}
	}
	return found, nil
}
