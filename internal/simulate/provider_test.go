package simulate

import (
	"context"
	"fmt"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// gatedProvider is the provider as one process reaches it: a call waits for its
// turn before it is sent, may be slow on its way, and waits again with its
// answer. What was sent arrives, whatever becomes of the sender.
type gatedProvider struct{ p *process }

// call makes one call of the provider. f is run once, or never.
func (g gatedProvider) call(ctx context.Context, kind sim.Call, object string, f func(context.Context, provider) error) error {
	p, s := g.p, g.p.s
	step := stepOf(ctx)
	what := string(kind) + " " + short(object)
	if lost := p.park(&parked{what: what, step: step}); lost != nil {
		return lost
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err) // not sent
	}
	s.world.sent(kind, object, step)
	arrive := func() error {
		err := f(context.WithoutCancel(ctx), s.provider)
		s.world.effected(ctx, p, kind, object)
		return s.hang(ctx, kind, what, err)
	}
	err := s.onItsWay(ctx, what, arrive)
	if lost := p.park(&parked{what: what + " answer", step: step}); lost != nil {
		return lost
	}
	return err
}

// onItsWay lets some calls travel for long: their sender may have given up, or be dead.
func (s *simulation) onItsWay(ctx context.Context, what string, arrive func() error) error {
	delay := s.delay(what)
	if delay == 0 {
		return arrive()
	}
	s.hit("slow-packet", stepOf(ctx))
	arrived := make(chan error, 1)
	time.AfterFunc(delay, func() { arrived <- arrive() })
	select {
	case err := <-arrived:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
}

// hang keeps some answers back until nobody waits any more. The simulator has such
// a fault too, but tells of a call only when it ends: here it is to be judged when it is done.
func (s *simulation) hang(ctx context.Context, kind sim.Call, what string, err error) error {
	if err != nil || s.faultsOver || !mutates(kind) || s.hash("hang", what, fmt.Sprint(time.Now().UnixNano())) >= s.draw.hang {
		return err
	}
	s.hit(string(sim.FaultTimeoutAfter), stepOf(ctx))
	time.Sleep(30 * time.Second)
	return fleet.Errorf(fleet.KindUnavailable, "%s: no answer within 30s", what)
}

func mutates(kind sim.Call) bool {
	return kind != sim.CallObserve && kind != sim.CallList && kind != sim.CallListVolumes && kind != sim.CallCheck
}

// provider is the simulator as the workflows, the sweep and the watcher use it;
// planted bugs stand before the real one.
type provider interface {
	Ensure(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error)
	Clone(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error)
	Observe(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error)
	Power(ctx context.Context, ref fleet.InstanceRef, want fleet.Power) (fleet.InstanceStatus, error)
	Suspend(ctx context.Context, ref fleet.InstanceRef, o fleet.SuspendOptions) (fleet.InstanceStatus, error)
	EndSleep(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error)
	Delete(ctx context.Context, ref fleet.InstanceRef) error
	List(ctx context.Context, cluster fleet.ClusterID, after string) (page []fleet.InstanceStatus, next string, err error)
	EnsureVolume(ctx context.Context, spec fleet.VolumeSpec) (fleet.VolumeStatus, error)
	MoveVolume(ctx context.Context, ref fleet.VolumeRef, to fleet.HostID) (fleet.VolumeStatus, error)
	BeginOverlay(ctx context.Context, ref fleet.VolumeRef) error
	CommitOverlay(ctx context.Context, ref fleet.VolumeRef) error
	DropOverlay(ctx context.Context, ref fleet.VolumeRef) error
	DeleteVolume(ctx context.Context, ref fleet.VolumeRef) error
	ListVolumes(ctx context.Context, cluster fleet.ClusterID) ([]fleet.VolumeStatus, error)
	Check(ctx context.Context, c fleet.Cluster) (fleet.CheckReport, error)
}

var _ provider = (*sim.Provider)(nil)

func (g gatedProvider) Ensure(ctx context.Context, spec fleet.InstanceSpec) (st fleet.InstanceStatus, err error) {
	err = g.call(ctx, sim.CallEnsure, string(spec.ID), func(ctx context.Context, p provider) (err error) {
		st, err = p.Ensure(ctx, spec)
		g.p.s.world.addressed(spec)
		return err
	})
	return st, err
}

func (g gatedProvider) Clone(ctx context.Context, spec fleet.InstanceSpec) (st fleet.InstanceStatus, err error) {
	err = g.call(ctx, sim.CallClone, string(spec.ID), func(ctx context.Context, p provider) (err error) {
		st, err = p.Clone(ctx, spec)
		return err
	})
	return st, err
}

func (g gatedProvider) Observe(ctx context.Context, ref fleet.InstanceRef) (st fleet.InstanceStatus, err error) {
	err = g.call(ctx, sim.CallObserve, string(ref.ID), func(ctx context.Context, p provider) (err error) {
		st, err = p.Observe(ctx, ref)
		return err
	})
	return st, err
}

func (g gatedProvider) Power(ctx context.Context, ref fleet.InstanceRef, want fleet.Power) (st fleet.InstanceStatus, err error) {
	kind := sim.CallPowerOn
	if want == fleet.PowerOff {
		kind = sim.CallPowerOff
	}
	err = g.call(ctx, kind, string(ref.ID), func(ctx context.Context, p provider) (err error) {
		st, err = p.Power(ctx, ref, want)
		return err
	})
	return st, err
}

func (g gatedProvider) Suspend(ctx context.Context, ref fleet.InstanceRef, o fleet.SuspendOptions) (st fleet.InstanceStatus, err error) {
	err = g.call(ctx, sim.CallSuspend, string(ref.ID), func(ctx context.Context, p provider) (err error) {
		st, err = p.Suspend(ctx, ref, o)
		return err
	})
	return st, err
}

func (g gatedProvider) EndSleep(ctx context.Context, ref fleet.InstanceRef) (st fleet.InstanceStatus, err error) {
	err = g.call(ctx, sim.CallEndSleep, string(ref.ID), func(ctx context.Context, p provider) (err error) {
		st, err = p.EndSleep(ctx, ref)
		return err
	})
	return st, err
}

func (g gatedProvider) Delete(ctx context.Context, ref fleet.InstanceRef) error {
	return g.call(ctx, sim.CallDelete, string(ref.ID), func(ctx context.Context, p provider) error { return p.Delete(ctx, ref) })
}

func (g gatedProvider) List(ctx context.Context, cluster fleet.ClusterID, after string) (page []fleet.InstanceStatus, next string, err error) {
	err = g.call(ctx, sim.CallList, string(cluster), func(ctx context.Context, p provider) (err error) {
		page, next, err = p.List(ctx, cluster, after)
		return err
	})
	return page, next, err
}

func (g gatedProvider) EnsureVolume(ctx context.Context, spec fleet.VolumeSpec) (st fleet.VolumeStatus, err error) {
	err = g.call(ctx, sim.CallEnsureVolume, string(spec.ID), func(ctx context.Context, p provider) (err error) {
		st, err = p.EnsureVolume(ctx, spec)
		return err
	})
	return st, err
}

func (g gatedProvider) MoveVolume(ctx context.Context, ref fleet.VolumeRef, to fleet.HostID) (st fleet.VolumeStatus, err error) {
	err = g.call(ctx, sim.CallMoveVolume, string(ref.ID), func(ctx context.Context, p provider) (err error) {
		st, err = p.MoveVolume(ctx, ref, to)
		return err
	})
	return st, err
}

func (g gatedProvider) BeginOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	return g.call(ctx, sim.CallBeginOverlay, string(ref.ID), func(ctx context.Context, p provider) error { return p.BeginOverlay(ctx, ref) })
}

func (g gatedProvider) CommitOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	return g.call(ctx, sim.CallCommitOverlay, string(ref.ID), func(ctx context.Context, p provider) error { return p.CommitOverlay(ctx, ref) })
}

func (g gatedProvider) DropOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	return g.call(ctx, sim.CallDropOverlay, string(ref.ID), func(ctx context.Context, p provider) error { return p.DropOverlay(ctx, ref) })
}

func (g gatedProvider) DeleteVolume(ctx context.Context, ref fleet.VolumeRef) error {
	return g.call(ctx, sim.CallDeleteVolume, string(ref.ID), func(ctx context.Context, p provider) error { return p.DeleteVolume(ctx, ref) })
}

func (g gatedProvider) ListVolumes(ctx context.Context, cluster fleet.ClusterID) (all []fleet.VolumeStatus, err error) {
	err = g.call(ctx, sim.CallListVolumes, string(cluster), func(ctx context.Context, p provider) (err error) {
		all, err = p.ListVolumes(ctx, cluster)
		return err
	})
	return all, err
}

// Check gives the hosts address pools.
func (g gatedProvider) Check(ctx context.Context, c fleet.Cluster) (r fleet.CheckReport, err error) {
	err = g.call(ctx, sim.CallCheck, string(c.ID), func(ctx context.Context, p provider) (err error) {
		r, err = p.Check(ctx, c)
		return err
	})
	for i := range r.Hosts {
		r.Hosts[i].AddressPool = fmt.Sprintf("10.%d.0.0/24", 70+i)
	}
	return r, err
}
