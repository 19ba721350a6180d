package api

import (
	"net/http"

	"github.com/gorilla/mux"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func (s *server) listHosts(w http.ResponseWriter, r *http.Request) error {
	cluster, err := resourceID(r, "cluster")
	if err != nil {
		return err
	}
	views, err := s.Store.ListHosts(r.Context(), cluster)
	if err != nil {
		return err
	}
	items := make([]client.Host, len(views))
	for i := range views {
		items[i] = wireHostView(&views[i])
	}
	return writeJSON(w, http.StatusOK, client.Page[client.Host]{Items: items})
}

// hostOf returns the cluster and the host in the path.
func hostOf(r *http.Request) (cluster, host string, err error) {
	if cluster, err = resourceID(r, "cluster"); err != nil {
		return "", "", err
	}
	host = mux.Vars(r)["host"]
	if len(host) > maxHostName {
		return "", "", fleet.Errorf(fleet.KindNotFound, "there is no host %s", printable(host[:maxHostName]))
	}
	return cluster, host, nil
}

// maxHostName is as long as the name of a machine may be (RFC 1035).
const maxHostName = 253

func (s *server) getHost(w http.ResponseWriter, r *http.Request) error {
	cluster, host, err := hostOf(r)
	if err != nil {
		return err
	}
	v, err := s.Store.Host(r.Context(), cluster, host)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, wireHostView(&v))
}

// controlHost handles a verb that takes effect at once.
func (s *server) controlHost(verb fleet.HostVerb) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		body, err := emptyBody(r)
		if err != nil {
			return err
		}
		v, err := s.askHost(r, HostControl{Verb: verb}, body)
		if err != nil {
			return err
		}
		return writeHost(w, http.StatusOK, v)
	}
}

// drainHost begins a drain, which goes on as an operation. Its body may be left out.
func (s *server) drainHost(w http.ResponseWriter, r *http.Request) error {
	var in client.DrainHost
	var body []byte
	var err error
	if r.ContentLength == 0 {
		body, err = emptyBody(r)
	} else {
		var m members
		if m, body, err = decodeBody(r, &in, "application/json"); err == nil {
			err = m.noNull()
		}
		if err == nil && m.present["at_once"] {
			err = checkRange("at_once", in.AtOnce, 1, fleet.MaxDrainAtOnce)
		}
	}
	if err != nil {
		return err
	}
	v, err := s.askHost(r, HostControl{Verb: fleet.HostDrain, AtOnce: in.AtOnce, OperationID: fleet.OperationID(s.NewID())}, body)
	if err != nil {
		return err
	}
	if v.Operation != nil {
		w.Header().Set("Location", "/api/v1/operations/"+string(v.Operation.ID))
	}
	return writeHost(w, http.StatusAccepted, v)
}

// removeHost forgets a host on which nothing lies, at once.
func (s *server) removeHost(w http.ResponseWriter, r *http.Request) error {
	body, err := emptyBody(r)
	if err != nil {
		return err
	}
	if err := noVersion(r); err != nil {
		return err
	}
	if _, err := s.askHost(r, HostControl{Verb: fleet.HostRemove}, body); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// askHost asks something of the host in the path.
func (s *server) askHost(r *http.Request, c HostControl, body []byte) (HostView, error) {
	var err error
	if c.Cluster, c.Host, err = hostOf(r); err != nil {
		return HostView{}, err
	}
	if c.Key, err = s.idempotencyKey(r, body); err != nil {
		return HostView{}, err
	}
	return s.Store.ControlHost(r.Context(), c)
}

func writeHost(w http.ResponseWriter, status int, v HostView) error {
	if v.Replayed {
		w.Header().Set("Idempotency-Replayed", "true")
	}
	return writeJSON(w, status, wireHostView(&v))
}
