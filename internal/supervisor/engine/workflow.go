package engine

import (
	"context"
	"fmt"
	"time"

	"dormouse/internal/fleet"
)

// Run does one step. At most one external side effect, idempotent by an ID of
// ours. It never writes the database, loops, sleeps or calls the next step. A
// plain error means "transient, back off"; a fleet.Error's kind says more.
type Run func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error)

// Step is one row of a workflow.
type Step struct {
	// Name is persisted and shown; it is a verb, as in "create-instance".
	Name string
	Run  Run
	// Timeout bounds one run; 0 is a minute.
	Timeout time.Duration
	// Deadline bounds the step with all its waits and tries; 0 is ten minutes. Time
	// in which it was due and no process took it does not count.
	Deadline func(s *fleet.Snapshot) time.Duration
	// Overdue is the reason of failure when the deadline has passed; empty is ReasonDeadline.
	Overdue fleet.Reason
	// Executor says which host must run it; nil is any process.
	Executor func(s *fleet.Snapshot) fleet.HostID
	// Skip tells that there is nothing to do, by what is known already.
	Skip func(s *fleet.Snapshot) bool
}

// Workflow is the table of steps of one kind of operation.
type Workflow struct {
	Kind  fleet.OperationKind
	Steps []Step
	// Rollback runs after a step has failed for good, before the operation
	// fails; empty fails at once.
	Rollback []Step
	// Endless: it goes on for as long as something else lasts, and is not failed
	// for tries of a step that went wrong, which are counted from the last good one.
	Endless bool
}

const (
	defaultTimeout  = time.Minute
	defaultDeadline = 10 * time.Minute
)

// place is where in a workflow an operation stands.
type place struct {
	steps []Step
	index int
	// back tells that it is in the rollback.
	back bool
}

func (p place) step() Step { return p.steps[p.index] }

// find returns where the operation stands; an empty step is the beginning.
func (w *Workflow) find(s *fleet.Snapshot) (place, error) {
	name := s.Operation.Step
	if name == "" {
		return w.next(s, place{steps: w.Steps, index: -1}), nil
	}
	for i := range w.Steps {
		if w.Steps[i].Name == name {
			return place{steps: w.Steps, index: i}, nil
		}
	}
	for i := range w.Rollback {
		if w.Rollback[i].Name == name {
			return place{steps: w.Rollback, index: i, back: true}, nil
		}
	}
	return place{}, fleet.Failure(fleet.ReasonPanic, "operation %s stands at step %q, which a %s does not have", s.Operation.ID, name, w.Kind)
}

// next returns the first place after p that is not skipped; its index is
// len(steps) at the end.
func (w *Workflow) next(s *fleet.Snapshot, p place) place {
	for p.index++; p.index < len(p.steps); p.index++ {
		if skip := p.steps[p.index].Skip; skip == nil || !skip(s) {
			break
		}
	}
	return p
}

func (p place) atEnd() bool { return p.index >= len(p.steps) }

func (s Step) timeout() time.Duration {
	if s.Timeout > 0 {
		return s.Timeout
	}
	return defaultTimeout
}

func (s Step) deadline(snap *fleet.Snapshot) time.Duration {
	if s.Deadline != nil {
		return s.Deadline(snap)
	}
	return defaultDeadline
}

func (s Step) overdueReason() fleet.Reason {
	if s.Overdue != "" {
		return s.Overdue
	}
	return fleet.ReasonDeadline
}

func (s Step) executor(snap *fleet.Snapshot) string {
	if s.Executor == nil {
		return fleet.ExecutorAny
	}
	return string(s.Executor(snap))
}

// StepNames returns the names of the steps in order, for documents and tests.
func (w *Workflow) StepNames() []string {
	var names []string
	for _, s := range w.Steps {
		names = append(names, s.Name)
	}
	return names
}

// check refuses a table that can't be worked with.
func (w *Workflow) check() error {
	seen := map[string]bool{}
	for _, s := range append(append([]Step{}, w.Steps...), w.Rollback...) {
		if s.Name == "" || s.Run == nil || seen[s.Name] {
			return fmt.Errorf("workflow %s: step %q has no name, no function, or the name of another", w.Kind, s.Name)
		}
		seen[s.Name] = true
	}
	if len(w.Steps) == 0 {
		return fmt.Errorf("workflow %s has no steps", w.Kind)
	}
	return nil
}
