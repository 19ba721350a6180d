package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"dormouse/client"
)

// benchWake wakes the example workspace by one request to the gateway, beside
// the same QEMU that restores (or boots) the same guest without us: from the request,
// and from the start of QEMU, or of zstd, to the first byte of the answer. Half of the
// pairs follow an emptied page cache.
func benchWake(ctx context.Context, b *bench) (err error) {
	w, err := b.newWaking(ctx, "wake", "sleeper")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.p.stop()) }()
	r, err := b.takeRecipe(w.p.dataDir, w.instance)
	if err != nil {
		return err
	}
	place, err := b.newPlace(r, "wake")
	if err != nil {
		return err
	}
	s, err := r.save(ctx, place)
	if err != nil {
		return err
	}
	if err := s.pack(ctx); err != nil {
		return err
	}
	err = w.compare(ctx, b, comparison{ratio: "wake.restore_ratio", start: "resumed", sleep: w.sleep,
		furnish: func() error { return s.furnish(place, false) },
		bare:    func(ctx context.Context) (bareTimes, error) { return s.restore(ctx, place, false) }})
	if err != nil {
		return fmt.Errorf("warm: %w", err)
	}
	err = w.compare(ctx, b, comparison{tier: "cold.", ratio: "wake.cold_ratio", start: "booted", sleep: w.sleepCold,
		furnish: func() error { return nil },
		bare: func(ctx context.Context) (bareTimes, error) {
			m, took, err := r.boot(ctx, place)
			if err == nil {
				err = m.end()
			}
			return bareTimes{total: took}, err
		}})
	if err != nil {
		return fmt.Errorf("cold: %w", err)
	}
	packing, err := b.newWaking(ctx, "packed", "sleeper", "--pack-after", "1ms")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, packing.p.stop()) }()
	err = packing.compare(ctx, b, comparison{tier: "packed.", ratio: "wake.packed_ratio", start: "resumed", sleep: packing.sleepPacked,
		furnish: func() error { return s.furnish(place, true) },
		bare:    func(ctx context.Context) (bareTimes, error) { return s.restore(ctx, place, true) }})
	if err != nil {
		return fmt.Errorf("packed: %w", err)
	}
	return nil
}

// waking is a provisioner with an installation that is put to sleep and woken.
type waking struct {
	p              *provisioner
	name, instance string
}

// newWaking starts a provisioner with real machines, and one installation.
func (b *bench) newWaking(ctx context.Context, name, installation string, extra ...string) (*waking, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("it needs root: the guests are on a bridge in a network namespace")
	}
	packages, err := filepath.Abs(b.kernelPackages)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "data-"+name)
	b.onClose(func() error { return endStrays(dir) })
	p, err := b.startProvisioner(ctx, start{name: name, dev: true, extra: append([]string{
		"--accel", b.accel, "--network", "bridge", "--kernel-packages", packages, "--log-format", "json"}, extra...)})
	if err != nil {
		return nil, err
	}
	if err := b.furnishBoot(ctx, p); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	first, err := bootOurs(ctx, p, installation, true)
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return &waking{p: p, name: installation, instance: first.instance}, nil
}

// sleep puts the installation to sleep and returns when the API says that it sleeps.
func (w *waking) sleep(ctx context.Context) error {
	v, err := w.p.client.Installations.Hibernate(ctx, w.name)
	if err != nil {
		return err
	}
	return w.follow(ctx, v)
}

func (w *waking) sleepCold(ctx context.Context) error {
	v, err := w.p.client.Installations.HibernateCold(ctx, w.name)
	if err != nil {
		return err
	}
	return w.follow(ctx, v)
}

// sleepPacked returns when the memory is packed, and no longer there as it was.
func (w *waking) sleepPacked(ctx context.Context) error {
	if err := w.sleep(ctx); err != nil {
		return err
	}
	return until(ctx, 20*time.Millisecond, time.Minute, "the memory of "+w.name+" is packed", func() (bool, error) {
		return w.p.has(w.instance, "packed") && !w.p.has(w.instance, "ram"), nil
	})
}

// has tells whether the directory of an instance has a file.
func (p *provisioner) has(instance, file string) bool {
	_, err := os.Stat(filepath.Join(p.dataDir, "host", "instances", instance, file))
	return err == nil
}

func (w *waking) follow(ctx context.Context, v client.Installation) error {
	if v.Operation == nil {
		return nil // it is so already
	}
	op, err := w.p.client.Operations.Follow(ctx, v.Operation.ID, nil)
	if err != nil {
		return err
	}
	if op.State != "succeeded" {
		return fmt.Errorf("%s of %s %s: %s", op.Kind, w.name, op.State, op.Error)
	}
	return nil
}

// is waits until the installation is in that state.
func (w *waking) is(ctx context.Context, state string) error {
	return until(ctx, 20*time.Millisecond, time.Minute, w.name+" is "+state, func() (bool, error) {
		v, err := w.p.client.Installations.Get(ctx, w.name)
		return err == nil && v.State == state, err
	})
}

// visit asks the gateway for the installation and returns how long its first byte took.
func (w *waking) visit(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	at, err := firstByte(ctx, w.name+".localhost", func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", w.p.gateway)
	})
	return at.Sub(begin), err
}

// comparison is one tier of sleep beside what the same takes without us.
type comparison struct {
	// tier stands before the names of its figures, but for the ratio's.
	tier, ratio string
	// sleep returns when the installation sleeps in that tier.
	sleep func(context.Context) error
	// furnish prepares a run of bare, outside of the time.
	furnish func() error
	bare    func(context.Context) (bareTimes, error)
	// start is how our machine must have begun.
	start string
}

// pairs of a comparison, half of them after dropping the page cache.
const wholePairs, quickPairs = 30, 4

// halves are what the two halves are called.
var halves = [2]string{"hot", "dropped"}

func (w *waking) compare(ctx context.Context, b *bench, c comparison) error {
	var bare, ours [2][]float64
	var ratios [2][]float64
	var restored []float64
	parts := map[string][]float64{}
	for pair := range pick(b, wholePairs, quickPairs) {
		half := pair % 2
		without, with, err := w.pair(ctx, c, half == 1)
		if err != nil {
			return fmt.Errorf("pair %d: %w", pair+1, err)
		}
		b.say("%spair %d, %s: bare %.0f ms (restore %.0f), ours %.0f ms (%s)", c.tier, pair+1, halves[half], ms(without.total), ms(without.restore), ms(with.total), with)
		bare[half], ours[half] = append(bare[half], ms(without.total)), append(ours[half], ms(with.total))
		ratios[half] = append(ratios[half], with.total.Seconds()/without.total.Seconds())
		restored = append(restored, ms(without.restore))
		for name, d := range with.parts() {
			parts[name] = append(parts[name], ms(d))
		}
	}
	prefix := "wake." + c.tier
	all := func(v [2][]float64) []float64 { return append(append([]float64{}, v[0]...), v[1]...) }
	b.print(prefix+"bare_ms", median(all(bare)), "ms")
	b.print(prefix+"ours_ms", median(all(ours)), "ms")
	b.print(c.ratio, median(all(ours))/median(all(bare)), "ratio")
	b.print(c.ratio+"_of_pairs", median(all(ratios)), "ratio")
	for n, half := range halves {
		b.print(prefix+half+".bare_ms", median(bare[n]), "ms")
		b.print(prefix+half+".ours_ms", median(ours[n]), "ms")
		b.print(prefix+half+".ratio", median(ours[n])/median(bare[n]), "ratio")
	}
	if c.start == "resumed" {
		b.print(prefix+"bare.restore_ms", median(restored), "ms")
	}
	for _, name := range wakeParts {
		b.print(prefix+"ours."+name+"_ms", median(parts[name]), "ms")
	}
	return nil
}

// pair lets the installation fall asleep, restores without us, and then visits.
func (w *waking) pair(ctx context.Context, c comparison, drop bool) (without bareTimes, with wakeTimes, err error) {
	if err := w.is(ctx, "stable"); err != nil {
		return without, with, err
	}
	if err := c.sleep(ctx); err != nil {
		return without, with, err
	}
	watch := watchNone(ctx, w.instance)
	err = c.furnish()
	if err == nil {
		err = settleCache(drop)
	}
	// What looks at the processes costs processor time, which neither is to be charged with.
	if err = errors.Join(err, watch.end()); err != nil {
		return without, with, err
	}
	if without, err = c.bare(ctx); err != nil {
		return without, with, fmt.Errorf("without us: %w", err)
	}
	watch = watchNone(ctx, w.instance)
	err = settleCache(drop)
	if err = errors.Join(err, watch.end()); err != nil {
		return without, with, err
	}
	began := time.Now()
	took, err := w.visit(ctx)
	if err != nil {
		return without, with, err
	}
	with, err = w.p.wakeTimes(ctx, w.instance, began, took)
	if err == nil && with.start != c.start {
		err = fmt.Errorf("it was %s, and should have been %s", with.start, c.start)
	}
	return without, with, err
}

// settleCache writes all that is to be written, so that this falls into nobody's
// time, and empties the page cache.
func settleCache(drop bool) error {
	syscall.Sync()
	if !drop {
		return nil
	}
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}
