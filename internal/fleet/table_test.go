package fleet

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// table is everything that says how an installation's state may change. The
// checker works on a copy, so that a test can break a rule and see it found.
type table struct {
	states      []State
	transitions []Transition
	accepts     map[State][]OperationKind
	retry       map[State]OperationKind
}

// current is made before any test runs.
var current = func() table {
	t := table{states: States(), transitions: Transitions(), accepts: map[State][]OperationKind{}, retry: map[State]OperationKind{}}
	for _, s := range append([]State{stateNone}, t.states...) {
		t.accepts[s] = Accepts(s)
		if k, ok := RetryOf(s); ok {
			t.retry[s] = k
		}
	}
	return t
}()

func (t table) clone() table {
	return table{slices.Clone(t.states), slices.Clone(t.transitions), maps.Clone(t.accepts), maps.Clone(t.retry)}
}

// reach returns all states that can follow from, itself included.
func (t table) reach(from State) map[State]bool {
	seen := map[State]bool{from: true}
	for queue := []State{from}; len(queue) > 0; queue = queue[1:] {
		for _, tr := range t.transitions {
			if tr.From == queue[0] && !seen[tr.To] {
				seen[tr.To] = true
				queue = append(queue, tr.To)
			}
		}
	}
	return seen
}

// check returns every broken rule, in words.
func (t table) check() []string {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	known, reachable, seen := map[State]bool{}, t.reach(stateNone), map[Transition]bool{}
	for _, s := range t.states {
		if known[s] {
			add("state %s is listed twice", s)
		}
		known[s] = true
		if !reachable[s] {
			add("state %s can't be reached", s)
		}
		if !t.reach(s)[StateDeleted] {
			add("nothing leads from %s to deleted", s)
		}
		if s.Transient() && !slices.ContainsFunc(t.transitions, func(tr Transition) bool { return tr.From == s && !tr.Request && tr.By != "" }) {
			add("no worker leaves the transient state %s", s)
		}
	}
	for _, tr := range t.transitions {
		if seen[tr] {
			add("%s → %s is listed twice", tr.From, tr.To)
		}
		seen[tr] = true
		if tr.From != stateNone && !known[tr.From] || !known[tr.To] {
			add("%s → %s names a state that is not listed", tr.From, tr.To)
		}
		if tr.From == StateDeleted {
			add("deleted is not terminal: it leads to %s", tr.To)
		}
		t.checkActor(tr, add)
	}
	t.checkRequests(add)
	return found
}

// checkActor: who makes a change must be who may make it in that state.
func (t table) checkActor(tr Transition, add func(string, ...any)) {
	own := tr.From == tr.By.RequestedState() || tr.From == tr.By.InProgressState()
	switch {
	case tr.By == "" && (tr.Request || tr.From != StateStable):
		add("%s → %s happens by itself, but only a program in service ends by itself", tr.From, tr.To)
	case tr.By == "":
	case tr.By == OperationMove && !tr.Request && slices.Contains(Movable(), tr.From) && tr.To.Failed():
	case tr.Request && tr.To != tr.By.RequestedState():
		add("a request of %s leads to %s", tr.By, tr.To)
	case tr.Request && tr.From.Transient() && tr.By != OperationDelete:
		add("%s is accepted in the transient state %s: only a delete pre-empts", tr.By, tr.From)
	case !tr.Request && !own:
		add("a worker of %s changes %s, which is not its own", tr.By, tr.From)
	}
}

func (t table) checkRequests(add func(string, ...any)) {
	for _, s := range append([]State{stateNone}, t.states...) {
		var derived []OperationKind
		for _, tr := range t.transitions {
			if tr.Request && tr.From == s {
				derived = append(derived, tr.By)
			}
		}
		if !slices.Equal(derived, t.accepts[s]) {
			add("in %s %v is accepted, the table says %v", s, t.accepts[s], derived)
		}
		gone := slices.Contains([]State{stateNone, StateDeletionRequested, StateDeletionInProgress, StateDeleted}, s)
		if slices.Contains(t.accepts[s], OperationDelete) == gone {
			add("a delete is accepted in %s: %v", s, !gone)
		}
		if slices.Contains(t.accepts[s], OperationCreate) && s != stateNone && s != StateCreationFailed {
			add("a create is accepted in %s", s)
		}
		kind, ok := t.retry[s]
		switch {
		case ok && !slices.Contains(t.accepts[s], kind):
			add("a retry in %s repeats %s, which is not accepted there", s, kind)
		case s.Failed() && (!ok || kind.FailedState() != s):
			add("a retry in %s must repeat what failed there, not %q", s, kind)
		case ok && !s.Failed() && s != StateExited && s != StateCrashLooping:
			add("there is nothing to retry in %s", s)
		}
	}
}

func TestTransitionTable(t *testing.T) {
	t.Parallel()
	require.Empty(t, current.check())
	for _, tr := range current.transitions {
		require.True(t, CanMove(tr.From, tr.To), "%v", tr)
	}
	require.False(t, CanMove(StateDeleted, StateStable))
	require.False(t, CanMove(StateStable, StateDeleted))
	require.False(t, CanMove(StateHibernating, StateStable))
	for _, from := range []State{StateHibernationRequested, StateHibernationInProgress} {
		require.True(t, CanMove(from, StateStable), "%s: somebody came, and it was given up", from)
	}
	require.Equal(t, current.transitions, Transitions(), "in a fixed order")
}

// Each case breaks one rule; the checker must say which.
func TestTransitionTableCheckerFinds(t *testing.T) {
	t.Parallel()
	without := func(tb *table, drop func(Transition) bool) { tb.transitions = slices.DeleteFunc(tb.transitions, drop) }
	for name, c := range map[string]struct {
		mutate func(*table)
		want   string
	}{
		"DeletedIsNotTerminal": {func(tb *table) {
			tb.transitions = append(tb.transitions, Transition{From: StateDeleted, To: StateDeletionRequested, By: OperationDelete, Request: true})
		}, "deleted is not terminal: it leads to deletion-requested"},
		"NobodyLeaves": {func(tb *table) {
			without(tb, func(tr Transition) bool { return tr.From == StateUpdateInProgress && !tr.Request })
		}, "no worker leaves the transient state update-in-progress"},
		"Unreachable": {func(tb *table) { without(tb, func(tr Transition) bool { return tr.To == StateCrashLooping }) },
			"state crash-looping can't be reached"},
		"NoDelete": {func(tb *table) {
			drop := func(tr Transition) bool { return tr.From == StateExited && tr.By == OperationDelete }
			without(tb, drop)
			tb.accepts[StateExited] = slices.DeleteFunc(slices.Clone(tb.accepts[StateExited]), func(k OperationKind) bool { return k == OperationDelete })
		}, "a delete is accepted in exited: true"},
		"AcceptsByHand": {func(tb *table) { tb.accepts[StateStable] = append(tb.accepts[StateStable], OperationWake) },
			"in stable [update restart hibernate delete wake] is accepted, the table says [update restart hibernate delete]"},
		"RetryOfWhatIsNotAccepted": {func(tb *table) { tb.retry[StateExited] = OperationWake },
			"a retry in exited repeats wake, which is not accepted there"},
		"RetryOfAnotherKind": {func(tb *table) { tb.retry[StateWakeUpFailed] = OperationUpdate },
			`a retry in wake-up-failed must repeat what failed there, not "update"`},
		"NoRetry":     {func(tb *table) { delete(tb.retry, StateDeletionFailed) }, `a retry in deletion-failed must repeat what failed there, not ""`},
		"UnlistedTo":  {func(tb *table) { tb.states = tb.states[:len(tb.states)-1] }, "deletion-requested → deleted names a state that is not listed"},
		"ListedTwice": {func(tb *table) { tb.transitions = append(tb.transitions, tb.transitions[3]) }, fmt.Sprintf("%s → %s is listed twice", current.transitions[3].From, current.transitions[3].To)},
		"PreemptedByAnUpdate": {func(tb *table) {
			tb.transitions = append(tb.transitions, Transition{From: StateWakeUpInProgress, To: StateUpdateRequested, By: OperationUpdate, Request: true})
		}, "update is accepted in the transient state wake-up-in-progress: only a delete pre-empts"},
		"AnotherWorker": {func(tb *table) {
			tb.transitions = append(tb.transitions, Transition{From: StateUpdateInProgress, To: StateStable, By: OperationWake})
		}, "a worker of wake changes update-in-progress, which is not its own"},
		"MovedInTheMidst": {func(tb *table) {
			tb.transitions = append(tb.transitions, Transition{From: StateUpdateInProgress, To: StateUpdateFailed, By: OperationMove})
		}, "a worker of move changes update-in-progress, which is not its own"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := current.clone()
			c.mutate(&broken)
			require.Contains(t, broken.check(), c.want)
		})
	}
}

func TestKindsAndStates(t *testing.T) {
	t.Parallel()
	for _, k := range InstallationOperations() {
		done, failed := k.EndStates()
		require.Equal(t, []string{string(k.DoneState()), string(k.FailedState())}, []string{done, failed})
		require.True(t, k.RequestedState().Transient() && k.InProgressState().Transient(), k)
		require.True(t, k.FailedState().Failed() && !k.FailedState().Transient(), k)
		require.False(t, k.DoneState().Failed() || k.DoneState().Transient(), k)
		for _, from := range []State{k.RequestedState(), k.InProgressState()} {
			require.True(t, CanMove(from, k.DoneState()) && CanMove(from, k.FailedState()), k)
		}
	}
	for k, want := range map[OperationKind][2]string{
		OperationCreateCluster: {"stable", "creation-failed"}, OperationDeleteCluster: {"deleted", "deletion-failed"}, "unknown": {"", ""},
	} {
		done, failed := k.EndStates()
		require.Equal(t, want, [2]string{done, failed}, k)
	}
	for s, want := range map[OperationState]bool{OperationQueued: false, OperationActive: false, OperationSucceeded: true, OperationFailed: true, OperationCancelled: true} {
		require.Equal(t, want, s.Finished(), s)
	}
}

// A cluster's life obeys the same rules, on a table of its own.
func TestClusterTransitions(t *testing.T) {
	t.Parallel()
	next, seen := map[ClusterState][]ClusterState{}, map[ClusterTransition]bool{}
	for _, tr := range ClusterTransitions() {
		require.False(t, seen[tr], "%v is listed twice", tr)
		seen[tr] = true
		next[tr.From] = append(next[tr.From], tr.To)
	}
	reach := func(from ClusterState) map[ClusterState]bool {
		got := map[ClusterState]bool{from: true}
		for queue := []ClusterState{from}; len(queue) > 0; queue = queue[1:] {
			for _, to := range next[queue[0]] {
				if !got[to] {
					got[to], queue = true, append(queue, to)
				}
			}
		}
		return got
	}
	require.Empty(t, next[ClusterDeleted], "deleted is terminal")
	for _, s := range constants[ClusterState](t, "ClusterState") {
		require.True(t, reach("")[s], "%s can't be reached", s)
		require.True(t, reach(s)[ClusterDeleted], "nothing leads from %s to deleted", s)
		onItsWay := s == ClusterDeletionRequested || s == ClusterDeletionInProgress || s == ClusterDeleted
		require.Equal(t, !onItsWay, slices.Contains(next[s], ClusterDeletionRequested), "a delete in %s", s)
	}
}

// A move leaves the state alone, but for what served and could not come back.
func TestMovesLeaveTheState(t *testing.T) {
	t.Parallel()
	done, failed := OperationMove.EndStates()
	require.Equal(t, [2]string{}, [2]string{done, failed})
	for _, s := range States() {
		resting := !s.Transient() && s != StateDeleted && s != StateDeletionFailed
		require.Equal(t, resting, slices.Contains(Movable(), s), s)
		if to := OperationMove.GivenUp(string(s), "change-host"); resting && to != "" {
			require.True(t, CanMove(s, State(to)), "%s → %s", s, to)
			require.Contains(t, Accepts(State(to)), OperationUpdate, "what brings it up from anywhere")
		}
	}
	require.Equal(t, "update-failed", OperationMove.GivenUp("stable", "return-host"))
	require.Equal(t, "wake-up-failed", OperationWake.GivenUp("wake-up-in-progress", ""))
	for step, gives := range map[string]bool{"": true, StepPrepareMove: true, "stop-instance": false} {
		require.Equal(t, gives, OperationMove.GivenUp("stable", step) == "", "nothing was touched at %q", step)
		require.Equal(t, gives, (&Operation{Kind: OperationMove, Step: step}).GivesWay(), step)
		require.True(t, (&Operation{Kind: OperationVerify, Step: step}).GivesWay())
		require.True(t, (&Operation{Kind: OperationClone, Step: step}).GivesWay())
		require.False(t, (&Operation{Kind: OperationUpdate, Step: step}).GivesWay())
	}
}

// From every state of a host there is a way to up and to its removal.
func TestHostVerbs(t *testing.T) {
	t.Parallel()
	verbs := constants[HostVerb](t, "HostVerb")
	for _, s := range constants[HostState](t, "HostState") {
		if s == HostDown {
			continue // the cluster's check finds it again, or it is removed
		}
		up, ok := s.Accepts(HostUncordon)
		require.True(t, ok && up == HostUp, s)
		drained, ok := s.Accepts(HostDrain)
		require.True(t, ok && drained == HostDraining, s)
		for _, v := range verbs {
			to, ok := s.Accepts(v)
			require.Equal(t, v != HostRemove || s == HostCordoned, ok, "%s in %s", v, s)
			if again, ok := to.Accepts(v); to != "" {
				require.True(t, ok && again == to, "%s twice", v)
			}
		}
	}
	_, ok := HostDown.Accepts(HostRemove)
	require.True(t, ok)
	for _, v := range []HostVerb{HostCordon, HostUncordon, HostDrain, "reboot"} {
		_, ok := HostDown.Accepts(v)
		require.False(t, ok, v)
	}
}

func TestDrainProgress(t *testing.T) {
	t.Parallel()
	for want, members := range map[DrainProgress][]DrainMember{
		DrainMoving: {{State: StateStable, Busy: OperationMove}, {State: StateHibernating, Busy: OperationMove, Failures: 3, Reason: ReasonNotHealthy}},
		DrainWaiting: {{State: StateStable}, {State: StateUpdateInProgress, Busy: OperationUpdate}, {State: StateDeletionRequested}, {State: StateHibernating, Busy: OperationVerify},
			{State: StateStable, Failures: 1, Reason: ReasonCapacity}},
		DrainFailed: {{State: StateUpdateFailed, Failures: 1, Reason: ReasonNotHealthy}, {State: StateDeletionFailed}},
		DrainStays:  {{State: StateHibernating, Failures: 1, Reason: ReasonDataCannotMove}},
	} {
		for _, m := range members {
			require.Equal(t, want, m.Progress(), "%+v", m)
		}
	}
}
