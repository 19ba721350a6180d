package installation

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

func gatewayOf(pool string) (string, error) {
	p, err := netip.ParsePrefix(pool)
	if err != nil {
		return "", err
	}
	return p.Masked().Addr().Next().String(), nil
}

// lookAgain is how long a step waits without a signal before it looks again.
const lookAgain = 2 * time.Second

func again(st fleet.InstanceStatus) time.Duration {
	if st.Again > 0 {
		return st.Again
	}
	return lookAgain
}

func (w *workflows) stopOthers(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	return w.stop(ctx, s, successorID(s))
}

func (w *workflows) stopAll(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	return w.stop(ctx, s, "")
}

// stop stops one instance after the other, but one.
func (w *workflows) stop(ctx context.Context, s *fleet.Snapshot, but fleet.InstanceID) (fleet.Outcome, error) {
	i := firstOn(s, but)
	if i == nil {
		return fleet.Advance(fleet.Changes{}), nil
	}
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	st, err := place.Provider.Power(ctx, ref(s, i), fleet.PowerOff)
	if err != nil && fleet.KindOf(err) != fleet.KindNotFound {
		return fleet.Outcome{}, err
	}
	if err == nil && st.Power != fleet.PowerOff {
		return fleet.Wait(again(st), fleet.WaitStopped, "the instance is shutting down"), nil
	}
	c := switchedOff(s, *i, st)
	after := *s
	after.Apply(c)
	if firstOn(&after, but) != nil {
		return fleet.Repeat(c), nil
	}
	return fleet.Advance(c), nil
}

// ensureVolume creates the volume, or grows it while nothing runs on it.
func (w *workflows) ensureVolume(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	disks, ok := place.Provider.(Volumes)
	if !ok {
		return fleet.Fail(fleet.ReasonProvider, fmt.Sprintf("provider %s has no persistent disks, and the package persists %s",
			s.Cluster.Provider, strings.Join(s.Package.Manifest.Persist, ", "))), nil
	}
	v := *s.Volume
	if firstOn(s, plannedID(s)) != nil {
		// A disk is grown only while nothing runs on it.
		out, err := w.stop(ctx, s, plannedID(s))
		if out.Verdict == fleet.VerdictAdvance {
			out.Verdict = fleet.VerdictRepeat
		}
		return out, err
	}
	if overlays, ok := place.Provider.(VolumeOverlays); ok && v.SizeMiB > 0 {
		// One that a failed way back has left keeps it from growing.
		err := overlays.CommitOverlay(ctx, fleet.VolumeRef{ID: v.ID, ClusterID: v.ClusterID, HostID: v.HostID, ProviderRef: v.ProviderRef, Epoch: s.Operation.Epoch})
		if err != nil && fleet.KindOf(err) != fleet.KindNotFound {
			return fleet.Outcome{}, err
		}
	}
	st, err := disks.EnsureVolume(ctx, fleet.VolumeSpec{
		ID: v.ID, InstallationID: v.InstallationID, ClusterID: v.ClusterID, HostID: v.HostID,
		Epoch: s.Operation.Epoch, SizeMiB: s.Installation.DiskMiB, Kernel: s.Package.Kernel,
	})
	if err != nil {
		return fleet.Outcome{}, err
	}
	v.ProviderRef, v.SizeMiB = st.ProviderRef, st.SizeMiB
	if v.ProviderRef == "" {
		v.ProviderRef = string(v.ID)
	}
	return fleet.Advance(fleet.Changes{Volume: &v}), nil
}

// start makes the target run: it creates what is only planned or was lost, and
// powers on what is there.
func (w *workflows) start(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	i := target(s)
	if i == nil {
		return fleet.Fail(fleet.ReasonHostLost, "there is no instance to start: update the installation to make a new one"), nil
	}
	var st fleet.InstanceStatus
	err = fleet.Errorf(fleet.KindNotFound, "planned")
	if i.Power != fleet.PowerPlanned {
		st, err = place.Provider.Power(ctx, ref(s, i), fleet.PowerOn)
	}
	if fleet.KindOf(err) == fleet.KindNotFound {
		var spec fleet.InstanceSpec
		if spec, err = w.spec(s, i); err == nil {
			st, err = place.Provider.Ensure(ctx, spec)
		}
	}
	if err != nil {
		return fleet.Outcome{}, err
	}
	on := *i
	on.Power, on.ProviderRef, on.Exit, on.Saved = fleet.PowerPending, st.ProviderRef, nil, nil
	if st.Power != fleet.PowerOn {
		on.Serving, on.Endpoints = false, nil // it was off, whatever its row said
	}
	c := fleet.Changes{}
	if v := s.Volume; v != nil && v.AttachedInstanceID != i.ID {
		attached := *v
		attached.AttachedInstanceID = i.ID
		c.Volume = &attached
	}
	if st.Power == fleet.PowerOn && st.Health == fleet.HealthHealthy {
		return fleet.Advance(w.serve(s, on, st, c)), nil
	}
	c.Instances = []fleet.Instance{on}
	return fleet.Advance(c), nil
}

// awaitHealthy waits until the target answers as its package says that it should.
func (w *workflows) awaitHealthy(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	i := target(s)
	if i == nil {
		return fleet.Fail(fleet.ReasonHostLost, "the instance is gone"), nil
	}
	st, err := place.Provider.Observe(ctx, ref(s, i))
	switch {
	case fleet.KindOf(err) == fleet.KindNotFound:
		return fleet.Wait(lookAgain, fleet.WaitInstance, "the provider does not show the instance yet"), nil
	case err != nil:
		return fleet.Outcome{}, err
	case st.Exit != nil:
		return w.ended(s, *i, st), nil
	case st.Power == fleet.PowerOn && (st.Health == fleet.HealthHealthy || goesBack(s)):
		return fleet.Advance(w.serve(s, *i, st, fleet.Changes{})), nil
	}
	return fleet.Wait(again(st), fleet.WaitHealthy, st.HealthDetail), nil
}

// ended is what becomes of a program that ended before it was healthy.
func (w *workflows) ended(s *fleet.Snapshot, i fleet.Instance, st fleet.InstanceStatus) fleet.Outcome {
	i.Power, i.Exit, i.Serving, i.Restarts = fleet.PowerOff, st.Exit, false, st.Restarts
	c := fleet.Changes{Instances: []fleet.Instance{i}}
	if v := s.Volume; v != nil && v.AttachedInstanceID == i.ID {
		detached := *v
		detached.AttachedInstanceID = ""
		c.Volume = &detached
	}
	if st.Exit.Reason == fleet.ReasonProgramExited && st.Exit.Code == 0 && i.Spec.Manifest.Restart != fleet.RestartAlways {
		c.End = fleet.StateExited // a job that is done
		return fleet.Advance(c)
	}
	reason := st.Exit.Reason
	if reason == "" {
		reason = fleet.ReasonProgramExited
	}
	out := fleet.Fail(reason, st.Exit.String())
	out.Changes = c
	return out
}

// serve is the change that puts a healthy instance in service.
func (w *workflows) serve(s *fleet.Snapshot, i fleet.Instance, st fleet.InstanceStatus, c fleet.Changes) fleet.Changes {
	i.Power, i.Serving, i.ProviderRef, i.Endpoints, i.Restarts, i.Exit = fleet.PowerOn, true, st.ProviderRef, st.Endpoints, st.Restarts, nil
	c.Instances = append(c.Instances, i)
	if firstOther(s, i.ID) == nil || i.ID != successorID(s) {
		settle(s, i, &c)
	}
	return c
}

// settle writes what the end of bringing up an instance changes on its installation.
func settle(s *fleet.Snapshot, i fleet.Instance, c *fleet.Changes) {
	none := fleet.PackageID("")
	c.Verified, c.Running, c.Saved = &i.Spec.PackageID, &i.Spec.PackageID, &none
	c.Reserve = dropReserved(s)
	hold := fleet.Hold{HostID: i.HostID, MemoryMiB: int64(i.Spec.MemoryMiB), DiskMiB: s.Installation.HeldDiskMiB}
	if hold.MemoryMiB != s.Installation.HeldMemoryMiB || hold.HostID != s.Installation.HeldHostID {
		c.Hold = &hold
	}
}

// dropReserved gives back what a move reserved that could not come back; nil
// where there is nothing, or where a move is at work and does it itself.
func dropReserved(s *fleet.Snapshot) *fleet.Hold {
	if s.Installation.ReservedHostID == "" || s.Operation.Kind == fleet.OperationMove {
		return nil
	}
	return &fleet.Hold{}
}

// deletePredecessor removes what the successor has replaced, one at a time.
func (w *workflows) deletePredecessor(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	old := firstOther(s, successorID(s))
	c, err := w.delete(ctx, s, old)
	if err != nil {
		return fleet.Outcome{}, err
	}
	after := *s
	after.Apply(c)
	if firstOther(&after, successorID(s)) != nil {
		return fleet.Repeat(c), nil
	}
	switch t := after.Instance(successorID(s)); {
	case t == nil:
	case t.Serving:
		settle(s, *t, &c)
	case t.Power == fleet.PowerOff && t.Exit != nil:
		c.End = fleet.StateExited // a job that was done before it was healthy
	}
	return fleet.Advance(c), nil
}

func (w *workflows) deleteSuccessor(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	c, err := w.delete(ctx, s, s.Instance(successorID(s)))
	if err != nil {
		return fleet.Outcome{}, err
	}
	return fleet.Advance(c), nil
}

// delete removes one instance from its provider.
func (w *workflows) delete(ctx context.Context, s *fleet.Snapshot, i *fleet.Instance) (fleet.Changes, error) {
	if i == nil {
		return fleet.Changes{}, nil
	}
	place, err := w.place(s)
	if err != nil {
		return fleet.Changes{}, err
	}
	if err := place.Provider.Delete(ctx, ref(s, i)); err != nil && fleet.KindOf(err) != fleet.KindNotFound {
		return fleet.Changes{}, err
	}
	gone := *i
	gone.Power, gone.Serving, gone.DeletedAt = fleet.PowerOff, false, s.Now
	c := fleet.Changes{Instances: []fleet.Instance{gone}}
	if v := s.Volume; v != nil && v.AttachedInstanceID == i.ID {
		detached := *v
		detached.AttachedInstanceID = ""
		c.Volume = &detached
	}
	return c, nil
}

// holdMemory asks for the memory of the instance that is about to be started.
func (w *workflows) holdMemory(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	t := target(s)
	return fleet.Advance(fleet.Changes{Hold: &fleet.Hold{
		HostID: t.HostID, MemoryMiB: int64(t.Spec.MemoryMiB), DiskMiB: s.Installation.HeldDiskMiB,
	}}), nil
}

// releaseMemory ends a hibernation: the disk and the address stay held.
func (w *workflows) releaseMemory(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	none := fleet.PackageID("")
	return fleet.Advance(fleet.Changes{Running: &none, Reserve: dropReserved(s), Hold: &fleet.Hold{
		HostID: s.Installation.HeldHostID, DiskMiB: s.Installation.HeldDiskMiB,
	}}), nil
}

func (w *workflows) deleteInstances(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	c, err := w.delete(ctx, s, &s.Instances[0])
	if err != nil {
		return fleet.Outcome{}, err
	}
	if len(s.Instances) > 1 {
		return fleet.Repeat(c), nil
	}
	return fleet.Advance(c), nil
}

func (w *workflows) deleteVolume(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	gone := *s.Volume
	if disks, ok := place.Provider.(Volumes); ok {
		err := disks.DeleteVolume(ctx, fleet.VolumeRef{ID: gone.ID, ClusterID: gone.ClusterID, HostID: gone.HostID,
			ProviderRef: gone.ProviderRef, Epoch: s.Operation.Epoch})
		if err != nil && fleet.KindOf(err) != fleet.KindNotFound {
			return fleet.Outcome{}, err
		}
	}
	gone.AttachedInstanceID, gone.DeletedAt = "", s.Now
	return fleet.Advance(fleet.Changes{Volume: &gone}), nil
}

// release gives capacity and address back: the last step of a deletion.
func (w *workflows) release(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	none := fleet.PackageID("")
	return fleet.Advance(fleet.Changes{Running: &none, Verified: &none, Saved: &none, Hold: &fleet.Hold{}, Reserve: dropReserved(s), ReleaseAddress: true}), nil
}
