package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// benchHerd wakes many sleepers at once by one request each, beside as many bare
// restores that are started at once, and one sleeper by many requests at once. How
// often a QEMU was started is counted from outside.
func benchHerd(ctx context.Context, b *bench) (err error) {
	first, err := b.newWaking(ctx, "herd", "herd-0")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, first.p.stop()) }()
	r, err := b.takeRecipe(first.p.dataDir, first.instance)
	if err != nil {
		return err
	}
	h := &herd{r: r, ours: []*waking{first}}
	if err := h.gather(ctx, b, pick(b, 30, 4)); err != nil {
		return err
	}
	var bare, ours, ratios []float64
	twice := 0
	for round := range pick(b, 5, 1) {
		without, err := h.restoreAll(ctx)
		if err != nil {
			return fmt.Errorf("restoring without us: %w", err)
		}
		with, more, err := h.wakeAll(ctx)
		if err != nil {
			return fmt.Errorf("waking: %w", err)
		}
		b.say("round %d: %d at once: bare %.0f ms, ours %.0f ms, %d machines too many", round+1, len(h.ours), ms(without), ms(with), more)
		bare, ours, ratios = append(bare, ms(without)), append(ours, ms(with)), append(ratios, with.Seconds()/without.Seconds())
		twice += more
	}
	b.print("herd.sleepers", float64(len(h.ours)), "sleepers")
	b.print("herd.bare_ms", median(bare), "ms")
	b.print("herd.ours_ms", median(ours), "ms")
	b.print("herd.ratio", median(ours)/median(bare), "ratio")
	b.print("herd.ratio_of_rounds", median(ratios), "ratio")
	b.print("herd.twice", float64(twice), "machines")
	return h.storm(ctx, b)
}

// herd is many sleepers of ours, and as many without us.
type herd struct {
	r      *recipe
	ours   []*waking
	s      *sleeping
	places []*place
}

// gather makes the sleepers, one after the other since each boot takes a core.
func (h *herd) gather(ctx context.Context, b *bench, n int) error {
	p := h.ours[0].p
	for i := 1; i < n; i++ {
		name := fmt.Sprintf("herd-%d", i)
		v, err := bootOurs(ctx, p, name, false)
		if err != nil {
			return err
		}
		h.ours = append(h.ours, &waking{p: p, name: name, instance: v.instance})
		if err := h.ours[i].sleep(ctx); err != nil {
			return err
		}
		b.say("%s sleeps", name)
	}
	if err := h.ours[0].sleep(ctx); err != nil {
		return err
	}
	for i := range n {
		place, err := b.newPlace(h.r, fmt.Sprint(i))
		if err != nil {
			return err
		}
		h.places = append(h.places, place)
	}
	var err error
	h.s, err = h.r.save(ctx, h.places[0])
	return err
}

// together runs f for each of n at once, and returns how long it took until the last had ended.
func together(n int, f func(i int) error) (time.Duration, error) {
	errs := make([]error, n)
	ready := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			<-ready
			errs[i] = f(i)
		})
	}
	begin := time.Now()
	close(ready)
	all.Wait()
	return time.Since(begin), errors.Join(errs...)
}

// restoreAll restores all without us, until the last has answered. They end after that.
func (h *herd) restoreAll(ctx context.Context) (time.Duration, error) {
	for _, p := range h.places {
		if err := h.s.furnish(p, false); err != nil {
			return 0, err
		}
	}
	if err := settleCache(false); err != nil {
		return 0, err
	}
	running := make([]*bare, len(h.places))
	watch := watchMachines(ctx, "") // it costs the same for both
	took, err := together(len(h.places), func(i int) (err error) {
		running[i], err = h.s.goOn(ctx, h.places[i])
		return err
	})
	err = errors.Join(err, watch.stop())
	for _, m := range running {
		if m != nil {
			err = errors.Join(err, m.end())
		}
	}
	return took, err
}

// wakeAll wakes all by a request each, until the last has answered, and puts them
// to sleep again. It returns how many machines there were more than one each.
func (h *herd) wakeAll(ctx context.Context) (took time.Duration, more int, err error) {
	if err := settleCache(false); err != nil {
		return 0, 0, err
	}
	watch := watchMachines(ctx, "")
	took, err = together(len(h.ours), func(i int) error {
		_, err := h.ours[i].visit(ctx)
		return err
	})
	if err := errors.Join(err, watch.stop()); err != nil {
		return 0, 0, err
	}
	for _, w := range h.ours {
		seen := watch.of(w.instance)
		if seen == 0 {
			return 0, 0, fmt.Errorf("no machine of %s was seen from outside", w.name)
		}
		more += seen - 1
	}
	for _, w := range h.ours {
		if err := errors.Join(w.is(ctx, "stable"), w.sleep(ctx)); err != nil {
			return 0, 0, err
		}
	}
	return took, more, nil
}

// stormSize is how many requests come to one sleeper at once.
const stormSize = 200

// storm wakes one sleeper by many requests at once.
func (h *herd) storm(ctx context.Context, b *bench) error {
	w := h.ours[0]
	watch := watchMachines(ctx, "")
	took, err := together(stormSize, func(int) error {
		_, err := w.visit(ctx)
		return err
	})
	if err := errors.Join(err, watch.stop()); err != nil {
		return fmt.Errorf("%d requests to one sleeper: %w", stormSize, err)
	}
	b.print("herd.requests_at_once", stormSize, "requests")
	b.print("herd.requests_at_once_ms", ms(took), "ms")
	b.print("herd.one_wake", float64(watch.of(w.instance)), "machines")
	return nil
}
