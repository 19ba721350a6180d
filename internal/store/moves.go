package store

import "dormouse/internal/fleet"

// moves are the changes of state that the transition tables allow.
type moves struct {
	installations map[fleet.Transition]bool
	clusters      map[fleet.ClusterTransition]bool
}

func allMoves() moves {
	m := moves{installations: map[fleet.Transition]bool{}, clusters: map[fleet.ClusterTransition]bool{}}
	for _, t := range fleet.Transitions() {
		m.installations[fleet.Transition{From: t.From, To: t.To}] = true
	}
	for _, t := range fleet.ClusterTransitions() {
		m.clusters[t] = true
	}
	return m
}

// check refuses a result that no table allows with KindInternal: it is a fault
// of the workflow. Where the worker could not read the state that it comes
// from, only a failed state may follow, so that malformed rows can be ended.
func (m moves) check(r fleet.Result) error {
	ok := true
	switch {
	case r.To == "":
	case r.InstallationID != "" && r.From == "":
		ok = fleet.State(r.To).Failed()
	case r.InstallationID != "":
		ok = m.installations[fleet.Transition{From: fleet.State(r.From), To: fleet.State(r.To)}]
	case r.From != "":
		ok = m.clusters[fleet.ClusterTransition{From: fleet.ClusterState(r.From), To: fleet.ClusterState(r.To)}]
	}
	if ok {
		return nil
	}
	return fleet.Errorf(fleet.KindInternal, "committing operation %s: no transition leads from %q to %q", r.OperationID, r.From, r.To)
}
