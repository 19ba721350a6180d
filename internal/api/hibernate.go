package api

import (
	"net/http"
	"time"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// hibernateInstallation takes a body that says how, or none.
func (s *server) hibernateInstallation(w http.ResponseWriter, r *http.Request) error {
	id, err := resourceID(r, "installation")
	if err != nil {
		return err
	}
	in := client.HibernateInstallation{Mode: string(fleet.SuspendMemory)}
	body, err := optionalBody(r, &in)
	if err != nil {
		return err
	}
	switch fleet.SuspendMode(in.Mode) {
	case fleet.SuspendMemory, fleet.SuspendCold:
	default:
		return fleet.InvalidField("mode", "mode must be memory or cold")
	}
	return s.change(w, r, body, Change{IDOrName: id, Kind: fleet.OperationHibernate, Observed: map[string]string{fleet.ObservedSleep: in.Mode}})
}

// cloneInstallation makes a throw-away copy of a sleeper.
func (s *server) cloneInstallation(w http.ResponseWriter, r *http.Request) error {
	id, err := resourceID(r, "installation")
	if err != nil {
		return err
	}
	in := client.CloneInstallation{TimeToLiveSeconds: int(fleet.DefaultTimeToLive.Seconds())}
	body, err := optionalBody(r, &in)
	if err != nil {
		return err
	}
	if err := checkRange("time_to_live_seconds", in.TimeToLiveSeconds, minTimeToLiveSeconds, int(fleet.MaxTimeToLive.Seconds())); err != nil {
		return err
	}
	return s.change(w, r, body, Change{IDOrName: id, Kind: fleet.OperationClone,
		Observed: map[string]string{fleet.ObservedTimeToLive: (time.Duration(in.TimeToLiveSeconds) * time.Second).String()}})
}

// minTimeToLiveSeconds is the shortest time for which a clone can be looked at.
const minTimeToLiveSeconds = 10

// optionalBody decodes a body where there is one; what it does not say stays as it is.
func optionalBody(r *http.Request, v any) ([]byte, error) {
	if r.ContentLength == 0 {
		return emptyBody(r)
	}
	m, body, err := decodeBody(r, v, "application/json")
	if err != nil {
		return nil, err
	}
	return body, m.noNull()
}
