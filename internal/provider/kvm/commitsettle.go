package kvm

import (
	"context"
	"errors"

	"dormouse/internal/provider/kvm/qmp"
)

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
