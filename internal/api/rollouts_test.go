package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// rollout begins one to a new revision of the group web.
func (h *harness) rollout(t testing.TB, body string) client.Rollout {
	t.Helper()
	call[client.Group](t, h, http.StatusOK, "PATCH", "/api/v1/groups/web", fmt.Sprintf(`{"package":"workspace@%s"}`, fleet.NewID()))
	return call[client.Rollout](t, h, http.StatusAccepted, "POST", "/api/v1/groups/web/rollouts", body)
}

const wholeSpec = `{"to_revision":2,"rings":[{"name":"canary","labels":{"tier":"internal"},"soak":"0s"},{"name":"some","percent":12.5,"soak":"90m"},
	{"name":"named","installations":["acme"]},{"name":"rest"}],"first_wave":3,"slots":2,"verify_slots":5,"healthy_for":"10s","health_deadline":"5m",
	"soak":"1h","min_samples":7,"max_failures":4,"max_failures_percent":0.5,"auto_rollback":true,"progress_deadline":"10m",
	"metric":{"url":"http://127.0.0.1:9090","query":"sum(rate(errors[5m]))","max":0,"for":"2m"}}`

func TestCreateRollout(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	g := h.web(t, "acme", "beta")
	call[client.Group](t, h, http.StatusOK, "PATCH", "/api/v1/groups/web", `{"package":"workspace@1.1"}`)
	key := header{"Idempotency-Key", "k"}
	w := h.call(t, "POST", "/api/v1/groups/web/rollouts", wholeSpec, key)
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	require.Equal(t, `"1"`, w.Header().Get("ETag"))
	soak, none := 90*time.Minute, time.Duration(0)
	require.Equal(t, fleet.RolloutSpec{
		Rings: []fleet.RolloutRing{{Name: "canary", Labels: map[string]string{"tier": "internal"}, Soak: &none}, {Name: "some", Percent: 12.5, Soak: &soak},
			{Name: "named", Installations: []string{"acme"}}, {Name: "rest"}},
		FirstWave: 3, Slots: 2, VerifySlots: 5, HealthyFor: 10 * time.Second, HealthDeadline: 5 * time.Minute, Soak: time.Hour, MinSamples: 7,
		MaxFailures: 4, MaxFailuresPercent: 0.5, AutoRollback: true, ProgressDeadline: 10 * time.Minute,
		Metric: &fleet.MetricGate{URL: "http://127.0.0.1:9090", Query: "sum(rate(errors[5m]))", For: 2 * time.Minute},
	}, h.store.begun.Spec)
	require.Equal(t, g.ID, h.store.begun.Group)

	page := call[client.Page[client.RolloutSummary]](t, h, http.StatusOK, "GET", "/api/v1/rollouts?group=web", "")
	require.Len(t, page.Items, 1)
	r := call[client.Rollout](t, h, http.StatusOK, "GET", "/api/v1/rollouts/"+page.Items[0].ID, "")
	require.Equal(t, client.RolloutSummary{ID: r.ID, GroupID: g.ID, Group: "web", FromRevision: 1, ToRevision: 2, State: "running", Version: 1, CreatedAt: epochTime}, page.Items[0])
	require.Equal(t, "/api/v1/operations/"+r.Operation.ID, w.Header().Get("Location"))
	require.Equal(t, "rollout", r.Operation.Kind)
	require.Equal(t, [2]int64{1, 2}, [2]int64{r.FromRevision, r.ToRevision})
	require.Equal(t, client.RolloutSpec{
		Rings: []client.RolloutRing{{Name: "canary", Labels: map[string]string{"tier": "internal"}, Soak: "0s"}, {Name: "some", Percent: 12.5, Soak: "1h30m0s"},
			{Name: "named", Installations: []string{"acme"}}, {Name: "rest"}},
		FirstWave: 3, Slots: 2, VerifySlots: 5, HealthyFor: "10s", HealthDeadline: "5m0s", Soak: "1h0m0s", MinSamples: 7,
		MaxFailures: 4, MaxFailuresPercent: 0.5, AutoRollback: true, ProgressDeadline: "10m0s",
		Metric: &client.MetricGate{URL: "http://127.0.0.1:9090", Query: "sum(rate(errors[5m]))", For: "2m0s"},
	}, r.Spec)

	w = h.call(t, "POST", "/api/v1/groups/web/rollouts", wholeSpec, key)
	require.Equal(t, "true", w.Header().Get("Idempotency-Replayed"))
	require.Contains(t, w.Body.String(), r.ID)
	h.refused(t, http.StatusConflict, "POST", "/api/v1/groups/web/rollouts", `{}`, key)

	second := call[client.Rollout](t, h, http.StatusAccepted, "POST", "/api/v1/groups/"+g.ID+"/rollouts", `{"soak":"0s"}`)
	require.Negative(t, h.store.begun.Spec.Soak, "none, and not the default")
	require.Equal(t, "0s", second.Spec.Soak)
	require.Equal(t, 2, second.Spec.Slots, "the planner's default")
	require.Equal(t, "superseded", call[client.Rollout](t, h, http.StatusOK, "GET", "/api/v1/rollouts/"+r.ID, "").State)
	require.Equal(t, second.ID, call[client.Group](t, h, http.StatusOK, "GET", "/api/v1/groups/web", "").Rollout.ID)
	h.refused(t, http.StatusNotFound, "POST", "/api/v1/groups/none/rollouts", `{}`)
	require.Equal(t, "to_revision", h.refused(t, http.StatusBadRequest, "POST", "/api/v1/groups/web/rollouts", `{"to_revision":9}`).Field)
	require.Equal(t, "slots", h.refused(t, http.StatusBadRequest, "POST", "/api/v1/groups/web/rollouts", `{"slots":3}`).Field, "what the planner refuses")
}

func TestARolloutIsReplayedAfterItsGroupIsGone(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.web(t)
	key := header{"Idempotency-Key", "k"}
	r := call[client.Rollout](t, h, http.StatusAccepted, "POST", "/api/v1/groups/web/rollouts", `{}`, key)
	call[client.Rollout](t, h, http.StatusOK, "POST", "/api/v1/rollouts/"+r.ID+"/cancel", "")
	require.Equal(t, http.StatusNoContent, h.call(t, "DELETE", "/api/v1/groups/web", "").Code)
	require.Equal(t, r.ID, call[client.Rollout](t, h, http.StatusAccepted, "POST", "/api/v1/groups/web/rollouts", `{}`, key).ID)
	require.Contains(t, h.refused(t, http.StatusNotFound, "POST", "/api/v1/groups/web/rollouts", `{}`, header{"Idempotency-Key", "new"}).Detail, "web")
}

func TestCreateRolloutRefuses(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.web(t, "acme")
	ring := func(rest string) string { return `{"rings":[{"name":"a"},{"name":"b",` + rest + `}]}` }
	metric := func(body string) string { return `{"metric":` + body + `}` }
	for body, field := range map[string]string{
		`{"to_revision":0}`: "to_revision", `{"slots":0}`: "slots", `{"slots":-1}`: "slots", `{"slots":"10%"}`: "slots", `{"slots":1,"slots_percent":1}`: "slots_percent",
		`{"slots_percent":0}`: "slots_percent", `{"slots_percent":101}`: "slots_percent", `{"first_wave":0}`: "first_wave", `{"verify_slots":0}`: "verify_slots",
		`{"min_samples":0}`: "min_samples", `{"max_failures":0}`: "max_failures", `{"max_failures_percent":0}`: "max_failures_percent",
		`{"healthy_for":"0s"}`: "healthy_for", `{"healthy_for":10}`: "healthy_for", `{"health_deadline":"-1s"}`: "health_deadline", `{"soak":"1 h"}`: "soak",
		`{"soak":""}`: "soak", `{"soak":"721h"}`: "soak", `{"progress_deadline":"0s"}`: "progress_deadline", `{"auto_rollback":"yes"}`: "auto_rollback",
		`{"rings":[]}`: "rings", `{"rings":{}}`: "rings", `{"rings":null}`: "rings", `{"rings":[null]}`: "rings.0", `{"rings":[{}]}`: "rings.0.name",
		`{"rings":[{"name":"A"}]}`: "rings.0.name", `{"rings":[{"name":"a"},{"name":"a"}]}`: "rings.1.name", ring(`"percent":0`): "rings.1.percent",
		ring(`"percent":100.1`): "rings.1.percent", ring(`"labels":{}`): "rings.1.labels", ring(`"installations":[]`): "rings.1.labels",
		ring(`"labels":{"a":null}`): "rings.1.labels.a", ring(`"labels":{" ":"x"}`): `rings.1.labels." "`, ring(`"installations":["A"]`): "rings.1.installations",
		ring(`"soak":"x"`): "rings.1.soak", ring(`"label":{}`): "rings.1.label", ring(`"Percent":1`): "rings.1.Percent", ring(`"percent":1,"percent":2`): "rings.1.percent",
		metric(`{"query":"q","max":1}`): "metric.url", metric(`{"url":"ftp://x","query":"q","max":1}`): "metric.url",
		metric(`{"url":"http://u:p@x","query":"q","max":1}`): "metric.url", metric(`{"url":"http://x?y=1","query":"q","max":1}`): "metric.url",
		metric(`{"url":"http://x","query":" ","max":1}`): "metric.query", metric(`{"url":"http://x","query":"q"}`): "metric.max",
		metric(`{"url":"http://x","query":"q","max":1,"for":"x"}`): "metric.for", metric(`{"url":"http://x","query":"q","max":1,"min":0}`): "metric.min",
		metric(`null`): "metric", `{"dry_run":null}`: "dry_run", `{"RolloutSpec":{}}`: "RolloutSpec", `{"spec":{}}`: "spec",
	} {
		p := h.refused(t, http.StatusBadRequest, "POST", "/api/v1/groups/web/rollouts", body)
		require.Equal(t, "invalid", p.Kind)
		require.Equal(t, field, p.Field, "%s: %s", body, p.Detail)
	}
	require.Empty(t, h.store.rollouts)
	many := strings.TrimSuffix(strings.Repeat(`"a",`, maxRingMember+1), ",")
	require.Equal(t, "rings.1.installations", h.refused(t, http.StatusBadRequest, "POST", "/api/v1/groups/web/rollouts", ring(`"installations":[`+many+`]`)).Field)
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.web(t, "acme", "beta")
	h.join(t, "inner", `"group":"web","labels":{"tier":"internal"}`)
	h.join(t, "sleeper", `"group":"web"`)
	h.store.settle("sleeper", fleet.StateHibernating)
	call[client.Group](t, h, http.StatusOK, "PATCH", "/api/v1/groups/web", `{"package":"workspace@1.1"}`)
	const body = `{"rings":[{"name":"canary","labels":{"tier":"internal"}},{"name":"rest"},{"name":"nobody","labels":{"tier":"none"}}],"soak":"1h","dry_run":true}`
	body2 := strings.Replace(body, `{"name":"rest"},{"name":"nobody","labels":{"tier":"none"}}`, `{"name":"nobody","labels":{"tier":"none"}},{"name":"rest"}`, 1)
	plan := call[client.RolloutPlan](t, h, http.StatusOK, "POST", "/api/v1/groups/web/rollouts", body2)
	require.Equal(t, [2]int64{1, 2}, [2]int64{plan.FromRevision, plan.ToRevision})
	require.Equal(t, "web", plan.Group)
	require.Equal(t, [2]int{4, 1}, [2]int{plan.Total, plan.Asleep})
	require.Equal(t, []client.PlannedRing{
		{Name: "canary", Total: 1, Waves: []int{1}, FirstWave: []string{"inner"}},
		{Name: "nobody", Waves: []int{}, FirstWave: []string{}},
		{Name: "rest", Total: 3, Asleep: 1, Waves: []int{1, 2}, FirstWave: []string{"acme"}},
	}, plan.Rings)
	require.Equal(t, "1h0m0s", plan.Spec.Soak)
	require.Equal(t, 4, plan.Spec.Slots)
	require.Empty(t, h.store.rollouts)
	h.refused(t, http.StatusNotFound, "POST", "/api/v1/groups/none/rollouts", `{"dry_run":true}`)
	h.refused(t, http.StatusBadRequest, "POST", "/api/v1/groups/web/rollouts", `{"dry_run":true,"slots":5}`)
}

func TestARolloutShowsWhereItIs(t *testing.T) {
	t.Parallel()
	now := epochTime
	h := newHarness(t, func(o *Options) { o.Clock = func() time.Time { return now } })
	h.web(t, "m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9", "m10")
	r := h.rollout(t, `{"rings":[{"name":"one"},{"name":"two"}]}`)
	require.Nil(t, r.RatePerMinute)
	require.Nil(t, r.SecondsLeft)
	require.Contains(t, h.call(t, "GET", "/api/v1/rollouts/"+r.ID, "").Body.String(), `"rate_per_minute":null,"seconds_left":null,"failures":[]`)
	require.Equal(t, client.RolloutCounts{Waiting: 11}, r.Counts)

	now = now.Add(2 * time.Minute)
	id := fleet.RolloutID(r.ID)
	h.store.proceed(id, func(v *RolloutView, members []fleet.RolloutMember) {
		v.Ring, v.Wave, v.WaveSince, v.ProgressAt = 1, 2, epochTime, epochTime.Add(time.Minute)
		for i, state := range fleet.MemberStates() {
			members[i].State = state
		}
		members[10].Ring, members[10].State = 1, fleet.MemberFailed
		members[10].Reason, members[10].Detail, members[10].StartedAt, members[10].Attempts = fleet.ReasonNotHealthy, "GET / answers 500", epochTime, 1
		members[10].Health, members[10].BadSince, members[10].OperationID = fleet.HealthUnhealthy, epochTime, "op9"
	})
	get := func() client.Rollout {
		return call[client.Rollout](t, h, http.StatusOK, "GET", "/api/v1/rollouts/"+r.ID, "")
	}
	r = get()
	require.Equal(t, client.RolloutCounts{Waiting: 1, Rolling: 1, Verifying: 1, Done: 1, AsleepVerified: 1, Unverifiable: 1, Failed: 2, RollingBack: 1, RolledBack: 1}, r.Counts)
	require.Equal(t, 10, r.Total, "who is gone counts nowhere")
	require.Equal(t, []client.RingStatus{
		{Name: "one", Total: 9, Counts: client.RolloutCounts{Waiting: 1, Rolling: 1, Verifying: 1, Done: 1, AsleepVerified: 1, Unverifiable: 1, Failed: 1, RollingBack: 1, RolledBack: 1}},
		{Name: "two", Total: 1, Counts: client.RolloutCounts{Failed: 1}},
	}, r.Rings)
	require.Equal(t, [2]int{1, 2}, [2]int{r.Ring, r.Wave})
	require.InDelta(t, 3, *r.RatePerMinute, 0.001, "6 in 2 minutes")
	require.InDelta(t, 60, *r.SecondsLeft, 0.001, "3 are to come")
	require.Equal(t, "not-healthy-in-time", r.Failures[1].Reason)
	require.Equal(t, "unhealthy", r.Failures[1].Health)

	h.store.advance(fleet.OperationID(r.Operation.ID), func(op *fleet.Operation) { op.WaitReason, op.WaitDetail = fleet.WaitRollout, "watched for 2h" })
	require.Equal(t, "watched for 2h", get().Detail)

	change := func(f func(*RolloutView)) {
		h.store.proceed(id, func(v *RolloutView, _ []fleet.RolloutMember) { f(v) })
	}
	change(func(v *RolloutView) {
		v.State, v.Reason, v.Detail = fleet.RolloutHalted, fleet.ReasonNotHealthy, "2 failed"
	})
	r = get()
	require.InDelta(t, 6, *r.RatePerMinute, 0.001, "a rollout that stands does not get slower")
	require.Nil(t, r.SecondsLeft)
	require.Equal(t, "2 failed", r.Detail)
	change(func(v *RolloutView) { v.State = fleet.RolloutRollingBack })
	require.Nil(t, get().RatePerMinute)
	change(func(v *RolloutView) { v.State, v.FinishedAt = fleet.RolloutCancelled, epochTime.Add(30*time.Second) })
	require.InDelta(t, 12, *get().RatePerMinute, 0.001)

	type page = client.Page[client.RolloutMember]
	path := "/api/v1/rollouts/" + r.ID + "/members"
	first := call[page](t, h, http.StatusOK, "GET", path+"?limit=10", "")
	require.Len(t, first.Items, 10)
	require.Len(t, call[page](t, h, http.StatusOK, "GET", path+"?limit=10&cursor="+first.NextCursor, "").Items, 1)
	require.Len(t, call[page](t, h, http.StatusOK, "GET", path+"?state=failed", "").Items, 2)
	h.refused(t, http.StatusBadRequest, "GET", path+"?state=happy", "")
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/rollouts/"+fleet.NewID()+"/members", "")
}

func TestListRollouts(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	g := h.web(t, "acme")
	one, two := h.rollout(t, `{}`), h.rollout(t, `{}`)
	type page = client.Page[client.RolloutSummary]
	first := call[page](t, h, http.StatusOK, "GET", "/api/v1/rollouts?limit=1", "")
	require.Equal(t, two.ID, first.Items[0].ID, "newest first")
	second := call[page](t, h, http.StatusOK, "GET", "/api/v1/rollouts?limit=1&cursor="+first.NextCursor, "")
	require.Equal(t, one.ID, second.Items[0].ID)
	require.Empty(t, second.NextCursor)
	require.Len(t, call[page](t, h, http.StatusOK, "GET", "/api/v1/rollouts?group="+g.ID, "").Items, 2)
	call[client.Group](t, h, http.StatusCreated, "POST", "/api/v1/groups", `{"name":"other","package":"p"}`)
	require.Equal(t, `{"items":[]}`, h.call(t, "GET", "/api/v1/rollouts?group=other", "").Body.String())
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/rollouts?group=none", "")
	h.refused(t, http.StatusBadRequest, "GET", "/api/v1/rollouts?group=A", "")
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/rollouts/web", "")
}
