package gateway

import (
	"net/http"

	"dormouse/internal/fleet"
)

// standing says what can be done for a visitor of an installation.
type standing int

const (
	serving standing = iota // it is asked
	asleep                  // it can be woken
	pending                 // it will serve without being woken, or so it seems
	resting                 // it does not serve, and a visit changes nothing
)

// condition is how an installation is, by the host's word where it has one, and
// by the control plane's else.
type condition struct {
	standing standing
	// address is where it serves; of plain TCP it is the port's.
	address string
	run     string
	tier    fleet.SleepTier
}

// condition looks at an installation for a visitor of port, which is 0 for HTTP.
func (g *Gateway) condition(route Route, port int) condition {
	c := condition{standing: standingOf(route), address: route.Address}
	guest := -1
	if port != 0 {
		c.address = ""
		for _, p := range route.Ports {
			if p.Gateway == port {
				c.address, guest = p.Address, p.Port
			}
		}
	}
	if here, ok := g.here(route); ok && !leaving(route.State) {
		c.run, c.tier = here.Run, here.Tier
		switch {
		case here.Serves:
			c.standing = serving
		case here.Asleep:
			c.standing = asleep
		case c.standing == serving:
			c.standing = pending
		}
		if address := endpointOf(here.Endpoints, guest); address != "" {
			c.address = address
		}
	}
	if c.standing == serving && c.address == "" {
		c.standing = resting // it has no such port
	}
	return c
}

func (g *Gateway) here(route Route) (Here, bool) {
	if g.o.Local == nil || route.InstanceID == "" {
		return Here{}, false
	}
	return g.o.Local.Here(route.InstanceID)
}

// settledHere tells whether an installation's machine serves or sleeps on this host.
func (g *Gateway) settledHere(route Route) bool {
	here, ok := g.here(route)
	return ok && (here.Serves || here.Asleep) && !leaving(route.State)
}

// endpointOf returns the address of a guest's port, or of its first one where
// that is below 0.
func endpointOf(endpoints []fleet.Endpoint, port int) string {
	if port < 0 {
		first, _ := fleet.FirstEndpoint(endpoints)
		return first.Address
	}
	for _, e := range endpoints {
		if e.Port == port {
			return e.Address
		}
	}
	return ""
}

// leaving tells whether an installation is on its way out: then it does not
// matter that its machine still runs.
func leaving(state fleet.State) bool {
	switch state {
	case fleet.StateDeletionRequested, fleet.StateDeletionInProgress, fleet.StateDeletionFailed, fleet.StateDeleted:
		return true
	}
	return false
}

// standingOf is what the control plane says.
func standingOf(route Route) standing {
	doing, described := inWords(route.State)
	switch {
	case leaving(route.State):
		return resting
	case route.Address != "" && (doing.serves || !described):
		return serving
	case route.State == fleet.StateHibernating, route.State == fleet.StateWakeUpFailed,
		route.State == fleet.StateHibernationFailed, route.State == fleet.StateHibernationInProgress:
		return asleep
	case doing.passing, route.Moving:
		return pending
	}
	return resting
}

// refusalOf says why what rests can't be asked.
func refusalOf(route Route, host string) *refusal {
	if route.State == fleet.StateDeleted {
		return unknown(host)
	}
	doing, described := inWords(route.State)
	switch {
	case route.Moving:
		doing = activity{words: "is being moved to another machine", retryAfter: shortly}
	case !described:
		doing = activity{words: "has no web address", retryAfter: later}
	}
	return &refusal{status: http.StatusServiceUnavailable, reason: "not-serving", title: "This workspace " + doing.words, retryAfter: doing.retryAfter}
}
