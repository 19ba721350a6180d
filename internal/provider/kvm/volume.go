package kvm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"dormouse/internal/fleet"
)

// minVolumeMiB is the smallest volume: ext4 with a journal does not fit in less.
const minVolumeMiB = 16

// volume is one volume, or what is remembered of a deleted one: a sparse raw
// file with an ext4 file system.
type volume struct {
	p   *Provider
	id  fleet.VolumeID
	sem chan struct{}
	// rec and user need the lock. user is the instance that is on or pending.
	rec  volumeRecord
	user fleet.InstanceID
	// noted: a saved memory has this generation of it in its record.
	noted bool
	// committing: a machine is going over from the overlay to the volume. Needs the lock.
	committing bool

	mu sync.Mutex
	// wanted counts those who are about to start a machine on it, and claims those
	// before whom clones give way.
	wanted, claims int
	// giveWay ends a commit by qemu-img that is under way.
	giveWay context.CancelCauseFunc
}

// volume returns the entry of an ID, which may be empty.
func (p *Provider) volume(id fleet.VolumeID) *volume {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.volumes[id]
	if v == nil {
		v = &volume{p: p, id: id, sem: make(chan struct{}, 1), rec: volumeRecord{Version: journalVersion, ID: id}}
		p.volumes[id] = v
	}
	return v
}

func (v *volume) path() string { return filepath.Join(v.p.volumeDir, string(v.id)+".raw") }

func (v *volume) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fleet.Errorf(fleet.KindUnavailable, "waiting for volume %s: %w", v.id, err)
	}
	select {
	case v.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fleet.Errorf(fleet.KindUnavailable, "waiting for volume %s: %w", v.id, ctx.Err())
	}
}

func (v *volume) unlock() { <-v.sem }

// exists needs the lock.
func (v *volume) exists() bool { return v.rec.SizeMiB > 0 && v.rec.DeletedAt.IsZero() }

func (v *volume) save() error { return v.p.volumeJournal.save(string(v.id), v.rec) }

// status needs the lock.
func (v *volume) status() fleet.VolumeStatus {
	return fleet.VolumeStatus{ID: v.id, InstallationID: v.rec.InstallationID, Overlay: v.rec.Overlay.lies(), ProviderRef: string(v.id), SizeMiB: v.rec.SizeMiB, CreatedAt: v.rec.CreatedAt}
}

// free needs the lock; it returns KindConflict while an instance is on the volume.
func (v *volume) free() error {
	if v.user != "" {
		return fleet.Errorf(fleet.KindConflict, "volume %s is in use by instance %s, switch that off first", v.id, v.user)
	}
	return nil
}

// open opens the file and locks it for as long as any copy of the descriptor
// lives, in this process, a tool or QEMU: KindConflict where one still does.
func (v *volume) open(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(v.path(), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening volume %s: %w", v.id, err)
	}
	// A process that is being forked has a copy for a moment.
	if err := flock(ctx, f, time.Second); err != nil {
		_ = f.Close()
		return nil, fleet.Errorf(fleet.KindConflict, "volume %s is still in use by a process on this host: %w", v.id, err)
	}
	return f, nil
}

// note returns the generation, for a saved memory to rely on: it rises before
// anything but the machine that goes on from it writes to the volume.
func (v *volume) note() int64 {
	_ = v.lock(context.Background())
	defer v.unlock()
	v.noted = true
	return v.rec.Generation
}

func (v *volume) generation() int64 {
	_ = v.lock(context.Background())
	defer v.unlock()
	return v.rec.Generation
}

// writing is to be called before a write to the volume. Needs the lock.
func (v *volume) writing() error {
	if !v.noted {
		return nil
	}
	v.rec.Generation++
	if err := v.save(); err != nil {
		v.rec.Generation--
		return err
	}
	v.noted = false
	return nil
}

// take gives the volume to an instance that is about to start a kernel. prepare
// is called with the open file, before anybody else sees it. restoring is for a
// machine that goes on with the volume as it left it.
func (v *volume) take(ctx context.Context, id fleet.InstanceID, restoring bool, prepare func(*os.File) error, kernel fleet.KernelKind) (*os.File, error) {
	defer v.want()()
	if err := v.lock(ctx); err != nil {
		return nil, err
	}
	defer v.unlock()
	if !v.exists() {
		return nil, errNoVolume(v.id)
	}
	if v.kernel() != kernelOf(kernel) {
		return nil, v.foreign(kernel)
	}
	if v.user != id {
		if err := v.free(); err != nil {
			return nil, err
		}
	}
	f, err := v.open(ctx)
	if err != nil {
		return nil, err
	}
	if !restoring {
		if err := v.writing(); err != nil {
			return nil, errors.Join(err, unlockAndClose(f))
		}
	}
	if err := prepare(f); err != nil {
		return nil, errors.Join(fmt.Errorf("preparing volume %s: %w", v.id, err), unlockAndClose(f))
	}
	v.user = id
	return f, nil
}

// reserve gives the volume to an instance that runs already, or is about to.
func (v *volume) reserve(id fleet.InstanceID) {
	_ = v.lock(context.Background())
	defer v.unlock()
	if v.user == "" {
		v.user = id
	}
}

// release takes the volume back from an instance; nothing where it has another.
func (v *volume) release(id fleet.InstanceID) {
	_ = v.lock(context.Background())
	defer v.unlock()
	if v.user == id {
		v.user = ""
	}
}

// kernel is whose file system the volume has. Needs the lock.
func (v *volume) kernel() fleet.KernelKind { return kernelOf(v.rec.Kernel) }

func kernelOf(k fleet.KernelKind) fleet.KernelKind { return cmp.Or(k, fleet.KernelLinux) }

func (v *volume) foreign(k fleet.KernelKind) error {
	return fleet.Failure(fleet.ReasonProvider, "volume %s has the file system of the kernel %s, which %s can't read: go back to a package for %s, or create a new installation",
		v.id, v.kernel(), kernelOf(k), v.kernel())
}

// EnsureVolume creates a volume if absent, or grows it while no instance is on it
// (KindConflict else). It never shrinks one (KindInvalid), nor gives one to a
// kernel that can't read it (KindPermanent). For linux it has an ext4 file
// system; other kernels' images make theirs at the first start. The file is
// sparse. Done twice, or cut and done again, it is one volume with what was on it.
func (p *Provider) EnsureVolume(ctx context.Context, spec fleet.VolumeSpec) (fleet.VolumeStatus, error) {
	none := fleet.VolumeStatus{}
	if !fleet.ValidID(string(spec.ID)) {
		return none, fleet.InvalidField("id", "%q is no ID of a volume", spec.ID)
	}
	if spec.SizeMiB < minVolumeMiB {
		return none, fleet.InvalidField("size_mib", "a volume has at least %d MiB, %d were asked for", minVolumeMiB, spec.SizeMiB)
	}
	v := p.volume(spec.ID)
	if err := v.lockAt(ctx, spec.Epoch); err != nil {
		return none, err
	}
	if grows := v.exists() && spec.SizeMiB > v.rec.SizeMiB; grows {
		v.unlock()
		defer p.dropClonesOf(ctx, v.id)()
		if err := v.lockAt(ctx, spec.Epoch); err != nil {
			return none, err
		}
	}
	defer v.unlock()
	if v.exists() && spec.SizeMiB < v.rec.SizeMiB {
		e := fleet.InvalidField("size_mib", "volume %s has %d MiB and can't shrink to %d", v.id, v.rec.SizeMiB, spec.SizeMiB)
		e.Reason = fleet.ReasonVolumeTooSmall
		return none, e
	}
	if v.exists() && v.kernel() != kernelOf(spec.Kernel) {
		return none, v.foreign(spec.Kernel)
	}
	before := v.rec
	raised := spec.Epoch > v.rec.Epoch
	v.rec.Epoch = spec.Epoch
	var err error
	switch {
	case !v.exists():
		v.rec = volumeRecord{
			Version: journalVersion, ID: v.id, Epoch: spec.Epoch, SizeMiB: spec.SizeMiB, Kernel: spec.Kernel, Generation: v.rec.Generation + 1,
			InstallationID: spec.InstallationID, ClusterID: spec.ClusterID, CreatedAt: p.o.Clock().UTC(),
		}
		err = v.format(ctx)
	case spec.SizeMiB > v.rec.SizeMiB && v.rec.Overlay != overlayNone:
		err = fleet.Errorf(fleet.KindConflict, "volume %s has an overlay and can't grow: commit or drop that first", v.id)
	case spec.SizeMiB > v.rec.SizeMiB:
		if err = v.free(); err == nil {
			err = v.writing()
		}
		if err == nil {
			err = v.grow(ctx, spec.SizeMiB)
		}
	case !raised:
		return v.status(), nil
	}
	if err == nil {
		err = v.save()
	}
	if err != nil {
		before.Generation = v.rec.Generation // it never falls
		v.rec = before
		return none, err
	}
	return v.status(), nil
}

// DeleteVolume removes a volume and its data. It is idempotent, and refused with
// KindConflict while an instance is on the volume.
func (p *Provider) DeleteVolume(ctx context.Context, ref fleet.VolumeRef) error {
	v, release, err := p.lockAlone(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	if err := v.free(); err != nil {
		return err
	}
	if v.exists() {
		f, err := v.open(ctx)
		if err == nil {
			err = unlockAndClose(f)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	} else if !v.rec.DeletedAt.IsZero() && v.rec.Epoch == ref.Epoch {
		return nil
	}
	// The tombstone first: a file that no journal names is removed at the next start.
	before := v.rec
	v.rec = volumeRecord{Version: journalVersion, ID: v.id, Epoch: ref.Epoch, DeletedAt: p.o.Clock().UTC(), Generation: v.rec.Generation}
	if err := v.save(); err != nil {
		v.rec = before
		return err
	}
	for _, path := range []string{v.overlayPath(), v.path()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("deleting volume %s: %w", v.id, err)
		}
	}
	return nil
}

// ListVolumes returns all volumes of a cluster on this host, in the order of their IDs.
func (p *Provider) ListVolumes(ctx context.Context, cluster fleet.ClusterID) ([]fleet.VolumeStatus, error) {
	p.mu.Lock()
	all := make([]*volume, 0, len(p.volumes))
	for _, v := range p.volumes {
		all = append(all, v)
	}
	p.mu.Unlock()
	list := []fleet.VolumeStatus{}
	for _, v := range all {
		if err := v.lock(ctx); err != nil {
			return nil, err
		}
		if v.exists() && v.rec.ClusterID == cluster {
			list = append(list, v.status())
		}
		v.unlock()
	}
	slices.SortFunc(list, func(a, b fleet.VolumeStatus) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return list, nil
}
