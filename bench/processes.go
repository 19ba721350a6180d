package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// slotsOfAll are the slots that all processes of benchProcesses have together.
const slotsOfAll = 32

// benchProcesses compares four processes with one of as many slots, on the same
// database and the same simulator, which is a process of its own.
func benchProcesses(ctx context.Context, b *bench) error {
	simulator, err := b.startSimulator(ctx)
	if err != nil {
		return err
	}
	d, err := b.newDatabase(ctx, "processes")
	if err != nil {
		return err
	}
	with := []string{"--simulator", simulator}
	p, err := b.startProvisioner(ctx, start{name: "processes", database: d.url, extra: with})
	if err != nil {
		return err
	}
	if err := b.furnish(ctx, p, nil); err != nil {
		return err
	}
	n := pick(b, 10_000, 200)
	ids, err := fill(ctx, p, "process", n)
	if err == nil {
		err = worked(ctx, d, 10*time.Minute)
	}
	if err := firstOf(err, p.stop()); err != nil {
		return err
	}
	rates, statements := map[int][]float64{}, map[int][]float64{}
	for round := range pick(b, 3, 1) {
		for _, k := range []int{1, 4} { // interleaved, because the machine is noisy
			rate, made, err := updatesBy(ctx, b, d, k, ids, with, fmt.Sprintf("by-%d-%d", k, round))
			if err != nil {
				return err
			}
			b.say("round %d: %d processes: %.0f updates/s, %.2f statements each", round+1, k, rate, made)
			rates[k], statements[k] = append(rates[k], rate), append(statements[k], made)
		}
	}
	b.print("processes1.rate", median(rates[1]), "1/s")
	b.print("processes4.rate", median(rates[4]), "1/s")
	b.print("processes4.rate_ratio", median(rates[4])/median(rates[1]), "ratio")
	b.print("processes1.statements", median(statements[1]), "statements")
	b.print("processes4.statements", median(statements[4]), "statements")
	b.print("processes4.statements_ratio", median(statements[4])/median(statements[1]), "ratio")
	return nil
}

// updatesBy has updates of all accepted by a process that has only the API, and
// then worked off by k processes: from the first claim to the last commit, by the
// database's clock.
func updatesBy(ctx context.Context, b *bench, d *database, k int, ids []string, with []string, value string) (rate, statements float64, err error) {
	api, err := b.startProvisioner(ctx, start{name: "processes-api", database: d.url, roles: "api"})
	if err != nil {
		return 0, 0, err
	}
	err = firstOf(patchAll(ctx, &crowd{db: d, proc: api, ids: ids}, len(ids), value), api.stop())
	if err != nil {
		return 0, 0, err
	}
	made, err := d.measure(ctx, func() error {
		workers, errs := make([]*provisioner, k), make([]error, k)
		var all sync.WaitGroup
		for i := range k {
			all.Go(func() {
				workers[i], errs[i] = b.startProvisioner(ctx, start{name: fmt.Sprintf("processes-%d", i), database: d.url, roles: "supervisor,host",
					extra: append([]string{"--slots", fmt.Sprint(slotsOfAll / k)}, with...)})
			})
		}
		all.Wait()
		err := firstOf(errs...)
		if err == nil {
			err = worked(ctx, d, 5*time.Minute)
		}
		for _, w := range workers {
			if w != nil {
				err = firstOf(err, w.stop())
			}
		}
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	b.explain(made, float64(len(ids)), "update")
	var seconds float64
	err = d.look.QueryRowContext(ctx, `SELECT extract(epoch FROM max(finished_at) - min(started_at))
		FROM (SELECT * FROM operation WHERE kind = 'update' ORDER BY id DESC LIMIT $1) o`, len(ids)).Scan(&seconds)
	return float64(len(ids)) / seconds, float64(made.statements) / float64(len(ids)), err
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// startSimulator starts a simulator that several processes share, and returns its URL.
func (b *bench) startSimulator(ctx context.Context) (string, error) {
	socket := filepath.Join(b.dir, "simulator.sock")
	log, err := os.Create(filepath.Join(b.dir, "simulator.log"))
	if err != nil {
		return "", err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(b.bin, "provisioner"), "simulator", "--data-dir", filepath.Join(b.dir, "simulator"), "--listen", "unix:"+socket)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("starting the simulator: %w", err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	b.onClose(func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		return nil
	})
	return "unix:" + socket, until(ctx, 20*time.Millisecond, 30*time.Second, "the simulator listens", func() (bool, error) {
		_, err := os.Stat(socket)
		return err == nil, nil
	})
}
