package kvm

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
)

// endVerifiers ends what a provisioner that was killed while it saved has left.
func (i *instance) endVerifiers(ctx context.Context, candidates []int) error {
	defer i.removeVerifySockets()
	for _, pid := range candidates {
		if !isOurs(pid, string(i.id)+verifySuffix, i.console().live) {
			continue
		}
		proc, err := identify(pid)
		if err != nil {
			continue // it has just ended
		}
		if err := killAndWait(ctx, proc); err != nil {
			return err
		}
	}
	return nil
}

// recoverSleeper finds out what has become of one that the journal says sleeps.
// The state decides: as long as it is there, no instruction has been run since it
// was committed, and whatever process there is ends; without it the process is the machine,
// woken and not yet journalled. Needs the lock.
func (i *instance) recoverSleeper(ctx context.Context, proc process, found bool) error {
	tier := i.rec.Saved.tier()
	_, err := os.Stat(i.tokenPath(tier))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	intact, memory := err == nil, i.rec.Saved.memory()
	switch {
	case found && !memory:
		return i.adopt(proc, guest.Command{Verb: guest.VerbThaw}) // it is being stopped, and goes on so
	case found && !intact:
		i.rec.Asleep, i.rec.Saved, i.rec.ColdReason = false, nil, ""
		i.rec.Want, i.rec.Start, i.rec.Woken = fleet.PowerOn, fleet.StartResumed, true
		i.rec.Process, i.rec.Starting = nil, false
		return i.adopt(proc, wakeCommand(guest.VerbWake))
	case found:
		if err := killAndWait(ctx, proc); err != nil {
			return err
		}
	}
	switch {
	case tier == fleet.TierPacked && intact:
		i.dropRaw() // of a cut packing, or of a cut wake
	case tier == fleet.TierWarm:
		_ = os.Remove(i.packedPath())
	}
	changed := i.rec.Process != nil || i.rec.Starting
	i.rec.Process, i.rec.Starting = nil, false
	if memory && !intact {
		i.forgetMemory("its memory was used up by a wake that the host has not lived to see")
		changed = true
	}
	if changed {
		if err := i.save(); err != nil {
			return err
		}
	}
	if s := i.rec.Saved; s != nil && s.Volume != nil {
		i.p.volume(s.Volume.ID).note()
	}
	if i.rec.Want == fleet.PowerOn && i.p.o.Resume {
		i.resuming = true
		i.reserveVolume()
	}
	return nil
}
