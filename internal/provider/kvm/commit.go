package kvm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/qmp"
)

// CommitOverlay writes what the overlay holds to the volume and takes the overlay
// away, while an instance runs on it or not. Cut anywhere, it is done again, and
// nothing that the guest has written is lost. Without an overlay nothing happens.
// A machine that is started meanwhile goes first: KindUnavailable, try again.
// Where the disk is full (KindCapacity) the overlay stays. Fenced like EnsureVolume.
//
// A running machine is paused for the moment in which it changes over, so that no
// write is ever in the volume while the overlay still counts.
func (p *Provider) CommitOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	v, release, err := p.lockOverlay(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	if !v.exists() {
		return errNoVolume(v.id)
	}
	switch v.rec.Overlay {
	case overlayNone:
		return v.save()
	case overlayBegun:
		// From here on the volume alone is nobody's data.
		if err := v.setOverlay(overlayCommitting); err != nil {
			return err
		}
	case overlayCommitting:
		if err := v.save(); err != nil {
			return err
		}
	}
	if err := v.commit(ctx); err != nil {
		return err
	}
	return v.forgetOverlay()
}

// commit brings the overlay into the volume. Needs the lock, and gives it away for
// a while where a machine runs: it may take long, and the machine be switched off.
func (v *volume) commit(ctx context.Context) error {
	switch {
	case v.committing:
		return fleet.Errorf(fleet.KindUnavailable, "the overlay of volume %s is being committed already, try again", v.id)
	case v.user == "" && v.rec.Overlay == overlayCommitted:
		return nil
	case v.user == "":
		return v.commitOffline(ctx)
	}
	user := v.user
	v.committing = true
	v.unlock()
	err := v.p.commitOnline(ctx, v, user)
	_ = v.lock(context.Background())
	v.committing = false
	return err
}

// forgetOverlay removes an overlay that has been committed. Needs the lock.
func (v *volume) forgetOverlay() error {
	if v.rec.Overlay != overlayCommitted {
		return nil
	}
	if err := v.removeOverlay(); err != nil {
		return err
	}
	v.p.log.WithField("volume", v.id).Info("overlay committed")
	return v.setOverlay(overlayNone)
}

// forgetOverlays ends the commits that were cut when all but that had been done.
func (p *Provider) forgetOverlays() error {
	p.mu.Lock()
	all := slices.Collect(maps.Values(p.volumes))
	p.mu.Unlock()
	for _, v := range all {
		_ = v.lock(context.Background())
		var err error
		if v.user == "" { // else settle does
			err = v.forgetOverlay()
		}
		v.unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// commitOffline has qemu-img write to the volume. A machine that wants the volume
// meanwhile ends that: it can be done again. Needs the lock.
func (v *volume) commitOffline(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	v.mu.Lock()
	v.giveWay = stop
	if v.wanted > 0 {
		stop(errGaveWay)
	}
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		v.giveWay = nil
		v.mu.Unlock()
	}()
	base, err := v.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = unlockAndClose(base) }()
	overlay, err := os.OpenFile(v.overlayPath(), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the overlay of volume %s: %w", v.id, err)
	}
	defer overlay.Close()
	// -d leaves the overlay as it is: what it holds is not yet synced in the volume.
	layers := fmt.Sprintf(`json:{"driver":"qcow2","file":{"driver":"file","filename":%q},"backing":{"driver":"raw","file":{"driver":"file","filename":%q}}}`,
		inheritedPath(4), inheritedPath(3))
	if _, err := v.run(ctx, []*os.File{base, overlay}, toolImage, "commit", "-q", "-d", layers); err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errGaveWay) {
			return fleet.Errorf(fleet.KindUnavailable, "committing the overlay of volume %s: %w: try again", v.id, cause)
		}
		return err
	}
	if err := v.syncBase(); err != nil {
		return err
	}
	return v.setOverlay(overlayCommitted)
}

// errGaveWay is why a commit was stopped.
var errGaveWay = errors.New("a machine is being started on it")

// want ends a commit by qemu-img, so that the lock becomes free, and lets none
// begin before the function that it returns is called.
func (v *volume) want() func() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.wanted++
	if v.giveWay != nil {
		v.giveWay(errGaveWay)
	}
	return func() {
		v.mu.Lock()
		v.wanted--
		v.mu.Unlock()
	}
}

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
	if err := c.v.syncBase(); err != nil {
		return err
	}
	if err := c.writeDown(); err != nil {
		return err
	}
	if err := c.qmp.Execute(ctx, "cont", nil, nil); err != nil {
		return err
	}
	c.tidy(ctx)
	return nil
}

func (c *commit) writeDown() error {
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

func nothing() error { return nil }

// settleOverlay ends the pause in which a provider that went away may have left a
// machine. It comes before anything else has the guest go on.
func (i *instance) settleOverlay(ctx context.Context, machine *vm, client *qmp.Client) error {
	ref := machine.volume
	if ref == nil {
		return nil
	}
	v := i.p.volume(ref.ID)
	if err := v.lock(ctx); err != nil {
		return err
	}
	state := v.rec.Overlay
	v.unlock()
	if state != overlayCommitting && state != overlayCommitted {
		return nil
	}
	run, err := control{Client: client}.status(ctx)
	if err != nil {
		return err
	}
	if run.Status != statusPaused {
		return v.settled(ctx) // a machine changes over in a pause only, and goes on once that is written down
	}
	c := &commit{v: v, vm: machine, qmp: client}
	over, err := c.changedOver(ctx)
	if err != nil {
		return err
	}
	job, err := c.job(ctx)
	if err != nil {
		return err
	}
	switch {
	case over:
		err = c.changeOver(ctx, nothing)
	case job != nil && job.Status != "running":
		err = c.changeOver(ctx, c.complete)
	default:
		err = client.Execute(ctx, "cont", nil, nil)
	}
	return errors.Join(err, v.settled(ctx))
}

// settled removes what is not needed any more.
func (v *volume) settled(ctx context.Context) error {
	if err := v.lock(ctx); err != nil {
		return err
	}
	defer v.unlock()
	return v.forgetOverlay()
}
