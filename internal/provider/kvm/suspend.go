package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
)

// Suspend puts a running instance to sleep and returns once it sleeps: off,
// Asleep, with Saved. Its memory is kept where the guest and its start allow it;
// else the program is stopped cleanly, and ColdReason says why.
//
// The machine that runs is not ended before what was saved has been loaded by a
// second QEMU and is on the disk. Until then the end of ctx calls it off
// (KindConflict, ReasonVisited where ctx was cancelled) and the guest runs on, as
// it does where saving fails (ReasonNotSaved; KindCapacity where the disk is full).
// A clean stop, once asked for, goes on also without ctx.
//
// An instance that sleeps already does so; one that is off otherwise is KindConflict.
func (p *Provider) Suspend(ctx context.Context, ref fleet.InstanceRef, o fleet.SuspendOptions) (fleet.InstanceStatus, error) {
	none := fleet.InstanceStatus{}
	if err := o.Check(); err != nil {
		return none, err
	}
	i := p.known(ref.ID)
	if i == nil {
		return none, errUnknown(ref.ID)
	}
	if err := i.lock(ctx); err != nil {
		return none, i.notSaved(ctx, err)
	}
	v, err := i.suspend(ctx, ref, o)
	i.unlock()
	if err != nil {
		return none, err
	}
	if v != nil {
		if err := i.awaitSleep(v); err != nil {
			return none, err
		}
	}
	if err := i.lock(context.WithoutCancel(ctx)); err != nil {
		return none, err
	}
	defer i.unlock()
	if !i.exists() {
		return none, errUnknown(ref.ID)
	}
	st := i.status()
	i.last.Store(&st)
	p.fellAsleep()
	return st, nil
}

// awaitSleep waits for the end of the machine: from the journal's word on there is
// nothing left to call off, and who comes meanwhile wakes it when it has ended.
func (i *instance) awaitSleep(v *vm) error {
	late := time.NewTimer(v.grace + killMargin + killWait)
	defer late.Stop()
	select {
	case <-v.exited:
		return nil
	case <-late.C:
		return fleet.Errorf(fleet.KindUnavailable, "putting instance %s to sleep: its machine has not ended", i.id)
	}
}

// suspend returns the machine whose end is to be waited for; nil where there is none. Needs the lock.
func (i *instance) suspend(ctx context.Context, ref fleet.InstanceRef, o fleet.SuspendOptions) (*vm, error) {
	if !i.exists() {
		return nil, errUnknown(i.id)
	}
	if err := admit("instance", string(i.id), i.rec.Epoch, ref.Epoch); err != nil {
		return nil, err
	}
	if i.rec.Deleting {
		return nil, errDeleting(i.id)
	}
	if i.raise(ref.Epoch) || i.rec.Asleep && i.rec.Woken {
		i.rec.Woken = i.rec.Woken && !i.rec.Asleep
		if err := i.save(); err != nil {
			return nil, err
		}
	}
	v := i.vm
	switch {
	case i.rec.Clone == clone:
		return nil, fleet.Errorf(fleet.KindConflict, "instance %s is a clone, and those do not sleep: delete it", i.id)
	case i.commits():
		return nil, fleet.Errorf(fleet.KindUnavailable, "putting instance %s to sleep: the overlay of its volume is being committed, try again after that", i.id)
	case i.rec.Asleep:
		return v, nil
	case v == nil && i.resuming:
		return nil, fleet.Errorf(fleet.KindUnavailable, "instance %s is about to be started: put it to sleep after that", i.id)
	case v == nil:
		return nil, fleet.Errorf(fleet.KindConflict, "instance %s is off: only one that runs can be put to sleep", i.id)
	case v.ending():
		return nil, fleet.Errorf(fleet.KindConflict, "instance %s is stopping: only one that runs can be put to sleep", i.id)
	}
	if o.Mode == fleet.SuspendCold {
		return v, i.sleepCold(v, "")
	}
	if err := v.awaitSettled(ctx); err != nil {
		return nil, i.notSaved(ctx, err)
	}
	cold := i.unsavable(ctx, v)
	if cold == "" {
		err := i.sleepWarm(ctx, v)
		if !errors.Is(err, errUnknownVerb) {
			return v, err
		}
		cold = "the init in its image is too old to freeze its disks"
	}
	return v, i.sleepCold(v, cold)
}

func (v *vm) ending() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.stopping || v.gone != nil || v.killed
}

// unsavable says why the memory of a machine is not worth saving; "" is that it is.
func (i *instance) unsavable(ctx context.Context, v *vm) string {
	if _, err := os.Stat(i.ramPath()); err != nil {
		return "its memory lies in no file, since an older version started it"
	}
	if version, err := i.p.qemu.get(ctx); err == nil && version != i.rec.QEMU {
		return fmt.Sprintf("it runs in QEMU %s, and %s is installed now", i.rec.QEMU, version)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.ready {
		return v.detail
	}
	return ""
}

// sleepCold stops the program cleanly. From here on it sleeps, whatever comes.
func (i *instance) sleepCold(v *vm, why string) error {
	before := i.rec
	i.fallAsleep(&savedMemory{Tier: fleet.TierCold, At: i.p.o.Clock().UTC()}, why)
	if err := i.save(); err != nil {
		i.rec = before
		return err
	}
	v.stop()
	return nil
}

func (i *instance) fallAsleep(s *savedMemory, cold string) {
	i.rec.Asleep, i.rec.Saved, i.rec.ColdReason = true, s, cold
	i.rec.Want, i.rec.Exit, i.rec.Start, i.rec.Woken = fleet.PowerOff, nil, "", false
}

// wakesUp: what is started from here on is no sleeper. Needs the lock, and a save.
func (i *instance) wakesUp(r *prepared, how fleet.Start) {
	if how == fleet.StartResumed || !i.rec.Asleep {
		i.rec.ColdReason = ""
	}
	i.rec.Asleep, i.rec.Saved, i.rec.Start, i.rec.QEMU = false, nil, how, r.qemu
}

// endSleep makes a sleeper one that is off, and writes the journal. Its memory is gone.
func (i *instance) endSleep() error {
	slept := i.rec.Asleep
	i.rec.Asleep, i.rec.Saved, i.rec.ColdReason = false, nil, ""
	if err := i.save(); err != nil {
		return err
	}
	if !slept || i.vm != nil {
		return nil
	}
	i.dropRAM()
	if err := i.useUp(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the saved memory of instance %s: %w", i.id, err)
	}
	return nil
}

// notSaved gives the failure of a save its kind.
func (i *instance) notSaved(ctx context.Context, err error) error {
	kind, reason := fleet.KindUnavailable, fleet.ReasonNotSaved
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		kind, reason = fleet.KindConflict, fleet.ReasonVisited
	case isFull(err):
		kind = fleet.KindCapacity
		err = fmt.Errorf("the disk is full, free some space in the data directory: %w", err)
	}
	e := fleet.Errorf(kind, "saving the memory of instance %s, which runs on: %w", i.id, err)
	e.Reason = reason
	return e
}

// freeze has the guest write its disks out and hold further writes back.
func (v *vm) freeze(ctx context.Context) error {
	if v.silent {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, freezePatience)
	defer cancel()
	return v.guest.ask(ctx, guest.Command{Verb: guest.VerbFreeze})
}

// isFull also knows what QEMU says.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || fleet.KindOf(err) == fleet.KindCapacity ||
		contains(err, "No space left on device") || contains(err, "Disk quota exceeded")
}
