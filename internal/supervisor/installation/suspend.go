package installation

import (
	"context"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

const (
	// tierKey is where a hibernation remembers how the memory is kept.
	tierKey = "tier"
	// givenUpKey is where a hibernation remembers why it was given up: the machine runs on.
	givenUpKey = "given_up"
)

// suspendStep puts the machine to sleep with its memory, where its provider can
// do that; else the steps after it stop the machine.
func (w *workflows) suspendStep() engine.Step {
	return engine.Step{Name: "suspend-instance", Run: w.suspend, Executor: w.host, Timeout: 2 * time.Minute,
		Deadline: func(*fleet.Snapshot) time.Duration { return 10 * time.Minute },
		Skip: func(s *fleet.Snapshot) bool {
			i := target(s)
			return i == nil || i.Power == fleet.PowerOff || i.Power == fleet.PowerPlanned || !w.suspends(s)
		}}
}

func (w *workflows) suspends(s *fleet.Snapshot) bool {
	place, err := w.place(s)
	if err != nil {
		return false
	}
	_, ok := place.Provider.(Suspender)
	return ok
}

// givenUp tells whether a hibernation was given up.
func givenUp(s *fleet.Snapshot) bool { return s.Operation.Observed[givenUpKey] != "" }

// suspend gives up, with the machine in service as before, where it was the idle
// policy's idea and somebody came, or its memory could not be saved.
func (w *workflows) suspend(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	sleeper, ok := place.Provider.(Suspender)
	if !ok {
		return fleet.Advance(fleet.Changes{}), nil
	}
	i := target(s)
	why := s.Operation.Observed[fleet.ObservedIdle]
	idle, o := why != "", fleet.SuspendOptions{Mode: fleet.SuspendMode(s.Operation.Observed[fleet.ObservedSleep]), Idle: why != ""}
	if why == fleet.IdleVisits {
		o.IdleFor = time.Duration(s.Installation.Idle.IdleAfterSeconds) * time.Second
	}
	st, err := sleeper.Suspend(ctx, ref(s, i), o)
	switch reason := fleet.ReasonOf(err); {
	case err == nil:
	case fleet.KindOf(err) == fleet.KindNotFound, reason == fleet.ReasonCannotSleep, fleet.KindOf(err) == fleet.KindConflict && reason == "":
		// It is gone, or off, or can only be stopped: the next step sees to it.
		return fleet.Advance(fleet.Changes{}), nil
	case idle && (reason == fleet.ReasonVisited || reason == fleet.ReasonNotSaved):
		return fleet.Advance(fleet.Changes{End: fleet.StateStable, Observed: map[string]string{givenUpKey: err.Error()}}), nil
	case reason == fleet.ReasonNotSaved:
		return fleet.Fail(reason, err.Error()), nil
	case fleet.KindOf(err) == fleet.KindConflict && reason != fleet.ReasonVisited:
		// It has ended by itself, or is about to: the next step sees to that, and its disks are kept.
		return fleet.Advance(fleet.Changes{}), nil
	default:
		return fleet.Outcome{}, err
	}
	if st.Power != fleet.PowerOff {
		return fleet.Wait(again(st), fleet.WaitSaving, "the machine's memory is being saved"), nil
	}
	c := switchedOff(s, *i, st)
	if st.Saved != nil && st.Saved.Tier != fleet.TierCold {
		c.Saved = &i.Spec.PackageID
		c.Observed = map[string]string{tierKey: string(st.Saved.Tier)}
	}
	return fleet.Advance(c), nil
}

// switchedOff is the change that an instance is off and its volume free.
func switchedOff(s *fleet.Snapshot, i fleet.Instance, st fleet.InstanceStatus) fleet.Changes {
	i.Power, i.Serving, i.Endpoints, i.Saved = fleet.PowerOff, false, nil, st.Saved
	if st.Exit != nil {
		i.Exit = st.Exit
	}
	c := fleet.Changes{Instances: []fleet.Instance{i}}
	if v := s.Volume; v != nil && v.AttachedInstanceID == i.ID {
		detached := *v
		detached.AttachedInstanceID = ""
		c.Volume = &detached
	}
	return c
}

// endSleepStep keeps a visit from waking a release that is no longer the
// desired one: from now on, a wake goes through the control plane.
func (w *workflows) endSleepStep(visited func(*fleet.Snapshot, fleet.Instance) fleet.Outcome) engine.Step {
	return engine.Step{Name: "end-sleep", Executor: w.host,
		Run: func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			return w.endSleep(ctx, s, visited)
		},
		Skip: func(s *fleet.Snapshot) bool {
			i := target(s)
			return i == nil || i.Power != fleet.PowerOff || !w.suspends(s) || !s.Installation.Hibernated
		}}
}

func (w *workflows) endSleep(ctx context.Context, s *fleet.Snapshot, visited func(*fleet.Snapshot, fleet.Instance) fleet.Outcome) (fleet.Outcome, error) {
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	i, none := target(s), fleet.PackageID("")
	off := *i
	off.Saved = nil
	c := fleet.Changes{Saved: &none, Instances: []fleet.Instance{off}}
	sleeper, ok := place.Provider.(Suspender)
	if !ok {
		return fleet.Advance(c), nil
	}
	_, err = sleeper.EndSleep(ctx, ref(s, i))
	switch {
	case fleet.ReasonOf(err) == fleet.ReasonVisited:
		return visited(s, *i), nil
	case err != nil && fleet.KindOf(err) != fleet.KindNotFound:
		return fleet.Outcome{}, err
	}
	return fleet.Advance(c), nil
}

// wokenMeanwhile records that a visit was quicker than an update of a sleeper.
// The wake that is asked for after it replaces the release that runs now.
func wokenMeanwhile(_ *fleet.Snapshot, i fleet.Instance) fleet.Outcome {
	i.Power = fleet.PowerOn
	return fleet.Advance(fleet.Changes{Instances: []fleet.Instance{i}})
}

// givesWay ends a verification of a sleeper that a visit has woken.
func givesWay(*fleet.Snapshot, fleet.Instance) fleet.Outcome {
	return fleet.Fail(fleet.ReasonGaveWay, "a visit has woken it")
}

// endUpdateStep is the last of an update of a sleeper, which goes on sleeping.
func (w *workflows) endUpdateStep() engine.Step {
	step := w.endSleepStep(wokenMeanwhile)
	run, skip := step.Run, step.Skip
	step.Skip = func(s *fleet.Snapshot) bool { return !asleep(s) || skip(s) }
	step.Run = func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		out, err := run(ctx, s)
		out.Changes.End = fleet.StateHibernating
		return out, err
	}
	return step
}
