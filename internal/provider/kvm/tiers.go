package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"dormouse/internal/fleet"
)

// tierRetry is when what could not be packed is tried again.
const tierRetry = 15 * time.Second

// sleeping is one sleeper that takes room.
type sleeping struct {
	i     *instance
	saved fleet.Saved
}

// sleepers lists those whose memory is kept, the longest asleep first.
func (p *Provider) sleepers() (all []sleeping) {
	p.mu.Lock()
	instances := p.all()
	p.mu.Unlock()
	for _, i := range instances {
		st := i.last.Load()
		if st != nil && st.Asleep && st.Saved != nil && st.Saved.Tier != fleet.TierCold {
			all = append(all, sleeping{i, *st.Saved})
		}
	}
	slices.SortFunc(all, func(a, b sleeping) int { return a.saved.At.Compare(b.saved.At) })
	return all
}

// keepTiers packs sleepers, and gives memories up, as Options want it. It waits
// for the next time at which something is due, or for a machine to fall asleep.
func (p *Provider) keepTiers() {
	for {
		next := p.tierOnce()
		var due <-chan time.Time
		var timer *time.Timer
		if next > 0 {
			timer = time.NewTimer(next)
			due = timer.C
		}
		select {
		case <-p.ctx.Done():
			return
		case <-p.slept:
		case <-due:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// fellAsleep has tiers looked at.
func (p *Provider) fellAsleep() {
	select {
	case p.slept <- struct{}{}:
	default:
	}
}

// tierOnce does what is due and returns when to look again; 0 is only when one falls asleep.
func (p *Provider) tierOnce() (next time.Duration) {
	all := p.sleepers()
	var warm, total int64
	for _, s := range all {
		total += s.saved.Bytes
		if s.saved.Tier == fleet.TierWarm {
			warm += s.saved.Bytes
		}
	}
	again := func(d time.Duration) {
		if d > 0 && (next == 0 || d < next) {
			next = d
		}
	}
	for n, s := range all {
		if s.saved.Tier != fleet.TierWarm || p.ctx.Err() != nil {
			continue
		}
		age := p.o.Clock().Sub(s.saved.At)
		over := p.o.WarmBytes > 0 && warm > p.o.WarmBytes || p.o.SavedBytes > 0 && total > p.o.SavedBytes
		old := p.o.PackAfter > 0 && age >= p.o.PackAfter
		if !over && !old && p.o.Seal == nil {
			if p.o.PackAfter > 0 {
				again(p.o.PackAfter - age)
			}
			continue
		}
		packed, err := s.i.packSleeper(p.ctx, s.saved)
		if err != nil {
			if p.ctx.Err() == nil {
				p.log.WithField("instance", s.i.id).WithError(err).Warn("a sleeper's memory could not be packed")
			}
			again(tierRetry)
			continue
		}
		warm, total = warm-s.saved.Bytes, total-s.saved.Bytes+packed
		all[n].saved.Bytes = packed
	}
	for _, s := range all {
		if p.o.SavedBytes <= 0 || total <= p.o.SavedBytes {
			break
		}
		if err := s.i.giveUp(p.ctx, s.saved.At); err != nil {
			again(tierRetry)
			continue
		}
		total -= s.saved.Bytes
	}
	return next
}

// stillAsleep: it has not been woken since. Needs the lock.
func (i *instance) stillAsleep(at time.Time) bool {
	return i.exists() && i.rec.Asleep && i.vm == nil && i.rec.Saved.memory() && i.rec.Saved.At.Equal(at)
}

// packSleeper packs a warm sleeper's memory; it gives way to whoever wakes it.
// It returns what is kept from then on; 0 where it is none any more.
func (i *instance) packSleeper(ctx context.Context, saved fleet.Saved) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := i.lock(ctx); err != nil {
		return 0, err
	}
	ok := i.stillAsleep(saved.At) && i.rec.Saved.Tier == fleet.TierWarm
	damaged, key, err := "", []byte(nil), error(nil)
	if ok {
		damaged = i.damaged(i.rec.Saved)
		key, err = i.sealKey()
		i.stopPacking = cancel
	}
	i.unlock()
	if !ok || err != nil {
		return 0, err
	}
	if damaged != "" {
		return 0, errors.New(damaged)
	}
	bytes, err := i.pack(ctx, key)
	if e := i.lock(i.p.ctx); e != nil {
		return 0, errors.Join(err, e)
	}
	defer i.unlock()
	i.stopPacking = nil
	if !i.stillAsleep(saved.At) {
		_ = os.Remove(i.packedPath() + tempSuffix)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	before := i.rec.Saved
	err = i.adoptPacked(bytes)
	if err == nil {
		err = i.save()
	}
	if err != nil {
		// Both are as good, and which of them the journal names is what counts.
		i.rec.Saved = before
		return 0, errors.Join(err, i.save())
	}
	i.dropRaw()
	return bytes, nil
}

// giveUp makes a sleeper a cold one.
func (i *instance) giveUp(ctx context.Context, at time.Time) error {
	if err := i.lock(ctx); err != nil {
		return err
	}
	defer i.unlock()
	if !i.stillAsleep(at) {
		return nil
	}
	before := i.rec
	i.rec.Saved = &savedMemory{Tier: fleet.TierCold, At: at}
	i.rec.ColdReason = fmt.Sprintf("its memory was given up, since this host keeps at most %d MiB of them", i.p.o.SavedBytes>>20)
	if err := i.save(); err != nil {
		i.rec = before
		return err
	}
	i.dropRAM()
	if err := i.useUp(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
