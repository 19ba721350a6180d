package api

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// What the whole control plane can be brought to is in internal/integration; this
// is the rest, and that the answers are as documented.
func TestExplainRolloutClusterAndOperation(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.Clock = func() time.Time { return epochTime.Add(time.Minute) } })
	h.web(t, "acme", "beta")
	r := h.rollout(t, `{}`)
	h.store.advance(fleet.OperationID(r.Operation.ID), func(op *fleet.Operation) {
		op.State, op.WaitReason, op.WaitDetail = fleet.OperationActive, fleet.WaitSamples, "ring 1, wave 1: 2 of at least 3 installations have been judged"
		op.DueAt = epochTime.Add(2 * time.Minute)
	})
	e := call[client.Explanation](t, h, http.StatusOK, "GET", "/api/v1/rollouts/"+r.ID+"/explain", "")
	require.Equal(t, []string{"rollout", r.ID, "running", "waiting-for-samples"}, []string{e.About, e.Name, e.State, e.WaitingFor})
	require.Equal(t, "the rollout of group web to revision 2 runs, at ring all, wave 1, waiting for samples: ring 1, wave 1: 2 of at least 3 installations have been judged", e.Summary)
	require.Equal(t, []string{"pause", "resume", "force", "retry", "rollback", "cancel"}, e.Accepts)
	require.Len(t, e.Advice, 2)

	e = call[client.Explanation](t, h, http.StatusOK, "GET", "/api/v1/operations/"+r.Operation.ID+"/explain", "")
	require.Equal(t, []string{"operation", r.Operation.ID, "active", "waiting-for-samples"}, []string{e.About, e.Name, e.State, e.WaitingFor})
	h.store.advance(fleet.OperationID(r.Operation.ID), func(op *fleet.Operation) {
		op.State, op.CreatedAt, op.FinishedAt = fleet.OperationSucceeded, epochTime, epochTime.Add(90*time.Second)
	})
	e = call[client.Explanation](t, h, http.StatusOK, "GET", "/api/v1/operations/"+r.Operation.ID+"/explain", "")
	require.Equal(t, "the rollout of web succeeded, after 1m30s", e.Summary)

	call[client.Cluster](t, h, http.StatusAccepted, "POST", "/api/v1/clusters", `{"name":"away","provider":"sim"}`)
	e = call[client.Explanation](t, h, http.StatusOK, "GET", "/api/v1/clusters/away/explain", "")
	require.Equal(t, []string{"cluster", "away", "creation-requested"}, []string{e.About, e.Name, e.State})
	for _, path := range []string{"rollouts/x", "operations/x", "clusters/other", "rollouts/" + fleet.NewID(), "operations/" + fleet.NewID()} {
		h.refused(t, http.StatusNotFound, "GET", "/api/v1/"+path+"/explain", "")
	}
}

// Every state has an explanation that says something, also where nobody works on it.
func TestExplainEveryRolloutState(t *testing.T) {
	t.Parallel()
	for _, state := range fleet.RolloutStates() {
		for _, op := range []*fleet.Operation{nil, {Kind: fleet.OperationRollout, State: fleet.OperationActive, DueAt: epochTime}} {
			e := ExplainRollout(RolloutView{Rollout: fleet.Rollout{GroupName: "web", State: state, Reason: "some-reason"}, Operation: op}, epochTime)
			require.Contains(t, e.Summary, "web", state)
			require.NotEmpty(t, e.Next, state)
			require.Equal(t, state.Finished(), len(e.Accepts) == 0, state)
		}
	}
}
