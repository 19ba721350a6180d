package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// options are the command line's.
type options struct {
	quick, keep    bool
	bin            string
	kernelPackages string
	// kernelImage is a small kernel for guests; empty where none was built.
	kernelImage string
	accel       string
}

// bench is one run: its directory, what it has built and started, and what it
// has to clean up.
type bench struct {
	options
	dir   string
	began time.Time
	pg    *postgres
	// crowd is what several benchmarks share, or why there is none.
	crowd    *crowd
	crowdErr error

	mu       sync.Mutex
	cleanups []func() error
}

func newBench(ctx context.Context, o options) (_ *bench, err error) {
	b := &bench{options: o, began: time.Now()}
	if b.dir, err = os.MkdirTemp("", "dormouse-bench-"); err != nil {
		return nil, err
	}
	b.onClose(func() error {
		if b.keep {
			b.say("the logs are in %s", b.dir)
			return nil
		}
		return os.RemoveAll(b.dir)
	})
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	// Postgres and QEMU run as users of their own.
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return nil, err
	}
	if b.bin == "" {
		b.bin = filepath.Join(b.dir, "bin")
		b.say("building")
		if err := b.build(ctx); err != nil {
			return nil, err
		}
	}
	b.pg, err = b.startPostgres(ctx)
	return b, err
}

func (b *bench) build(ctx context.Context) error {
	for _, args := range [][]string{
		{"build", "-o", b.bin + "/", "./cmd/provisioner", "./cmd/cloudctl"},
		{"build", "-trimpath", "-ldflags=-s -w", "-o", b.bin + "/init", "./cmd/init"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building (run it in the module's directory): %w: %s", err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// onClose has f called at the end, before what was registered earlier.
func (b *bench) onClose(f func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cleanups = append(b.cleanups, f)
}

func (b *bench) close() error {
	var errs []error
	for len(b.cleanups) > 0 {
		last := len(b.cleanups) - 1
		f := b.cleanups[last]
		b.cleanups = b.cleanups[:last]
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// say tells of progress on standard error.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7.1fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// print writes one figure.
func (b *bench) print(name string, value float64, unit string) {
	digits := 2
	switch {
	case value == math.Trunc(value):
		digits = 0
	case math.Abs(value) >= 100:
		digits = 0
	case math.Abs(value) >= 10:
		digits = 1
	}
	fmt.Printf("%s %s %s\n", name, strconv.FormatFloat(value, 'f', digits, 64), unit)
}

// warnOfLoad tells how busy the machine is with other things: where more wants
// to run than there are processors, rates and times say little.
func (b *bench) warnOfLoad() {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return
	}
	load, _, _ := strings.Cut(string(content), " ")
	b.say("the load average is %s on %d processors", load, runtime.NumCPU())
}

// pick returns the number for a whole run, or the one for a quick run.
func pick[T any](b *bench, whole, quick T) T {
	if b.quick {
		return quick
	}
	return whole
}

// percentile returns the value below which p (0 to 1) of the values lie.
func percentile[T cmp.Ordered](values []T, p float64) T {
	var zero T
	if len(values) == 0 {
		return zero
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

func median[T cmp.Ordered](values []T) T { return percentile(values, 0.5) }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// pause waits, or ends with the context.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// until asks every so often until done says so.
func until(ctx context.Context, every, patience time.Duration, what string, done func() (bool, error)) error {
	deadline := time.Now().Add(patience)
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting until %s: not so after %s", what, patience)
		}
		if err := pause(ctx, every); err != nil {
			return err
		}
	}
}

// firstLine shortens a statement for people.
func firstLine(query string, length int) string {
	line := strings.Join(strings.Fields(query), " ")
	if len(line) > length {
		line = line[:length] + "…"
	}
	return line
}
