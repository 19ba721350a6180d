package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

const herePath = "/api/v1/clusters/local/hosts/here"

func newHostHarness(t *testing.T) *harness {
	t.Helper()
	h := newHarness(t)
	call[client.Cluster](t, h, http.StatusAccepted, "POST", "/api/v1/clusters", `{"name":"local","provider":"kvm"}`)
	return h
}

func TestHostsAreShown(t *testing.T) {
	t.Parallel()
	h := newHostHarness(t)
	list := call[client.Page[client.Host]](t, h, http.StatusOK, "GET", "/api/v1/clusters/local/hosts", "")
	require.Len(t, list.Items, 1)
	require.Equal(t, client.Host{ID: "h1", Name: "here", State: "up", Cluster: "local", MemoryMiB: 1024, MemoryHeldMiB: 128, DiskMiB: 4096, DiskHeldMiB: 1024}, list.Items[0])
	h.store.lying = []fleet.DrainMember{{Name: "acme", State: fleet.StateStable}}
	one := call[client.Host](t, h, http.StatusOK, "GET", herePath, "")
	require.Equal(t, 1, *one.Installations)
	require.Nil(t, one.Drain)
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/clusters/elsewhere/hosts", "")
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/clusters/local/hosts/there", "")
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/clusters/local/hosts/"+strings.Repeat("x", 300), "")
	h.refused(t, http.StatusBadRequest, "GET", "/api/v1/clusters/local/hosts?limit=1", "")
}

func TestCordonAndUncordon(t *testing.T) {
	t.Parallel()
	h := newHostHarness(t)
	key := header{"Idempotency-Key", "k"}
	require.Equal(t, "cordoned", call[client.Host](t, h, http.StatusOK, "POST", herePath+"/cordon", "{}", key).State)
	require.Equal(t, fleet.HostControl{Cluster: "local", Host: "here", Verb: fleet.HostCordon, Key: h.store.hosted.Key}, h.store.hosted)
	require.NotEmpty(t, h.store.hosted.Key.Key)
	require.Equal(t, "up", call[client.Host](t, h, http.StatusOK, "POST", herePath+"/uncordon", "").State)
	h.refused(t, http.StatusBadRequest, "POST", herePath+"/cordon", `{"force":true}`)
	h.refused(t, http.StatusNotFound, "POST", "/api/v1/clusters/local/hosts/there/cordon", "")
}

func TestDrainIsAcceptedAndShown(t *testing.T) {
	t.Parallel()
	h := newHostHarness(t)
	h.store.lying = []fleet.DrainMember{
		{InstallationID: fleet.InstallationID(fleet.NewID()), Name: "waits", State: fleet.StateStable},
		{InstallationID: fleet.InstallationID(fleet.NewID()), Name: "moves", State: fleet.StateHibernating, Busy: fleet.OperationMove},
		{InstallationID: fleet.InstallationID(fleet.NewID()), Name: "stays", State: fleet.StateStable, Failures: 1, Reason: fleet.ReasonDataCannotMove, Detail: "no way"},
		{InstallationID: fleet.InstallationID(fleet.NewID()), Name: "failed", State: fleet.StateStable, Failures: 2, Reason: fleet.ReasonNotHealthy, Detail: "sick"},
	}
	w := h.call(t, "POST", herePath+"/drain", `{"at_once":4}`)
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	require.Equal(t, 4, h.store.hosted.AtOnce)
	require.Equal(t, "/api/v1/operations/"+string(h.store.hosted.OperationID), w.Header().Get("Location"))
	v := call[client.Host](t, h, http.StatusOK, "GET", herePath, "")
	require.Equal(t, "draining", v.State)
	d := v.Drain
	require.Equal(t, []int{7, 3, 4, 1, 1, 1, 1}, []int{d.Total, d.Done, d.Left, d.Moving, d.Waiting, d.Failed, d.Stays})
	var order []string
	for _, m := range d.Members {
		order = append(order, m.Name+" "+m.Progress+" "+m.Reason)
	}
	require.Equal(t, []string{"failed failed not-healthy-in-time", "stays stays data-cannot-move", "moves moving ", "waits waiting "}, order)

	require.Equal(t, http.StatusAccepted, h.call(t, "POST", herePath+"/drain", "").Code)
	require.Zero(t, h.store.hosted.AtOnce)
	for body, field := range map[string]string{`{"at_once":0}`: "at_once", `{"at_once":1001}`: "at_once", `{"at_once":null}`: "at_once", `{"slots":2}`: "slots"} {
		require.Equal(t, field, h.refused(t, http.StatusBadRequest, "POST", herePath+"/drain", body).Field, body)
	}
	for range 200 {
		h.store.lying = append(h.store.lying, fleet.DrainMember{InstallationID: fleet.InstallationID(fleet.NewID()), Name: fmt.Sprint("m", len(h.store.lying)), State: fleet.StateStable})
	}
	d = call[client.Host](t, h, http.StatusOK, "GET", herePath, "").Drain
	require.Len(t, d.Members, 100)
	require.Equal(t, 204, d.Left)
	require.Equal(t, 204, d.Total, "more were found than at first")
}

func TestRemoveHost(t *testing.T) {
	t.Parallel()
	h := newHostHarness(t)
	require.Equal(t, "not-accepted", h.refused(t, http.StatusConflict, "DELETE", herePath, "").Kind)
	call[client.Host](t, h, http.StatusOK, "POST", herePath+"/cordon", "")
	h.refused(t, http.StatusPreconditionFailed, "DELETE", herePath, "", header{"If-Match", `"1"`})
	require.Equal(t, http.StatusNoContent, h.call(t, "DELETE", herePath, "").Code)
	h.refused(t, http.StatusNotFound, "DELETE", herePath, "")
}

func TestExplainMove(t *testing.T) {
	t.Parallel()
	v := fleet.InstallationView{Installation: fleet.Installation{Name: "acme", State: fleet.StateStable}}
	v.Operation = &fleet.Operation{Kind: fleet.OperationMove, State: fleet.OperationActive, Step: "leave-host", StepNumber: 6, StepsTotal: 6, StartedAt: epochTime}
	e := Explain(v, epochTime)
	require.Contains(t, e.Next, "the state stays as it is")
	require.Contains(t, e.Accepts, "update", "a move refuses nothing")
	// What failed before is not the move's fault.
	v.State, v.StateReason, v.StateDetail = fleet.StateUpdateFailed, fleet.ReasonNotHealthy, "the new release"
	v.Operation = &fleet.Operation{Kind: fleet.OperationMove, State: fleet.OperationFailed, Step: "prepare-move", Error: "no room"}
	require.Contains(t, Explain(v, epochTime).Summary, "the new release")
	v.Operation.Error = v.StateDetail
	require.Contains(t, Explain(v, epochTime).Summary, "the move of acme failed")
}
