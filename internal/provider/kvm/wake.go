package kvm

import (
	"context"
	"slices"
	"time"

	"dormouse/internal/fleet"
)

// WakePhases is where the time of a wake went.
type WakePhases struct {
	// Queue is until this instance's turn came, Restore until the guest ran (or its
	// kernel was started, where it was booted), and Ready until it said so.
	Queue, Restore, Ready time.Duration
	Start                 fleet.Start
}

// wake is one wake that any number of callers wait for.
type wake struct {
	done   chan struct{}
	status fleet.InstanceStatus
	err    error
}

// wakeMarginMiB is what a wake by a visit leaves free on the host.
const wakeMarginMiB = 128

// wakePatience is how long a wake may take, the boot of a cold one included.
const wakePatience = 2 * time.Minute

// Wake lets a sleeping instance run because somebody came, and returns when its
// guest is ready: on this host's own authority, with no epoch. Whoever asks with one
// hears of it by InstanceStatus.Woken, and is from then on obeyed again. Callers at the same
// time share one wake, which goes on when they leave. One that runs is waited for
// until it is ready; one that is off and not asleep is KindConflict.
func (p *Provider) Wake(ctx context.Context, id fleet.InstanceID) (fleet.InstanceStatus, error) {
	i := p.known(id)
	if i == nil {
		return fleet.InstanceStatus{}, errUnknown(id)
	}
	if err := ctx.Err(); err != nil {
		return fleet.InstanceStatus{}, fleet.Errorf(fleet.KindUnavailable, "waking instance %s: %w", id, err)
	}
	i.mu.Lock()
	w := i.waking
	if w == nil {
		w = &wake{done: make(chan struct{})}
		i.waking = w
		began := time.Now()
		if !p.trySpawn(func() { i.wake(w, began) }) {
			i.waking = nil
			i.mu.Unlock()
			return fleet.InstanceStatus{}, errStopping(id)
		}
	}
	i.mu.Unlock()
	select {
	case <-w.done:
		return w.status, w.err
	case <-ctx.Done():
		return fleet.InstanceStatus{}, fleet.Errorf(fleet.KindUnavailable, "waking instance %s: %w", id, ctx.Err())
	}
}

func errStopping(id fleet.InstanceID) error {
	return fleet.Errorf(fleet.KindUnavailable, "waking instance %s: this host's provisioner is stopping", id)
}

// wake does the work of one Wake.
func (i *instance) wake(w *wake, began time.Time) {
	ctx, cancel := context.WithTimeout(i.p.ctx, wakePatience)
	defer cancel()
	w.status, w.err = i.wakeUp(ctx, began)
	i.mu.Lock()
	i.waking = nil
	i.mu.Unlock()
	close(w.done)
	i.p.notify(i.id)
}

func (i *instance) wakeUp(ctx context.Context, began time.Time) (st fleet.InstanceStatus, err error) {
	if _, err := i.p.accel.get(ctx); err != nil {
		return st, err
	}
	var v *vm
	for {
		if err := i.lock(ctx); err != nil {
			return st, err
		}
		v = i.vm
		if v == nil || !i.rec.Asleep {
			break
		}
		// It is just falling asleep, and wakes when it has.
		i.unlock()
		select {
		case <-v.exited:
		case <-ctx.Done():
			return st, fleet.Errorf(fleet.KindUnavailable, "waking instance %s: %w", i.id, ctx.Err())
		}
		if i.p.ctx.Err() != nil {
			return st, errStopping(i.id)
		}
	}
	turn := time.Now()
	woke := v == nil
	if woke {
		err = i.startAsleep(ctx)
		v = i.vm
	}
	i.unlock()
	if err != nil {
		return st, err
	}
	if v == nil {
		return st, fleet.Errorf(fleet.KindUnavailable, "instance %s is being started", i.id)
	}
	if err := v.awaitReady(ctx); err != nil {
		return st, err
	}
	if woke {
		v.tellPhases(turn.Sub(began), turn)
	}
	if err := i.lock(ctx); err != nil {
		return st, err
	}
	defer i.unlock()
	if !i.exists() {
		return st, errUnknown(i.id)
	}
	return i.status(), nil
}

// startAsleep starts a sleeper for a visit. Needs the lock.
func (i *instance) startAsleep(ctx context.Context) error {
	switch {
	case !i.exists():
		return errUnknown(i.id)
	case i.rec.Deleting:
		return errDeleting(i.id)
	case i.resuming:
		return fleet.Errorf(fleet.KindUnavailable, "instance %s is about to be started", i.id)
	case !i.rec.Asleep:
		return fleet.Errorf(fleet.KindConflict, "instance %s is off, and not asleep: no visit wakes it", i.id)
	}
	// Nobody has asked for its memory: a visit does not drive the host out of its own.
	if free, err := memAvailableMiB(); err == nil && free < int64(i.rec.Spec.MemoryMiB)+wakeMarginMiB {
		e := fleet.Errorf(fleet.KindCapacity, "waking instance %s: %d MiB of memory are free on this host, it needs %d and a margin of %d", i.id, free, i.rec.Spec.MemoryMiB, wakeMarginMiB)
		e.Reason = fleet.ReasonCapacity
		return e
	}
	i.rec.Woken = true
	if err := i.start(ctx); err != nil {
		i.rec.Woken = false
		return err
	}
	return nil
}

// readiness is closed when the guest is ready for the first time. One that says
// nothing is when it answers, or goes on from where it did. Needs v.mu.
func (v *vm) readiness() <-chan struct{} {
	if v.silent && v.how != fleet.StartResumed && v.health.Type != fleet.HealthNone && v.health.Type != "" {
		return v.becameHealthy
	}
	return v.becameReady
}

// awaitReady waits until the guest is ready for the first time. One that was booted
// and never says so is when it answers its health check.
func (v *vm) awaitReady(ctx context.Context) error {
	v.mu.Lock()
	ready := v.readiness()
	v.mu.Unlock()
	select {
	case <-ready:
		return nil
	default:
	}
	select {
	case <-ready:
		return nil
	case <-v.exited:
		return fleet.Errorf(fleet.KindUnavailable, "instance %s has ended before it was ready", v.i.id)
	case <-ctx.Done():
		return fleet.Errorf(fleet.KindUnavailable, "waiting for instance %s to become ready: %w", v.i.id, ctx.Err())
	}
}

func (v *vm) tellPhases(queue time.Duration, turn time.Time) {
	now := time.Now()
	v.mu.Lock()
	ran, how := v.ran, v.how
	v.mu.Unlock()
	v.i.p.o.OnWake(v.i.id, WakePhases{Queue: queue, Restore: ran.Sub(turn), Ready: now.Sub(ran), Start: how})
}

// Heard says that whoever asks by epoch knows of the wake that began this boot: it
// is not among those of WokenByVisit any more.
func (p *Provider) Heard(ctx context.Context, id fleet.InstanceID, boot int) error {
	i := p.known(id)
	if i == nil {
		return errUnknown(id)
	}
	if err := i.lock(ctx); err != nil {
		return err
	}
	defer i.unlock()
	if !i.exists() || !i.rec.Woken || i.rec.Boots != boot {
		return nil
	}
	i.rec.Woken = false
	if err := i.save(); err != nil {
		i.rec.Woken = true
		return err
	}
	return nil
}

// WokenByVisit lists the instances that a visit has woken and of which nobody has
// heard yet who asks with an epoch, in the order of their IDs.
func (p *Provider) WokenByVisit() []fleet.InstanceID {
	p.mu.Lock()
	all := p.all()
	p.mu.Unlock()
	var ids []fleet.InstanceID
	for _, i := range all {
		if i.woken.Load() {
			ids = append(ids, i.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Here tells what is known of an instance without looking at it and without
// waiting: while something is being done to it, as it was before. False: this host has none
// of that ID.
func (p *Provider) Here(id fleet.InstanceID) (fleet.InstanceStatus, bool) {
	i := p.known(id)
	if i == nil {
		return fleet.InstanceStatus{}, false
	}
	select {
	case i.sem <- struct{}{}:
		defer i.unlock()
		if !i.exists() {
			return fleet.InstanceStatus{}, false
		}
		return i.status(), true
	default:
	}
	if st := i.last.Load(); st != nil {
		return *st, true
	}
	return fleet.InstanceStatus{}, false
}
