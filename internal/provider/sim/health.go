package sim

import (
	"time"

	"dormouse/internal/fleet"
)

// The health of an instance that is on is computed from its record, the settings
// and the time, so that it needs neither timer nor writing to be right: a
// timer only makes OnChange tell of it.

const (
	// backgroundSlot is the time for which one background failure is drawn.
	backgroundSlot = time.Hour
	// backgroundAhead is how many such times are looked at for the next one.
	backgroundAhead = 24
	// outageSlot is the time for which one outage of the observer is drawn.
	outageSlot = time.Minute
)

// health is what an instance that is on is really like, and when it changes by
// itself; zero: not that we know.
func (c *cluster) health(in *instance, now time.Time) (state fleet.HealthState, detail string, next time.Time) {
	state, detail = in.Health, in.HealthDetail
	soonest := func(at time.Time) {
		if at.After(now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	worse := func(why string) {
		if state == fleet.HealthHealthy {
			state, detail = fleet.HealthUnhealthy, why
		}
	}
	if in.Acts {
		healthy := time.UnixMicro(in.OnAt).Add(in.behaviour.Slow)
		soonest(healthy)
		if now.Before(healthy) {
			worse("sim: not serving yet, as " + BehaviourVariable + " says")
		}
		if in.behaviour.FailAfter != never {
			failing := healthy.Add(in.behaviour.FailAfter)
			soonest(failing)
			if !now.Before(failing) {
				worse("sim: serving no more, as " + BehaviourVariable + " says")
			}
		}
		if at := in.exitsAt(); !at.IsZero() {
			soonest(at)
		}
	}
	if config := c.settings.Load(); config.Faults[FaultBackground] > 0 {
		ill, change := config.background(in.Installation, now)
		soonest(change)
		if ill {
			worse("injected fault: a failure in the background")
		}
	}
	return state, detail, next
}

// exitsAt is when the program of an instance that is on ends by itself; zero is never.
func (in *instance) exitsAt() time.Time {
	if !in.Acts || in.behaviour.ExitAfter == never {
		return time.Time{}
	}
	return time.UnixMicro(in.OnAt).Add(in.behaviour.Slow).Add(in.behaviour.ExitAfter)
}

// background tells whether an installation has a failure that has nothing to do
// with what it runs, and when to ask again at the latest.
func (c *config) background(id fleet.InstallationID, now time.Time) (ill bool, next time.Time) {
	slot := now.Unix() / int64(backgroundSlot/time.Second)
	// A failure may reach into the next slot.
	for k := slot - 1; k <= slot+backgroundAhead; k++ {
		drawn := func(what string) float64 { return draw(c.Seed, what, CallObserve, string(id), uint32(k)) }
		if drawn(string(FaultBackground)) >= c.Faults[FaultBackground] {
			continue
		}
		begin := slotAt(k).Add(time.Duration(drawn("background-at") * float64(backgroundSlot)))
		end := begin.Add(min(c.BackgroundTime.at(drawn("background-time"), drawn("background-time-2")), backgroundSlot))
		switch {
		case now.Before(begin):
			if !ill || begin.Before(next) {
				next = begin
			}
			return ill, next
		case now.Before(end):
			ill, next = true, end
		}
	}
	if ill {
		return ill, next
	}
	return false, slotAt(slot + backgroundAhead)
}

func slotAt(k int64) time.Time { return time.Unix(k*int64(backgroundSlot/time.Second), 0) }

// look is what a health check says of an instance, which may be wrong.
func (o *call) look(in *instance) fleet.InstanceStatus {
	st := o.status(in)
	if st.Power != fleet.PowerOn || !o.config.misjudges() {
		return st
	}
	switch n := o.looks(in.ID); {
	case o.outage():
		o.unknown(&st, FaultObserverOutage, "injected fault: nobody's health can be told")
	case o.misjudged(FaultUnknownHealth, in.ID, n):
		o.unknown(&st, FaultUnknownHealth, "injected fault: no answer about health")
	case st.Health == fleet.HealthHealthy && o.misjudged(FaultWrongHealth, in.ID, n):
		o.note(FaultWrongHealth)
		st.Health, st.HealthDetail = fleet.HealthUnhealthy, "injected fault: a wrong answer about health"
	}
	return st
}

func (o *call) unknown(st *fleet.InstanceStatus, fault Fault, detail string) {
	o.note(fault)
	st.Health, st.HealthDetail = fleet.HealthUnknown, detail
}

// note has the ledger tell of a fault, where it has none to tell of yet.
func (o *call) note(fault Fault) {
	if o.fault == "" {
		o.fault = fault
	}
}

// misjudges tells whether what is said of health may be wrong.
func (c *config) misjudges() bool {
	return c.Faults[FaultObserverOutage] > 0 || c.Faults[FaultUnknownHealth] > 0 || c.Faults[FaultWrongHealth] > 0
}

// callLook counts the looks at an instance, be they by Observe or by List.
const callLook Call = "look"

func (o *call) looks(id fleet.InstanceID) uint32 {
	key := attemptKey{callLook, string(id)}
	o.attempts[key]++
	return o.attempts[key]
}

func (o *call) misjudged(fault Fault, id fleet.InstanceID, look uint32) bool {
	p := o.config.Faults[fault]
	return p > 0 && draw(o.config.Seed, string(fault), callLook, string(id), look) < p
}

// outage tells whether the observer is out now, for the whole cluster.
func (o *call) outage() bool {
	p := o.config.Faults[FaultObserverOutage]
	slot := o.p.clock.Now().Unix() / int64(outageSlot/time.Second)
	return p > 0 && draw(o.config.Seed, string(FaultObserverOutage), callLook, string(o.id), uint32(slot)) < p
}
