package sim

import (
	"time"

	"dormouse/internal/fleet"
)

// retryKeeping is when a change that could not be written is tried again.
const retryKeeping = time.Second

// status is what callers are told of an instance.
func (c *cluster) status(in *instance) fleet.InstanceStatus {
	st := in.record.status(c.p.clock.Now())
	switch {
	case in.Power == fleet.PowerOff:
	case in.endpoints != nil:
		st.Endpoints = in.endpoints
	default:
		st.Endpoints = in.record.endpoints()
	}
	return st
}

// arm brings what belongs to this process in line with the record: the timer of
// a pending change, and real addresses.
func (c *cluster) arm(in *instance) {
	in.notify()
	if in.Power != fleet.PowerOn || c.closed {
		in.rest()
	}
	switch {
	case c.closed:
	case in.Power == fleet.PowerPending:
		c.schedule(in, in.DueAt.Sub(c.p.clock.Now()))
	case in.Power == fleet.PowerOn:
		in.stopTimer()
		if c.p.options.Serve == nil || in.served {
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
}

// schedule has the pending change end after d.
func (c *cluster) schedule(in *instance, d time.Duration) {
	in.stopTimer()
	id, armed := in.ID, in.armed
	in.timer = c.p.clock.AfterFunc(max(d, 0), func() { c.due(id, armed) })
}

// due ends a pending change, unless the timer has been replaced meanwhile.
func (c *cluster) due(id fleet.InstanceID, armed uint64) {
	c.mu.Lock()
	in := c.instances[id]
	if c.closed || in == nil || in.armed != armed || in.Power != fleet.PowerPending {
		c.mu.Unlock()
		return
	}
	rec := in.record
	rec.finish(stamp(c.p.clock))
	err := c.put(change{Instance: &rec})
	if err != nil {
		c.p.log.WithError(err).WithField("instance", id).Warn("a simulated instance stays pending until its state can be kept")
		c.schedule(in, retryKeeping)
	}
	c.mu.Unlock()
	if err == nil {
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
		if exit.At.IsZero() {
			exit.At = now
		}
		rec.end(exit)
		return nil
	})
}

// SetHealth changes what the health check of an instance that is on says, until
// its next boot, and signals OnChange. Errors: KindNotFound, KindNotAccepted where it
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

// alter changes an instance, whichever cluster it is in.
func (p *Provider) alter(id fleet.InstanceID, f func(*record, time.Time) error) error {
	p.mu.RLock()
	clusters := make([]*cluster, 0, len(p.clusters))
	for _, c := range p.clusters {
		clusters = append(clusters, c)
	}
	closed := p.closed
	p.mu.RUnlock()
	if closed {
		return errClosed()
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
