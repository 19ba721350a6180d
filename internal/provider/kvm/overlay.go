package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// overlayState is how far a volume's overlay is.
type overlayState string

const (
	overlayNone overlayState = ""
	// overlayBegun: what is written goes to the overlay, and the volume is as it was.
	overlayBegun overlayState = "begun"
	// overlayCommitting: the volume is being overwritten with the overlay, which
	// still lies over it and can't be dropped any more.
	overlayCommitting overlayState = "committing"
	// overlayCommitted: the volume has it all, and is written to itself. The machine
	// may be paused, and the file may still be there.
	overlayCommitted overlayState = "committed"
)

// lies tells whether an overlay lies over the volume.
func (s overlayState) lies() bool { return s == overlayBegun || s == overlayCommitting }

func (v *volume) overlayPath() string {
	return filepath.Join(v.p.volumeDir, string(v.id)+overlaySuffix)
}

// top is the file that is written to.
func (v *volume) top() string {
	_ = v.lock(context.Background())
	defer v.unlock()
	if v.rec.Overlay.lies() {
		return v.overlayPath()
	}
	return v.path()
}

const overlaySuffix = ".overlay"

// BeginOverlay lays an overlay over a volume: what is written from now on can be
// dropped, or committed to the volume. Refused with KindConflict while an instance
// is on the volume, and with KindPermanent where it has not the file system of
// linux, since other images write to a volume from outside. One that has been
// begun is left as it is. Fenced like EnsureVolume; KindNotFound: there is no such volume.
func (p *Provider) BeginOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	v, release, err := p.lockOverlay(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	switch {
	case !v.exists():
		return errNoVolume(v.id)
	case v.rec.Overlay == overlayBegun:
		return v.save()
	case v.rec.Overlay != overlayNone:
		return fleet.Errorf(fleet.KindConflict, "the overlay of volume %s is being committed: commit it first", v.id)
	case v.kernel() != fleet.KernelLinux:
		return fleet.Failure(fleet.ReasonProvider, "a volume of the kernel %s can't have an overlay: back it up instead", v.kernel())
	}
	if err := v.free(); err != nil {
		return err
	}
	if err := v.makeLayer(ctx, v.overlayPath()); err != nil {
		return err
	}
	return v.setOverlay(overlayBegun)
}

// DropOverlay takes away what was written since BeginOverlay. Refused with
// KindConflict while an instance is on the volume, and with ReasonCommitting besides
// once committing has begun.
// Nothing happens where there is no overlay. Fenced like EnsureVolume.
func (p *Provider) DropOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	v, release, err := p.lockOverlay(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	switch v.rec.Overlay {
	case overlayNone:
		if !v.exists() {
			return nil
		}
		return v.save()
	case overlayBegun:
	default:
		e := fleet.Errorf(fleet.KindConflict, "the overlay of volume %s is being committed and can't be dropped any more: commit it", v.id)
		e.Reason = fleet.ReasonCommitting
		return e
	}
	if err := v.free(); err != nil {
		return err
	}
	f, err := v.open(ctx) // no process that is still ending may write to it
	if err != nil {
		return err
	}
	if err := unlockAndClose(f); err != nil {
		return err
	}
	// No saved memory goes on from what is dropped.
	v.rec.Generation++
	// The journal first: a file that it does not name is removed at the next start.
	if err := v.setOverlay(overlayNone); err != nil {
		return err
	}
	return v.removeOverlay()
}

// lockOverlay is lockAlone with the epoch noted, but not saved.
func (p *Provider) lockOverlay(ctx context.Context, ref fleet.VolumeRef) (*volume, func(), error) {
	v, release, err := p.lockAlone(ctx, ref)
	if err == nil && v.exists() {
		v.rec.Epoch = ref.Epoch
	}
	return v, release, err
}

// lockAlone returns the volume, locked and without clones until release is called.
func (p *Provider) lockAlone(ctx context.Context, ref fleet.VolumeRef) (v *volume, release func(), err error) {
	if !fleet.ValidID(string(ref.ID)) {
		return nil, nil, fleet.InvalidField("id", "%q is no ID of a volume", ref.ID)
	}
	v = p.volume(ref.ID)
	if err := v.lockAt(ctx, ref.Epoch); err != nil {
		return nil, nil, err
	}
	v.unlock() // a clone's start needs it
	clones := p.dropClonesOf(ctx, ref.ID)
	if err := v.lockAt(ctx, ref.Epoch); err != nil {
		clones()
		return nil, nil, err
	}
	return v, func() { v.unlock(); clones() }, nil
}

// lockAt locks for a caller with that epoch, or refuses it.
func (v *volume) lockAt(ctx context.Context, epoch fleet.Epoch) error {
	if err := v.lock(ctx); err != nil {
		return err
	}
	if err := admit("volume", string(v.id), v.rec.Epoch, epoch); err != nil {
		v.unlock()
		return err
	}
	return nil
}

func errNoVolume(id fleet.VolumeID) error {
	return fleet.Errorf(fleet.KindNotFound, "this host has no volume %s", id)
}

// setOverlay writes the state down. Needs the lock.
func (v *volume) setOverlay(s overlayState) error {
	before := v.rec.Overlay
	v.rec.Overlay = s
	if err := v.save(); err != nil {
		v.rec.Overlay = before
		return err
	}
	return nil
}

// removeOverlay removes a file that the journal does not name any more.
func (v *volume) removeOverlay() error {
	if err := os.Remove(v.overlayPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the overlay of volume %s: %w", v.id, err)
	}
	return syncDir(v.p.volumeDir)
}

// makeLayer makes an empty qcow2 file as large as the volume; it is on disk under
// its name, in place of what was there, when this returns. The file names no
// other. Needs the lock.
func (v *volume) makeLayer(ctx context.Context, path string) (err error) {
	doing := "making an overlay of volume " + string(v.id)
	info, err := os.Stat(v.path())
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	temp := path + tempSuffix
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return diskError(doing, err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(temp)
		}
	}()
	if _, err := v.run(ctx, []*os.File{f}, toolImage, "create", "-q", "-f", "qcow2", inheritedPath(3), fmt.Sprint(info.Size())); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return diskError(doing, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return diskError(doing, err)
	}
	return syncDir(filepath.Dir(path))
}

// openLayers opens what lies over the instance's volume, which it has taken.
func (i *instance) openLayers(m *machine, files *inherited) error {
	ref := i.rec.Spec.Volume
	if ref == nil {
		return nil
	}
	v := i.p.volume(ref.ID)
	_ = v.lock(context.Background())
	lies := v.rec.Overlay.lies()
	v.unlock()
	if lies {
		flag := os.O_RDWR
		if i.rec.Clone {
			flag = os.O_RDONLY
		}
		f, err := os.OpenFile(v.overlayPath(), flag, 0)
		if err != nil {
			return fmt.Errorf("opening the overlay of volume %s: %w", v.id, err)
		}
		m.Layers = append(m.Layers, files.add(f))
	}
	if !i.rec.Clone {
		return nil
	}
	own, err := os.OpenFile(i.cloneLayer(), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the clone's disk: %w", err)
	}
	m.VolumeReadOnly, m.Layers = true, append(m.Layers, files.add(own))
	return nil
}

// syncBase waits until all that was written to the volume itself is on disk.
func (v *volume) syncBase() error {
	f, err := os.Open(v.path())
	if err != nil {
		return fmt.Errorf("syncing volume %s: %w", v.id, err)
	}
	if err := errors.Join(unix.Fsync(int(f.Fd())), f.Close()); err != nil {
		return diskError("syncing volume "+string(v.id), err)
	}
	return nil
}
