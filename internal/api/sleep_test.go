package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

const sleepBody = `{"name":"acme","owner":"acme-corp","package":"workspace","dns_names":["www.acme.example","xn--bcher-kva.example"],
	"idle":{"idle_after_seconds":900,"minimum_awake_seconds":60,"schedules":[{"cron":"0 22 * * *","zone":"Europe/Berlin","do":"hibernate"}]},
	"wake":{"paths":["/healthz"],"methods":["HEAD"],"user_agents":["Uptime Bot/"],"cidrs":["10.0.0.0/8","2001:db8::/32"],"require_cookie":"session","require_header":"X-User","wakes_per_hour":10,"hidden":true}}`

func TestSleepFieldsComeBack(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	w := h.call(t, "POST", "/api/v1/installations", sleepBody)
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)
	var in client.Installation
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &in))
	require.Equal(t, []string{"www.acme.example", "xn--bcher-kva.example"}, in.DNSNames)
	want := &client.IdlePolicy{IdleAfterSeconds: 900, MinimumAwakeSeconds: 60, Schedules: []client.Schedule{{Cron: "0 22 * * *", Zone: "Europe/Berlin", Do: "hibernate"}}}
	require.Equal(t, want, in.Idle)
	require.Equal(t, &client.WakeRules{Paths: []string{"/healthz"}, Methods: []string{"HEAD"}, UserAgents: []string{"Uptime Bot/"}, CIDRs: []string{"10.0.0.0/8", "2001:db8::/32"},
		RequireCookie: "session", RequireHeader: "X-User", WakesPerHour: 10, Hidden: true}, in.Wake)
	require.Equal(t, &client.NextSchedule{At: scheduleTime, Do: "hibernate"}, in.NextSchedule)

	h.store.settle("acme", fleet.StateStable)
	patch := func(body string) client.Installation {
		w := h.call(t, "PATCH", "/api/v1/installations/acme", body)
		require.Equal(t, http.StatusAccepted, w.Code, w.Body)
		h.store.settle("acme", fleet.StateStable)
		var out client.Installation
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &out))
		return out
	}
	in = patch(`{"dns_names":["new.example"],"idle":{"never":true,"schedules":null},"wake":{"paths":["/a","/b"],"hidden":false,"require_cookie":null}}`)
	require.Equal(t, []string{"new.example"}, in.DNSNames)
	require.Equal(t, &client.IdlePolicy{Never: true, IdleAfterSeconds: 900, MinimumAwakeSeconds: 60}, in.Idle, "what is absent stays")
	require.Equal(t, []any{[]string{"/a", "/b"}, false, "", "X-User"}, []any{in.Wake.Paths, in.Wake.Hidden, in.Wake.RequireCookie, in.Wake.RequireHeader})
	require.Nil(t, in.NextSchedule)
	in = patch(`{"dns_names":null,"idle":null,"wake":null}`)
	require.Empty(t, in.DNSNames)
	require.Nil(t, in.Idle)
	require.Nil(t, in.Wake)
	require.Nil(t, h.store.changed.Env, "nothing else is asked for")

	// What sleeps shows since when, and what is kept of it.
	h.store.mu.Lock()
	v := h.store.find("acme")
	v.State, v.AsleepSince, v.LastActiveAt, v.Wakes = fleet.StateHibernating, epochTime, epochTime, 3
	v.Instance.Saved = &fleet.Saved{Tier: fleet.TierPacked, Bytes: 7, At: epochTime}
	v.Ports = append(v.Ports, fleet.Port{Number: 8081, Protocol: fleet.ProtocolHTTP}, fleet.Port{Number: 1883, Protocol: fleet.ProtocolTCP})
	v.GatewayPorts = []fleet.RoutePort{{Gateway: 30007, Port: 1883}}
	h.store.mu.Unlock()
	w = h.call(t, "GET", "/api/v1/installations/acme", "")
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &in))
	require.Equal(t, []any{epochTime, epochTime, int64(3)}, []any{in.AsleepSince.UTC(), in.LastActiveAt.UTC(), in.Wakes})
	require.Equal(t, &client.Saved{Tier: "packed", Bytes: 7, At: epochTime}, in.Instance.Saved)
	urls := map[int]string{}
	for _, e := range in.Endpoints {
		urls[e.Port] = e.URL + e.GatewayAddress
	}
	require.Equal(t, map[int]string{8080: "http://acme.localhost:8065", 8081: "", 1883: "acme.localhost:30007", 22: ""}, urls)
}

func TestSleepFieldsAreChecked(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.call(t, "POST", "/api/v1/installations", sleepBody)
	h.store.settle("acme", fleet.StateStable)
	many := func(n int, format string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(format, i)
		}
		return "[" + strings.Join(all, ",") + "]"
	}
	for body, field := range map[string]string{
		`"dns_names":["Acme.example"]`: "dns_names.0", `"dns_names":["acme"]`: "dns_names.0", `"dns_names":["a.example","*.example"]`: "dns_names.1",
		`"dns_names":["10.0.0.1"]`: "dns_names.0", `"dns_names":["a..example"]`: "dns_names.0", `"dns_names":["a.example."]`: "dns_names.0",
		`"dns_names":["-a.example"]`: "dns_names.0", `"dns_names":["a_b.example"]`: "dns_names.0", `"dns_names":["ä.example"]`: "dns_names.0", `"dns_names":[""]`: "dns_names.0",
		`"dns_names":["other.localhost"]`: "dns_names.0", `"dns_names":["a.b.localhost"]`: "dns_names.0", `"dns_names":["a.example","a.example"]`: "dns_names.1",
		`"dns_names":["` + strings.Repeat("a.", 130) + `example"]`: "dns_names.0", `"dns_names":` + many(33, `"n%d.example"`): "dns_names", `"dns_names":[null]`: "dns_names.0",
		`"idle":{"idle_after_seconds":59}`: "idle.idle_after_seconds", `"idle":{"idle_after_seconds":-1}`: "idle.idle_after_seconds", `"idle":{"idle_after_seconds":31536001}`: "idle.idle_after_seconds",
		`"idle":{"minimum_awake_seconds":-1}`: "idle.minimum_awake_seconds", `"idle":{"schedules":[{"cron":"x","zone":"UTC","do":"wake"}]}`: "idle.schedules.0.cron",
		`"idle":{"schedules":` + many(17, `{"cron":"0 22 * * *","zone":"UTC%d","do":"wake"}`) + `}`: "idle.schedules", `"idle":{"schedules":[null]}`: "idle.schedules.0",
		`"idle":{"made_up":1}`:   "idle.made_up",
		`"wake":{"paths":["x"]}`: "wake.paths.0", `"wake":{"paths":[""]}`: "wake.paths.0", `"wake":{"paths":["/a b"]}`: "wake.paths.0", `"wake":{"methods":["GET","P UT"]}`: "wake.methods.1",
		`"wake":{"user_agents":["a\u0000"]}`: "wake.user_agents.0", `"wake":{"user_agents":[" "]}`: "wake.user_agents.0", `"wake":{"cidrs":["10.0.0.1"]}`: "wake.cidrs.0", `"wake":{"cidrs":["10.0.0.1/8"]}`: "wake.cidrs.0",
		`"wake":{"require_cookie":"a=b"}`: "wake.require_cookie", `"wake":{"require_header":"X Y"}`: "wake.require_header", `"wake":{"wakes_per_hour":-1}`: "wake.wakes_per_hour",
		`"wake":{"paths":` + many(65, `"/p%d"`) + `}`: "wake.paths", `"wake":{"paths":["/` + strings.Repeat("a", 255) + `"]}`: "wake.paths.0",
	} {
		p := h.refused(t, http.StatusBadRequest, "PATCH", "/api/v1/installations/acme", "{"+body+"}", header{"Content-Type", "application/merge-patch+json"})
		require.Equal(t, field, p.Field, body)
		p = h.refused(t, http.StatusBadRequest, "POST", "/api/v1/installations", `{"name":"other","owner":"o","package":"workspace",`+body+"}")
		require.Equal(t, field, p.Field, body)
		if strings.HasPrefix(body, `"dns`) {
			continue
		}
		p = h.refused(t, http.StatusBadRequest, "POST", "/api/v1/groups", `{"name":"web","package":"workspace",`+body+"}")
		require.Equal(t, field, p.Field, body)
	}
	require.Equal(t, "idle", h.refused(t, http.StatusBadRequest, "POST", "/api/v1/installations", `{"name":"other","owner":"o","package":"workspace","idle":null}`).Field)
}

func TestGroupsHaveIdlePolicies(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.call(t, "POST", "/api/v1/groups", `{"name":"web","package":"workspace","idle":{"idle_after_seconds":900},"wake":{"paths":["/healthz"]}}`)
	w := h.call(t, "PATCH", "/api/v1/groups/web", `{"idle":{"minimum_awake_seconds":60,"idle_after_seconds":null}}`, header{"Content-Type", "application/merge-patch+json"})
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	var g client.Group
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &g))
	require.Equal(t, &client.IdlePolicy{MinimumAwakeSeconds: 60}, g.LatestConfig.Idle)
	require.Equal(t, &client.WakeRules{Paths: []string{"/healthz"}}, g.LatestConfig.Wake)
}

func TestHibernateTakesAMode(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.call(t, "POST", "/api/v1/installations", sleepBody)
	for body, mode := range map[string]string{"": "memory", "{}": "memory", `{"mode":"memory"}`: "memory", `{"mode":"cold"}`: "cold"} {
		h.store.settle("acme", fleet.StateStable)
		require.Equal(t, http.StatusAccepted, h.call(t, "POST", "/api/v1/installations/acme/hibernate", body).Code, body)
		require.Equal(t, map[string]string{fleet.ObservedSleep: mode}, h.store.changed.Observed, body)
	}
	h.store.settle("acme", fleet.StateStable)
	for body, field := range map[string]string{`{"mode":"warm"}`: "mode", `{"mode":null}`: "mode", `{"mode":""}`: "mode", `{"cold":true}`: "cold", `[]`: ""} {
		require.Equal(t, field, h.refused(t, http.StatusBadRequest, "POST", "/api/v1/installations/acme/hibernate", body).Field, body)
	}
}

func TestClone(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.call(t, "POST", "/api/v1/installations", sleepBody)
	h.store.settle("acme", fleet.StateStable)
	h.refused(t, http.StatusConflict, "POST", "/api/v1/installations/acme/clone", "")
	for body, seconds := range map[string]string{"": "15m0s", "{}": "15m0s", `{"time_to_live_seconds":60}`: "1m0s"} {
		h.store.settle("acme", fleet.StateHibernating)
		w := h.call(t, "POST", "/api/v1/installations/acme/clone", body)
		require.Equal(t, http.StatusAccepted, w.Code, w.Body)
		require.Equal(t, map[string]string{fleet.ObservedTimeToLive: seconds}, h.store.changed.Observed, body)
		require.Contains(t, w.Body.String(), `"kind":"clone"`)
	}
	for _, body := range []string{`{"time_to_live_seconds":3601}`, `{"time_to_live_seconds":0}`, `{"time_to_live_seconds":null}`} {
		require.Equal(t, "time_to_live_seconds", h.refused(t, http.StatusBadRequest, "POST", "/api/v1/installations/acme/clone", body).Field, body)
	}
}

func TestTraffic(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.call(t, "POST", "/api/v1/installations", sleepBody)
	h.store.settle("acme", fleet.StateStable)
	var one client.Traffic
	require.NoError(t, json.Unmarshal(h.call(t, "GET", "/api/v1/installations/acme/traffic", "").Body.Bytes(), &one))
	require.Equal(t, []any{"acme", int64(7), int64(70), int64(700), int64(2)}, []any{one.Name, one.Requests, one.BytesIn, one.BytesOut, one.Open})
	require.Equal(t, "hibernate", one.NextSchedule.Do)
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/installations/none/traffic", "")
	var page client.Page[client.Traffic]
	require.NoError(t, json.Unmarshal(h.call(t, "GET", "/api/v1/traffic?limit=5", "").Body.Bytes(), &page))
	require.Equal(t, []client.Traffic{one}, page.Items)
	h.refused(t, http.StatusBadRequest, "GET", "/api/v1/traffic?limit=0", "")
}

func TestKeepsAwake(t *testing.T) {
	t.Parallel()
	now := epochTime
	for name, c := range map[string]struct {
		change func(*fleet.Traffic)
		want   []string // parts of what is said, in order
		asleep time.Duration
	}{
		"Nothing":   {func(*fleet.Traffic) {}, nil, -45 * time.Minute},
		"Never":     {func(t *fleet.Traffic) { t.Idle.Never = true }, []string{"never"}, 0},
		"NoPolicy":  {func(t *fleet.Traffic) { t.Idle = fleet.IdlePolicy{} }, []string{"--idle-after"}, 0},
		"Open":      {func(t *fleet.Traffic) { t.Open, t.ToldAt = 3, now.Add(-time.Minute) }, []string{"3 requests"}, -45 * time.Minute},
		"OpenIsOld": {func(t *fleet.Traffic) { t.Open, t.ToldAt = 3, now.Add(-4*time.Minute) }, nil, -45 * time.Minute},
		"Visited":   {func(t *fleet.Traffic) { t.LastAt = now.Add(-5 * time.Minute) }, []string{"came 5m0s ago"}, 10 * time.Minute},
		"JustWoken": {func(t *fleet.Traffic) { t.AwakeSince = now.Add(-time.Minute) }, []string{"awake for 1m0s, and stays so for 15m0s"}, 14 * time.Minute},
		"AwakeLong": {func(t *fleet.Traffic) { t.Idle.MinimumAwakeSeconds = 7200 }, []string{"stays so for 2h0m0s"}, time.Hour},
		"Busy":      {func(t *fleet.Traffic) { t.Busy = fleet.OperationMove }, []string{"move is under way"}, -45 * time.Minute},
	} {
		in := fleet.Traffic{Idle: fleet.IdlePolicy{IdleAfterSeconds: 900}, AwakeSince: now.Add(-time.Hour), Now: now}
		c.change(&in)
		why, at := keepsAwake(&in)
		require.Len(t, why, len(c.want), name)
		for i, part := range c.want {
			require.Contains(t, why[i], part, name)
		}
		if c.asleep == 0 {
			require.True(t, at.IsZero(), name)
		} else {
			require.Equal(t, now.Add(c.asleep), at, name)
		}
	}
}
