package main

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway"
	"dormouse/internal/provider/kvm"
	"dormouse/internal/store"
)

// visits joins the gateway with this host and, while it can be reached, with the
// control plane. What the host knows and can do works without the latter.
type visits struct {
	host   *kvm.Provider
	hostID fleet.HostID
	domain string
	log    logrus.FieldLogger
	// accepted is called after each request to the control plane.
	accepted func()

	// gateway and control are nil until they are there; attached is closed when control is.
	gateway  atomic.Pointer[gateway.Gateway]
	control  atomic.Pointer[store.Store]
	attached chan struct{}
	// news has room for one: a visit has woken something.
	news chan struct{}
}

func newVisits(c config, host *kvm.Provider, hostID fleet.HostID, accepted func(), log logrus.FieldLogger) *visits {
	return &visits{host: host, hostID: hostID, domain: "." + strings.ToLower(strings.Trim(c.gatewayDomain, ".")),
		log: log, accepted: accepted, news: make(chan struct{}, 1), attached: make(chan struct{})}
}

// store returns the control plane's, or says that it can't be reached yet.
func (v *visits) store() (*store.Store, error) {
	if s := v.control.Load(); s != nil {
		return s, nil
	}
	return nil, fleet.Errorf(fleet.KindUnavailable, "the database has not been reached since this process began")
}

// Route implements gateway.Routes.
func (v *visits) Route(ctx context.Context, host string) (fleet.Route, error) {
	s, err := v.store()
	if err != nil {
		return fleet.Route{}, err
	}
	if name, ok := strings.CutSuffix(host, v.domain); ok {
		host = name
		if strings.Contains(name, ".") {
			return fleet.Route{}, fleet.Errorf(fleet.KindNotFound, "no installation is reached at %s", host)
		}
	} else if !strings.Contains(host, ".") { // a label alone would be taken for a name
		return fleet.Route{}, fleet.Errorf(fleet.KindNotFound, "no installation is reached at %s", host)
	}
	return s.Route(ctx, host)
}

// attach gives access to the control plane. Once.
func (v *visits) attach(s *store.Store) {
	v.control.Store(s)
	close(v.attached)
}

// routesPage is how many routes are read at a time.
const routesPage = 200

// All implements gateway.Routes: those of this host.
func (v *visits) All(ctx context.Context, after string) ([]fleet.Route, string, error) {
	select {
	case <-v.attached: // at a start, the database comes a moment after the gateway
	case <-ctx.Done():
	}
	s, err := v.store()
	if err != nil {
		return nil, "", err
	}
	page, err := s.RoutesOf(ctx, []fleet.HostID{v.hostID}, fleet.InstallationID(after), routesPage)
	if err != nil || len(page) < routesPage {
		return page, "", err
	}
	return page, string(page[len(page)-1].InstallationID), nil
}

// Here implements gateway.Local.
func (v *visits) Here(id fleet.InstanceID) (gateway.Here, bool) {
	st, ok := v.host.Here(id)
	if !ok {
		return gateway.Here{}, false
	}
	here := gateway.Here{
		Serves: st.Power == fleet.PowerOn && st.Ready,
		Asleep: st.Asleep, Off: st.Power == fleet.PowerOff, Endpoints: st.Endpoints, Run: strconv.Itoa(st.Boot),
	}
	if st.Saved != nil {
		here.Tier = st.Saved.Tier
	}
	return here, true
}

// Activity implements gateway.Report.
func (v *visits) Activity(ctx context.Context, batch []fleet.Activity) error {
	s, err := v.store()
	if err != nil {
		return err
	}
	return s.RecordActivity(ctx, batch)
}

// changed tells the gateway of an instance to which something happened.
func (v *visits) changed(id fleet.InstanceID) {
	gw := v.gateway.Load()
	if gw == nil {
		return
	}
	if st, ok := v.host.Here(id); ok {
		gw.Changed(st.InstallationID)
	}
}

// committed tells the gateway of an installation of which the control plane
// knows something new.
func (v *visits) committed(id fleet.InstallationID) {
	if gw := v.gateway.Load(); gw != nil && id != "" {
		gw.Changed(id)
	}
}
