package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// benchmark is one row of the table: what can be named with -only.
type benchmark struct {
	name, says string
	run        func(context.Context, *bench) error
}

func benchmarks() []benchmark {
	return []benchmark{
		{"create", "creating installations, API role only, beside one-insert commits by pgbench", benchCreate},
		{"list", "pages of 100 out of 10,000 installations", benchList},
		{"listmillion", "pages of 100 out of 1,000,000 installations", benchListMillion},
		{"idle", "a quiet minute with 10,000 stable installations", benchIdle},
		{"update", "full updates on the instant simulator, all roles in one process", benchUpdate},
		{"patch", "changes lost when 8 clients patch one installation", benchPatch},
		{"group", "16 clients create into one group", benchGroup},
		{"wait", "1,000 installations that wait for their provider", benchWait},
		{"latency", "100 installations on a provider whose calls take 100 ms", benchLatency},
		{"processes", "full updates by four processes beside one with as many slots, on one simulator", benchProcesses},
		{"takeover", "kill -9 of one of two provisioners in the middle of a step", benchTakeover},
		{"rollout", "a rollout through 10,000 installations, awake and asleep, calls of p50 0.5 s and p99 5 s", benchRollout},
		{"image", "images of a release of Nanos (NANOS_DIR): builds beside copies, further tenants, memory", benchImage},
		{"boot", "accepted to first answer of the example workspace, beside a bare boot", benchBoot},
		{"wake", "a request to a sleeper, beside a bare restore of the same guest", benchWake},
		{"herd", "many sleepers woken at once, beside as many bare restores at once, and many requests to one", benchHerd},
		{"gateway", "requests through the gateway, beside Debian's nginx as reverse proxy, on one core each", benchGateway},
		{"sleepers", "500 installations that sleep: processes, statements, disk, and how many fit awake", benchSleepers},
	}
}

func main() {
	var o options
	only := flag.String("only", "", "benchmarks to run, separated by commas (default: all)")
	flag.BoolVar(&o.quick, "quick", false, "fewer repeats and smaller fleets, to see that it works")
	flag.StringVar(&o.bin, "bin", "", "directory with provisioner, cloudctl and init (default: they are built)")
	flag.StringVar(&o.kernelPackages, "kernel-packages", ".cache/kernel", "directory with the guests' kernel package, as scripts/fetch-kernel.sh leaves it")
	flag.StringVar(&o.kernelImage, "kernel-image", "", "a small kernel for guests, as make kernel leaves it, of which sleepers tells too")
	flag.StringVar(&o.accel, "accel", "auto", "accelerator of the guests that are booted: auto, kvm or tcg")
	flag.BoolVar(&o.keep, "keep", false, "leave the directory with the logs")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: go run ./bench [flags]; prints `name value unit`")
		flag.PrintDefaults()
		for _, b := range benchmarks() {
			fmt.Fprintf(flag.CommandLine.Output(), "  %-10s %s\n", b.name, b.says)
		}
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := runAll(ctx, o, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// runAll runs the chosen benchmarks in the table's order. One that fails does
// not keep the others from running.
func runAll(ctx context.Context, o options, only string) (err error) {
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	for _, c := range chosen {
		b.say("== %s: %s", c.name, c.says)
		b.warnOfLoad()
		if e := c.run(ctx, b); e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", c.name, e))
			b.say("%s did not work: %v", c.name, e)
		}
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
	}
	return err
}

func choose(only string) ([]benchmark, error) {
	all := benchmarks()
	if only == "" {
		return all, nil
	}
	var chosen []benchmark
	names := strings.Split(only, ",")
	for _, b := range all {
		if i := slices.Index(names, b.name); i >= 0 {
			chosen, names = append(chosen, b), slices.Delete(names, i, i+1)
		}
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("there is no benchmark %q: see go run ./bench -h", strings.Join(names, ","))
	}
	return chosen, nil
}
