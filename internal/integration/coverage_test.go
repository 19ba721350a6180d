package integration

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// cut is something that is done to a step.
type cut string

const (
	cutTwice     cut = "twice"
	cutBefore    cut = "cut-before"
	cutAfter     cut = "cut-after"
	cutFailed    cut = "failed-then-deleted"
	cutTransient cut = "transient"
	cutDeleted   cut = "deleted-during"
)

func cuts() []cut { return []cut{cutTwice, cutBefore, cutAfter, cutFailed, cutTransient, cutDeleted} }

// coverage counts what was hit, over all tests of this run.
type coverage struct {
	mu   sync.Mutex
	hits map[fleet.OperationKind]map[string]map[cut]int
}

func (c *coverage) hit(kind fleet.OperationKind, step string, what cut) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hits[kind] == nil {
		c.hits[kind] = map[string]map[cut]int{}
	}
	if c.hits[kind][step] == nil {
		c.hits[kind][step] = map[cut]int{}
	}
	c.hits[kind][step][what]++
}

// missing prints what was hit and returns what was not.
func (c *coverage) missing(all []*engine.Workflow) []string {
	var missing []string
	for _, w := range all {
		if w.Endless {
			// It has no end of its own to be brought to: see rollout_test.go and drain_test.go.
			fmt.Printf("coverage %s: its step is cut, killed and overtaken in tests of its own\n", w.Kind)
			continue
		}
		var parts []string
		for _, s := range slices.Concat(w.Steps, w.Rollback) {
			hits := c.hits[w.Kind][s.Name]
			var counts []string
			for _, what := range cuts() {
				counts = append(counts, fmt.Sprint(hits[what]))
				if hits[what] == 0 {
					missing = append(missing, fmt.Sprintf("%s × %s × %s", w.Kind, s.Name, what))
				}
			}
			parts = append(parts, s.Name+" "+strings.Join(counts, "/"))
		}
		fmt.Printf("coverage %s: %s\n", w.Kind, strings.Join(parts, ", "))
	}
	return missing
}

var covered = &coverage{hits: map[fleet.OperationKind]map[string]map[cut]int{}}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if code := m.Run(); code != 0 {
		return code
	}
	if flag.Lookup("test.run").Value.String() != "" || flag.Lookup("test.skip").Value.String() != "" || flag.Lookup("test.list").Value.String() != "" {
		return 0 // a part of the tests hits a part of the steps
	}
	names := make([]string, 0, len(cuts()))
	for _, c := range cuts() {
		names = append(names, string(c))
	}
	fmt.Println("coverage by step:", strings.Join(names, "/"))
	if missing := covered.missing(allWorkflows(nil, nil, false)); len(missing) > 0 {
		fmt.Println("not hit:", strings.Join(missing, ", "))
		return 1
	}
	for kind := range maps.Keys(covered.hits) {
		if !slices.ContainsFunc(allWorkflows(nil, nil, false), func(w *engine.Workflow) bool { return w.Kind == kind }) {
			fmt.Println("hit, but unknown:", kind)
			return 1
		}
	}
	return 0
}
