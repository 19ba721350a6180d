package installation

import (
	"context"
	"fmt"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// What a move remembers: where it goes and comes from, the instance that it
// replaces, and whether that was on and served when the move began.
const (
	toKey          = "to"
	fromKey        = "from"
	predecessorKey = "predecessor"
	wasOnKey       = "was_on"
	servedKey      = "served"
)

// move takes an installation to another host, as an update takes it to another
// release: room there, stop, its volume, start, healthy, and only then is the
// old instance deleted; else everything comes back. What sleeps, or is off
// otherwise, is moved without anything being started. It holds capacity and an
// address on both hosts until it is over.
func (w *workflows) move() *engine.Workflow {
	still := func(s *fleet.Snapshot) bool { return !prepared(s) }
	off := func(s *fleet.Snapshot) bool { return s.Operation.Observed[wasOnKey] == "" || target(s) == nil }
	unwatched := func(s *fleet.Snapshot) bool {
		t := target(s)
		return s.Operation.Observed[servedKey] == "" || t == nil || t.Serving && t.Power == fleet.PowerOn
	}
	return &engine.Workflow{Kind: fleet.OperationMove, Steps: []engine.Step{
		{Name: fleet.StepPrepareMove, Run: w.prepareMove},
		w.stopOthersStep(),
		{Name: "change-host", Run: w.changeHost(toKey), Executor: w.host, Timeout: volumeTimeout, Deadline: w.volumeDeadline, Skip: still},
		{Name: "start-instance", Run: w.start, Executor: w.host, Skip: off},
		{Name: "await-healthy", Run: w.awaitHealthy, Executor: w.host, Overdue: fleet.ReasonNotHealthy, Deadline: w.healthDeadline, Skip: unwatched},
		{Name: "leave-host", Run: w.leaveHost, Executor: w.hostLeft, Skip: still},
	}, Rollback: []engine.Step{
		w.deleteSuccessorStep(),
		// Also where the rows have not moved: the provider may have been quicker.
		{Name: "return-host", Run: w.changeHost(fromKey), Executor: w.host, Timeout: volumeTimeout, Deadline: w.volumeDeadline, Skip: still},
		{Name: "release-host", Run: releaseHost, Skip: still},
		{Name: "start-predecessor", Run: w.start, Executor: w.host, Skip: off},
		{Name: "await-predecessor", Run: w.awaitHealthy, Executor: w.host, Overdue: fleet.ReasonNotHealthy, Deadline: w.healthDeadline, Skip: unwatched},
	}}
}

func hostKept(s *fleet.Snapshot, key string) fleet.HostID {
	return fleet.HostID(s.Operation.Observed[key])
}

// hostLeft is the executor of what is done on the host that it came from.
func (w *workflows) hostLeft(s *fleet.Snapshot) fleet.HostID {
	if w.host(s) == "" {
		return ""
	}
	return hostKept(s, fromKey)
}

// prepareMove finds another host with room, asks for that besides what is held,
// and plans the instance there. Where the host that it lies on is drained no
// more, there is nothing to do.
func (w *workflows) prepareMove(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	inst := s.Installation
	if inst.ReservedHostID != "" { // by a move that could not come back
		return fleet.Repeat(fleet.Changes{Reserve: &fleet.Hold{}}), nil
	}
	from := s.Host(inst.HeldHostID)
	if from == nil || from.State != fleet.HostDraining {
		return fleet.Advance(fleet.Changes{}), nil
	}
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	if _, ok := place.Provider.(VolumeMover); !ok && s.Volume != nil {
		return fleet.Fail(fleet.ReasonDataCannotMove, fmt.Sprintf("provider %s can't take a volume to another host: it stays on %s", s.Cluster.Provider, from.Name)), nil
	}
	need := fleet.Hold{MemoryMiB: inst.HeldMemoryMiB, DiskMiB: inst.HeldDiskMiB}
	if inst.State == fleet.StateHibernating {
		need.MemoryMiB = 0 // what is held besides is a clone's, which is deleted
	}
	for i := range s.Hosts {
		if h := &s.Hosts[i]; h.ID != from.ID && h.State == fleet.HostUp && need.MemoryMiB <= max(0, h.FreeMemoryMiB()) && need.DiskMiB <= max(0, h.FreeDiskMiB()) {
			need.HostID = h.ID
			break
		}
	}
	if need.HostID == "" {
		return fleet.Fail(fleet.ReasonCapacity, fmt.Sprintf("no other host of cluster %s has %d MiB of memory and %d MiB of disk free",
			s.Cluster.Name, need.MemoryMiB, need.DiskMiB)), nil
	}
	c := fleet.Changes{Reserve: &need, Observed: map[string]string{preparedKey: "true", toKey: string(need.HostID), fromKey: string(from.ID)}}
	if old := target(s); old != nil {
		id := plannedID(s)
		c.Observed[successorKey], c.Observed[predecessorKey] = string(id), string(old.ID)
		power := fleet.PowerOff // whoever starts it makes it
		if old.Power == fleet.PowerOn || old.Power == fleet.PowerPending {
			c.Observed[wasOnKey], power = "true", fleet.PowerPlanned
		}
		if old.Serving {
			c.Observed[servedKey] = "true"
		}
		c.Instances = []fleet.Instance{{
			ID: id, InstallationID: inst.ID, Role: old.Role, ClusterID: old.ClusterID, HostID: need.HostID, Spec: old.Spec, Power: power,
		}}
	}
	return fleet.Advance(c), nil
}

// changeHost takes the volume to one of the two hosts, and makes that the host
// on which it is held; what was held on the other one is kept until the move is
// over. A volume that was only planned is nowhere.
func (w *workflows) changeHost(key string) engine.Run {
	return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		to := hostKept(s, key)
		c := fleet.Changes{HoldOn: to}
		if s.Volume == nil {
			return fleet.Advance(c), nil
		}
		place, err := w.place(s)
		if err != nil {
			return fleet.Outcome{}, err
		}
		mover, ok := place.Provider.(VolumeMover)
		if !ok {
			return fleet.Fail(fleet.ReasonDataCannotMove, fmt.Sprintf("provider %s can't take a volume to another host", s.Cluster.Provider)), nil
		}
		v := *s.Volume
		_, err = mover.MoveVolume(ctx, fleet.VolumeRef{ID: v.ID, ClusterID: v.ClusterID, HostID: v.HostID, ProviderRef: v.ProviderRef,
			Epoch: s.Operation.Epoch}, to)
		if err != nil && !(fleet.KindOf(err) == fleet.KindNotFound && v.ProviderRef == "") {
			return fleet.Outcome{}, err
		}
		v.HostID, c.Volume = to, &v
		return fleet.Advance(c), nil
	}
}

// leaveHost deletes what is left on the host that it came from, one at a time,
// and gives back what is held there. The instance that would come back goes last,
// in the commit that ends the move: until then there is a way back.
func (w *workflows) leaveHost(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	old := s.Instance(fleet.InstanceID(s.Operation.Observed[predecessorKey]))
	for i := range s.Instances {
		if x := &s.Instances[i]; x.ID != successorID(s) && (old == nil || x.ID != old.ID) {
			c, err := w.delete(ctx, s, x)
			return fleet.Repeat(c), err
		}
	}
	c, err := w.delete(ctx, s, old)
	if err != nil {
		return fleet.Outcome{}, err
	}
	c.Reserve = &fleet.Hold{}
	if t := target(s); t != nil && !t.Serving && t.Exit != nil && s.Installation.State == fleet.StateStable {
		c.End = fleet.StateExited // a job that was done before it was healthy
	}
	return fleet.Advance(c), nil
}

// releaseHost gives back what was held where it went, and makes the instance
// that the move began with the one to start.
func releaseHost(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	return fleet.Advance(fleet.Changes{Reserve: &fleet.Hold{}, Observed: map[string]string{successorKey: s.Operation.Observed[predecessorKey]}}), nil
}
