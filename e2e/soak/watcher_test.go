package soak

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"dormouse/e2e/harness"
)

// watcher looks every 50 ms which virtual machines run.
type watcher struct {
	env *harness.Environment

	mu       sync.Mutex
	looks    int
	most     int
	twice    []string
	together map[[2]string]bool
}

func (w *watcher) watch(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.look()
	}
}

func (w *watcher) look() {
	machines := slices.DeleteFunc(w.env.Machines(), func(m harness.Machine) bool { return m.Verifies })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	w.most = max(w.most, len(machines))
	for i, a := range machines {
		for _, b := range machines[:i] {
			pair := [2]string{min(a.Instance, b.Instance), max(a.Instance, b.Instance)}
			if pair[0] == pair[1] {
				w.twice = append(w.twice, fmt.Sprintf("instance %s ran as processes %d and %d at %s", a.Instance, a.PID, b.PID, time.Now().UTC()))
			}
			w.together[pair] = true
		}
	}
}

// violations are the moments at which an installation had two machines.
func (w *watcher) violations(ctx context.Context) ([]string, error) {
	rows, err := w.env.Query(ctx, "SELECT id, installation_id FROM instance")
	if err != nil {
		return nil, err
	}
	owner := map[string]string{}
	for _, row := range rows {
		owner[row[0]] = row[1]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	bad := w.twice
	for pair := range w.together {
		a, knownA := owner[pair[0]]
		b, knownB := owner[pair[1]]
		if !knownA || !knownB {
			bad = append(bad, "a machine that no row ever named: "+strings.Join(pair[:], " or "))
		} else if a == b && pair[0] != pair[1] {
			bad = append(bad, fmt.Sprintf("installation %s had two machines at once: %s and %s", a, pair[0], pair[1]))
		}
	}
	return bad, nil
}
