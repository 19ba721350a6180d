package kvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dormouse/internal/guest"
	"dormouse/internal/provider/kvm/qmp"
)

const (
	// freezePatience is how long a guest may take to write its disks out.
	freezePatience = 15 * time.Second
	// savePatience is how long all of a save may take.
	savePatience = time.Minute
	// goOnPatience is how long a guest may take to run again where a save is given up.
	goOnPatience = 15 * time.Second
)

// sleepWarm saves the machine's memory and ends the machine. Where it fails, the
// guest runs as before when it returns. Needs the lock.
func (i *instance) sleepWarm(ctx context.Context, v *vm) error {
	limited, cancel := context.WithTimeout(ctx, savePatience)
	defer cancel()
	before := i.rec
	err := i.saveMemory(limited, v)
	if err == nil && ctx.Err() == nil {
		// The commit: from here on it sleeps.
		if err = i.save(); err == nil {
			v.mu.Lock()
			v.stopping = true
			v.round++ // no probe counts any more
			v.mu.Unlock()
			v.kill()
			return nil
		}
	}
	i.rec = before
	if err == nil {
		err = ctx.Err()
	}
	i.goOn(v)
	if errors.Is(err, errUnknownVerb) {
		return err
	}
	return i.notSaved(ctx, err)
}

// saveMemory brings everything to the disk and has it loaded once; what is
// then to be committed is in i.rec.
func (i *instance) saveMemory(ctx context.Context, v *vm) error {
	c, err := v.control(ctx)
	if err != nil {
		return err
	}
	// Most of the memory reaches the disk while the guest still runs.
	ram, err := os.OpenFile(i.ramPath(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer ram.Close()
	if err := unix.Fdatasync(int(ram.Fd())); err != nil {
		return err
	}
	if err := v.freeze(ctx); err != nil {
		if v.stoppedByFullDisk(ctx) {
			err = fmt.Errorf("the guest can't write to its volume: %w", syscall.ENOSPC)
		}
		return err
	}
	if err := c.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	state, err := os.OpenFile(i.statePath(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer state.Close()
	if err := c.save(ctx, state); err != nil {
		return err
	}
	if err := i.syncMachine(state, ram); err != nil {
		return err
	}
	r, err := i.verify(ctx)
	if err != nil {
		return fmt.Errorf("what was saved does not load: %w", err)
	}
	saved, err := i.describe(r)
	if err != nil {
		return err
	}
	v.mu.Lock()
	saved.Restarts = v.restarts
	v.mu.Unlock()
	if i.p.o.Seal == nil {
		i.fallAsleep(saved, "")
		return nil
	}
	key, err := i.sealKey()
	if err != nil {
		return err
	}
	bytes, err := i.pack(ctx, key)
	if err != nil {
		return err
	}
	i.fallAsleep(saved, "")
	return i.adoptPacked(bytes)
}

// syncMachine brings state and memory to the disk, and the guest's disks as they were then.
func (i *instance) syncMachine(files ...*os.File) error {
	for _, f := range files {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	var paths []string
	if ref := i.rec.Spec.Volume; ref != nil {
		paths = append(paths, i.p.volume(ref.ID).top())
	}
	own := i.tenantFiles()
	for _, path := range append(paths, own.OverlayPath, own.ConfigPath) {
		if path == "" {
			continue
		}
		if err := syncFile(path); err != nil {
			return err
		}
	}
	return syncDir(i.dir())
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// goOn lets the guest of a save that is given up run again. Where it can't, the
// machine is ended and booted: its disks have all that was synced.
func (i *instance) goOn(v *vm) {
	// First, so that a journal that could not be written, and has been all the
	// same, finds nothing to go on from.
	if err := i.useUp(); err != nil && !errors.Is(err, os.ErrNotExist) {
		i.p.log.WithField("instance", i.id).WithError(err).Warn("the state of a sleep that was given up could not be removed")
	}
	ctx, cancel := context.WithTimeout(v.ctx, goOnPatience)
	defer cancel()
	err := v.goOn(ctx, guest.Command{Verb: guest.VerbThaw})
	if errors.Is(err, qmp.ErrClosed) {
		// It has ended by itself, which is about to be seen.
		select {
		case <-v.ctx.Done():
		case <-ctx.Done():
		}
	}
	if err == nil || errors.Is(err, errUnknownVerb) || v.ctx.Err() != nil {
		return
	}
	status, stop := context.WithTimeout(v.ctx, goOnPatience)
	defer stop()
	if v.stoppedByFullDisk(status) {
		return // it goes on when there is room; the thaw waits for it in the channel
	}
	i.p.log.WithField("instance", i.id).WithError(err).Error("a guest does not run again after a save that was given up; it is booted")
	v.startAgain()
}

// goOn has QEMU run, and the guest do what it needs then.
func (v *vm) goOn(ctx context.Context, command guest.Command) error {
	c, err := v.control(ctx)
	if err != nil {
		return err
	}
	st, err := c.status(ctx)
	if err != nil {
		return err
	}
	if !st.Running {
		if err := c.goOn(ctx); err != nil {
			return err
		}
	}
	if v.silent {
		return nil
	}
	return v.guest.ask(ctx, command)
}

func contains(err error, words string) bool {
	return err != nil && strings.Contains(err.Error(), words)
}

// settle makes sure that a machine that was adopted runs: an earlier provisioner
// may have ended in the midst of saving it.
func (v *vm) settle(command guest.Command) {
	ctx, cancel := context.WithTimeout(v.ctx, settlePatience)
	defer cancel()
	err := v.awaitLoaded(ctx)
	if err != nil && v.ctx.Err() == nil {
		v.i.p.log.WithField("instance", v.i.id).WithError(err).Warn("an adopted machine does not run; it is booted")
		v.startAgain()
		return
	}
	err = v.goOn(ctx, command)
	if err == nil || errors.Is(err, errUnknownVerb) || v.ctx.Err() != nil {
		return
	}
	v.i.p.log.WithField("instance", v.i.id).WithError(err).Warn("an adopted machine can't be told to go on")
	if command.Verb == guest.VerbWake {
		v.startAgain() // as after any other wake that is not answered
	}
}

// startAgain ends a machine that is of no use and has it booted.
func (v *vm) startAgain() {
	v.mu.Lock()
	v.again = true
	v.mu.Unlock()
	v.kill()
}

// settlePatience is how long an adopted machine may take to answer: one that
// boots does not listen yet.
const settlePatience = time.Minute

// awaitSettled waits until an adopted machine is known to run, and what its guest
// said last has been heard.
func (v *vm) awaitSettled(ctx context.Context) error {
	if v.settled == nil {
		return nil
	}
	timer := time.NewTimer(freezePatience)
	defer timer.Stop()
	select {
	case <-v.settled:
		return nil
	case <-timer.C:
		return errors.New("it has not answered since it was adopted")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// loadPatience is how long an adopted machine may go on loading what an earlier
// provisioner had it load.
const loadPatience = 5 * time.Second

// awaitLoaded waits for the end of such a load.
func (v *vm) awaitLoaded(ctx context.Context) error {
	c, err := v.control(ctx)
	if err != nil {
		return err
	}
	for began := time.Now(); ; {
		st, err := c.status(ctx)
		if err != nil || st.Status != statusIncoming {
			return err
		}
		if time.Since(began) > loadPatience {
			return errors.New("it has not loaded its state")
		}
		select {
		case <-v.migration:
		case <-c.Done():
			return errQEMUEnded
		case <-time.After(100 * time.Millisecond): // the event may have come before this connection
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
