package installation

import (
	"context"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

const (
	// heldKey is where an operation remembers since when its clone can be looked at.
	heldKey = "held_since"
	// holdLook is how often a clone is looked at that somebody looks at.
	holdLook = 15 * time.Second
)

// clone makes a throw-away copy of a sleeping installation for somebody to look at, as
// verify does to try a release. Whatever else is asked for pre-empts it.
func (w *workflows) clone() *engine.Workflow {
	noClone := func(s *fleet.Snapshot) bool { return firstClone(s) == nil }
	return &engine.Workflow{Kind: fleet.OperationClone, Steps: append(w.cloneSteps(fleet.MaxTimeToLive), // nobody waits for it longer
		engine.Step{Name: fleet.StepHoldClone, Run: w.holdClone, Executor: w.host, Skip: noClone,
			Deadline: func(s *fleet.Snapshot) time.Duration { return s.Operation.TimeToLive() + w.HealthDeadline }},
		engine.Step{Name: "delete-clone", Run: w.dropClone, Executor: w.host},
	), Rollback: []engine.Step{w.dropCloneStep()}}
}

// holdClone waits until the clone's time is over, or the clone has ended by itself.
func (w *workflows) holdClone(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	since, _ := time.Parse(time.RFC3339Nano, s.Operation.Observed[heldKey]) // zero where it has just come up
	left := s.Operation.TimeToLive()
	if !since.IsZero() {
		left -= s.Now.Sub(since)
	}
	if left <= 0 {
		return fleet.Advance(fleet.Changes{}), nil
	}
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	clone := *firstClone(s)
	st, err := place.Provider.Observe(ctx, ref(s, &clone))
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.Advance(fleet.Changes{}), nil
	}
	if err != nil {
		return fleet.Outcome{}, err
	}
	if st.Exit != nil || st.Power == fleet.PowerOff {
		return fleet.Advance(fleet.Changes{}), nil
	}
	out := fleet.Wait(min(holdLook, left+time.Millisecond), fleet.WaitLookedAt, "the clone can be looked at until "+s.Now.Add(left).UTC().Format(time.RFC3339))
	if since.IsZero() {
		clone.Endpoints = st.Endpoints
		out.Changes = fleet.Changes{Instances: []fleet.Instance{clone}, Observed: map[string]string{heldKey: s.Now.Format(time.RFC3339Nano)}}
	}
	return out, nil
}
