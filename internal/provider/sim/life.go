package sim

import (
	"maps"
	"slices"
	"time"

	"dormouse/internal/fleet"
)

// retryKeeping is when a change that could not be written is tried again.
const retryKeeping = time.Second

// status is what callers are told of an instance.
func (c *cluster) status(in *instance) fleet.InstanceStatus {
	now := c.p.clock.Now()
	st := in.record.status(now)
	if in.Power == fleet.PowerOn {
		var next time.Time
		st.Health, st.HealthDetail, next = c.health(in, now)
		if st.Health != fleet.HealthHealthy && !next.IsZero() {
			st.Again = max(next.Sub(now), time.Millisecond)
		}
	}
	switch {
	case in.Power == fleet.PowerOff || in.Clone: // nobody reaches a clone
	case in.endpoints != nil:
		st.Endpoints = in.endpoints
	default:
		st.Endpoints = in.record.endpoints()
	}
	return st
}

// arm brings what belongs to this process in line with the record: the timer of
// what comes by itself, and real addresses.
func (c *cluster) arm(in *instance) {
	in.notify()
	if in.Power != fleet.PowerOn || c.closed {
		in.rest()
	}
	if c.closed || in.Power == fleet.PowerOff {
		return
	}
	c.armTimer(in)
	if in.Power == fleet.PowerOn {
		c.serve(in)
	}
}

// armTimer has due called when something comes by itself, if anything does.
func (c *cluster) armTimer(in *instance) {
	now := c.p.clock.Now()
	next := in.DueAt
	if in.Power == fleet.PowerOn {
		in.told, _, next = c.health(in, now)
		if at := in.exitsAt(); !at.IsZero() && !at.After(now) {
			next = at // overdue
		}
		if next.IsZero() {
			in.stopTimer()
			return
		}
	}
	c.schedule(in, next.Sub(now))
}

// serve gives an instance that has come on real addresses.
func (c *cluster) serve(in *instance) {
	if c.p.options.Serve == nil || in.served || in.Clone {
		return
	}
	in.served = true
	endpoints, stop, err := c.p.options.Serve(in.ID, in.Ports)
	if err != nil {
		c.p.log.WithError(err).WithField("instance", in.ID).Warn("giving a simulated instance real addresses: it keeps those where nobody answers")
		return
	}
	in.endpoints, in.stop = endpoints, stop
}

// schedule has due called after d.
func (c *cluster) schedule(in *instance, d time.Duration) {
	in.stopTimer()
	id, armed := in.ID, in.armed
	in.timer = c.p.clock.AfterFunc(max(d, 0), func() { c.due(id, armed) })
}

// due makes what has come by itself so, unless the timer has been replaced
// meanwhile: a pending change ends, a program ends, or the health has changed.
func (c *cluster) due(id fleet.InstanceID, armed uint64) {
	c.mu.Lock()
	in := c.instances[id]
	if c.closed || in == nil || in.armed != armed || in.Power == fleet.PowerOff {
		c.mu.Unlock()
		return
	}
	now := stamp(c.p.clock)
	rec, at := in.record, in.exitsAt()
	exits := !at.IsZero() && !at.After(c.p.clock.Now())
	var err error
	tell := true
	switch {
	case in.Power == fleet.PowerPending:
		rec.finish(now)
		err = c.put(change{Instance: &rec})
	case exits:
		rec.end(now, fleet.Exit{Reason: fleet.ReasonProgramExited, Code: 1, LastLines: []string{"sim: exits, as " + BehaviourVariable + " says"}})
		err = c.put(change{Instance: &rec})
	default:
		told := in.told
		c.armTimer(in)
		tell = in.told != told
	}
	if err != nil {
		c.p.log.WithError(err).WithField("instance", id).Warn("a simulated instance stays as it is until its state can be kept")
		c.schedule(in, retryKeeping)
	}
	c.mu.Unlock()
	if err == nil && tell {
		c.p.options.OnChange(id)
	}
}

// stopTimer makes sure that no earlier timer has a say.
func (in *instance) stopTimer() {
	in.armed++
	if in.timer != nil {
		in.timer.Stop()
		in.timer = nil
	}
}

// rest gives back what an instance that is not on has no need of.
func (in *instance) rest() {
	in.stopTimer()
	if in.stop != nil {
		in.stop()
	}
	in.served, in.endpoints, in.stop = false, nil, nil
}

// notify wakes those who follow the console.
func (in *instance) notify() {
	if in.changed != nil {
		close(in.changed)
		in.changed = nil
	}
}

// SetExit ends an instance as if its program had ended by itself, and signals
// OnChange. Errors: KindNotFound, KindNotAccepted where it is off already, KindUnavailable.
func (p *Provider) SetExit(id fleet.InstanceID, exit fleet.Exit) error {
	return p.alter(id, func(rec *record, now time.Time) error {
		if rec.Power == fleet.PowerOff {
			return fleet.Errorf(fleet.KindNotAccepted, "ending instance %s: it is off", id)
		}
		rec.end(now, exit)
		return nil
	})
}

// SetHealth changes what the health check of an instance that is on says, until
// its next boot, and signals OnChange. HealthHealthy takes that back: what the
// release or a failure in the background does to it shows again. Errors: KindNotFound, KindNotAccepted where it
// is not on, KindUnavailable.
func (p *Provider) SetHealth(id fleet.InstanceID, health fleet.HealthState, detail string) error {
	return p.alter(id, func(rec *record, _ time.Time) error {
		if rec.Power != fleet.PowerOn {
			return fleet.Errorf(fleet.KindNotAccepted, "setting the health of instance %s: it is %s", id, rec.Power)
		}
		rec.Health, rec.HealthDetail = health, detail
		return nil
	})
}

// all returns the clusters in order of their IDs.
func (p *Provider) all() ([]*cluster, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return nil, errClosed()
	}
	clusters := make([]*cluster, 0, len(p.clusters))
	for _, id := range slices.Sorted(maps.Keys(p.clusters)) {
		clusters = append(clusters, p.clusters[id])
	}
	return clusters, nil
}

// alter changes an instance, whichever cluster it is in.
func (p *Provider) alter(id fleet.InstanceID, f func(*record, time.Time) error) error {
	clusters, err := p.all()
	if err != nil {
		return err
	}
	for _, c := range clusters {
		found, err := c.alter(id, f)
		if !found {
			continue
		}
		if err == nil {
			p.options.OnChange(id)
		}
		return err
	}
	return fleet.Errorf(fleet.KindNotFound, "there is no simulated instance %s", id)
}

func (c *cluster) alter(id fleet.InstanceID, f func(*record, time.Time) error) (found bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.instances[id]
	if in == nil || c.closed {
		return false, nil
	}
	rec := in.record
	if err := f(&rec, stamp(c.p.clock)); err != nil {
		return true, err
	}
	return true, c.put(change{Instance: &rec})
}
