package simulate

import (
	"context"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/invariants"
	"dormouse/internal/store"
)

const (
	// settleWithin is how long it may take, in simulated time, until nothing is at
	// work any more once the faults are over.
	settleWithin = 6 * time.Hour
	lookEvery    = 20 * time.Second
	// watchFor is how long it is watched after that: several sweeps. Where there are
	// strays, it is longer than the sweep's grace.
	watchFor       = 2 * time.Minute
	watchStraysFor = 12 * time.Minute
)

// settleDown goes on until everything has come to its end, and what failed was
// asked for again; false where that does not come.
func (s *simulation) settleDown() bool {
	deadline := time.Now().Add(settleWithin)
	if !s.goOn(lookEvery) {
		return false
	}
	s.takeBack()
	for rounds := 0; ; rounds++ {
		for {
			if !s.goOn(lookEvery) {
				return false
			}
			s.cancelRollouts()
			open := s.strings(invariants.Open)
			if len(open) == 0 {
				break
			}
			if time.Now().After(deadline) {
				s.world.broken("Quiescence", "%v after the faults were over, %d operations are open: %v", settleWithin, len(open), open[:min(5, len(open))])
				return false
			}
		}
		restless, unapplied := s.strings(invariants.Restless), s.strings(invariants.Unapplied)
		if len(restless)+len(unapplied) == 0 {
			break
		}
		if rounds == 5 {
			s.world.broken("Quiescence", "installations stay failed or behind though nothing is broken any more: %v",
				s.strings(`SELECT name || ' ' || state || ': ' || state_reason || ' ' || state_detail FROM installation WHERE id = ANY ($1)`, array(append(restless, unapplied...))))
			return false
		}
		for _, id := range restless {
			s.ask(id, "")
		}
		for _, id := range unapplied {
			s.ask(id, fleet.OperationUpdate)
		}
	}
	watch := watchFor
	if len(s.world.strays()) > 0 {
		watch = watchStraysFor
	}
	return s.goOn(watch) && s.calm()
}

// calm: during the watch nothing began anew.
func (s *simulation) calm() bool {
	if open := s.strings(invariants.Open); len(open) > 0 {
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

// ask requests something, a retry where kind is empty.
func (s *simulation) ask(id string, kind fleet.OperationKind) {
	op := fleet.OperationID(fleet.NewID()) // here, where time is simulated
	err := s.directly(func(ctx context.Context, st *store.Store) error {
		_, err := st.ChangeInstallation(ctx, fleet.Change{OperationID: op, IDOrName: id, Kind: kind})
		return err
	})
	if err != nil && fleet.KindOf(err) != fleet.KindNotAccepted {
		s.world.broken("NoInternalError", "asking for %s again: %v", id, err)
	}
	for _, p := range s.alive() {
		p.engine.Wake()
	}
}
