package kvm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
)

const (
	// restorePatience is how long QEMU may take to load a saved state.
	restorePatience = 30 * time.Second
	// defaultAnswerPatience is how long a guest that goes on may take to say so.
	defaultAnswerPatience = 20 * time.Second
)

// restore lets a sleeping machine go on where it was saved, and returns when its
// guest has answered. cold is why that can't be, and that it is to be booted; an
// error is one that would keep it from booting too. Needs the lock.
func (i *instance) restore(ctx context.Context) (cold string, err error) {
	saved := i.rec.Saved
	if cold, err = i.misfit(ctx, saved); cold != "" || err != nil {
		return cold, err
	}
	r, err := i.prepare(ctx, toRestore)
	if err != nil {
		return "", err
	}
	defer r.files.close()
	if r.m.fingerprint() != saved.Arguments {
		return "it was saved with other arguments of QEMU", r.undo()
	}
	flags := os.O_RDONLY
	if saved.Tier == fleet.TierPacked {
		flags = os.O_RDWR | os.O_CREATE | os.O_TRUNC
	}
	state, err := os.OpenFile(i.statePath(), flags, 0o600)
	if err != nil {
		return "", errors.Join(diskError("opening the saved state", err), r.undo())
	}
	from := r.files.add(state)
	filled := i.fill(ctx, r, state)
	proc, err := i.execute(r)
	if err != nil {
		<-filled
		return "", errors.Join(err, r.undo())
	}
	i.rec.Endpoints = r.endpoints
	v := newVM(i, proc, toRestore)
	i.vm = v
	// From here on it is no longer the caller's: a guest half woken helps nobody.
	limited, cancel := context.WithTimeout(v.ctx, restorePatience)
	f := <-filled
	if f.err == nil && f.cold == "" {
		err = i.goOnFrom(limited, v, from)
	} else {
		err = errors.Join(f.err, errors.New(f.cold))
	}
	cancel()
	if err == nil {
		err = i.awake(v, r, proc)
	}
	if err == nil {
		i.p.log.WithField("instance", i.id).WithField("pid", proc.pid).Info("machine resumed")
		return "", nil
	}
	if i.p.ctx.Err() != nil {
		return "", fleet.Errorf(fleet.KindUnavailable, "waking instance %s: this host's provisioner is stopping", i.id)
	}
	words := i.qemuWords()
	if e := v.discard(); e != nil {
		return "", errors.Join(err, e)
	}
	i.vm = nil
	i.active.Store(false)
	if f.err != nil || f.cold != "" {
		return f.cold, errors.Join(f.err, r.undo())
	}
	cold = "QEMU could not go on from it: " + err.Error()
	if len(words) > 0 {
		cold += ": " + words[len(words)-1]
	}
	return cold, r.undo()
}

// filling is the outcome of unpacking; see unpack.
type filling struct {
	cold string
	err  error
}

// fill unpacks a memory that was packed while QEMU starts.
func (i *instance) fill(ctx context.Context, r *prepared, state *os.File) <-chan filling {
	done := make(chan filling, 1)
	if i.rec.Saved.Tier != fleet.TierPacked {
		done <- filling{}
		return done
	}
	go func() {
		cold, err := i.unpack(context.WithoutCancel(ctx), r.ram, state)
		done <- filling{cold, err}
	}()
	return done
}

// goOnFrom loads the state and lets the guest run, after the state has been used up.
func (i *instance) goOnFrom(ctx context.Context, v *vm, from int) error {
	c, err := v.control(ctx)
	if err != nil {
		return err
	}
	if err := c.beginLoad(ctx, from); err != nil {
		return err
	}
	// Not before: a QEMU that waits for nothing would be left by a crash in between.
	used := make(chan error, 1)
	go func() { used <- i.useUp() }()
	err = c.awaitMigration(ctx)
	if e := <-used; e != nil {
		err = errors.Join(err, fmt.Errorf("using the state up: %w", e))
	}
	if err != nil {
		return err
	}
	if err := c.Execute(ctx, "cont", nil, nil); err != nil {
		return err
	}
	v.began(fleet.StartResumed)
	return nil
}

// awake writes down that the machine runs while its guest gets its clock and its
// randomness, and waits for both.
func (i *instance) awake(v *vm, r *prepared, proc *watched) error {
	answered := make(chan error, 1)
	go func() { answered <- v.wakeGuest() }()
	before := i.rec
	i.rec.Want = fleet.PowerOn
	i.wakesUp(r, fleet.StartResumed)
	i.rec.Boots++ // each run is another one to those who keep connections
	i.name(proc)
	i.resuming, i.startedAt = false, i.p.o.Clock()
	if err := i.save(); err != nil {
		// The state is used up, by which the next start of the provisioner knows.
		i.p.log.WithField("instance", i.id).WithError(err).Error("the journal does not say that a machine is awake")
	}
	if err := <-answered; err != nil {
		i.rec = before
		return err
	}
	v.mu.Lock()
	if !v.ready {
		v.becomeReady()
	}
	v.mu.Unlock()
	return nil
}

// wakeGuest tells a guest what it has slept through.
func (v *vm) wakeGuest() error {
	if v.silent {
		return nil
	}
	ctx, cancel := context.WithTimeout(v.ctx, v.i.p.answerPatience)
	defer cancel()
	err := v.guest.ask(ctx, wakeCommand(guest.VerbWake))
	if !errors.Is(err, errUnknownVerb) {
		return err
	}
	for _, verb := range []guest.Verb{guest.VerbSetClock, guest.VerbReseed, guest.VerbThaw} {
		if err := v.guest.ask(ctx, wakeCommand(verb)); err != nil {
			return err
		}
	}
	return nil
}

// wakeCommand has the host's time and randomness.
func wakeCommand(verb guest.Verb) guest.Command {
	seed := make([]byte, 32)
	_, _ = rand.Read(seed) // it never fails
	now := time.Now()
	if verb == guest.VerbWake {
		return guest.Command{Verb: verb, Nanos: now.UnixNano(), Seed: seed}
	}
	return guest.Command{Verb: verb, Time: now, Seed: seed}
}
