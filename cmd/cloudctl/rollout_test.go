package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

func number(f float64) *float64 { return &f }

func webRollout(state string) client.Rollout {
	op := client.Operation{ID: "op7", Kind: "rollout", ResourceType: "rollout", ResourceID: rolloutA, ResourceName: "web", State: "active",
		Step: "advance", StepNumber: 1, StepsTotal: 1, Revision: 3, CreatedAt: noon.Add(-time.Hour)}
	return client.Rollout{
		ID: rolloutA, GroupID: webGroup().ID, Group: "web", FromRevision: 1, ToRevision: 2, State: state, Detail: "every slot is used",
		Ring: 1, Wave: 2, WaveSince: noon.Add(-10 * time.Minute), Total: 100,
		Counts: client.RolloutCounts{Waiting: 60, Rolling: 5, Verifying: 2, Done: 20, AsleepVerified: 7, Unverifiable: 3, Failed: 2, RollingBack: 0, RolledBack: 1},
		Rings: []client.RingStatus{
			{Name: "canary", Total: 10, Counts: client.RolloutCounts{Done: 9, Failed: 1}},
			{Name: "rest", Total: 90, Counts: client.RolloutCounts{Waiting: 60, Rolling: 5, Verifying: 2, Done: 11, AsleepVerified: 7, Unverifiable: 3, Failed: 1, RolledBack: 1}}},
		RatePerMinute: number(0.55), SecondsLeft: number(7309),
		Failures: []client.RolloutMember{
			{InstallationID: "i2", Name: "beta", Ring: 1, State: "failed", Reason: "not-healthy-in-time", Detail: "GET / answers 500\n\x1b[2J", Attempts: 2, StartedAt: noon.Add(-5 * time.Minute), FinishedAt: noon.Add(-time.Minute)},
			{InstallationID: "i1", Name: "acme", State: "failed", Reason: "crash-loop", Attempts: 1, StartedAt: noon.Add(-20 * time.Minute), FinishedAt: noon.Add(-19 * time.Minute)}},
		Spec: client.RolloutSpec{Rings: []client.RolloutRing{{Name: "canary", Labels: map[string]string{"tier": "internal"}}, {Name: "rest"}}, FirstWave: 3,
			SlotsPercent: 10, VerifySlots: 20, HealthyFor: "10s", HealthDeadline: "5m0s", Soak: "2h0m0s", MinSamples: 3, MaxFailures: 5, AutoRollback: true,
			ProgressDeadline: "30m0s", Metric: &client.MetricGate{URL: "http://p", Query: "errors", Max: 0.5, For: "2m0s"}},
		Operation: &op, Version: 9, CreatedAt: noon.Add(-time.Hour),
	}
}

func finished(state string) client.Rollout {
	r := webRollout(state)
	r.FinishedAt, r.Detail, r.SecondsLeft = noon, "", nil
	r.Operation.State, r.Operation.FinishedAt = "succeeded", noon
	return r
}

// goldens compares what commands print with files in testdata, in each format.
func goldens(t *testing.T, f *fake, lines map[string]string) {
	t.Helper()
	for name, line := range lines {
		for _, output := range []string{"table", "json", "yaml"} {
			t.Run(name+"/"+output, func(t *testing.T) {
				t.Parallel()
				r := newRun(f.URL)
				require.Equal(t, exitDone, r.line(t, line+" -o "+output), r.err)
				require.Empty(t, r.err.String())
				require.NotContains(t, r.out.String(), "\x1b")
				golden(t, name+"."+output, r.out.String())
			})
		}
	}
}

func TestRolloutGoldens(t *testing.T) {
	t.Parallel()
	old := client.RolloutSummary{ID: "06f0c1q2v3n8e5d7g9h1j2k3l3", GroupID: webGroup().ID, Group: "web", FromRevision: 1, ToRevision: 2, State: "superseded", Reason: "superseded",
		Version: 3, CreatedAt: noon.Add(-3 * time.Hour), FinishedAt: noon.Add(-time.Hour)}
	waiting := client.RolloutMember{InstallationID: "i3", Name: "calm", Ring: 1, Wave: 3, FromRevision: 1, State: "waiting"}
	f := newFake(t, map[string]http.HandlerFunc{
		"GET /groups/web":                        answer(200, webGroup()),
		"GET /rollouts":                          answer(200, client.Page[client.RolloutSummary]{Items: []client.RolloutSummary{*webGroup().Rollout, old}}),
		"GET /rollouts/" + rolloutA:              answer(200, webRollout("running")),
		"GET /rollouts/" + rolloutA + "/members": answer(200, client.Page[client.RolloutMember]{Items: append(webRollout("running").Failures, waiting)}),
		"POST /groups/web/rollouts": answer(200, client.RolloutPlan{Group: "web", FromRevision: 1, ToRevision: 2, Spec: webRollout("").Spec, Total: 100, Asleep: 30, Rings: []client.PlannedRing{
			{Name: "canary", Total: 10, Asleep: 2, Waves: []int{3, 7}, FirstWave: []string{"acme", "beta", "calm"}}, {Name: "rest", Total: 90, Asleep: 28, Waves: []int{3, 12, 75}, FirstWave: []string{"d", "e", "f"}},
			{Name: "nobody", Waves: []int{}, FirstWave: []string{}}}}),
	})
	goldens(t, f, map[string]string{"rollout-status": "rollout status web", "rollout-list": "rollout list --group web", "rollout-members": "rollout members " + rolloutA,
		"rollout-plan": "rollout create web --dry-run"})
}

func TestWhatIsSentAboutRollouts(t *testing.T) {
	t.Parallel()
	f := newFake(t, map[string]http.HandlerFunc{"POST /groups/web/rollouts": answer(202, webRollout("running"))})
	for line, body := range map[string]string{
		"":                                `{}`,
		" --slots 7 --max-failures 0.5%":  `{"slots":7,"max_failures_percent":0.5}`,
		" --slots 12.5% --max-failures 3": `{"slots_percent":12.5,"max_failures":3}`,
		" --soak 0s":                      `{"soak":"0s"}`,
		" --dry-run --to 4":               `{"to_revision":4,"dry_run":true}`,
		" --first-wave 2 --verify-slots 9 --min-samples 4 --healthy-for 20s --health-deadline 90s --progress-deadline 1h --auto-rollback": `{"first_wave":2,"verify_slots":9,"min_samples":4,
			"healthy_for":"20s","health_deadline":"1m30s","progress_deadline":"1h0m0s","auto_rollback":true}`,
		" --metric-url http://p:9090 --metric-query up --metric-max 0 --metric-for 2m": `{"metric":{"url":"http://p:9090","query":"up","max":0,"for":"2m0s"}}`,
		" --ring canary:label=tier=internal:label=a=b=c:soak=0s --ring few:percent=5% --ring some:installations=acme,beta --ring rest": `{"rings":[{"name":"canary","labels":{"tier":"internal","a":"b=c"},"soak":"0s"},
			{"name":"few","percent":5},{"name":"some","installations":["acme","beta"]},{"name":"rest"}]}`,
	} {
		r := newRun(f.URL)
		require.Equal(t, exitDone, r.line(t, "rollout create web"+line), r.err)
		all := f.asked()
		require.JSONEq(t, body, all[len(all)-1].body, line)
	}
}

func TestVerbsOnARollout(t *testing.T) {
	t.Parallel()
	routes := map[string]http.HandlerFunc{"GET /groups/web": answer(200, webGroup()), "GET /rollouts/" + rolloutA: answer(200, webRollout("running"))}
	verbs := map[string]string{"pause": "pause", "resume": "resume", "resume --force": "force", "cancel": "cancel", "rollback": "rollback", "retry": "retry"}
	for _, verb := range verbs {
		routes["POST /rollouts/"+rolloutA+"/"+verb] = answer(200, webRollout("paused"))
	}
	f := newFake(t, routes)
	for line, verb := range verbs {
		for _, name := range []string{"web", rolloutA} {
			r := newRun(f.URL)
			require.Equal(t, exitDone, r.line(t, "rollout "+line+" "+name), r.err)
			require.Contains(t, r.out.String(), "paused")
			all := f.asked()
			require.Equal(t, "POST /rollouts/"+rolloutA+"/"+verb, all[len(all)-1].route)
		}
	}
	f = newFake(t, map[string]http.HandlerFunc{"POST /rollouts/" + rolloutA + "/resume": refuse(409, client.KindNotAccepted, "it was halted: force it")})
	r := newRun(f.URL)
	require.Equal(t, exitConflict, r.line(t, "rollout resume "+rolloutA))
	require.Contains(t, r.err.String(), "cloudctl rollout status "+rolloutA)
}

func TestFindingARollout(t *testing.T) {
	t.Parallel()
	quiet := webGroup()
	quiet.Rollout = nil
	likeID := strings.Repeat("a", 26)
	f := newFake(t, map[string]http.HandlerFunc{
		"GET /groups/quiet": answer(200, quiet), "GET /groups/" + likeID: answer(200, webGroup()), "GET /rollouts/" + rolloutA: answer(200, webRollout("running")),
	})
	require.Equal(t, exitDone, newRun(f.URL).line(t, "rollout status "+likeID), "a group's ID")
	for name, says := range map[string]string{"quiet": "cloudctl rollout create web", "none": "cloudctl group list", strings.Repeat("b", 26): "cloudctl rollout list"} {
		r := newRun(f.URL)
		require.Equal(t, exitNotFound, r.line(t, "rollout status "+name), r.err)
		require.Contains(t, r.err.String(), says)
	}
}

// watched are the routes of a rollout that goes through these answers.
func watched(answers ...http.HandlerFunc) map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /groups/web": answer(200, webGroup()), "POST /groups/web/rollouts": answer(202, webRollout("running")),
		"POST /rollouts/" + rolloutA + "/rollback": answer(200, webRollout("rolling-back")),
		"GET /rollouts/" + rolloutA:                inTurn(answers...),
	}
}

func TestWatchTellsLines(t *testing.T) {
	t.Parallel()
	first, more, moved := webRollout("running"), webRollout("running"), webRollout("running")
	first.Failures, first.Counts.Failed = first.Failures[1:], 1
	moved.Wave, moved.Detail = 3, "watched for 2h"
	f := newFake(t, watched(answer(200, first), answer(200, more), answer(200, more), answer(200, moved), answer(200, finished("succeeded"))))
	r := newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "rollout create web --wait"), r.err)
	require.Equal(t, `rollout of web: acme failed: crash-loop
rollout of web: running (every slot is used), ring rest (2 of 2), wave 3, 32 of 100 (32%): 20 done, 7 asleep-verified, 3 unverifiable, 1 failed, 5 rolling, 2 verifying, 1 rolled back, 60 waiting, 0.6 a minute, about 2h left
rollout of web: beta failed: not-healthy-in-time: GET / answers 500\n\x1b[2J
rollout of web: running (watched for 2h), ring rest (2 of 2), wave 4, 33 of 100 (33%): 20 done, 7 asleep-verified, 3 unverifiable, 2 failed, 5 rolling, 2 verifying, 1 rolled back, 60 waiting, 0.6 a minute, about 2h left
rollout of web: succeeded, 33 of 100 (33%): 20 done, 7 asleep-verified, 3 unverifiable, 2 failed, 5 rolling, 2 verifying, 1 rolled back, 60 waiting, 0.6 a minute
`, r.err.String())
	require.Contains(t, r.out.String(), "State:        succeeded\n")

	// For a program, standard error stays empty and standard output is the result.
	f = newFake(t, watched(answer(200, webRollout("running")), answer(200, finished("succeeded"))))
	r = newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "rollout status web --watch -o json"))
	require.Empty(t, r.err.String())
	var got client.Rollout
	require.NoError(t, json.Unmarshal([]byte(r.out.String()), &got))
	require.Equal(t, "succeeded", got.State)
}

func TestWatchTellsOfCountsNowAndThen(t *testing.T) {
	t.Parallel()
	r := newRun("")
	now := noon
	r.output, r.now = formatTable, func() time.Time { return now }
	p := &rolloutProgress{a: r.app}
	for i := range 4 {
		next := webRollout("running")
		next.Counts.Done += i
		now = now.Add(countsEvery / 2)
		p.seen(next)
	}
	require.Equal(t, 2, strings.Count(r.err.String(), "running"), r.err)
}

func TestWatchRedrawsOnATerminal(t *testing.T) {
	t.Parallel()
	tall := webRollout("running")
	tall.Rings, tall.Ring = nil, 15
	for i := range 20 {
		tall.Rings = append(tall.Rings, client.RingStatus{Name: fmt.Sprintf("ring%02d", i), Total: 5})
	}
	one := answer(200, webRollout("running"))
	f := newFake(t, watched(one, one, one, answer(200, tall), answer(200, finished("succeeded"))))
	r := newRun(f.URL)
	r.stderrTTY = true
	r.width = func() int { return 60 }
	require.Equal(t, exitDone, r.line(t, "rollout status web -w"), r.err)
	require.NotContains(t, r.out.String(), "\x1b")
	display := strings.Split(r.err.String(), "\x1b[8A\x1b[J")
	require.Len(t, display, 3, "%q", r.err.String())
	require.Equal(t, `rollout 06f0c1q2v3n8e5d7g9h1j2k3l4 of web, 1 → 2: running …
  ring rest (2 of 2), wave 3, since 10m
  33 of 100 (33%): 20 done, 7 asleep-verified, 3 unverifia…
  0.6 a minute, about 2h left
    canary  10 of 10: 9 done, 1 failed
    rest    23 of 90: 11 done, 7 asleep-verified, 3 unveri…
  failed: beta: not-healthy-in-time: GET / answers 500\n\x…
  failed: acme: crash-loop
`, display[0])
	require.Equal(t, display[0], display[1], "in place of what stood there")
	require.Contains(t, display[2], "ring15", "the current ring")
	require.Equal(t, shownRings, strings.Count(display[2][:strings.Index(display[2], "failed: ")], "    ring"))
	for line := range strings.Lines(display[2]) {
		require.LessOrEqual(t, len([]rune(line)), 60+len("\x1b[14A\x1b[J"))
	}
	require.True(t, strings.HasSuffix(r.err.String(), "A\x1b[J"), "what is left is the result on standard output")
}

func TestExitCodesOfAWatch(t *testing.T) {
	t.Parallel()
	halted := webRollout("halted")
	halted.Reason, halted.Detail = "judged-bad", "the release is bad for all"
	for name, tc := range map[string]struct {
		line string
		last client.Rollout
		code int
		says string
	}{
		"Succeeded":        {"rollout status web --watch", finished("succeeded"), exitDone, ""},
		"Halted":           {"rollout status web --watch", halted, exitFailed, "the rollout of web to revision 2 was halted: judged-bad: the release is bad for all"},
		"HaltedSaysWhat":   {"rollout create web --wait", halted, exitFailed, "cloudctl rollout resume " + rolloutA + " --force"},
		"RolledBack":       {"rollout create web --wait", finished("rolled-back"), exitFailed, "was rolled-back"},
		"RolledBackAsked":  {"rollout rollback web --wait", finished("rolled-back"), exitDone, ""},
		"RollbackCanceled": {"rollout rollback web --wait", finished("cancelled"), exitFailed, "was cancelled"},
		"Superseded":       {"rollout status web --watch", finished("superseded"), exitFailed, "was superseded"},
		"Succeeds":         {"rollout rollback web --wait", finished("succeeded"), exitFailed, "has succeeded"},
		"OnlyToLook":       {"rollout status web", halted, exitDone, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, watched(answer(200, webRollout("running")), answer(200, webRollout("running")), answer(200, tc.last)))
			if !strings.Contains(tc.line, "wa") {
				f = newFake(t, watched(answer(200, tc.last)))
			}
			r := newRun(f.URL)
			require.Equal(t, tc.code, r.line(t, tc.line), r.err)
			require.Contains(t, r.err.String(), tc.says)
			require.Contains(t, r.out.String(), tc.last.State)

			r = newRun(newFake(t, watched(answer(200, tc.last))).URL)
			require.Equal(t, tc.code, r.line(t, tc.line+" -o json"))
			if tc.code != exitDone {
				var got failure
				require.NoError(t, json.Unmarshal([]byte(r.err.String()), &got), r.err)
				require.Equal(t, rolloutA, got.Rollout)
				require.Equal(t, "rollout-"+tc.last.State, got.Kind)
			}
		})
	}
}

func TestAWatchThatIsCutShort(t *testing.T) {
	t.Parallel()
	f := newFake(t, watched(answer(200, webRollout("running")), answer(200, webRollout("running")), hold))
	r := newRun(f.URL)
	require.Equal(t, exitTimeout, r.line(t, "rollout status web --watch --timeout 300ms"))
	require.Contains(t, r.err.String(), "error: timed out watching the rollout of web: it is running; it goes on as "+rolloutA)
	require.Contains(t, r.err.String(), "cloudctl rollout status "+rolloutA+" --watch")
	require.Empty(t, r.out.String())
	require.Equal(t, exitUsage, newRun(f.URL).line(t, "rollout create web --wait --timeout -1s"))

	ctx, cancel := context.WithCancelCause(t.Context())
	f = newFake(t, watched(answer(200, webRollout("running")), answer(200, webRollout("running")), func(w http.ResponseWriter, r *http.Request) {
		cancel(interrupted{os.Interrupt})
		hold(w, r)
	}))
	r = newRun(f.URL)
	require.Equal(t, exitInterrupted, r.with(ctx, "rollout status web --watch"))
	require.Contains(t, r.err.String(), "error: interrupted; the rollout of web goes on as "+rolloutA)
}

func TestAWatchSurvivesFailuresOfTheServer(t *testing.T) {
	t.Parallel()
	cut := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	f := newFake(t, watched(answer(200, webRollout("running")), answer(200, webRollout("running")), cut, cut, refuse(500, client.KindInternal, "x"), answer(200, finished("succeeded"))))
	r := newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "rollout status web --watch"), r.err)
	require.Equal(t, 1, strings.Count(r.err.String(), "the server does not answer"))
	require.Equal(t, 1, strings.Count(r.err.String(), "the server can't answer now"))
}
