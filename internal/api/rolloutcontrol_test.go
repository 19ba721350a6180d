package api

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func TestVerbsOnARollout(t *testing.T) {
	t.Parallel()
	for verb, state := range map[fleet.RolloutVerb]string{
		fleet.RolloutPause: "paused", fleet.RolloutResume: "running", fleet.RolloutForce: "running", fleet.RolloutRetry: "running",
		fleet.RolloutCancel: "cancelled", fleet.RolloutRollback: "rolling-back",
	} {
		t.Run(string(verb), func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.web(t, "acme")
			r := h.rollout(t, `{}`)
			path := "/api/v1/rollouts/" + r.ID + "/" + string(verb)
			key, version := header{"Idempotency-Key", "k"}, header{"If-Match", `"1"`}
			w := h.call(t, "POST", path, "{}", key, version)
			require.Equal(t, http.StatusOK, w.Code, w.Body)
			require.Equal(t, `"2"`, w.Header().Get("ETag"))
			require.Equal(t, fleet.RolloutControl{Key: h.store.controlled.Key, ID: fleet.RolloutID(r.ID), IfMatch: 1, Verb: verb}, h.store.controlled)
			again := call[client.Rollout](t, h, http.StatusOK, "POST", path, "{}", key, version)
			require.Equal(t, state, again.State)
			require.Equal(t, int64(2), again.Version, "done once")
			require.Equal(t, verb == fleet.RolloutForce, again.Forced)

			h.refused(t, http.StatusConflict, "POST", "/api/v1/rollouts/"+r.ID+"/pause", "", key, header{"If-Match", `"7"`})
			h.refused(t, http.StatusPreconditionFailed, "POST", path, "", version)
			h.refused(t, http.StatusBadRequest, "POST", path, `{"force":true}`)
			h.refused(t, http.StatusNotFound, "POST", "/api/v1/rollouts/"+fleet.NewID()+"/"+string(verb), "")
			h.refused(t, http.StatusNotFound, "POST", "/api/v1/rollouts/web/"+string(verb), "")
			h.store.proceed(fleet.RolloutID(r.ID), func(v *RolloutView, _ []fleet.RolloutMember) { v.State = fleet.RolloutSucceeded })
			require.Equal(t, "not-accepted", h.refused(t, http.StatusConflict, "POST", path, "", header{"If-Match", "*"}).Kind)
		})
	}
}

// awaited begins a rollout to be waited for.
func awaited(t *testing.T, reread time.Duration) (*harness, client.Rollout, string) {
	t.Helper()
	h := newHarness(t, func(o *Options) { o.Reread = reread })
	h.web(t, "acme")
	r := h.rollout(t, `{}`)
	return h, r, "/api/v1/rollouts/" + r.ID
}

func TestLongPollIsToldOfTheEndOfARollout(t *testing.T) {
	t.Parallel()
	h, r, path := awaited(t, time.Hour)
	answer := h.poll(t, t.Context(), path+"?wait=1m")
	h.store.proceed(fleet.RolloutID(r.ID), func(v *RolloutView, _ []fleet.RolloutMember) { v.State = fleet.RolloutHalted })
	h.watch.tell(r.Operation.ID)
	select {
	case w := <-answer:
		t.Fatal("answered before the end: ", w.Body)
	default:
	}
	h.store.proceed(fleet.RolloutID(r.ID), func(v *RolloutView, _ []fleet.RolloutMember) { v.State = fleet.RolloutSucceeded })
	h.watch.tell(r.Operation.ID)
	w := <-answer
	require.Equal(t, http.StatusOK, w.Code)
	require.Contains(t, w.Body.String(), `"state":"succeeded"`)
}

// A change by another process is told by nobody: the rollout is read again.
func TestLongPollIsToldOfAVersionOfARollout(t *testing.T) {
	t.Parallel()
	h, r, path := awaited(t, 5*time.Millisecond)
	require.Equal(t, int64(1), call[client.Rollout](t, h, http.StatusOK, "GET", path+"?version=1", "").Version, "without a wait there is none")
	answer := h.poll(t, t.Context(), path+"?wait=1m&version=1")
	h.store.proceed(fleet.RolloutID(r.ID), func(v *RolloutView, _ []fleet.RolloutMember) { v.Wave = 1 })
	w := <-answer
	require.Contains(t, w.Body.String(), `"wave":1`)
	require.Equal(t, `"2"`, w.Header().Get("ETag"))
}

func TestLongPollOnARolloutEnds(t *testing.T) {
	t.Parallel()
	h, _, path := awaited(t, time.Hour)
	require.Equal(t, "running", call[client.Rollout](t, h, http.StatusOK, "GET", path+"?wait=10ms", "").State)
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/rollouts/"+fleet.NewID()+"?wait=1m", "")
	for query, field := range map[string]string{"wait=2m": "wait", "wait=x": "wait", "version=0": "version", "version=x&wait=1s": "version", "revision=1": "revision"} {
		require.Equal(t, "query."+field, h.refused(t, http.StatusBadRequest, "GET", path+"?"+query, "").Field)
	}
}

func TestLongPollOnARolloutFailsWithTheStore(t *testing.T) {
	t.Parallel()
	h, _, path := awaited(t, 5*time.Millisecond)
	answer := h.poll(t, t.Context(), path+"?wait=1m")
	h.store.setFail(fleet.Errorf(fleet.KindUnavailable, "the database does not answer"))
	require.Equal(t, http.StatusServiceUnavailable, (<-answer).Code)
}
