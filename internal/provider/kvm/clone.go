package kvm

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// nature tells instances apart from their throw-away copies.
type nature bool

const (
	original nature = false
	clone    nature = true
)

// Clone makes a throw-away copy of a sleeping installation: an instance of spec
// on a network of its own without egress, with an address, a hardware address and
// a user of its own, and on a copy-on-write of spec.Volume, which is only read. It
// boots anew at every start, also its disk is new then. Idempotent by spec.ID like
// Ensure; Observe, Power and Delete apply, and Delete removes the copy too.
//
// It gives way to whoever wants the volume: it is killed, and its Exit has
// ReasonGaveWay. KindConflict: an instance is on the volume, or the ID is an
// instance's. KindPermanent: the volume's file system is one to which images write
// from outside, as they may not here.
func (p *Provider) Clone(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	return p.ensure(ctx, spec, clone)
}

// mustBe refuses what was made as the other. Needs the lock.
func (i *instance) mustBe(n nature) error {
	switch {
	case i.rec.Clone == n:
		return nil
	case n == clone:
		return fleet.Errorf(fleet.KindConflict, "instance %s is no clone: give the clone an ID of its own", i.id)
	}
	return fleet.Errorf(fleet.KindConflict, "instance %s is a clone and does not serve: delete it, or use another ID", i.id)
}

// cloneAddress gives a clone an address that no other has.
func (p *Provider) cloneAddress(spec *fleet.InstanceSpec) error {
	spec.Network = nil
	n, ok := p.o.Network.(splitNetwork)
	if !ok {
		return fleet.Errorf(fleet.KindPermanent, "this host has no network for clones")
	}
	pool := n.clones.Pool()
	if pool == "" {
		return nil
	}
	prefix, err := netip.ParsePrefix(pool)
	if err != nil {
		return fmt.Errorf("choosing a clone's address: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	gateway := prefix.Addr().Next()
	first := gateway.Next()
	if !p.nextClone.IsValid() {
		p.nextClone = first
	}
	// Each is used again as late as possible: somebody may still speak with the last.
	for range len(p.cloneAddresses) + 1 {
		at := p.nextClone
		if !prefix.Contains(at.Next()) { // the last is the broadcast address
			at = first
		}
		p.nextClone = at.Next()
		if _, taken := p.cloneAddresses[at]; !taken {
			p.cloneAddresses[at] = spec.ID
			spec.Network = &fleet.Network{Address: netip.PrefixFrom(at, prefix.Bits()).String(), Gateway: gateway.String()}
			return nil
		}
	}
	return fleet.Failure(fleet.ReasonNoAddress, "all addresses of %s are in use by clones: delete some", pool)
}

// keepCloneAddress notes an address found in the journal.
func (p *Provider) keepCloneAddress(rec instanceRecord) {
	if rec.Clone && rec.Spec != nil && rec.Spec.Network != nil {
		if at, err := netip.ParsePrefix(rec.Spec.Network.Address); err == nil {
			p.mu.Lock()
			p.cloneAddresses[at.Addr()] = rec.ID
			p.mu.Unlock()
		}
	}
}

// releaseCloneAddress gives a clone's address back.
func (p *Provider) releaseCloneAddress(id fleet.InstanceID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at, has := range p.cloneAddresses {
		if has == id {
			delete(p.cloneAddresses, at)
		}
	}
}

// cloneLayer is what a clone writes to.
func (i *instance) cloneLayer() string { return filepath.Join(i.dir(), "volume.qcow2") }

// readVolume opens the volume for a clone and lays a new layer over it. The file
// is locked for readers for as long as any process has it open. Needs the lock.
func (i *instance) readVolume(ctx context.Context) (*os.File, error) {
	v := i.p.volume(i.rec.Spec.Volume.ID)
	if err := v.lock(ctx); err != nil {
		return nil, err
	}
	defer v.unlock()
	switch {
	case !v.exists():
		return nil, errNoVolume(v.id)
	case v.kernel() != kernelOf(i.rec.Spec.Kernel):
		return nil, v.foreign(i.rec.Spec.Kernel)
	case v.kernel() != fleet.KernelLinux:
		return nil, fleet.Failure(fleet.ReasonUnverifiable, "an image of the kernel %s writes to its volume before it starts, and a clone may not", v.kernel())
	case v.rec.Overlay == overlayCommitting:
		return nil, fleet.Errorf(fleet.KindConflict, "the overlay of volume %s is being committed, clone it afterwards", v.id)
	}
	if err := v.free(); err != nil {
		return nil, err
	}
	if v.claimed() {
		return nil, fleet.Errorf(fleet.KindConflict, "volume %s is about to be used, clone it when its instance is off again", v.id)
	}
	if err := v.makeLayer(ctx, i.cloneLayer()); err != nil {
		return nil, err
	}
	f, err := os.Open(v.path())
	if err != nil {
		return nil, fmt.Errorf("opening volume %s: %w", v.id, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fleet.Errorf(fleet.KindConflict, "volume %s is still in use by a process on this host: %w", v.id, err)
	}
	return f, nil
}

func (v *volume) claimed() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.claims > 0
}

// dropClonesOf kills the clones of a volume, and lets none start until the
// function that it returns is called. Where one can't be killed, the lock of the
// file still keeps its reader and a writer apart. Not to be called with a volume locked.
func (p *Provider) dropClonesOf(ctx context.Context, id fleet.VolumeID) (release func()) {
	v := p.volume(id)
	v.mu.Lock()
	v.claims++
	v.mu.Unlock()
	release = func() {
		v.mu.Lock()
		v.claims--
		v.mu.Unlock()
	}
	p.mu.Lock()
	all := p.all()
	p.mu.Unlock()
	var killed []*vm
	for _, i := range all {
		if !i.clones(id) || i.lock(ctx) != nil {
			continue
		}
		if i.vm != nil {
			i.gaveWay = true
			i.rec.Want = fleet.PowerOff // it is written down with its end
			i.vm.kill()
			killed = append(killed, i.vm)
		}
		i.unlock()
	}
	for _, vm := range killed {
		if err := vm.awaitEnd(ctx); err != nil {
			p.log.WithField("instance", vm.i.id).WithError(err).Warn("a clone was killed and has not ended")
		}
	}
	return release
}

// clones tells, without the lock, whether this may be a clone of that volume.
func (i *instance) clones(id fleet.VolumeID) bool {
	of := i.cloneOf.Load()
	return of != nil && *of == id
}

// noteClone remembers of which volume this is a clone. Needs the lock.
func (i *instance) noteClone() {
	if spec := i.rec.Spec; i.rec.Clone && spec != nil && spec.Volume != nil {
		id := spec.Volume.ID
		i.cloneOf.Store(&id)
	}
}

// sayGaveWay makes of a clone's end by dropClonesOf what it was.
func (i *instance) sayGaveWay(exit *fleet.Exit) {
	if i.gaveWay {
		i.gaveWay = false
		exit.Reason, exit.Code, exit.Signal = fleet.ReasonGaveWay, -1, "SIGKILL"
		exit.LastLines = []string{"the clone gave way to the installation, which wanted its volume"}
	}
}
