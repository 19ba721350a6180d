package main

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

// args runs a command line whose arguments may hold spaces.
func (r run) args(t *testing.T, args ...string) int {
	t.Helper()
	return r.app.main(t.Context(), args)
}

func TestSleepFlags(t *testing.T) {
	t.Parallel()
	op := operation()
	f := newFake(t, map[string]http.HandlerFunc{
		"POST /installations": answer(202, installation("creation-requested", &op)), "PATCH /installations/acme": answer(202, installation("update-requested", &op)),
		"POST /groups": answer(201, client.Group{Name: "web"}), "PATCH /groups/web": answer(200, client.Group{Name: "web"}),
	})
	policy := []string{"--idle-after", "15m", "--minimum-awake", "90s", "--schedule", "0 22 * * MON-FRI; Europe/Berlin ;hibernate", "--schedule", "0 8 * * *;UTC;wake",
		"--no-wake-path", "/healthz", "--no-wake-path", "/a,b", "--no-wake-method", "HEAD", "--no-wake-agent", "Uptime Bot", "--no-wake-cidr", "10.0.0.0/8",
		"--wake-cookie", "session", "--wake-header", "X-User", "--wakes-per-hour", "6", "--hidden"}
	const said = `"idle":{"idle_after_seconds":900,"minimum_awake_seconds":90,"schedules":[{"cron":"0 22 * * MON-FRI","zone":"Europe/Berlin","do":"hibernate"},{"cron":"0 8 * * *","zone":"UTC","do":"wake"}]},` +
		`"wake":{"paths":["/healthz","/a,b"],"methods":["HEAD"],"user_agents":["Uptime Bot"],"cidrs":["10.0.0.0/8"],"require_cookie":"session","require_header":"X-User","wakes_per_hour":6,"hidden":true}`
	names := []string{"--dns-name", "www.acme.example", "--dns-name", "acme.example"}
	const named = `"dns_names":["www.acme.example","acme.example"],`
	create := []string{"installation", "create", "acme", "--owner", "alice", "--package", "workspace"}
	update := []string{"installation", "update", "acme"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{append(append(create, policy...), names...), `{"name":"acme","owner":"alice","package":"workspace",` + named + said + "}"},
		{create, `{"name":"acme","owner":"alice","package":"workspace"}`},
		{append(create, "--never-sleep"), `{"name":"acme","owner":"alice","package":"workspace","idle":{"never":true}}`},
		{append(append(update, policy...), names...), "{" + named + said + "}"},
		{append(update, "--never-sleep=false", "--idle-after", "0"), `{"idle":{"never":false,"idle_after_seconds":0}}`},
		{append(update, "--dns-name", "", "--schedule", "", "--no-wake-path", "", "--wake-cookie", ""), `{"dns_names":[],"idle":{"schedules":[]},"wake":{"paths":[],"require_cookie":""}}`},
		{append([]string{"group", "create", "web", "--package", "workspace"}, policy...), `{"name":"web","package":"workspace",` + said + "}"},
		{[]string{"group", "update", "web", "--idle-after", "1h"}, `{"idle":{"idle_after_seconds":3600}}`},
	} {
		r := newRun(f.URL)
		require.Equal(t, exitDone, r.args(t, c.args...), r.err)
		asked := f.asked()
		require.JSONEq(t, c.want, asked[len(asked)-1].body, "%q", c.args)
	}
	before := len(f.asked())
	for _, args := range [][]string{
		append(update, "--idle-after", "90"), append(update, "--idle-after", "1500ms"), append(update, "--idle-after", "-1s"),
		append(update, "--schedule", "0 22 * * *"), append(update, "--schedule", "0 22 * * *;UTC"), update,
	} {
		require.Equal(t, exitUsage, newRun(f.URL).args(t, args...), "%q", args)
	}
	require.Len(t, f.asked(), before)
}

func TestHibernateCold(t *testing.T) {
	t.Parallel()
	op := operation()
	f := newFake(t, map[string]http.HandlerFunc{"POST /installations/acme/hibernate": answer(202, installation("hibernation-requested", &op))})
	require.Equal(t, exitDone, newRun(f.URL).line(t, "installation hibernate acme"))
	require.Equal(t, exitDone, newRun(f.URL).line(t, "installation hibernate acme --cold"))
	require.Equal(t, []string{"", `{"mode":"cold"}`}, []string{f.asked()[0].body, f.asked()[1].body})
}

func TestOpen(t *testing.T) {
	t.Parallel()
	f := newFake(t, map[string]http.HandlerFunc{"GET /installations/acme": answer(200, installation("stable", nil))})
	for _, c := range []struct {
		line      string
		tty, have bool
		opened    string
		out       string
	}{
		{"installation open acme", true, true, "http://acme.localhost:8065", ""},
		{"installation open acme", true, false, "", "http://acme.localhost:8065\n"},
		{"installation open acme", false, true, "", "http://acme.localhost:8065\n"},
		{"installation open acme --print", true, true, "", "http://acme.localhost:8065\n"},
		{"installation open acme --print -o json", true, true, "", "{\n  \"url\": \"http://acme.localhost:8065\"\n}\n"},
	} {
		r, opened := newRun(f.URL), ""
		r.stdoutTTY = c.tty
		if c.have {
			r.openURL = func(_ context.Context, url string) error { opened = url; return nil }
		}
		require.Equal(t, exitDone, r.line(t, c.line))
		require.Equal(t, []string{c.opened, c.out}, []string{opened, r.out.String()}, c.line)
	}
}

func TestClone(t *testing.T) {
	t.Parallel()
	op, held := operation(), operation()
	op.Kind, held.Kind, held.Step, held.Revision = "clone", "clone", client.StepHoldClone, 7
	failed := ended("failed")
	copied := client.InstanceDetail{Instance: client.Instance{ID: "vm2", Power: "on"}, Installation: "acme", Role: "application", Clone: true,
		Endpoints: []client.Endpoint{{Port: 8080, Protocol: "http", Address: "10.9.0.2:8080"}}}
	list := answer(200, client.Page[client.InstanceDetail]{Items: []client.InstanceDetail{{Instance: client.Instance{ID: "vm1"}}, copied}})
	routes := map[string]http.HandlerFunc{"POST /installations/acme/clone": answer(202, installation("hibernating", &op)), "GET /operations/op1": answer(200, held), "GET /instances": list}
	f := newFake(t, routes)
	r := newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "installation clone acme --for 10m --wait"), r.err)
	require.Equal(t, `{"time_to_live_seconds":600}`, f.asked()[0].body)
	require.Contains(t, r.out.String(), "http://10.9.0.2:8080")
	require.Contains(t, r.out.String(), "a clone")
	r = newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "installation clone acme"))
	require.Contains(t, r.out.String(), "hibernating")
	for _, line := range []string{"--for 9s", "--for 61m", "--for 1500ms"} {
		require.Equal(t, exitUsage, newRun(f.URL).line(t, "installation clone acme "+line), line)
	}
	routes = map[string]http.HandlerFunc{"POST /installations/acme/clone": answer(202, installation("hibernating", &op)), "GET /operations/op1": answer(200, failed)}
	require.Equal(t, exitFailed, newRun(newFake(t, routes).URL).line(t, "installation clone acme --wait"))
}

func traffic(name string, requests int64) client.Traffic {
	return client.Traffic{InstallationID: "id-" + name, Name: name, State: "stable", Requests: requests, BytesIn: 3 << 20, BytesOut: 5 << 10, Open: 2,
		ToldAt: noon.Add(-20 * time.Second), LastActiveAt: noon.Add(-3 * time.Minute), Wakes: 4, AwakeSince: noon.Add(-time.Hour),
		KeepsAwake: []string{"2 requests or connections are open", "somebody came 3m0s ago, and it is idle after 15m0s"}, SleepsAt: noon.Add(12 * time.Minute),
		NextSchedule: &client.NextSchedule{At: time.Date(2030, 5, 17, 20, 0, 0, 0, time.UTC), Do: "hibernate"}}
}

func TestTraffic(t *testing.T) {
	t.Parallel()
	quiet := traffic("quiet", 0)
	quiet.KeepsAwake, quiet.SleepsAt, quiet.NextSchedule, quiet.LastActiveAt, quiet.ToldAt = nil, time.Time{}, nil, time.Time{}, time.Time{}
	asleep := traffic("asleep", 9)
	asleep.State, asleep.AwakeSince, asleep.AsleepSince, asleep.KeepsAwake, asleep.SleepsAt = "hibernating", time.Time{}, noon.Add(-26*time.Hour), nil, time.Time{}
	f := newFake(t, map[string]http.HandlerFunc{"GET /installations/acme/traffic": answer(200, traffic("acme", 1234)),
		"GET /installations/quiet/traffic": answer(200, quiet), "GET /installations/asleep/traffic": answer(200, asleep)})
	r := newRun(f.URL)
	for _, name := range []string{"acme", "quiet", "asleep"} {
		require.Equal(t, exitDone, r.line(t, "installation traffic "+name))
		_, _ = r.out.Write([]byte("\n"))
	}
	golden(t, "traffic.txt", r.out.String())
}

func TestTop(t *testing.T) {
	t.Parallel()
	rounds := inTurn(answer(200, client.Page[client.Traffic]{Items: []client.Traffic{traffic("first", 10), traffic("second", 100)}}),
		answer(200, client.Page[client.Traffic]{Items: []client.Traffic{traffic("first", 20), traffic("second", 200)}}))
	f := newFake(t, map[string]http.HandlerFunc{"GET /traffic": rounds})
	r := newRun(f.URL)
	clock := noon
	r.now = func() time.Time { clock = clock.Add(10 * time.Second); return clock }
	require.Equal(t, exitDone, r.line(t, "top --limit 5 --count 2"))
	require.Equal(t, "limit=5", f.asked()[0].query)
	lines := strings.Split(strings.TrimSpace(r.out.String()), "\n")
	require.Len(t, lines, 6)
	require.Contains(t, lines[1], "first")
	require.Regexp(t, `^first +stable +2 +- +- +- +10 `, lines[1])
	require.Regexp(t, `^second +stable +2 +[1-9]`, lines[4], "the busiest first, at a rate")
	require.NotContains(t, r.out.String(), "\x1b")

	// Once where a program reads, and until it is interrupted on a terminal.
	r = newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "top -o json"))
	require.True(t, strings.HasPrefix(r.out.String(), "[\n"))
	r = newRun(f.URL)
	r.stdoutTTY = true
	ctx, cancel := context.WithCancel(t.Context())
	rounds = func(next http.HandlerFunc) http.HandlerFunc {
		n := 0
		return func(w http.ResponseWriter, q *http.Request) {
			if n++; n == 3 {
				cancel()
			}
			next(w, q)
		}
	}(rounds)
	f2 := newFake(t, map[string]http.HandlerFunc{"GET /traffic": rounds})
	r.server = f2.URL
	require.Equal(t, exitDone, r.with(ctx, "top --server "+f2.URL))
	require.GreaterOrEqual(t, strings.Count(r.out.String(), "\x1b[H\x1b[J"), 2)
	for line := range strings.Lines(r.out.String()) {
		require.LessOrEqual(t, len([]rune(strings.TrimPrefix(line, "\x1b[H\x1b[J"))), 80)
	}
	for _, line := range []string{"top --every 10ms", "top --limit 0", "top --limit 201", "top --count -1"} {
		require.Equal(t, exitUsage, newRun(f.URL).line(t, line), line)
	}
	empty := newFake(t, map[string]http.HandlerFunc{"GET /traffic": answer(200, client.Page[client.Traffic]{})})
	r = newRun(empty.URL)
	require.Equal(t, exitDone, r.line(t, "top -o json"))
	require.Equal(t, "[]\n", r.out.String())
}

func TestInstallationSheetOfASleeper(t *testing.T) {
	t.Parallel()
	in := installation("hibernating", nil)
	in.AsleepSince, in.LastActiveAt, in.DNSNames = noon.Add(-3*time.Hour), noon.Add(-4*time.Hour), []string{"acme.example", "www.acme.example"}
	in.Instance.Saved = &client.Saved{Tier: "packed", Bytes: 17 << 20, At: noon}
	in.Idle = &client.IdlePolicy{IdleAfterSeconds: 900, MinimumAwakeSeconds: 3600, Schedules: []client.Schedule{{Cron: "0 8 * * *", Zone: "UTC", Do: "wake"}}}
	in.Wake = &client.WakeRules{Paths: []string{"/healthz"}, RequireCookie: "session", RequireHeader: "X-User", WakesPerHour: 6, Hidden: true}
	in.NextSchedule = &client.NextSchedule{At: time.Date(2030, 5, 18, 8, 0, 0, 0, time.UTC), Do: "wake"}
	in.Endpoints = []client.Endpoint{{Port: 8080, Protocol: "http", Name: "web", URL: in.URL}, {Port: 1883, Protocol: "tcp", GatewayAddress: "acme.localhost:30001", Address: "10.1.0.2:1883"}}
	f := newFake(t, map[string]http.HandlerFunc{"GET /installations/acme": answer(200, in)})
	r := newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "installation get acme"))
	golden(t, "installation_asleep.txt", r.out.String())
}
