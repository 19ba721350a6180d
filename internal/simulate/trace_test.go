package simulate

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"
	"time"
)

// trace is the history of a seed, one line per decision and what came of it.
type trace struct {
	sum   hash.Hash
	lines []string
	keep  bool
	print func(string)
}

// note adds a line.
func (s *simulation) note(format string, args ...any) {
	line := fmt.Sprintf("%d %s ", s.turns, time.Now().UTC().Format("15:04:05.000000")) + fmt.Sprintf(format, args...)
	_, _ = s.trace.sum.Write([]byte(line))
	if s.trace.keep {
		s.trace.lines = append(s.trace.lines, line)
	}
	if s.trace.print != nil {
		s.trace.print(line)
	}
}

func (t *trace) digest() string { return hex.EncodeToString(t.sum.Sum(nil)[:8]) }

// coverage counts how often each fault struck at each step.
type coverage map[string]map[string]int

func (c coverage) add(fault, step string, n int) {
	if c[step] == nil {
		c[step] = map[string]int{}
	}
	c[step][fault] += n
}

func (c coverage) merge(other coverage) {
	for step, faults := range other {
		for fault, n := range faults {
			c.add(fault, step, n)
		}
	}
}

// hit counts a fault that struck at a step.
func (s *simulation) hit(fault, step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.coverage.add(fault, step, 1)
}

// pairs is how many steps × faults have been seen.
func (c coverage) pairs() (n int) {
	for _, faults := range c {
		n += len(faults)
	}
	return n
}

// table prints steps × faults.
func (c coverage) table() string {
	kinds := map[string]bool{}
	for _, faults := range c {
		for fault := range faults {
			kinds[fault] = true
		}
	}
	columns := slices.Sorted(maps.Keys(kinds))
	var b strings.Builder
	fmt.Fprintf(&b, "%-36s", "step")
	for _, k := range columns {
		fmt.Fprintf(&b, " %*s", max(5, len(k)), k)
	}
	for _, step := range slices.SortedFunc(maps.Keys(c), cmp.Compare[string]) {
		fmt.Fprintf(&b, "\n%-36s", step)
		for _, k := range columns {
			fmt.Fprintf(&b, " %*d", max(5, len(k)), c[step][k])
		}
	}
	return b.String()
}
