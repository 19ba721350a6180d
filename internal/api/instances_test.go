package api

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func TestInstances(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for _, name := range []string{"acme", "beta"} {
		v := fleet.InstanceView{InstallationName: name, Owner: "o", ClusterName: "local", HostName: "h1", Address: "10.77.0.2/20", MAC: "52:54:00:00:00:02"}
		v.ID, v.InstallationID, v.Role, v.Power = fleet.InstanceID(fleet.NewID()), fleet.InstallationID(fleet.NewID()), fleet.RoleApplication, fleet.PowerOn
		v.Endpoints = []fleet.Endpoint{{Port: 80, Protocol: fleet.ProtocolHTTP, Address: "10.77.0.2:80"}}
		h.store.instances = append(h.store.instances, v)
	}
	page := call[client.Page[client.InstanceDetail]](t, h, http.StatusOK, "GET", "/api/v1/instances?limit=1", "")
	require.Len(t, page.Items, 1)
	require.NotEmpty(t, page.NextCursor)
	page = call[client.Page[client.InstanceDetail]](t, h, http.StatusOK, "GET", "/api/v1/instances?installation=beta&cluster=local", "")
	require.Len(t, page.Items, 1)
	i := page.Items[0]
	require.Equal(t, "10.77.0.2:80", i.Endpoints[0].Address)
	require.Equal(t, i, call[client.InstanceDetail](t, h, http.StatusOK, "GET", "/api/v1/instances/"+i.ID, ""))
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/instances/"+fleet.NewID(), "")
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/instances/acme", "")
	h.refused(t, http.StatusBadRequest, "GET", "/api/v1/instances?cluster=A%20B", "")
	h.refused(t, http.StatusBadRequest, "GET", "/api/v1/instances?host=h1", "")
}
