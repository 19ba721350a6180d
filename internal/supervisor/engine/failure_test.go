package engine_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// script is a step whose runs give the errors in turn, and success after them.
func script(errs ...error) engine.Run {
	var n atomic.Int32
	return func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		if i := int(n.Add(1)); i <= len(errs) {
			return fleet.Outcome{}, errs[i-1]
		}
		return fleet.Advance(fleet.Changes{}), nil
	}
}

// through runs one operation to its end, with the clock moving.
func through(t *testing.T, w *engine.Workflow, alter func(*engine.Options)) (*world, fleet.Operation, []fleet.Result) {
	t.Helper()
	x := newWorld(t, w, alter)
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	x.eventually(func() bool { return x.op(id).State.Finished() }, 100*time.Millisecond)
	return x, x.op(id), x.results(id)
}

func TestBackoffIsCountedDoubledAndCapped(t *testing.T) {
	t.Parallel()
	away := errors.New("connection refused")
	var errs []error
	for range 9 {
		errs = append(errs, away)
	}
	_, op, r := through(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: script(errs...)}}},
		func(o *engine.Options) { o.FirstBackoff, o.MaxBackoff = 100*time.Millisecond, 2*time.Second })
	require.Equal(t, fleet.OperationSucceeded, op.State)
	require.Len(t, r, 10)
	for i, want := range []int64{100, 200, 400, 800, 1600, 2000, 2000, 2000, 2000} {
		require.Equal(t, i+1, r[i].Attempt)
		require.InDelta(t, want, r[i].DueMillis, float64(want)/4+1, "attempt %d", i+1)
		require.Equal(t, []any{fleet.WaitBackoff, fleet.KindInternal, fleet.ReasonProvider, "connection refused"},
			[]any{r[i].WaitReason, r[i].ErrorKind, r[i].FailReason, r[i].Error})
	}
	require.Zero(t, r[9].Attempt)
}

func TestThrottledWaitsAsLongAsTheProviderAsks(t *testing.T) {
	t.Parallel()
	throttled := fleet.Errorf(fleet.KindThrottled, "slow down")
	throttled.RetryAfter = 90 * time.Second
	_, op, r := through(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: script(throttled)}}}, nil)
	require.Equal(t, fleet.OperationSucceeded, op.State)
	require.EqualValues(t, 90_000, r[0].DueMillis)
}

func TestPermanentErrorsFailAtOnce(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		fleet.Failure(fleet.ReasonImageBuild, "no such file"), fleet.Errorf(fleet.KindInvalid, "bad"), fleet.Errorf(fleet.KindConflict, "taken"),
	} {
		x, op, r := through(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: script(err)}}}, nil)
		require.Len(t, r, 1)
		require.Equal(t, []any{fleet.OperationFailed, err.Error()}, []any{op.State, op.Error})
		require.Equal(t, fleet.StateRestartFailed, x.state("1"))
		require.Equal(t, r[0].FailReason, r[0].ToReason)
		require.Equal(t, fleet.Accepts(fleet.StateRestartFailed), r[0].Follow)
	}
}

func TestQuarantineAfterMaxAttempts(t *testing.T) {
	t.Parallel()
	away := fleet.Errorf(fleet.KindUnavailable, "no answer")
	_, op, r := through(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: script(away, away, away, away)}}},
		func(o *engine.Options) { o.MaxAttempts = 3 })
	require.Len(t, r, 3)
	require.Equal(t, []any{fleet.OperationFailed, fleet.ReasonQuarantined}, []any{op.State, op.FailReason})
	require.Contains(t, op.Error, "step a failed 3 times")
	require.Contains(t, op.Error, "no answer")
}

func TestFencedLetsGoWithoutAWord(t *testing.T) {
	t.Parallel()
	for _, kind := range []fleet.ErrorKind{fleet.KindFenced, fleet.KindStale} {
		// The lease runs out, and the step is run under a new epoch.
		_, op, r := through(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: script(fleet.Errorf(kind, "overtaken"))}}},
			func(o *engine.Options) { o.Poll = time.Second })
		require.Len(t, r, 1)
		require.Equal(t, []any{fleet.OperationSucceeded, 0, fleet.Epoch(2)}, []any{op.State, r[0].Attempt, r[0].Epoch})
	}
}

func TestDeadlineFailsWithWhatItWaitedFor(t *testing.T) {
	t.Parallel()
	step := engine.Step{Name: "await", Overdue: fleet.ReasonNotHealthy, Deadline: fixed(30 * time.Second),
		Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
			return fleet.Wait(2*time.Second, fleet.WaitHealthy, "HTTP 503 from port 80"), nil
		}}
	x, op, _ := through(t, &engine.Workflow{Steps: []engine.Step{step}}, nil)
	require.Equal(t, []any{fleet.OperationFailed, fleet.ReasonNotHealthy}, []any{op.State, op.FailReason})
	require.Contains(t, op.Error, "waiting-for-health HTTP 503 from port 80")
	require.WithinDuration(t, newClock().now.Add(30*time.Second), x.clock.Now(), 5*time.Second)

	step.Overdue, step.Run = "", script(errs(100, errors.New("no route"))...)
	_, op, _ = through(t, &engine.Workflow{Steps: []engine.Step{step}}, func(o *engine.Options) { o.MaxAttempts = 200; o.MaxBackoff = time.Second })
	require.Equal(t, fleet.ReasonDeadline, op.FailReason)
	require.Contains(t, op.Error, "no route")
}

// A step whose deadline had passed when it was claimed was failed without a look:
// its holder had died, and what it waited for had come true meanwhile.
func TestAfterItsDeadlineAStepIsRunOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		then engine.Run
		want fleet.OperationState
		why  string
	}{
		"ItHasComeTrue": {advance, fleet.OperationSucceeded, ""},
		"ItHasNot": {func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
			return fleet.Wait(time.Second, fleet.WaitHealthy, "HTTP 500"), nil
		}, fleet.OperationFailed, "step await did not end in time: it was waiting-for-health HTTP 500"},
		"NobodyAnswers": {func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
			return fleet.Outcome{}, errors.New("no route")
		},
			fleet.OperationFailed, "step await did not end in time: no route"},
		"ItDidAPartOfIt": {func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
			return fleet.Repeat(fleet.Changes{Observed: map[string]string{"seen": "yes"}}), nil
		}, fleet.OperationFailed, "step await did not end in time: it was waiting-for-health HTTP 503"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var runs atomic.Int32
			x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "await", Deadline: fixed(30 * time.Second), Overdue: fleet.ReasonNotHealthy,
				Run: func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
					if runs.Add(1) == 1 {
						return fleet.Wait(10*time.Second, fleet.WaitHealthy, "HTTP 503"), nil
					}
					return c.then(ctx, s)
				}}}}, func(o *engine.Options) { o.Poll = time.Second })
			var down atomic.Bool
			x.store.onClaim = func(fleet.ClaimRequest) error {
				if down.Load() {
					return fleet.Errorf(fleet.KindUnavailable, "nobody is there")
				}
				return nil
			}
			id := x.add("1", fleet.ClassInteractive)
			x.run()
			x.eventually(func() bool { return len(x.results(id)) == 1 }, 0)
			down.Store(true)
			x.clock.advance(time.Hour)
			down.Store(false)
			x.eventually(func() bool { return x.op(id).State.Finished() }, 100*time.Millisecond)
			require.EqualValues(t, 2, runs.Load())
			require.Equal(t, c.want, x.op(id).State)
			if c.why != "" {
				require.Equal(t, []any{fleet.ReasonNotHealthy, c.why}, []any{x.op(id).FailReason, x.op(id).Error})
			}
			if name == "ItDidAPartOfIt" {
				require.Equal(t, "yes", x.op(id).Observed["seen"], "what it changed is not forgotten")
			}
		})
	}
}

func errs(n int, err error) []error {
	out := make([]error, n)
	for i := range out {
		out[i] = err
	}
	return out
}

// What an earlier step had trouble with was told as the reason of a deadline.
func TestDeadlineDoesNotTellOfAnotherStep(t *testing.T) {
	t.Parallel()
	_, op, _ := through(t, &engine.Workflow{Steps: []engine.Step{
		{Name: "a", Run: script(errors.New("a hiccup of a"))},
		{Name: "b", Deadline: fixed(30 * time.Second), Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
			return fleet.Wait(time.Second, "", ""), nil
		}},
	}}, nil)
	require.Equal(t, fleet.ReasonDeadline, op.FailReason)
	require.NotContains(t, op.Error, "hiccup")
}

func TestPanicIsContained(t *testing.T) {
	t.Parallel()
	boom := func() { panic("boom") }
	w := &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		if s.Operation.ID == "1" {
			boom()
		}
		return fleet.Advance(fleet.Changes{}), nil
	}}}}
	x := newWorld(t, w, func(o *engine.Options) { o.MaxAttempts = 2 })
	bad, good := x.add("1", fleet.ClassInteractive), x.add("2", fleet.ClassInteractive)
	x.run()
	require.Equal(t, fleet.OperationSucceeded, x.finished(good).State)
	x.eventually(func() bool { return x.op(bad).State.Finished() }, 100*time.Millisecond)
	r := x.results(bad)
	require.Equal(t, []any{2, fleet.ReasonPanic, fleet.ReasonQuarantined}, []any{len(r), r[0].FailReason, r[1].FailReason})
	require.Contains(t, x.op(bad).Error, "boom")

	// A panic in what stands around a step ended the process.
	for _, step := range []engine.Step{
		{Name: "a", Run: advance, Skip: func(*fleet.Snapshot) bool { panic("boom") }},
		{Name: "a", Run: advance, Executor: func(*fleet.Snapshot) fleet.HostID { panic("boom") }},
		{Name: "a", Deadline: func(*fleet.Snapshot) time.Duration { panic("boom") }, Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
			return fleet.Wait(time.Second, "", ""), nil
		}},
	} {
		x, op, _ := through(t, &engine.Workflow{Steps: []engine.Step{step}}, nil)
		require.Equal(t, []any{fleet.OperationFailed, fleet.ReasonPanic, fleet.StateRestartFailed}, []any{op.State, op.FailReason, x.state("1")})
	}
}

func TestMalformedSnapshotFailsOnlyItself(t *testing.T) {
	t.Parallel()
	// Nothing of the workflow may be called with it.
	w := &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: advance, Skip: func(s *fleet.Snapshot) bool {
		return s.Installation.Hibernated
	}}}}
	x := newWorld(t, w, nil)
	bad, good := x.add("1", fleet.ClassInteractive), x.add("2", fleet.ClassInteractive)
	x.store.ops[bad].snap.Malformed, x.store.ops[bad].snap.Installation = "decoding a stored JSON column: no", nil
	x.run()
	require.Equal(t, fleet.OperationSucceeded, x.finished(good).State)
	op := x.finished(bad)
	require.Equal(t, []any{fleet.OperationFailed, fleet.ReasonPanic}, []any{op.State, op.FailReason})
	require.Contains(t, op.Error, "decoding a stored JSON column")
	require.EqualValues(t, "r-1", x.results(bad)[0].InstallationID)
}

func TestAStepThatTheWorkflowDoesNotHave(t *testing.T) {
	t.Parallel()
	x := newWorld(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: advance}}}, nil)
	id := x.add("1", fleet.ClassInteractive)
	x.store.ops[id].snap.Operation.Step = "of-an-older-release"
	op := x.run().finished(id)
	require.Equal(t, []any{fleet.OperationFailed, fleet.ReasonPanic}, []any{op.State, op.FailReason})
	require.Contains(t, op.Error, "of-an-older-release")
}

func TestAnUnknownVerdictFails(t *testing.T) {
	t.Parallel()
	_, op, _ := through(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		return fleet.Outcome{Verdict: "perhaps"}, nil
	}}}}, nil)
	require.Contains(t, op.Error, `verdict "perhaps"`)
}

func TestAStepThatHangsIsCutByItsTimeout(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	_, op, r := through(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Timeout: 10 * time.Millisecond, Run: func(ctx context.Context, _ *fleet.Snapshot) (fleet.Outcome, error) {
		if n.Add(1) > 1 {
			return fleet.Advance(fleet.Changes{}), nil
		}
		<-ctx.Done()
		return fleet.Outcome{}, ctx.Err()
	}}}}, nil)
	require.Equal(t, fleet.OperationSucceeded, op.State)
	require.Equal(t, []any{2, 1}, []any{len(r), r[0].Attempt}, "a timeout of the step's own is a failed try")
}

func TestRollback(t *testing.T) {
	t.Parallel()
	fail := func(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		out := fleet.Fail(fleet.ReasonNotHealthy, "the new one is sick")
		out.Changes.Observed = map[string]string{"sick": "yes"}
		return out, nil
	}
	t.Run("Goes back and keeps the reason", func(t *testing.T) {
		t.Parallel()
		var seen string
		x, op, r := through(t, &engine.Workflow{
			Steps: []engine.Step{{Name: "a", Run: fail}},
			Rollback: []engine.Step{
				{Name: "skipped", Run: advance, Skip: func(s *fleet.Snapshot) bool { return s.Operation.Observed["sick"] != "" }},
				{Name: "back", Run: func(_ context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
					seen = s.Operation.Observed["sick"]
					return fleet.Advance(fleet.Changes{}), nil
				}},
			}}, nil)
		require.Equal(t, "yes", seen)
		require.Equal(t, []any{fleet.OperationFailed, fleet.ReasonNotHealthy, "the new one is sick"}, []any{op.State, op.FailReason, op.Error})
		require.Equal(t, fleet.StateRestartFailed, x.state("1"))
		require.Equal(t, []string{"", "back"}, []string{r[0].Done, r[1].Done})
		require.Equal(t, []any{"back", fleet.ReasonNotHealthy}, []any{r[0].Step, r[1].ToReason})
	})
	t.Run("TransientErrorOnTheWayBack", func(t *testing.T) {
		t.Parallel()
		// What went wrong at first was forgotten for what went wrong on the way back.
		_, op, r := through(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: fail}},
			Rollback: []engine.Step{{Name: "back", Run: script(errors.New("a hiccup"))}}}, nil)
		require.Equal(t, []any{fleet.ReasonNotHealthy, "the new one is sick"}, []any{op.FailReason, op.Error})
		require.Equal(t, []any{1, "a hiccup"}, []any{r[1].Attempt, r[1].WaitDetail})
	})
	t.Run("ThatFailsToo", func(t *testing.T) {
		t.Parallel()
		x, op, _ := through(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: fail}},
			Rollback: []engine.Step{{Name: "back", Run: script(fleet.Failure(fleet.ReasonHostLost, "the host is gone"))}, {Name: "never", Run: advance}}}, nil)
		require.Equal(t, []any{fleet.OperationFailed, fleet.ReasonNotHealthy}, []any{op.State, op.FailReason})
		require.Equal(t, "the new one is sick; and going back failed: the host is gone", op.Error)
		require.Equal(t, fleet.StateRestartFailed, x.state("1"))
	})
	t.Run("Overdue", func(t *testing.T) {
		t.Parallel()
		_, op, _ := through(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: fail}},
			Rollback: []engine.Step{{Name: "back", Deadline: fixed(10 * time.Second), Run: func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
				return fleet.Wait(time.Second, fleet.WaitStopped, "it stops"), nil
			}}}}, nil)
		require.Equal(t, fleet.ReasonNotHealthy, op.FailReason)
		require.Contains(t, op.Error, "the new one is sick; and going back failed: step back did not end in time: it was waiting-for-shutdown it stops")
	})
	t.Run("NothingToGoBackOver", func(t *testing.T) {
		t.Parallel()
		_, op, r := through(t, &engine.Workflow{Steps: []engine.Step{{Name: "a", Run: fail}},
			Rollback: []engine.Step{{Name: "back", Run: advance, Skip: func(*fleet.Snapshot) bool { return true }}}}, nil)
		require.Len(t, r, 1)
		require.Equal(t, fleet.ReasonNotHealthy, op.FailReason)
	})
}

// The database refused what a rollout had decided, again and again: its operation
// was failed, and nothing carried the rollout out any more.
func TestAnEndlessOperationIsNotFailedForItsOutcome(t *testing.T) {
	t.Parallel()
	var refused atomic.Int32
	x := newWorld(t, &engine.Workflow{Endless: true, Steps: []engine.Step{{Name: "a", Run: advance}}},
		func(o *engine.Options) { o.MaxAttempts, o.Poll = 3, time.Second })
	x.store.onCommit = func(r []fleet.Result) error {
		if r[0].Done != "" && refused.Add(1) <= 5 {
			return errors.New("invalid input syntax for type json")
		}
		return nil
	}
	id := x.add("1", fleet.ClassInteractive)
	x.run()
	x.eventually(func() bool { return x.op(id).State.Finished() }, 100*time.Millisecond)
	require.Equal(t, fleet.OperationSucceeded, x.op(id).State)
	r := x.results(id)
	require.Equal(t, 5, r[4].Attempt)
	require.Contains(t, r[4].Error, "invalid input syntax")
}
