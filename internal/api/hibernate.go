package api

import (
	"net/http"

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
	var body []byte
	if r.ContentLength == 0 {
		body, err = emptyBody(r)
	} else {
		var m members
		if m, body, err = decodeBody(r, &in, "application/json"); err == nil {
			err = m.noNull()
		}
	}
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
