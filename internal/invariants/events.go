package invariants

import (
	"encoding/json"
	"fmt"

	"dormouse/internal/fleet"
)

type stateEvent struct {
	N        int64
	ID, Type string
	// From is nil where the event does not say it.
	From *string
	To   string
}

const eventsSQL = `SELECT jsonb_build_object('n', id, 'id', resource_id, 'type', resource_type, 'from', data ->> 'from', 'to', data ->> 'to')::text
FROM event WHERE kind IN ('installation.state', 'cluster.state', 'rollout.state') ORDER BY id`

const statesSQL = `SELECT id || ' ' || state FROM installation UNION ALL SELECT id || ' ' || state FROM cluster UNION ALL SELECT id || ' ' || state FROM rollout`

// events judges what is told of each resource: EventsChain is that it tells a life
// without a gap and nothing twice, which ends in the state that the resource is in;
// NoBackwardState that only what the transition tables allow has happened.
func events(ask Ask) (found []Violation, err error) {
	broken := func(invariant, format string, args ...any) {
		found = append(found, Violation{invariant, fmt.Sprintf(format, args...)})
	}
	told, err := ask(eventsSQL)
	if err != nil {
		return nil, err
	}
	moves, life := allowed(), map[string]string{}
	for _, text := range told {
		var e stateEvent
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			return nil, fmt.Errorf("reading event %s: %w", text, err)
		}
		before := life[e.ID]
		life[e.ID] = e.To
		switch {
		case e.From != nil && *e.From != before:
			broken("EventsChain", "event %d of %s %s goes from %q to %q, and the one before had led to %q", e.N, e.Type, e.ID, *e.From, e.To, before)
		case e.Type == string(fleet.ResourceRollout): // a verb may leave it in its state, and no table says which moves there are
		case e.To == before:
			broken("EventsChain", "event %d of %s %s leads to %q, as the one before had", e.N, e.Type, e.ID, e.To)
		case !moves[[3]string{e.Type, before, e.To}]:
			broken("NoBackwardState", "%s %s went from %q to %q", e.Type, e.ID, before, e.To)
		}
	}
	states, err := ask(statesSQL)
	for _, text := range states {
		if id, state := text[:fleet.IDLength], text[fleet.IDLength+1:]; life[id] != state {
			broken("EventsChain", "%s is %s, and its last event leads to %q", id, state, life[id])
		}
	}
	return found, err
}

// allowed are the moves of the transition tables, by type of resource.
func allowed() map[[3]string]bool {
	moves := map[[3]string]bool{}
	for _, m := range fleet.Transitions() {
		moves[[3]string{string(fleet.ResourceInstallation), string(m.From), string(m.To)}] = true
	}
	for _, m := range fleet.ClusterTransitions() {
		moves[[3]string{string(fleet.ResourceCluster), string(m.From), string(m.To)}] = true
	}
	return moves
}
