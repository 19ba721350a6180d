package kvm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/qmp"
)

// commitJob is the job's name in QEMU.
const commitJob = "commit"

// commitOnline has the running machine's QEMU write to the volume and change over to it.
func (p *Provider) commitOnline(ctx context.Context, v *volume, user fleet.InstanceID) error {
	doing := "committing the overlay of volume " + string(v.id)
	i := p.known(user)
	if i == nil {
		return fleet.Errorf(fleet.KindUnavailable, "%s: instance %s is unknown", doing, user)
	}
	c, err := i.beginCommit(ctx, v)
	if err == nil && c == nil {
		return fleet.Errorf(fleet.KindUnavailable, "%s: instance %s is starting or stopping, try again", doing, user)
	}
	if err == nil {
		err = c.run(ctx)
	}
	var refused *qmp.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, qmp.ErrClosed):
		return fleet.Errorf(fleet.KindUnavailable, "%s: the machine has ended meanwhile, try again: %w", doing, err)
	case ctx.Err() != nil:
		return fleet.Errorf(fleet.KindUnavailable, "%s: %w", doing, err)
	case errors.As(err, &refused):
		return fleet.Errorf(fleet.KindUnavailable, "%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// beginCommit begins the job, or finds one that a provider has left behind; nil is
// that there is no machine that could have one. From then on it is not put to sleep.
func (i *instance) beginCommit(ctx context.Context, v *volume) (*commit, error) {
	if err := i.lock(ctx); err != nil {
		return nil, err
	}
	defer i.unlock()
	if i.vm == nil {
		return nil, nil
	}
	c := &commit{v: v, vm: i.vm}
	i.vm.mu.Lock()
	c.qmp = i.vm.qmp
	i.vm.mu.Unlock()
	if c.qmp == nil {
		return nil, nil
	}
	over, err := c.changedOver(ctx)
	if err != nil || over {
		return c, err
	}
	job, err := c.job(ctx)
	if err != nil || job != nil {
		return c, err
	}
	return c, c.qmp.Execute(ctx, "block-commit", map[string]any{
		"job-id": commitJob, "device": layerNode(0), "base-node": nodeVolume, "auto-dismiss": false,
	}, nil)
}

// commits tells whether the instance's machine is going over to its volume. Needs the lock.
func (i *instance) commits() bool {
	ref := i.rec.Spec.Volume
	if ref == nil || i.rec.Clone == clone {
		return false
	}
	v := i.p.volume(ref.ID)
	_ = v.lock(context.Background())
	defer v.unlock()
	return v.user == i.id && v.rec.Overlay == overlayCommitting
}

// commit is one going over of a machine from a volume's overlay to the volume.
type commit struct {
	v   *volume
	vm  *vm
	qmp *qmp.Client
}

// run ends the job.
func (c *commit) run(ctx context.Context) error {
	over, err := c.changedOver(ctx)
	if err != nil {
		return err
	}
	if over { // it was cut between that and the journal
		return c.changeOver(ctx, nothing)
	}
	if err := c.await(ctx, "ready"); err != nil {
		return err
	}
	// Most of what is dirty is written before the guest has to wait.
	if err := c.v.syncBase(); err != nil {
		return err
	}
	return c.changeOver(ctx, c.complete)
}

// complete ends the job: the machine's disk is the volume then.
func (c *commit) complete() error {
	ctx := c.vm.ctx
	if err := c.qmp.Execute(ctx, "block-job-complete", map[string]any{"device": commitJob}, nil); err != nil {
		return err
	}
	if err := c.await(ctx, "concluded"); err != nil {
		return err
	}
	over, err := c.changedOver(ctx)
	if err == nil && !over {
		err = errors.New("QEMU says that it is done, and the machine still has the overlay")
	}
	return err
}

// changeOver pauses the guest, has the machine change over, writes that down when
// the volume is on disk, and lets the guest go on. Once begun, it is not called
// off with ctx: a paused guest serves nobody, and one that goes on while nobody
// knows whether its machine has changed over may write what is lost later. Where
// the provider is stopped meanwhile, the next settles it.
func (c *commit) changeOver(ctx context.Context, complete func() error) error {
	if err := c.vm.i.lock(ctx); err != nil {
		return err
	}
	defer c.vm.i.unlock()
	ctx = c.vm.ctx
	if err := c.qmp.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	if err := complete(); err != nil {
		over, e := c.changedOver(ctx)
		if e == nil && !over {
			e = c.qmp.Execute(ctx, "cont", nil, nil)
		}
		return errors.Join(err, e)
	}
	if err := c.writeDown(); err != nil {
		// It waits for room on the disk, say, whether it is asked for again or not.
		c.vm.mu.Lock()
		c.vm.after(againPause, func() {
			c.vm.i.p.spawn(func() { _ = c.changeOver(ctx, nothing) })
		})
		c.vm.mu.Unlock()
		return err
	}
	if err := c.qmp.Execute(ctx, "cont", nil, nil); err != nil {
		return err
	}
	c.tidy(ctx)
	return nil
}

// againPause is after what time a guest that could not go on is looked after again.
const againPause = time.Second

// writeDown notes that the volume has it all, once that is on the disk.
func (c *commit) writeDown() error {
	if err := c.v.syncBase(); err != nil {
		return err
	}
	if err := c.v.lock(c.vm.ctx); err != nil {
		return err
	}
	defer c.v.unlock()
	return c.v.setOverlay(overlayCommitted)
}

// tidy closes the overlay in QEMU, so that its room is free once it is removed.
// What is left undone of it ends with the machine.
func (c *commit) tidy(ctx context.Context) {
	_ = c.qmp.Execute(ctx, "job-dismiss", map[string]any{"id": commitJob}, nil)
	for _, node := range []string{layerNode(0), layerFile(0)} {
		_ = c.qmp.Execute(ctx, "blockdev-del", map[string]any{"node-name": node}, nil)
	}
	_ = c.qmp.Execute(ctx, "remove-fd", map[string]any{"fdset-id": setLayers}, nil)
}

// changedOver tells whether the machine's disk is the volume itself.
func (c *commit) changedOver(ctx context.Context) (bool, error) {
	var disks []struct {
		Inserted struct {
			Node string `json:"node-name"`
		} `json:"inserted"`
	}
	if err := c.qmp.Execute(ctx, "query-block", nil, &disks); err != nil {
		return false, err
	}
	for _, d := range disks {
		switch d.Inserted.Node {
		case nodeVolume:
			return true, nil
		case layerNode(0):
			return false, nil
		}
	}
	return false, errors.New("the machine has neither the volume nor its overlay")
}

type blockJob struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Error  string `json:"error"`
}

// job returns the job; nil where there is none.
func (c *commit) job(ctx context.Context) (*blockJob, error) {
	var jobs []blockJob
	if err := c.qmp.Execute(ctx, "query-jobs", nil, &jobs); err != nil {
		return nil, err
	}
	for _, j := range jobs {
		if j.ID == commitJob {
			return &j, nil
		}
	}
	return nil, nil
}

// await waits until the job has come so far, or has failed, in which case it is gone.
func (c *commit) await(ctx context.Context, status string) error {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		j, err := c.job(ctx)
		switch {
		case err != nil:
			return err
		case j == nil:
			return errors.New("QEMU has no such job any more")
		case j.Status == status && j.Error == "":
			return nil
		case j.Status == "concluded":
			err := fmt.Errorf("QEMU's job has ended: %s", j.Error)
			if strings.Contains(j.Error, "No space left on device") {
				err = diskError("writing to the volume", syscall.ENOSPC)
			}
			return errors.Join(err, c.qmp.Execute(ctx, "job-dismiss", map[string]any{"id": commitJob}, nil))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
