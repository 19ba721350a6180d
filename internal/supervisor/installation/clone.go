package installation

import (
	"context"
	"fmt"
	"slices"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// heldSinceKey is since when a clone can be looked at.
const heldSinceKey = "held_since"

// clone makes a throw-away copy of a sleeper, as it is, for somebody to look at.
// Any other request ends it sooner, as it does a verification.
func (w *workflows) clone() *engine.Workflow {
	return &engine.Workflow{Kind: fleet.OperationClone, Steps: slices.Concat(w.cloneSteps(w.prepareOwnClone), []engine.Step{
		{Name: fleet.StepHoldClone, Run: w.holdClone, Executor: w.host, Skip: func(s *fleet.Snapshot) bool { return firstClone(s) == nil },
			Deadline: func(*fleet.Snapshot) time.Duration { return 2 * fleet.MaxTimeToLive }},
		{Name: "delete-clone", Run: w.dropClone, Executor: w.host},
	}), Rollback: []engine.Step{w.dropCloneStep()}}
}

func (w *workflows) prepareOwnClone(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	return w.planClone(ctx, s, *s.Installation, *s.Package)
}

// holdClone leaves the clone alone until its time is up, and notices where it ends before.
func (w *workflows) holdClone(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	st, err := place.Provider.Observe(ctx, ref(s, firstClone(s)))
	switch {
	case fleet.KindOf(err) == fleet.KindNotFound:
		return fleet.Advance(fleet.Changes{}), nil
	case err != nil:
		return fleet.Outcome{}, err
	case st.Exit != nil:
		return fleet.Advance(fleet.Changes{}), nil // it has given way, or its program has ended
	}
	since, err := time.Parse(time.RFC3339Nano, s.Operation.Observed[heldSinceKey])
	c := fleet.Changes{}
	if err != nil {
		since = s.Now
		c.Observed = map[string]string{heldSinceKey: since.Format(time.RFC3339Nano)}
	}
	end := since.Add(s.Operation.TimeToLive())
	left := end.Sub(s.Now)
	if left <= 0 {
		return fleet.Advance(c), nil
	}
	out := fleet.Wait(left, fleet.WaitClone, fmt.Sprintf("the clone can be looked at until %s", end.UTC().Format(time.RFC3339)))
	out.Changes = c
	return out, nil
}
