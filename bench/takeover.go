package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dormouse/client"
)

// benchTakeover kills one of two provisioners in the middle of a step, and
// measures until the other one works on it. Each has a simulator of its own: the
// step that is cut is the first of a create, which finds nothing in either.
func benchTakeover(ctx context.Context, b *bench) error {
	d, err := b.newDatabase(ctx, "takeover")
	if err != nil {
		return err
	}
	first, err := b.startProvisioner(ctx, start{name: "takeover-0", database: d.url})
	if err != nil {
		return err
	}
	if err := b.furnish(ctx, first, map[string]string{"latency": "4s"}); err != nil {
		return err
	}
	// A process learns of simulated clusters when it starts.
	second, err := b.startProvisioner(ctx, start{name: "takeover-1", database: d.url})
	if err != nil {
		return err
	}
	procs := []*provisioner{first, second}
	defer func() { _ = errors.Join(procs[0].stop(), procs[1].stop()) }()
	var taken, done []float64
	for round := range pick(b, 7, 2) {
		// Where in the poll's period the crash falls is left to chance.
		if err := pause(ctx, time.Duration(round%4)*1300*time.Millisecond); err != nil {
			return err
		}
		claimed, finished, victim, err := takeOver(ctx, d, procs, round)
		if err != nil {
			return err
		}
		b.say("round %d: taken over after %.1f s, done after %.1f s", round+1, claimed.Seconds(), finished.Seconds())
		taken, done = append(taken, claimed.Seconds()), append(done, finished.Seconds())
		if procs[victim], err = b.startProvisioner(ctx, start{name: procs[victim].name, database: d.url}); err != nil {
			return err
		}
	}
	b.print("takeover.seconds", median(taken), "s")
	b.print("takeover.max_seconds", percentile(taken, 1), "s")
	b.print("takeover.done_seconds", median(done), "s")
	return nil
}

// takeOver has one installation created, and kills whoever works on it once the
// provider's call is under way. It returns how long it took until the other one
// had claimed the operation and until that succeeded, and which one was killed.
func takeOver(ctx context.Context, d *database, procs []*provisioner, round int) (claimed, finished time.Duration, victim int, err error) {
	v, err := procs[round%2].client.Installations.Create(ctx, client.CreateInstallation{
		Name: fmt.Sprintf("takeover-%d", round), Owner: owner, Package: packageName, Cluster: clusterName})
	if err != nil {
		return 0, 0, 0, err
	}
	op := v.Operation.ID
	look := func() (worker, step, state string, err error) {
		err = d.look.QueryRowContext(ctx, `SELECT worker, step, state FROM operation WHERE id = $1`, op).Scan(&worker, &step, &state)
		return worker, step, state, err
	}
	var holder string
	if err := until(ctx, 5*time.Millisecond, 30*time.Second, "a step is under way", func() (bool, error) {
		worker, step, _, err := look()
		holder = worker
		return worker != "" && step == "start-instance", err
	}); err != nil {
		return 0, 0, 0, err
	}
	if err := pause(ctx, 200*time.Millisecond); err != nil {
		return 0, 0, 0, err
	}
	victim = -1
	for i, p := range procs {
		id, err := os.ReadFile(filepath.Join(p.dataDir, "worker-id"))
		if err != nil {
			return 0, 0, 0, err
		}
		if strings.TrimSpace(string(id)) == holder {
			victim = i
		}
	}
	if victim < 0 {
		return 0, 0, 0, fmt.Errorf("worker %s is none of the two", holder)
	}
	if err := procs[victim].kill(); err != nil {
		return 0, 0, 0, err
	}
	killed := time.Now()
	err = until(ctx, 5*time.Millisecond, 2*time.Minute, "the other one has taken over", func() (bool, error) {
		worker, _, _, err := look()
		return worker != holder, err
	})
	claimed = time.Since(killed)
	if err == nil {
		err = until(ctx, 5*time.Millisecond, 2*time.Minute, "the create has succeeded", func() (bool, error) {
			_, _, state, err := look()
			return state == "succeeded", err
		})
	}
	return claimed, time.Since(killed), victim, err
}
