package kvm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"dormouse/internal/fleet"
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
