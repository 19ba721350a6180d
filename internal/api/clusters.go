package api

import (
	"net/http"
	"slices"
	"strings"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func (s *server) listClusters(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	p, err := page(query)
	if err != nil {
		return err
	}
	views, err := s.Store.ListClusters(r.Context(), p)
	if err != nil {
		return err
	}
	views, next := cut(p, views, func(v *ClusterView) string { return string(v.ID) })
	items := make([]client.Cluster, len(views))
	for i := range views {
		items[i] = wireCluster(&views[i])
	}
	return writeJSON(w, http.StatusOK, client.Page[client.Cluster]{Items: items, NextCursor: next})
}

func (s *server) createCluster(w http.ResponseWriter, r *http.Request) error {
	var in client.CreateCluster
	m, body, err := decodeBody(r, &in, "application/json")
	if err != nil {
		return err
	}
	if err := firstError(m.noNull(), checkName("name", in.Name), s.checkProvider(in.Provider), checkSettings(in.Settings)); err != nil {
		return err
	}
	key, err := s.idempotencyKey(r, body)
	if err != nil {
		return err
	}
	v, err := s.Store.CreateCluster(r.Context(), NewCluster{
		Key: key, ID: fleet.ClusterID(s.NewID()), OperationID: fleet.OperationID(s.NewID()),
		Name: in.Name, Provider: fleet.ProviderKind(in.Provider), Settings: in.Settings,
	})
	if err != nil {
		return err
	}
	return writeCluster(w, v)
}

func (s *server) checkProvider(kind string) error {
	if slices.Contains(s.Providers, fleet.ProviderKind(kind)) {
		return nil
	}
	names := make([]string, len(s.Providers))
	for i, p := range s.Providers {
		names[i] = string(p)
	}
	return fleet.InvalidField("provider", "provider must be %s", strings.Join(names, " or "))
}

// cluster finds the cluster that the path names.
func (s *server) cluster(r *http.Request) (ClusterView, error) {
	id, err := resourceID(r, "cluster")
	if err != nil {
		return ClusterView{}, err
	}
	return s.Store.Cluster(r.Context(), id)
}

func (s *server) getCluster(w http.ResponseWriter, r *http.Request) error {
	v, err := s.cluster(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, wireCluster(&v))
}

func (s *server) deleteCluster(w http.ResponseWriter, r *http.Request) error {
	id, err := resourceID(r, "cluster")
	if err != nil {
		return err
	}
	body, err := emptyBody(r)
	if err != nil {
		return err
	}
	if err := noVersion(r); err != nil {
		return err
	}
	key, err := s.idempotencyKey(r, body)
	if err != nil {
		return err
	}
	v, err := s.Store.DeleteCluster(r.Context(), id, key)
	if err != nil {
		return err
	}
	return writeCluster(w, v)
}

// checkCluster begins another check of a cluster, which goes on as an operation.
// Its body may be left out.
func (s *server) checkCluster(w http.ResponseWriter, r *http.Request) error {
	id, err := resourceID(r, "cluster")
	if err != nil {
		return err
	}
	var in client.CheckCluster
	body, err := optionalBody(r, &in)
	if err != nil {
		return err
	}
	if err := checkSettings(in.Settings); err != nil {
		return err
	}
	key, err := s.idempotencyKey(r, body)
	if err != nil {
		return err
	}
	v, err := s.Store.CheckCluster(r.Context(), CheckCluster{Key: key, OperationID: fleet.OperationID(s.NewID()), IDOrName: id, Settings: in.Settings})
	if err != nil {
		return err
	}
	return writeCluster(w, v)
}

// writeCluster answers 202 with the cluster and the operation that works on it.
func writeCluster(w http.ResponseWriter, v ClusterView) error {
	if v.Operation != nil {
		w.Header().Set("Location", "/api/v1/operations/"+string(v.Operation.ID))
	}
	if v.Replayed {
		w.Header().Set("Idempotency-Replayed", "true")
	}
	return writeJSON(w, http.StatusAccepted, wireCluster(&v))
}
