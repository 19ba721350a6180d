package kvm

import (
	"context"
	"fmt"
	"os"
	"time"

	"dormouse/internal/fleet"
)

// Delete removes an instance, whatever its state, and all that it had but its
// volume. A tombstone keeps the epoch, also of an instance that was never there.
// It is idempotent; where it is cut, the next New goes on.
func (p *Provider) Delete(ctx context.Context, ref fleet.InstanceRef) error {
	if !fleet.ValidID(string(ref.ID)) {
		return fleet.InvalidField("id", "%q is no ID of an instance", ref.ID)
	}
	i := p.instance(ref.ID)
	if err := i.lock(ctx); err != nil {
		return err
	}
	if err := admit("instance", string(ref.ID), i.rec.Epoch, ref.Epoch); err != nil {
		i.unlock()
		return err
	}
	if !i.exists() {
		defer i.unlock()
		if i.rec.DeletedAt.IsZero() || ref.Epoch > i.rec.Epoch {
			return i.bury(ref.Epoch)
		}
		return nil
	}
	i.raise(ref.Epoch)
	i.rec.Deleting, i.rec.Want, i.resuming = true, fleet.PowerOff, false
	err := i.save()
	v := i.vm
	i.unlock()
	if err != nil {
		return err
	}
	if v != nil {
		v.kill()
		if err := v.awaitEnd(ctx); err != nil {
			return err
		}
	}
	if err := i.lock(ctx); err != nil {
		return err
	}
	if i.exists() {
		err = i.finishDelete(ctx)
	}
	i.unlock()
	if err == nil {
		p.notify(ref.ID)
	}
	return err
}

// awaitEnd waits until a killed machine has ended and that is recorded.
func (v *vm) awaitEnd(ctx context.Context) error {
	select {
	case <-v.exited:
		if v.i.p.ctx.Err() != nil {
			return fleet.Errorf(fleet.KindUnavailable, "stopping instance %s: the provisioner is stopping", v.i.id)
		}
		return nil
	case <-ctx.Done():
		return fleet.Errorf(fleet.KindUnavailable, "stopping instance %s: %w", v.i.id, ctx.Err())
	case <-time.After(killWait):
		return fleet.Errorf(fleet.KindUnavailable, "stopping instance %s: its process has not ended %s after it was killed", v.i.id, killWait)
	}
}

// finishDelete removes the files of an instance that does not run. Needs the lock.
func (i *instance) finishDelete(ctx context.Context) error {
	i.releaseVolume()
	if err := i.p.o.Network.Detach(ctx, i.id); err != nil {
		return fmt.Errorf("deleting instance %s: %w", i.id, err)
	}
	i.dropRaw() // which may be elsewhere
	if err := os.RemoveAll(i.dir()); err != nil {
		return fmt.Errorf("deleting instance %s: %w", i.id, err)
	}
	uid := i.rec.UID
	if err := i.bury(i.rec.Epoch); err != nil {
		return err
	}
	i.p.uids.release(uid)
	i.p.releaseCloneAddress(i.id)
	i.cloneOf.Store(nil)
	i.forgetConsole()
	i.p.log.WithField("instance", i.id).Info("instance deleted")
	return nil
}

// bury leaves a tombstone with the epoch. Needs the lock.
func (i *instance) bury(epoch fleet.Epoch) error {
	before := i.rec
	i.rec = instanceRecord{Version: journalVersion, ID: i.id, Epoch: epoch, DeletedAt: i.p.o.Clock().UTC()}
	if err := i.save(); err != nil {
		i.rec = before
		return err
	}
	return nil
}

// forgetConsole ends the readers of a console whose files are gone.
func (i *instance) forgetConsole() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.log != nil {
		i.log.close()
		i.log = nil
	}
}
