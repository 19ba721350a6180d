package api

import (
	"net/http"

	"github.com/gorilla/mux"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func (s *server) listInstances(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	p, err := page(query)
	if err != nil {
		return err
	}
	q := fleet.InstanceQuery{Page: p, Installation: query.Get("installation"), Cluster: query.Get("cluster")}
	for name, value := range map[string]string{"installation": q.Installation, "cluster": q.Cluster} {
		if query.Has(name) && !fleet.ValidID(value) && !isDNSLabel(value) {
			return invalidQuery(name, "it must be the ID or name of one")
		}
	}
	views, err := s.Store.ListInstances(r.Context(), q)
	if err != nil {
		return err
	}
	views, next := cut(p, views, func(v *fleet.InstanceView) string { return string(v.ID) })
	items := make([]client.InstanceDetail, len(views))
	for i := range views {
		items[i] = wireInstanceView(&views[i])
	}
	return writeJSON(w, http.StatusOK, client.Page[client.InstanceDetail]{Items: items, NextCursor: next})
}

func (s *server) getInstance(w http.ResponseWriter, r *http.Request) error {
	id := mux.Vars(r)["id"]
	if !fleet.ValidID(id) {
		return fleet.Errorf(fleet.KindNotFound, "there is no instance %s: `cloudctl instance list` shows their IDs", printable(id))
	}
	v, err := s.Store.Instance(r.Context(), fleet.InstanceID(id))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, wireInstanceView(&v))
}

func wireInstanceView(v *fleet.InstanceView) client.InstanceDetail {
	out := client.InstanceDetail{
		Instance:       *wireInstance(&v.Instance, v.HostName),
		InstallationID: string(v.InstallationID), Installation: v.InstallationName, Owner: v.Owner, Cluster: v.ClusterName,
		Role: string(v.Role), Serving: v.Serving, Clone: v.Clone, Kernel: string(v.Spec.Kernel), VCPUs: v.Spec.VCPUs,
		ProviderRef: v.ProviderRef, Address: v.Address, MAC: v.MAC, Endpoints: make([]client.Endpoint, len(v.Endpoints)),
	}
	for i, e := range v.Endpoints {
		out.Endpoints[i] = client.Endpoint{Port: e.Port, Protocol: string(e.Protocol), Name: e.Name, Address: e.Address}
	}
	return out
}
