package integration

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// A member whose going back failed stayed failed for good: the rollout ended as
// rolled back, and no verb reached it.
func TestAMemberThatCouldNotBePutBackIsReached(t *testing.T) {
	t.Parallel()
	const subject = "t000"
	type broken func(s *fleet.Snapshot, step string) bool
	goingBack := func(s *fleet.Snapshot, step string) bool { return s.Operation.Rollout.Back && step == "start-instance" }
	wayBack := func(s *fleet.Snapshot, step string) bool {
		return !s.Operation.Rollout.Back && (step == "await-healthy" || step == "start-predecessor")
	}
	recalled := func(s *fleet.Snapshot, step string) bool {
		return s.Operation.Rollout.Back && step == "prepare" || step == "start-predecessor"
	}
	for name, c := range map[string]struct {
		breaks broken
		// before is what it is when the rollout is rolled back, and halts that this fails at first.
		before fleet.MemberState
		halts  bool
		verb   fleet.RolloutVerb
		want   string
	}{
		"GoingBackAndRollback":    {goingBack, fleet.MemberDone, true, fleet.RolloutRollback, "web@1"},
		"GoingBackAndRetry":       {goingBack, fleet.MemberDone, true, fleet.RolloutRetry, "web@2"},
		"WayBackOfAFailedUpdate":  {wayBack, fleet.MemberFailed, false, "", "web@1"},
		"WayBackOfARecalledOne":   {recalled, fleet.MemberRolling, true, fleet.RolloutRollback, "web@1"},
		"GoingBackThenByItsOwner": {goingBack, fleet.MemberDone, true, "", "web@1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mended atomic.Bool
			g := newGroupIn(bareWorld(t), setup{slots: 16, wrap: func(kind fleet.OperationKind, step string, run engine.Run) engine.Run {
				return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
					if kind == fleet.OperationUpdate && s.Operation.Rollout != nil && s.Installation.Name == subject && !mended.Load() && c.breaks(s, step) {
						return fleet.Fail(fleet.ReasonProvider, "injected: it can't be done"), nil
					}
					return run(ctx, s)
				}
			}}, 3, 0, 0, nil)
			spec := quick()
			spec.FirstWave, spec.Soak = 3, time.Hour
			if c.before == fleet.MemberRolling {
				spec.HealthyFor, spec.HealthDeadline = time.Hour, time.Hour
			}
			id := g.release(fleet.GroupChange{PackageRef: &second}, spec)
			member := func() fleet.RolloutMember {
				all, err := g.store.RolloutMembers(g.ctx, fleet.MemberQuery{Page: fleet.Page{Limit: 10}, Rollout: id})
				require.NoError(t, err)
				for _, m := range all {
					if m.Name == subject {
						return m
					}
				}
				return fleet.RolloutMember{}
			}
			verb := func(v fleet.RolloutVerb) {
				_, err := g.store.ControlRollout(g.ctx, fleet.RolloutControl{ID: id, Verb: v})
				require.NoError(t, err)
				g.world.wake()
			}
			g.eventually(func() bool {
				v, err := g.store.Rollout(g.ctx, id)
				n := len(g.strings(`SELECT id FROM operation WHERE state = 'active' AND wait_reason = $1`, fleet.WaitSteady))
				return err == nil && counts(v)[fleet.MemberDone]+counts(v)[fleet.MemberFailed]+n == 3 && member().State == c.before
			}, func() string { return string(member().State) })
			verb(fleet.RolloutRollback)
			if c.halts {
				v := g.ended(id, fleet.RolloutHalted)
				require.Equal(t, fleet.ReasonNotPutBack, v.Reason)
				require.Equal(t, map[fleet.MemberState]int{fleet.MemberRolledBack: 2, fleet.MemberFailed: 1}, counts(v))
				require.Equal(t, fleet.ReasonNotPutBack, member().Reason)
				require.Contains(t, member().Detail, "going back failed (provider-error): injected")
			}
			mended.Store(true)
			switch {
			case c.verb != "":
				verb(c.verb)
			case c.halts:
				require.Equal(t, fleet.OperationSucceeded, g.ask(subject, fleet.OperationUpdate).State)
				verb(fleet.RolloutRollback)
			}
			if c.verb == fleet.RolloutRetry {
				verb(fleet.RolloutForce) // else it waits for what the others, which are back, tell of the release
				g.eventually(func() bool { return member().State == fleet.MemberDone }, func() string { return string(member().State) })
				g.cancel(id)
			} else {
				g.ended(id, fleet.RolloutRolledBack)
			}
			i, err := g.store.Installation(g.ctx, "", subject)
			require.NoError(t, err)
			require.Equal(t, c.want, i.RunningRef)
			require.Equal(t, fleet.StateStable, i.State)
			g.settled()
			g.invariants()
		})
	}
}
