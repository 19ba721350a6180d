package kvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
)

// listPage is how many instances List returns at a time.
const listPage = 200

// instance is one instance, or what is remembered of a deleted one.
type instance struct {
	p  *Provider
	id fleet.InstanceID
	// sem is a lock that can be waited for with a context; it guards rec and vm.
	sem chan struct{}
	// rec is what the journal holds; its zero value is "never heard of".
	rec instanceRecord
	// vm is the running machine; nil where none runs.
	vm *vm
	// active tells whether there is one, without the lock.
	active atomic.Bool
	// served: the health check has been answered once.
	served atomic.Bool
	// woken is rec.Woken, and last the status, as of the last unlock: both without the lock.
	woken atomic.Bool
	last  atomic.Pointer[fleet.InstanceStatus]
	// resuming: New found it wanted on and is about to start it.
	resuming bool
	// restarts says when a silent guest whose program ended is started again; other
	// guests' init does that inside.
	restarts guest.Restarts
	// stopPacking gives up packing its memory; nil where that is not going on. Needs the lock.
	stopPacking context.CancelFunc
	// startedAt is when the running machine was.
	startedAt time.Time

	// cloneOf is the volume of which this is a clone, for those who have no lock.
	cloneOf atomic.Pointer[fleet.VolumeID]
	// gaveWay: the clone was killed because its volume is wanted.
	gaveWay bool

	mu  sync.Mutex
	log *consoleLog
	// waking is the wake under way; nil where there is none.
	waking *wake
}

func newInstance(p *Provider, id fleet.InstanceID) *instance {
	return &instance{p: p, id: id, sem: make(chan struct{}, 1), rec: instanceRecord{Version: journalVersion, ID: id}}
}

func (i *instance) dir() string { return filepath.Join(i.p.instanceDir, string(i.id)) }

// lock waits for the instance; the error is the context's, as KindUnavailable.
func (i *instance) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fleet.Errorf(fleet.KindUnavailable, "waiting for instance %s: %w", i.id, err)
	}
	select {
	case i.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fleet.Errorf(fleet.KindUnavailable, "waiting for instance %s: %w", i.id, ctx.Err())
	}
}

func (i *instance) unlock() {
	i.woken.Store(i.rec.Woken)
	if i.exists() {
		st := i.status()
		i.last.Store(&st)
	} else {
		i.last.Store(nil)
	}
	<-i.sem
}

// console returns the console log, which may have no file yet.
func (i *instance) console() *consoleLog {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.log == nil {
		i.log = newConsoleLog(i.dir(), i.p.o.ConsoleBytes)
	}
	return i.log
}

// exists needs the lock.
func (i *instance) exists() bool { return i.rec.Spec != nil && i.rec.DeletedAt.IsZero() }

func (i *instance) save() error { return i.p.instanceJournal.save(string(i.id), i.rec) }

// raise records a higher epoch in memory and tells whether it is one.
func (i *instance) raise(epoch fleet.Epoch) bool {
	if epoch <= i.rec.Epoch {
		return false
	}
	i.rec.Epoch = epoch
	if i.rec.Spec != nil {
		i.rec.Spec.Epoch = epoch
	}
	return true
}

func errUnknown(id fleet.InstanceID) error {
	return fleet.Errorf(fleet.KindNotFound, "this host has no instance %s", id)
}

func errDeleting(id fleet.InstanceID) error {
	return fleet.Errorf(fleet.KindUnavailable, "instance %s is being deleted", id)
}

// Ensure creates the instance if absent and powers it on. It returns when QEMU
// has been started; readiness comes by OnChange. Where it fails for an instance
// that did not exist, nothing of it is left. A volume that another instance runs
// on is KindConflict; a lower epoch than seen is KindFenced.
func (p *Provider) Ensure(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	return p.ensure(ctx, spec, original)
}

func (p *Provider) ensure(ctx context.Context, spec fleet.InstanceSpec, n nature) (fleet.InstanceStatus, error) {
	if err := checkSpec(spec); err != nil {
		return fleet.InstanceStatus{}, err
	}
	// The first probe of the accelerator takes seconds: before anything is locked.
	if _, err := p.accel.get(ctx); err != nil {
		return fleet.InstanceStatus{}, err
	}
	i := p.instance(spec.ID)
	if err := i.lock(ctx); err != nil {
		return fleet.InstanceStatus{}, err
	}
	defer i.unlock()
	if err := admit("instance", string(spec.ID), i.rec.Epoch, spec.Epoch); err != nil {
		return fleet.InstanceStatus{}, err
	}
	if i.rec.Deleting {
		return fleet.InstanceStatus{}, errDeleting(spec.ID)
	}
	if i.exists() {
		if err := i.mustBe(n); err != nil {
			return fleet.InstanceStatus{}, err
		}
		return i.powerOn(ctx, spec.Epoch)
	}
	return i.create(ctx, spec, n)
}

func checkSpec(spec fleet.InstanceSpec) error {
	switch {
	case !fleet.ValidID(string(spec.ID)):
		return fleet.InvalidField("id", "%q is no ID of an instance", spec.ID)
	case spec.MemoryMiB <= 0:
		return fleet.InvalidField("memory_mib", "an instance needs memory, %d MiB were asked for", spec.MemoryMiB)
	case spec.Image == "":
		return fleet.InvalidField("image", "an instance needs an image")
	case spec.Volume != nil && !fleet.ValidID(string(spec.Volume.ID)):
		return fleet.InvalidField("volume.id", "%q is no ID of a volume", spec.Volume.ID)
	}
	return nil
}

// create makes and starts an instance that is not there, or takes everything back.
func (i *instance) create(ctx context.Context, spec fleet.InstanceSpec, n nature) (st fleet.InstanceStatus, err error) {
	before := i.rec
	uid, err := i.p.uids.take(string(i.id))
	if err != nil {
		return st, err
	}
	if n == clone {
		if err := i.p.cloneAddress(&spec); err != nil {
			i.p.uids.release(uid)
			return st, err
		}
	}
	i.rec = instanceRecord{
		Version: journalVersion, ID: i.id, Epoch: spec.Epoch, Spec: &spec, Clone: n,
		Want: fleet.PowerOff, CreatedAt: i.p.o.Clock().UTC(), UID: uid,
	}
	defer func() {
		if err != nil {
			i.rec = before
			i.p.uids.release(uid)
			i.p.releaseCloneAddress(i.id)
			i.cloneOf.Store(nil)
			i.undo()
		}
	}()
	if err := os.RemoveAll(i.dir()); err != nil {
		return st, diskError("making an instance", err)
	}
	// The journal is going to rely on the directory.
	if err := errors.Join(os.Mkdir(i.dir(), 0o700), syncDir(i.p.instanceDir)); err != nil {
		return st, diskError("making an instance", err)
	}
	i.noteClone()
	if err := i.start(ctx); err != nil {
		return st, err
	}
	return i.status(), nil
}

// undo removes what create made. A tombstone that was there stays.
func (i *instance) undo() {
	err := os.RemoveAll(i.dir())
	if i.rec.DeletedAt.IsZero() {
		err = errors.Join(err, i.p.instanceJournal.remove(string(i.id)))
	} else {
		err = errors.Join(err, i.save())
	}
	if err != nil {
		i.p.log.WithField("instance", i.id).WithError(err).Warn("a creation that failed could not be taken back; the next start will")
	}
}

// powerOn starts an existing instance that does not run.
// One that sleeps goes on from its memory, or is booted.
func (i *instance) powerOn(ctx context.Context, epoch fleet.Epoch) (fleet.InstanceStatus, error) {
	raised := i.raise(epoch) || i.rec.Woken
	i.rec.Woken = false
	switch {
	case i.vm == nil:
		i.restarts = guest.Restarts{}
		if err := i.start(ctx); err != nil {
			if raised {
				err = errors.Join(err, i.save())
			}
			return fleet.InstanceStatus{}, err
		}
	case i.rec.Want != fleet.PowerOn || raised:
		// While it stops, this makes it start again afterwards.
		i.rec.Want = fleet.PowerOn
		if err := i.save(); err != nil {
			return fleet.InstanceStatus{}, err
		}
	}
	return i.status(), nil
}

// Observe tells what is known of an instance, and looks at its health again
// where the last look is older than a second. It is not fenced.
func (p *Provider) Observe(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error) {
	i := p.known(ref.ID)
	if i == nil {
		return fleet.InstanceStatus{}, errUnknown(ref.ID)
	}
	if err := i.lock(ctx); err != nil {
		return fleet.InstanceStatus{}, err
	}
	v := i.vm
	i.unlock()
	if v != nil {
		v.lookAgain(ctx)
	}
	if err := i.lock(ctx); err != nil {
		return fleet.InstanceStatus{}, err
	}
	defer i.unlock()
	if !i.exists() {
		return fleet.InstanceStatus{}, errUnknown(ref.ID)
	}
	return i.status(), nil
}

// Power switches an instance. PowerOn returns when QEMU has been started.
// PowerOff asks the guest to end, kills it after a grace, and returns PowerPending
// meanwhile; OnChange tells of the end. The same target twice is harmless, and the
// opposite while it stops is carried out afterwards.
func (p *Provider) Power(ctx context.Context, ref fleet.InstanceRef, target fleet.Power) (fleet.InstanceStatus, error) {
	if target != fleet.PowerOn && target != fleet.PowerOff {
		return fleet.InstanceStatus{}, fleet.InvalidField("power", "an instance can be switched on or off, not %q", target)
	}
	i := p.known(ref.ID)
	if i == nil {
		return fleet.InstanceStatus{}, errUnknown(ref.ID)
	}
	if target == fleet.PowerOn {
		if _, err := p.accel.get(ctx); err != nil {
			return fleet.InstanceStatus{}, err
		}
	}
	if err := i.lock(ctx); err != nil {
		return fleet.InstanceStatus{}, err
	}
	defer i.unlock()
	if !i.exists() {
		return fleet.InstanceStatus{}, errUnknown(ref.ID)
	}
	if err := admit("instance", string(ref.ID), i.rec.Epoch, ref.Epoch); err != nil {
		return fleet.InstanceStatus{}, err
	}
	if i.rec.Deleting {
		return fleet.InstanceStatus{}, errDeleting(ref.ID)
	}
	if target == fleet.PowerOn {
		return i.powerOn(ctx, ref.Epoch)
	}
	if i.raise(ref.Epoch) || i.rec.Want != fleet.PowerOff || i.rec.Asleep || i.rec.Woken {
		i.rec.Want, i.rec.Woken = fleet.PowerOff, false
		if err := i.endSleep(); err != nil {
			return fleet.InstanceStatus{}, err
		}
	}
	if i.resuming {
		i.resuming = false
		i.releaseVolume()
	}
	if i.vm != nil {
		i.vm.stop()
	}
	return i.status(), nil
}

// List returns up to 200 of a cluster's instances, in the order of their IDs,
// that follow the ID after; next is "" on the last page.
func (p *Provider) List(ctx context.Context, cluster fleet.ClusterID, after string) ([]fleet.InstanceStatus, string, error) {
	p.mu.Lock()
	all := p.all()
	p.mu.Unlock()
	slices.SortFunc(all, func(a, b *instance) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	page := []fleet.InstanceStatus{}
	for _, i := range all {
		if string(i.id) <= after {
			continue
		}
		if err := i.lock(ctx); err != nil {
			return nil, "", err
		}
		if i.exists() && i.rec.Spec.ClusterID == cluster {
			if len(page) == listPage {
				i.unlock()
				return page, string(page[listPage-1].ID), nil
			}
			page = append(page, i.status())
		}
		i.unlock()
	}
	return page, "", nil
}

// status needs the lock.
func (i *instance) status() fleet.InstanceStatus {
	spec := i.rec.Spec
	st := fleet.InstanceStatus{
		ID: i.id, InstallationID: spec.InstallationID, ProviderRef: string(i.id), Epoch: i.rec.Epoch, Clone: bool(i.rec.Clone),
		Power: fleet.PowerOff, Health: fleet.HealthUnknown, Exit: i.rec.Exit, CreatedAt: i.rec.CreatedAt, Boot: i.rec.Boots, Woken: i.rec.Woken,
	}
	for _, port := range spec.Manifest.Ports {
		if address, ok := i.rec.Endpoints[port.Number]; ok {
			st.Endpoints = append(st.Endpoints, fleet.Endpoint{
				Port: port.Number, Protocol: port.Protocol, Name: port.Name, Address: address,
			})
		}
	}
	switch {
	case i.vm != nil:
		st.Exit, st.ColdReason = nil, i.rec.ColdReason
		i.vm.fill(&st)
		st.Asleep = i.rec.Asleep && st.Power == fleet.PowerPending // it has been committed, and is ending
	case i.rec.Asleep:
		st.Asleep, st.Saved, st.ColdReason = true, i.rec.Saved.status(), i.rec.ColdReason
	case i.resuming:
		// It is about to run: how it ended before is no news.
		st.Power, st.Exit, st.Restarts = fleet.PowerPending, nil, i.restarts.Count
	case i.rec.Deleting:
		st.Power = fleet.PowerPending
	}
	return st
}

// notify tells the caller; needs nothing locked.
func (p *Provider) notify(id fleet.InstanceID) { p.o.OnChange(id) }

// killWait is how long a killed process may take to end.
const killWait = 15 * time.Second
