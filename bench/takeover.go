package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"dormouse/internal/provider/sim"
	"dormouse/internal/provider/sim/remote"
)

// heldSteps is how many steps a process has in work when it is killed or stopped.
const heldSteps = 100

// benchTakeover kills one of two provisioners that has 100 steps in work, and
// measures until the other one works on the first and has finished them all. Then
// it stops one (SIGSTOP) for longer than its lease, and lets it go on when
// the other one is done: it must change nothing, in the store or at the provider.
func benchTakeover(ctx context.Context, b *bench) error {
	simulator, err := b.startSimulator(ctx)
	if err != nil {
		return err
	}
	d, err := b.newDatabase(ctx, "takeover")
	if err != nil {
		return err
	}
	t := &takeover{b: b, d: d, simulator: simulator, procs: make([]*provisioner, 2)}
	for i := range t.procs {
		if err := t.start(ctx, i); err != nil {
			return err
		}
	}
	defer func() {
		for _, p := range t.procs {
			_ = p.stop()
		}
	}()
	if err := b.furnish(ctx, t.procs[0], map[string]string{"latency": "3s"}); err != nil {
		return err
	}
	var taken, done []float64
	for round := range pick(b, 7, 1) {
		// Where in the poll's period the crash falls is left to chance.
		if err := pause(ctx, time.Duration(round%4)*1300*time.Millisecond); err != nil {
			return err
		}
		first, all, err := t.kill(ctx, round)
		if err != nil {
			return err
		}
		b.say("round %d: the first of %d steps was taken over after %.1f s, all operations were done after %.1f s", round+1, heldSteps, first.Seconds(), all.Seconds())
		taken, done = append(taken, first.Seconds()), append(done, all.Seconds())
	}
	b.print("takeover.steps", heldSteps, "steps")
	b.print("takeover.seconds", median(taken), "s")
	b.print("takeover.max_seconds", percentile(taken, 1), "s")
	b.print("takeover.done_seconds", median(done), "s")
	return t.freeze(ctx)
}

type takeover struct {
	b         *bench
	d         *database
	simulator string
	procs     []*provisioner
}

func (t *takeover) start(ctx context.Context, i int) (err error) {
	t.procs[i], err = t.b.startProvisioner(ctx, start{name: fmt.Sprintf("takeover-%d", i), database: t.d.url,
		extra: []string{"--simulator", t.simulator, "--slots", fmt.Sprint(heldSteps)}})
	return err
}

// busy has 100 installations created by one process, which has them all in work
// when it returns: as which worker, and which process it is.
func (t *takeover) busy(ctx context.Context, name string) (holder string, victim int, err error) {
	if _, err := spread(ctx, t.procs[0].api, 16, heldSteps, func(c *conn, i int) error {
		_, err := c.want(202, "POST", installationsPath, "", newInstallation(fmt.Sprintf("%s-%d", name, i)))
		return err
	}); err != nil {
		return "", 0, err
	}
	err = until(ctx, 5*time.Millisecond, 30*time.Second, "a process has all steps in work", func() (bool, error) {
		var n int
		err := t.d.look.QueryRowContext(ctx, `SELECT coalesce(max(worker), ''), count(*) FROM operation
			WHERE state = 'active' AND step = 'start-instance' AND worker <> '' GROUP BY worker ORDER BY 2 DESC LIMIT 1`).Scan(&holder, &n)
		return n >= heldSteps*9/10, ignoreNoRows(err)
	})
	if err != nil {
		return "", 0, err
	}
	for i, p := range t.procs {
		id, err := os.ReadFile(filepath.Join(p.dataDir, "worker-id"))
		if err != nil {
			return "", 0, err
		}
		if strings.TrimSpace(string(id)) == holder {
			return holder, i, nil
		}
	}
	return "", 0, fmt.Errorf("worker %s is none of the two", holder)
}

// others waits until somebody else has taken the first of a worker's steps, and
// until all operations have succeeded.
func (t *takeover) others(ctx context.Context, holder string) (first, all time.Duration, err error) {
	began := time.Now()
	err = until(ctx, 5*time.Millisecond, 2*time.Minute, "another process has taken over", func() (bool, error) {
		n, err := t.d.count(ctx, `SELECT count(*) FROM operation WHERE state = 'active' AND worker NOT IN ($1, '')`, holder)
		return n > 0, err
	})
	first = time.Since(began)
	if err == nil {
		err = worked(ctx, t.d, 3*time.Minute)
	}
	return first, time.Since(began), err
}

func (t *takeover) kill(ctx context.Context, round int) (first, all time.Duration, err error) {
	holder, victim, err := t.busy(ctx, fmt.Sprintf("killed-%d", round))
	if err != nil {
		return 0, 0, err
	}
	if err := t.procs[victim].kill(); err != nil {
		return 0, 0, err
	}
	if first, all, err = t.others(ctx, holder); err != nil {
		return 0, 0, err
	}
	return first, all, t.start(ctx, victim)
}

// freeze stops a process past its lease and lets it go on when others have done its work.
func (t *takeover) freeze(ctx context.Context) error {
	holder, victim, err := t.busy(ctx, "frozen")
	if err != nil {
		return err
	}
	process := t.procs[victim].cmd.Process
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	defer func() { _ = process.Signal(syscall.SIGCONT) }()
	first, _, err := t.others(ctx, holder)
	if err != nil {
		return err
	}
	ledger, err := remote.New(remote.Options{URL: t.simulator})
	if err != nil {
		return err
	}
	defer ledger.Close()
	const rowsSQL = `SELECT md5(string_agg(t, '' ORDER BY t)) FROM (SELECT i.id || i.version AS t FROM installation i
		UNION ALL SELECT o.id || o.revision || o.epoch FROM operation o UNION ALL SELECT x.id || x.power || x.serving FROM instance x) all_rows`
	look := func() (rows string, effects uint64, fenced uint64, doubles uint64, err error) {
		if err := t.d.look.QueryRowContext(ctx, rowsSQL).Scan(&rows); err != nil {
			return "", 0, 0, 0, err
		}
		totals, err := ledger.Totals(ctx)
		for effect, n := range totals.Effects {
			if effect != sim.EffectNone {
				effects += n
			}
		}
		return rows, effects, totals.Errors["fenced"], totals.Doubles + totals.Recreated, err
	}
	rows, effects, fenced, _, err := look()
	if err != nil {
		return err
	}
	if err := process.Signal(syscall.SIGCONT); err != nil {
		return err
	}
	if err := pause(ctx, 20*time.Second); err != nil { // it wakes, and has the time to do its worst
		return err
	}
	after, effectsAfter, fencedAfter, doubles, err := look()
	if err != nil {
		return err
	}
	changed := 0.0
	if after != rows {
		changed = 1
	}
	t.b.print("frozen.takeover_seconds", first.Seconds(), "s")
	t.b.print("frozen.store_changed", changed, "0 or 1")
	t.b.print("frozen.provider_effects", float64(effectsAfter-effects), "effects")
	t.b.print("frozen.provider_refused", float64(fencedAfter-fenced), "calls")
	t.b.print("frozen.duplicates", float64(doubles), "machines")
	return nil
}
