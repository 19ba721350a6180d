package soak

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"dormouse/e2e/harness"
)

// target is a step of a kind of operation.
type target struct{ kind, step string }

func (t target) String() string { return t.kind + "/" + t.step }

// leadsTo tells whether an action can bring the step about.
func (t target) leadsTo(action string) bool {
	switch t {
	case target{"update", "ensure-volume"}:
		return action == "grow"
	case target{"update", "delete-successor"}, target{"update", "start-predecessor"}, target{"update", "await-predecessor"}:
		return action == "spoil"
	}
	return kindOf(action) == t.kind
}

// firstOf is the first step that an operation of a kind runs.
func firstOf(kind string) target {
	switch kind {
	case "restart":
		return target{kind, "stop-instance"}
	case "hibernate":
		return target{kind, "suspend-instance"}
	case "delete":
		return target{kind, "delete-instances"}
	}
	return target{kind, "prepare"}
}

// targets are the steps that operations on installations run here: all but
// hold-memory, which only a restart after a failed update of a sleeper runs.
func targets() []target {
	var all []target
	for kind, steps := range map[string]string{
		"create":    "prepare ensure-volume start-instance await-healthy",
		"update":    "prepare stop-instance ensure-volume start-instance await-healthy delete-predecessor delete-successor start-predecessor await-predecessor",
		"wake":      "prepare start-instance await-healthy",
		"restart":   "stop-instance start-instance await-healthy",
		"hibernate": "suspend-instance release-memory",
		"delete":    "delete-instances delete-volume release",
	} {
		for _, step := range strings.Fields(steps) {
			all = append(all, target{kind, step})
		}
	}
	slices.SortFunc(all, func(a, b target) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// killer kills the provisioner at chosen moments.
type killer struct {
	env    *harness.Environment
	random *rand.Rand
	wanted *atomic.Pointer[target]
	asked  <-chan string
	hits   map[target]int
	// patience is how long one kill waits for the step that it wants, and then for any.
	patience time.Duration
	// epoch is the highest claim of the process that was killed last.
	epoch string
	// kills counts all, running those while a step was claimed; restarts are how long each start took.
	kills, running, samples int
	restarts                []time.Duration
}

// kill kills the provisioner once and starts it again. It aims at any of the
// steps that were hit least often, and the tenants are asked to bring about one of them.
func (k *killer) kill(ctx context.Context) error {
	want, patience := k.choose()
	k.wanted.Store(&want[0])
	claimed, err := k.aim(ctx, want, patience)
	if err != nil {
		return err
	}
	if err := k.env.End(syscall.SIGKILL); err != nil {
		return err
	}
	k.kills++
	if len(claimed) > 0 {
		k.running++
	}
	for _, c := range claimed {
		k.hits[c]++
	}
	// What this process held is given back by the next one; until then it is no sign of work.
	rows, err := k.env.Query(ctx, "SELECT coalesce(max(epoch), 0) FROM operation")
	if err != nil {
		return err
	}
	k.epoch = rows[0][0]
	begin := time.Now()
	if err := k.env.Start(ctx); err != nil {
		return fmt.Errorf("starting again after a kill during %v: %w", claimed, err)
	}
	k.restarts = append(k.restarts, time.Since(begin))
	return nil
}

// missing returns the steps that no kill has hit yet.
func (k *killer) missing() []target {
	return slices.DeleteFunc(targets(), func(a target) bool { return k.hits[a] > 0 })
}

// choose returns the steps that were hit least often, in a random order, and
// how long to wait for one of them: less, once all were hit.
func (k *killer) choose() ([]target, time.Duration) {
	all := targets()
	least := k.hits[slices.MinFunc(all, func(a, b target) int { return k.hits[a] - k.hits[b] })]
	all = slices.DeleteFunc(all, func(a target) bool { return k.hits[a] > least })
	k.random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if least > 0 {
		return all, min(k.patience, 10*time.Second)
	}
	return all, k.patience
}

// aim returns with the provisioner stopped while a wanted step is claimed, or
// any step once patience is over. It returns what is claimed.
func (k *killer) aim(ctx context.Context, want []target, patience time.Duration) ([]target, error) {
	log, err := os.Open(k.env.LogPath())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if _, err := log.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(log)
	begin := time.Now()
	for {
		if err := k.await(ctx, lines, want, time.Since(begin) > patience); err != nil {
			return nil, err
		}
		claimed, err := k.sample(ctx, want, begin, patience)
		if err != nil || claimed != nil {
			return claimed, err
		}
		// What was written meanwhile is the past.
		if _, err := log.Seek(0, io.SeekEnd); err != nil {
			return nil, err
		}
		lines.Reset(log)
		for len(k.asked) > 0 {
			<-k.asked
		}
	}
}

// slicesAfterSign is how many slices of a millisecond or two the provisioner is given
// after a sign that a wanted step begins: between claim and commit it may need no more.
const slicesAfterSign = 15

// sample stops the provisioner, looks, and lets it go on for a moment, again
// and again. It returns what is claimed, with the provisioner stopped, or nil
// with the provisioner running where nothing wanted came up.
func (k *killer) sample(ctx context.Context, want []target, begin time.Time, patience time.Duration) ([]target, error) {
	for range slicesAfterSign {
		if err := k.env.Signal(syscall.SIGSTOP); err != nil {
			return nil, err
		}
		k.samples++
		claimed, err := k.claimed(ctx)
		if err != nil {
			return nil, err
		}
		switch age := time.Since(begin); {
		case slices.ContainsFunc(claimed, func(c target) bool { return slices.Contains(want, c) }), age > patience && len(claimed) > 0:
			return claimed, nil
		case age > 2*patience:
			return []target{}, nil
		}
		if err := k.env.Signal(syscall.SIGCONT); err != nil {
			return nil, err
		}
		if err := sleep(ctx, time.Duration(500+k.random.IntN(2000))*time.Microsecond); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// await returns when a wanted step begins, as the log or a tenant says.
// With any it takes the first step that comes.
func (k *killer) await(ctx context.Context, lines *bufio.Reader, want []target, any bool) error {
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var rest []byte
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return nil
		case kind := <-k.asked:
			if !slices.Contains(want, firstOf(kind)) {
				continue
			}
			return nil
		case <-tick.C:
		}
		for {
			part, err := lines.ReadBytes('\n')
			rest = append(rest, part...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			line := rest
			rest = nil
			// The log has no line for the beginning of a rollback. It follows at once where a machine ended in a crash loop.
			if slices.Contains(want, target{"update", "delete-successor"}) && bytes.Contains(line, []byte("reason=crash-loop")) {
				return sleep(ctx, time.Duration(k.random.IntN(5000))*time.Microsecond)
			}
			if any && bytes.Contains(line, []byte(" next=")) || slices.ContainsFunc(want, func(w target) bool {
				return bytes.Contains(line, []byte("next="+w.step+" ")) && bytes.Contains(line, []byte("kind="+w.kind+" "))
			}) {
				return sleep(ctx, time.Duration(k.random.IntN(1000))*time.Microsecond)
			}
		}
	}
}

// claimed asks the database which steps a worker holds.
func (k *killer) claimed(ctx context.Context) ([]target, error) {
	rows, err := k.env.Query(ctx, "SELECT kind, step FROM operation WHERE state = 'active' AND worker <> '' AND resource_type = 'installation' AND epoch > "+k.epoch)
	if err != nil {
		return nil, err
	}
	var all []target
	for _, row := range rows {
		if row[1] == "" { // the row names a step only after the first one
			all = append(all, firstOf(row[0]))
			continue
		}
		all = append(all, target{row[0], row[1]})
	}
	return all, nil
}
