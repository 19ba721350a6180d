package installation

import (
	"context"
	"slices"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// Options configure the workflows.
type Options struct {
	Places  map[fleet.ProviderKind]Place
	Secrets Opener
	// HealthDeadline bounds the wait for a healthy answer after a start; 0 is two minutes.
	HealthDeadline time.Duration
}

type workflows struct{ Options }

// recallable has steps give up where their rollout is rolled back meanwhile, or has
// ended before a trial on a clone: what follows then is the way back.
func recallable(steps ...engine.Step) []engine.Step {
	out := slices.Clone(steps)
	for i := range out {
		run := out[i].Run
		out[i].Run = func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			if r := s.Operation.Rollout; r != nil && r.Recalled {
				return fleet.Fail(fleet.ReasonRolledBack, "its rollout is rolled back or has ended"), nil
			}
			return run(ctx, s)
		}
	}
	return out
}

// goesBack tells whether the release before is put back for a rollout. Whether it
// answers well is not waited for: it did what it does before the rollout, too.
func goesBack(s *fleet.Snapshot) bool {
	r := s.Operation.Rollout
	return r != nil && (r.Back || r.Recalled)
}

// Workflows returns the tables of steps of all operations on installations.
func Workflows(o Options) []*engine.Workflow {
	if o.HealthDeadline == 0 {
		o.HealthDeadline = 2 * time.Minute
	}
	w := &workflows{o}
	// One chain brings an installation up from anywhere: a create, a retry of
	// it, an update, and a wake after a change differ only in what they find. Only
	// a sleeper may have a clone left, and only a rollout's update is watched for a while.
	up := []engine.Step{w.prepareStep(), w.stopOthersStep(), w.ensureVolumeStep(), w.startStep(), w.awaitHealthyStep()}
	first, last := []engine.Step{w.deleteClonesStep()}, []engine.Step{w.deletePredecessorStep()}
	return []*engine.Workflow{
		{Kind: fleet.OperationCreate, Steps: slices.Concat(up, last)},
		{Kind: fleet.OperationUpdate, Steps: slices.Concat(first, recallable(w.updates(up)...), recallable(w.staySteadyStep()), []engine.Step{w.commitOverlayStep()}, last, []engine.Step{w.endUpdateStep()}), Rollback: []engine.Step{
			w.deleteSuccessorStep(), w.dropOverlayStep(), w.startPredecessorStep(), w.awaitPredecessorStep()}},
		{Kind: fleet.OperationWake, Steps: slices.Concat(first, up, last)},
		{Kind: fleet.OperationRestart, Steps: []engine.Step{w.holdMemoryStep(), w.stopStep(), w.startStep(), w.awaitHealthyStep()}},
		{Kind: fleet.OperationHibernate, Steps: []engine.Step{
			w.suspendStep(), unlessGivenUp(w.stopStep()), unlessGivenUp(w.releaseMemoryStep())}},
		{Kind: fleet.OperationDelete, Steps: []engine.Step{w.deleteInstancesStep(), w.deleteVolumeStep(), w.releaseStep()}},
		w.verify(),
		w.clone(),
		w.move(),
	}
}

// updates returns the steps of an update that bring an installation up.
func (w *workflows) updates(up []engine.Step) []engine.Step {
	start := slices.IndexFunc(up, func(s engine.Step) bool { return s.Name == "start-instance" })
	return slices.Insert(slices.Clone(up), start, w.beginOverlayStep())
}

// unlessGivenUp leaves a step of a hibernation out that was given up.
func unlessGivenUp(step engine.Step) engine.Step {
	skip := step.Skip
	step.Skip = func(s *fleet.Snapshot) bool { return givenUp(s) || skip != nil && skip(s) }
	return step
}

func (w *workflows) prepareStep() engine.Step {
	return engine.Step{Name: "prepare", Run: w.prepare, Timeout: 10 * time.Minute,
		Deadline: func(*fleet.Snapshot) time.Duration { return 24 * time.Hour }} // it may wait for capacity
}

func (w *workflows) stopOthersStep() engine.Step {
	return engine.Step{Name: "stop-instance", Run: w.stopOthers, Executor: w.host,
		Skip: func(s *fleet.Snapshot) bool { return firstOn(s, successorID(s)) == nil || successorID(s) == "" }}
}

func (w *workflows) stopStep() engine.Step {
	return engine.Step{Name: "stop-instance", Run: w.stopAll, Executor: w.host,
		Skip: func(s *fleet.Snapshot) bool { return firstOn(s, "") == nil }}
}

func (w *workflows) ensureVolumeStep() engine.Step {
	return engine.Step{Name: "ensure-volume", Run: w.ensureVolume, Executor: w.host, Timeout: 5 * time.Minute,
		Skip: func(s *fleet.Snapshot) bool {
			return s.Volume == nil || asleep(s) ||
				s.Volume.ProviderRef != "" && s.Volume.SizeMiB >= s.Installation.DiskMiB
		}}
}

func (w *workflows) startStep() engine.Step {
	// Also where it is on by its row: a stop that failed may have stopped it.
	return engine.Step{Name: "start-instance", Run: w.start, Executor: w.host,
		Skip: func(s *fleet.Snapshot) bool { return target(s) == nil || asleep(s) }}
}

func (w *workflows) awaitHealthyStep() engine.Step {
	return engine.Step{Name: "await-healthy", Run: w.awaitHealthy, Executor: w.host, Overdue: fleet.ReasonNotHealthy, Deadline: w.healthDeadline,
		Skip: func(s *fleet.Snapshot) bool {
			t := target(s)
			return t == nil || t.Serving && t.Power == fleet.PowerOn || asleep(s)
		}}
}

func (w *workflows) deletePredecessorStep() engine.Step {
	return engine.Step{Name: "delete-predecessor", Run: w.deletePredecessor, Executor: w.host,
		Skip: func(s *fleet.Snapshot) bool { return successorID(s) == "" || firstOther(s, successorID(s)) == nil }}
}

func (w *workflows) deleteSuccessorStep() engine.Step {
	return engine.Step{Name: "delete-successor", Run: w.deleteSuccessor, Executor: w.host,
		Skip: func(s *fleet.Snapshot) bool {
			// One that was there before the operation is not the operation's to delete.
			return successorID(s) != plannedID(s) || s.Instance(successorID(s)) == nil
		}}
}

func (w *workflows) startPredecessorStep() engine.Step {
	return engine.Step{Name: "start-predecessor", Run: w.start, Executor: w.host,
		Skip: func(s *fleet.Snapshot) bool { return s.Installation.Hibernated || target(s) == nil || !prepared(s) }}
}

func (w *workflows) awaitPredecessorStep() engine.Step {
	return engine.Step{Name: "await-predecessor", Run: w.awaitHealthy, Executor: w.host, Overdue: fleet.ReasonNotHealthy,
		Deadline: func(*fleet.Snapshot) time.Duration { return w.HealthDeadline },
		Skip: func(s *fleet.Snapshot) bool {
			t := target(s)
			return s.Installation.Hibernated || t == nil || !prepared(s) || t.Serving && t.Power == fleet.PowerOn
		}}
}

// holdMemoryStep is for a restart of what has no memory held: what slept when its update failed.
func (w *workflows) holdMemoryStep() engine.Step {
	return engine.Step{Name: "hold-memory", Run: w.holdMemory,
		Skip: func(s *fleet.Snapshot) bool {
			t := target(s)
			return t == nil || s.Installation.HeldMemoryMiB >= int64(t.Spec.MemoryMiB)
		}}
}

func (w *workflows) releaseMemoryStep() engine.Step {
	return engine.Step{Name: "release-memory", Run: w.releaseMemory}
}

func (w *workflows) deleteInstancesStep() engine.Step {
	return engine.Step{Name: "delete-instances", Run: w.deleteInstances, Executor: w.host,
		Skip: func(s *fleet.Snapshot) bool { return len(s.Instances) == 0 }}
}

func (w *workflows) deleteVolumeStep() engine.Step {
	return engine.Step{Name: "delete-volume", Run: w.deleteVolume, Executor: w.host,
		Skip: func(s *fleet.Snapshot) bool { return s.Volume == nil }}
}

func (w *workflows) releaseStep() engine.Step {
	return engine.Step{Name: "release", Run: w.release}
}

// volumeTimeout bounds one try to take a volume to another host.
const volumeTimeout = 30 * time.Minute

func (w *workflows) volumeDeadline(*fleet.Snapshot) time.Duration { return 24 * time.Hour }

// host is the executor of the steps that touch a machine.
func (w *workflows) host(s *fleet.Snapshot) fleet.HostID {
	if s.Cluster == nil || !w.Places[s.Cluster.Provider].Local || s.Installation == nil {
		return ""
	}
	return s.Installation.HeldHostID
}
