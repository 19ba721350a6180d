package sim

import (
	"context"
	"fmt"
	"io"
	"time"

	"dormouse/internal/fleet"
)

// call is one call under way.
type call struct {
	*cluster
	config  *config
	kind    Call
	object  string
	epoch   fleet.Epoch
	attempt uint32
	fault   Fault
	effect  Effect
}

// maxHang is how long a call whose answer never comes hangs where its context has no end.
const maxHang = 30 * time.Second

// begin lets the call take its time and meet the faults that leave nothing done.
// After an error the call is over; else end must be called.
func (p *Provider) begin(ctx context.Context, id fleet.ClusterID, kind Call, object string, epoch fleet.Epoch) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, object, err)
	}
	p.mu.RLock()
	c, closed := p.clusters[id], p.closed
	p.mu.RUnlock()
	if closed {
		return nil, errClosed()
	}
	if c == nil {
		return nil, fleet.Errorf(fleet.KindUnavailable, "%s %s: the simulator has not been told of cluster %s yet: wait until it is configured", kind, object, id)
	}
	o := &call{cluster: c, config: c.settings.Load(), kind: kind, object: object, epoch: epoch}
	if o.config.counted() {
		o.attempt = c.attempt(kind, object)
	}
	if latency := o.config.Latency; !latency.Zero() {
		if err := o.sleep(ctx, latency.at(o.draw("latency"), o.draw("latency-2"))); err != nil {
			return nil, o.end(ctx, err)
		}
	}
	switch {
	case o.hit(FaultThrottle):
		err := fleet.Errorf(fleet.KindThrottled, "%s %s: injected fault: too many requests", kind, object)
		err.RetryAfter = o.config.RetryAfter
		return nil, o.end(ctx, err)
	case o.hit(FaultErrorBefore):
		return nil, o.end(ctx, fleet.Errorf(fleet.KindUnavailable, "%s %s: injected fault: refused before anything was done", kind, object))
	}
	return o, nil
}

func (o *call) draw(what string) float64 {
	return draw(o.config.Seed, what, o.kind, o.object, o.attempt)
}

// hit tells whether that fault strikes this call; a call has one at the most.
func (o *call) hit(f Fault) bool {
	p := o.config.Faults[f]
	if p == 0 || o.fault != "" || o.draw(string(f)) >= p {
		return false
	}
	o.fault = f
	return true
}

// sleep waits on the injected clock, or until ctx ends.
func (o *call) sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	passed := make(chan struct{})
	timer := o.p.clock.AfterFunc(d, func() { close(passed) })
	select {
	case <-passed:
		return nil
	case <-ctx.Done():
		timer.Stop()
		return fmt.Errorf("%s %s: %w", o.kind, o.object, ctx.Err())
	}
}

// mutates tells whether the call changes anything, so that the faults after the change apply.
func (o *call) mutates() bool {
	switch o.kind {
	case CallEnsure, CallClone, CallPowerOn, CallPowerOff, CallSuspend, CallEndSleep, CallDelete, CallEnsureVolume, CallMoveVolume, CallDeleteVolume,
		CallBeginOverlay, CallCommitOverlay, CallDropOverlay:
		return true
	}
	return false
}

// end meets the faults that spoil the answer, writes the ledger and returns
// what the caller is told. The cluster's lock must not be held.
func (o *call) end(ctx context.Context, err error) error {
	if err == nil && o.mutates() {
		switch {
		case o.hit(FaultErrorAfter):
			err = fleet.Errorf(fleet.KindUnavailable, "%s %s: injected fault: an error after it was done", o.kind, o.object)
		case o.hit(FaultLostAnswer):
			err = fleet.Errorf(fleet.KindUnavailable, "%s %s: injected fault: the answer was lost: %w", o.kind, o.object, io.ErrUnexpectedEOF)
		case o.hit(FaultTimeoutAfter):
			if err = o.sleep(ctx, maxHang); err == nil {
				err = fleet.Errorf(fleet.KindUnavailable, "%s %s: injected fault: no answer within %v", o.kind, o.object, maxHang)
			}
		}
	}
	o.p.record(Entry{
		At: o.p.clock.Now(), Cluster: o.id, Call: o.kind, Object: o.object, Epoch: o.epoch,
		Attempt: o.attempt, Effect: o.effect, Fault: o.fault, Kind: fleet.KindOf(err),
	})
	return err
}

// now is the time as records keep it: in UTC, without a monotonic part.
func (o *call) now() time.Time { return stamp(o.p.clock) }

func stamp(c Clock) time.Time { return c.Now().UTC().Truncate(time.Microsecond) }

// fence refuses an epoch that is lower than one that has been seen.
func (o *call) fence(seen fleet.Epoch) error {
	if o.epoch < seen {
		return fleet.Errorf(fleet.KindFenced, "%s %s: epoch %d is lower than %d, which has been seen: another worker has taken over, so stop", o.kind, o.object, o.epoch, seen)
	}
	return nil
}

// closedErr is checked with the lock held: the provider may have been closed
// while the call took its time.
func (o *call) closedErr() error {
	if o.closed {
		return errClosed()
	}
	return nil
}
