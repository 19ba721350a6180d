package simulate

import (
	"context"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/store"
)

// How long it may take, in simulated time, until nothing is at work any more
// once the faults are over, and how long it is watched after that: longer than
// the sweep's grace.
const (
	settleWithin = 6 * time.Hour
	watchFor     = 12 * time.Minute
	lookEvery    = 20 * time.Second
)

const openSQL = `SELECT resource_name || ' ' || kind || ' ' || state || ' at ' || step || ': ' || wait_reason || ' ' || error FROM operation
WHERE state IN ('active', 'queued') ORDER BY id`

// restless are installations that a retry may bring further.
const restlessSQL = `SELECT id FROM installation WHERE state LIKE '%-failed' OR state IN ('exited', 'crash-looping') ORDER BY id`

// settleDown goes on until everything has come to its end, and what failed was
// asked for again; false where that does not come.
func (s *simulation) settleDown() bool {
	deadline := time.Now().Add(settleWithin)
	for rounds := 0; ; rounds++ {
		for {
			if !s.goOn(lookEvery) {
				return false
			}
			open := s.strings(openSQL)
			if len(open) == 0 {
				break
			}
			if time.Now().After(deadline) {
				s.world.broken("Quiescence", "%v after the faults were over, %d operations are open: %v", settleWithin, len(open), open[:min(5, len(open))])
				return false
			}
		}
		restless := s.strings(restlessSQL)
		if len(restless) == 0 {
			break
		}
		if rounds == 5 {
			s.world.broken("Quiescence", "installations stay failed though nothing is broken any more: %v",
				s.strings(`SELECT name || ' ' || state || ': ' || state_reason || ' ' || state_detail FROM installation WHERE id = ANY ($1)`, array(restless)))
			return false
		}
		for _, id := range restless {
			s.retry(id)
		}
	}
	return s.goOn(watchFor) && s.calm()
}

// calm: during the watch nothing began anew.
func (s *simulation) calm() bool {
	if open := s.strings(openSQL); len(open) > 0 {
		s.world.broken("Quiescence", "there is work again though nobody asked for any: %v", open[:min(5, len(open))])
		return false
	}
	return true
}

// goOn lets that much time pass.
func (s *simulation) goOn(d time.Duration) bool {
	for until := time.Now().Add(d); time.Now().Before(until); {
		if s.turn(); s.gone() {
			return false
		}
	}
	return true
}

func (s *simulation) retry(id string) {
	op := fleet.OperationID(fleet.NewID()) // here, where time is simulated
	err := s.directly(func(ctx context.Context, st *store.Store) error {
		_, err := st.ChangeInstallation(ctx, fleet.Change{OperationID: op, IDOrName: id})
		return err
	})
	if err != nil && fleet.KindOf(err) != fleet.KindNotAccepted {
		s.world.broken("NoInternalError", "retrying %s: %v", id, err)
	}
	for _, p := range s.alive() {
		p.engine.Wake()
	}
}
