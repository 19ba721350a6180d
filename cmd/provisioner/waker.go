package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway"
	"dormouse/internal/provider/kvm"
)

// Wake implements gateway.Waker. What sleeps here is woken by this host, which
// tells the control plane afterwards; anything else by asking the control plane.
// Where that can't be asked, what runs here is waited for: a process that has just begun
// has not heard of its machines yet.
func (v *visits) Wake(ctx context.Context, route fleet.Route) (gateway.Woken, error) {
	if woken, ended, err := v.wakeHere(ctx, route); ended {
		return woken, err
	}
	woken, err := v.awaitServing(ctx, route)
	if err == nil || fleet.KindOf(err) != fleet.KindUnavailable || ctx.Err() != nil {
		return woken, err
	}
	if st, here := v.host.Here(route.InstanceID); here && st.Power == fleet.PowerOn {
		if st, hostErr := v.host.Wake(ctx, route.InstanceID); hostErr == nil {
			return gateway.Woken{Route: reached(route, st)}, nil
		}
	}
	return woken, err
}

// wakeHere wakes what sleeps on this host; false where nothing of the kind is here,
// or the host can't: then the control plane is about to put something else in its place.
func (v *visits) wakeHere(ctx context.Context, route fleet.Route) (woken gateway.Woken, ended bool, err error) {
	st, here := v.host.Here(route.InstanceID)
	if !here || !st.Asleep && !st.Woken {
		return woken, false, nil
	}
	began := time.Now()
	st, err = v.host.Wake(ctx, route.InstanceID)
	switch fleet.KindOf(err) {
	case "":
		v.tellSoon()
		return gateway.Woken{Route: reached(route, st), Restore: time.Since(began)}, true, nil
	case fleet.KindConflict, fleet.KindNotFound:
		return woken, false, nil
	}
	return woken, true, err
}

// wakeLogger tells where the time of each wake by a visit went.
func wakeLogger(log logrus.FieldLogger) func(fleet.InstanceID, kvm.WakePhases) {
	return func(id fleet.InstanceID, p kvm.WakePhases) {
		log.WithFields(logrus.Fields{"instance": id, "start": p.Start, "queue_ms": inMS(p.Queue), "restore_ms": inMS(p.Restore), "ready_ms": inMS(p.Ready)}).Info("woken by a visit")
	}
}

// inMS has a hundredth of a millisecond.
func inMS(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// reached is the route to an instance that the host has woken.
func reached(route fleet.Route, st fleet.InstanceStatus) fleet.Route {
	if first, ok := fleet.FirstEndpoint(st.Endpoints); ok {
		route.Address = first.Address
	}
	ports := make([]fleet.RoutePort, len(route.Ports))
	for n, p := range route.Ports {
		ports[n] = p
		for _, e := range st.Endpoints {
			if e.Port == p.Port {
				ports[n].Address = e.Address
			}
		}
	}
	route.Ports = ports
	return route
}

// wakeable are the states in which a visit asks for a wake.
func wakeable(s fleet.State) bool {
	return s == fleet.StateHibernating || s == fleet.StateWakeUpFailed || s == fleet.StateHibernationFailed
}

// The pauses between two looks at an installation that is about to serve.
const (
	firstLook = 20 * time.Millisecond
	lastLook  = 500 * time.Millisecond
)

// awaitServing asks the control plane for a wake where that is what it takes, and
// waits until the installation serves.
func (v *visits) awaitServing(ctx context.Context, route fleet.Route) (gateway.Woken, error) {
	s, err := v.store()
	if err != nil {
		return gateway.Woken{}, err
	}
	asked := false
	for pause := firstLook; ; pause = min(pause*3/2, lastLook) {
		now, err := s.Route(ctx, route.Name)
		if err != nil {
			return gateway.Woken{}, err
		}
		st, here := v.host.Here(now.InstanceID)
		switch {
		case now.Address != "" && (!here || st.Power == fleet.PowerOn && st.Ready):
			return gateway.Woken{Route: now}, nil
		case now.Address != "":
			// Its row is from before: the machine is stopping, or has just been started.
		case wakeable(now.State) && asked:
			// It was asked for, and has failed meanwhile.
			if now.State != fleet.StateHibernating {
				return gateway.Woken{}, fleet.Errorf(fleet.KindUnavailable, "waking %s: it is %s", now.Name, now.State)
			}
		case wakeable(now.State):
			_, err := v.ask(ctx, now.InstallationID, fleet.IdempotencyKey{})
			switch fleet.KindOf(err) {
			case "":
				asked = true
			case fleet.KindConflict, fleet.KindNotAccepted: // it has gone on meanwhile
			default:
				return gateway.Woken{}, err
			}
		case !now.State.Transient() && !now.Moving && now.State != fleet.StateStable:
			return gateway.Woken{}, fleet.Errorf(fleet.KindUnavailable, "waking %s: it is %s", now.Name, now.State)
		}
		if st.Asleep { // it went to sleep here meanwhile
			if woken, ended, err := v.wakeHere(ctx, now); ended {
				return woken, err
			}
		}
		select {
		case <-ctx.Done():
			return gateway.Woken{}, fleet.Errorf(fleet.KindUnavailable, "waiting until %s serves: %w", now.Name, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// ask asks the control plane for a wake.
func (v *visits) ask(ctx context.Context, id fleet.InstallationID, key fleet.IdempotencyKey) (fleet.Accepted, error) {
	s, err := v.store()
	if err != nil {
		return fleet.Accepted{}, err
	}
	accepted, err := s.ChangeInstallation(ctx, fleet.Change{Key: key, OperationID: fleet.OperationID(fleet.NewID()),
		IDOrName: string(id), Kind: fleet.OperationWake})
	if err == nil {
		v.accepted()
	}
	return accepted, err
}

func (v *visits) tellSoon() {
	select {
	case v.news <- struct{}{}:
	default:
	}
}

// The times after which a wake is told again of which the control plane could not
// hear, or did not want to.
const (
	tellAgain  = 5 * time.Second
	tellSeldom = 2 * time.Minute
)

// keepTelling tells the control plane of the wakes by visits, until ctx ends. It
// costs nothing while there is none.
func (v *visits) keepTelling(ctx context.Context) {
	v.tellSoon() // those from before this process
	var again <-chan time.Time
	pause := tellAgain
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.news:
			pause = tellAgain
		case <-again:
			pause = min(2*pause, tellSeldom)
		}
		again = nil
		if v.tell(ctx) > 0 {
			again = time.After(pause)
		}
	}
}

// tell tells of each wake, and returns of how many the control plane has not heard yet.
func (v *visits) tell(ctx context.Context) int {
	woken := v.host.WokenByVisit()
	for _, id := range woken {
		st, ok := v.host.Here(id)
		if !ok {
			continue
		}
		if err := v.tellOf(ctx, st); err != nil && ctx.Err() == nil {
			v.log.WithError(err).WithField("instance", id).Debug("telling of a wake by a visit; will be tried again")
		}
	}
	return len(woken)
}

// tellOf tells of one wake. The same told twice is one operation, unless that has
// come to nothing. Where the control plane has the machine in service anyway, there
// is nothing to tell.
func (v *visits) tellOf(ctx context.Context, st fleet.InstanceStatus) error {
	// No client of the API can send a key that begins so.
	key := "\x01visit/" + string(st.ID) + "/" + strconv.Itoa(st.Boot)
	for {
		told, err := v.ask(ctx, st.InstallationID, fleet.IdempotencyKey{Key: key, RequestHash: "visit"})
		if fleet.KindOf(err) == fleet.KindNotAccepted && v.inService(ctx, st.ID) {
			return v.host.Heard(ctx, st.ID, st.Boot)
		}
		if err != nil || !told.Replayed || !told.Operation.State.Finished() {
			return err
		}
		key += "/" + string(told.Operation.ID)
	}
}

// inService tells whether the control plane has an instance in service.
func (v *visits) inService(ctx context.Context, id fleet.InstanceID) bool {
	s, err := v.store()
	if err != nil {
		return false
	}
	place, err := s.InstancePlace(ctx, id)
	return err == nil && place.Installation.State == fleet.StateStable && len(place.Instances) == 1 && place.Instances[0].Serving
}

// quietHost is this host as the workflows see it: nobody reaches an installation
// while its memory is being saved.
type quietHost struct {
	*kvm.Provider
	v *visits
}

// Suspend implements installation.Suspender.
func (h quietHost) Suspend(ctx context.Context, ref fleet.InstanceRef, o fleet.SuspendOptions) (fleet.InstanceStatus, error) {
	gw := h.v.gateway.Load()
	st, here := h.v.host.Here(ref.ID)
	if gw == nil || !here {
		return h.Provider.Suspend(ctx, ref, o)
	}
	how := gateway.QuiesceOptions{Yield: o.Idle, IdleFor: o.IdleFor}
	if st.Asleep { // it sleeps already, unless somebody is waking it just now
		how = gateway.QuiesceOptions{Yield: true}
	}
	quiet, err := gw.Quiesce(ctx, st.InstallationID, how)
	switch {
	case err != nil && st.Asleep:
		return fleet.InstanceStatus{}, fleet.Errorf(fleet.KindUnavailable, "making installation %s quiet: %w", st.InstallationID, err)
	case err != nil && fleet.KindOf(err) == fleet.KindConflict && fleet.ReasonOf(err) != fleet.ReasonVisited:
		// By a try before this one, which has not noticed yet that it is over.
		return fleet.InstanceStatus{}, fleet.Errorf(fleet.KindUnavailable, "making installation %s quiet: %w", st.InstallationID, err)
	case err != nil:
		return fleet.InstanceStatus{}, fmt.Errorf("making installation %s quiet: %w", st.InstallationID, err)
	}
	defer quiet.Release()
	saving, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-quiet.Arrived():
			h.v.log.WithFields(logrus.Fields{"installation": st.InstallationID}).Info("somebody came while it was going to sleep")
			cancel()
		case <-saving.Done():
		}
	}()
	st, err = h.Provider.Suspend(saving, ref, o)
	if err != nil && ctx.Err() != nil { // not for a visit, but because this process ends or is too late
		return st, fleet.Errorf(fleet.KindUnavailable, "suspending instance %s: %w", ref.ID, ctx.Err())
	}
	return st, err
}
