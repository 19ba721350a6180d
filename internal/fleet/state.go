package fleet

import "slices"

// State is where an installation is in its life.
type State string

// The states of an installation. *-requested: accepted, no worker has begun;
// *-in-progress: being worked on; *-failed: ended with a typed Reason.
const (
	StateCreationRequested     State = "creation-requested"
	StateCreationInProgress    State = "creation-in-progress"
	StateCreationFailed        State = "creation-failed"
	StateStable                State = "stable"
	StateUpdateRequested       State = "update-requested"
	StateUpdateInProgress      State = "update-in-progress"
	StateUpdateFailed          State = "update-failed"
	StateRestartRequested      State = "restart-requested"
	StateRestartInProgress     State = "restart-in-progress"
	StateRestartFailed         State = "restart-failed"
	StateHibernationRequested  State = "hibernation-requested"
	StateHibernationInProgress State = "hibernation-in-progress"
	StateHibernationFailed     State = "hibernation-failed"
	StateHibernating           State = "hibernating"
	StateWakeUpRequested       State = "wake-up-requested"
	StateWakeUpInProgress      State = "wake-up-in-progress"
	StateWakeUpFailed          State = "wake-up-failed"
	// StateExited: the program ended and its restart policy lets it rest.
	StateExited State = "exited"
	// StateCrashLooping: the program kept ending; it is stopped until somebody acts.
	StateCrashLooping       State = "crash-looping"
	StateDeletionRequested  State = "deletion-requested"
	StateDeletionInProgress State = "deletion-in-progress"
	StateDeletionFailed     State = "deletion-failed"
	// StateDeleted: a tombstone; nothing of it runs or is stored.
	StateDeleted State = "deleted"
)

// stateNone is where an installation that does not exist yet comes from.
const stateNone State = ""

// Transition is one allowed change of an installation's state.
type Transition struct {
	From, To State
	// By is the kind of operation that makes the change. It is empty for what
	// is observed (a program that ended, or came back).
	By OperationKind
	// Request is true where the API makes the change on accepting a request,
	// false where a worker makes it.
	Request bool
}

// life describes one kind of operation; the transition table is made from it.
type life struct {
	kind                              OperationKind
	requested, inProgress, failed, to State
	// from lists the resting states in which the request is accepted.
	from []State
	// alsoTo lists the other states in which the work may properly end.
	alsoTo []State
}

var lives = []life{
	{OperationCreate, StateCreationRequested, StateCreationInProgress, StateCreationFailed, StateStable,
		[]State{stateNone}, nil},
	{OperationUpdate, StateUpdateRequested, StateUpdateInProgress, StateUpdateFailed, StateStable,
		[]State{StateStable, StateHibernating, StateUpdateFailed, StateRestartFailed, StateWakeUpFailed, StateHibernationFailed,
			StateCreationFailed, StateExited, StateCrashLooping},
		[]State{StateHibernating}},
	{OperationRestart, StateRestartRequested, StateRestartInProgress, StateRestartFailed, StateStable,
		[]State{StateStable, StateUpdateFailed, StateRestartFailed, StateHibernationFailed, StateExited, StateCrashLooping}, nil},
	{OperationHibernate, StateHibernationRequested, StateHibernationInProgress, StateHibernationFailed, StateHibernating,
		[]State{StateStable, StateUpdateFailed, StateRestartFailed, StateWakeUpFailed, StateHibernationFailed, StateExited, StateCrashLooping},
		[]State{StateStable}}, // somebody came, and it was given up
	{OperationWake, StateWakeUpRequested, StateWakeUpInProgress, StateWakeUpFailed, StateStable,
		[]State{StateHibernating, StateWakeUpFailed, StateHibernationFailed}, nil},
	{OperationDelete, StateDeletionRequested, StateDeletionInProgress, StateDeletionFailed, StateDeleted,
		[]State{StateCreationRequested, StateCreationInProgress, StateCreationFailed, StateStable,
			StateUpdateRequested, StateUpdateInProgress, StateUpdateFailed,
			StateRestartRequested, StateRestartInProgress, StateRestartFailed,
			StateHibernationRequested, StateHibernationInProgress, StateHibernationFailed, StateHibernating,
			StateWakeUpRequested, StateWakeUpInProgress, StateWakeUpFailed,
			StateExited, StateCrashLooping, StateDeletionFailed}, nil},
}

// observed are the changes that no request causes: a program that ended by
// itself, and one that was seen running again after that.
var observed = []Transition{
	{From: StateStable, To: StateExited},
	{From: StateStable, To: StateCrashLooping},
}

// movable are the resting states in which an installation may be moved to
// another host. A move ends in the state that it began in.
var movable = []State{StateStable, StateHibernating, StateCreationFailed, StateUpdateFailed, StateRestartFailed, StateHibernationFailed,
	StateWakeUpFailed, StateExited, StateCrashLooping}

// stranded: what served, was moved, did not come up there and did not come
// back either. An update brings it up from wherever it is.
var stranded = Transition{From: StateStable, To: StateUpdateFailed, By: OperationMove}

// Movable returns the states in which an installation may be moved to another host.
func Movable() []State { return slices.Clone(movable) }

// retried says which operation a retry repeats in each state that accepts one.
var retried = map[State]OperationKind{
	StateCreationFailed:    OperationCreate,
	StateUpdateFailed:      OperationUpdate,
	StateRestartFailed:     OperationRestart,
	StateHibernationFailed: OperationHibernate,
	StateWakeUpFailed:      OperationWake,
	StateDeletionFailed:    OperationDelete,
	StateExited:            OperationRestart,
	StateCrashLooping:      OperationRestart,
}

// Transitions returns every allowed change of an installation's state, in a
// fixed order. A change that is not in it is refused by the store.
func Transitions() []Transition {
	var all []Transition
	for _, l := range lives {
		from := slices.Clone(l.from)
		// A retry asks for the same operation again from where it failed.
		for state, kind := range retried {
			if kind == l.kind && !slices.Contains(from, state) {
				from = append(from, state)
			}
		}
		slices.Sort(from)
		for _, f := range from {
			all = append(all, Transition{From: f, To: l.requested, By: l.kind, Request: true})
		}
		all = append(all, Transition{From: l.requested, To: l.inProgress, By: l.kind})
		for _, to := range append([]State{l.to, l.failed}, l.alsoTo...) {
			all = append(all,
				Transition{From: l.requested, To: to, By: l.kind},
				Transition{From: l.inProgress, To: to, By: l.kind})
		}
		// A program that ends while an operation brings it up.
		if l.to == StateStable {
			all = append(all, Transition{From: l.inProgress, To: StateExited, By: l.kind})
		}
	}
	return append(append(all, observed...), stranded)
}

// States returns every state of an installation, in the order of a life.
func States() []State {
	return []State{
		StateCreationRequested, StateCreationInProgress, StateCreationFailed, StateStable,
		StateUpdateRequested, StateUpdateInProgress, StateUpdateFailed,
		StateRestartRequested, StateRestartInProgress, StateRestartFailed,
		StateHibernationRequested, StateHibernationInProgress, StateHibernationFailed, StateHibernating,
		StateWakeUpRequested, StateWakeUpInProgress, StateWakeUpFailed,
		StateExited, StateCrashLooping,
		StateDeletionRequested, StateDeletionInProgress, StateDeletionFailed, StateDeleted,
	}
}

// CanMove tells whether the table allows an installation to go from one state to another.
func CanMove(from, to State) bool {
	return slices.ContainsFunc(Transitions(), func(t Transition) bool { return t.From == from && t.To == to })
}

// Transient tells whether work is under way or due in this state.
func (s State) Transient() bool {
	return slices.ContainsFunc(lives, func(l life) bool { return s == l.requested || s == l.inProgress })
}

// Failed tells whether this is a *-failed state.
func (s State) Failed() bool {
	return slices.ContainsFunc(lives, func(l life) bool { return s == l.failed })
}

// InstallationOperations returns the kinds of operation that installations have.
func InstallationOperations() []OperationKind {
	kinds := make([]OperationKind, len(lives))
	for i, l := range lives {
		kinds[i] = l.kind
	}
	return kinds
}

// RequestedState is the state that an accepted request of this kind puts an installation in.
func (k OperationKind) RequestedState() State { return k.life().requested }

// InProgressState is the state while an operation of this kind is worked on.
func (k OperationKind) InProgressState() State { return k.life().inProgress }

// FailedState is the state after an operation of this kind has failed.
func (k OperationKind) FailedState() State { return k.life().failed }

// DoneState is the state after an operation of this kind has succeeded. An
// update of a sleeping installation ends in StateHibernating instead.
func (k OperationKind) DoneState() State { return k.life().to }

// EndStates are the states in which the operation's resource ends, an
// installation or a cluster, when it succeeds and when it fails.
func (k OperationKind) EndStates() (done, failed string) {
	switch k {
	case OperationCreateCluster:
		return string(ClusterStable), string(ClusterCreationFailed)
	case OperationDeleteCluster:
		return string(ClusterDeleted), string(ClusterDeletionFailed)
	}
	return string(k.DoneState()), string(k.FailedState())
}

// GivenUp is the state in which the operation's resource ends where it fails at
// that step and what it had begun could not be undone; empty leaves it as it is.
func (k OperationKind) GivenUp(from, step string) string {
	if k == OperationMove && from == string(stranded.From) && !untouched(step) {
		return string(stranded.To)
	}
	_, failed := k.EndStates()
	return failed
}

// GivesWay tells whether a request takes the operation's place: a verification's or
// a clone's at any time, and a move's as long as it has touched nothing.
func (o *Operation) GivesWay() bool {
	return o.Kind == OperationVerify || o.Kind == OperationClone || o.Kind == OperationMove && untouched(o.Step)
}

// untouched tells whether a move that stands at that step has touched nothing yet.
func untouched(step string) bool { return step == "" || step == StepPrepareMove }

func (k OperationKind) life() life {
	for _, l := range lives {
		if l.kind == k {
			return l
		}
	}
	return life{}
}

// Accepts returns the kinds of operation that may be requested in state s,
// derived from the transition table.
func Accepts(s State) []OperationKind {
	var kinds []OperationKind
	for _, t := range Transitions() {
		if t.Request && t.From == s {
			kinds = append(kinds, t.By)
		}
	}
	return kinds
}

// RetryOf returns the operation that a retry repeats in state s; false where there is nothing to retry.
func RetryOf(s State) (OperationKind, bool) {
	k, ok := retried[s]
	return k, ok
}
