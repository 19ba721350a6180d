package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

func TestGoldenOutputs(t *testing.T) {
	t.Parallel()
	op := operation()
	asleep := installation("hibernating", nil)
	asleep.Name, asleep.Owner, asleep.StateReason, asleep.MemoryMiB, asleep.Instance = "b\x1b]0;title\x07x", "an-owner-with-a-long-name", "", 2048, nil
	failed := installation("creation-failed", nil)
	failed.StateReason, failed.StateDetail, failed.CreatedAt = "not-healthy-in-time", "GET / answers 500\nfor ever", noon.Add(-3*time.Second)
	cluster := client.Cluster{ID: "cl1", Name: "local", Provider: "kvm", State: "stable", AllowInstallations: true, Settings: map[string]string{"pool": "10.1.0.0/16"},
		Checks:    []client.Check{{Name: "qemu", OK: true, Detail: "7.2"}, {Name: "kernel", Detail: "not found", Mend: "make kernel"}},
		Hosts:     []client.Host{{ID: "h1", Name: "host1", State: "up", MemoryMiB: 4096, MemoryHeldMiB: 128, DiskMiB: 20480, DiskHeldMiB: 1024}},
		CreatedAt: noon.Add(-72 * time.Hour), UpdatedAt: noon}
	pkg := client.Package{ID: "pk1", Name: "workspace", Version: "1.1", Digest: strings.Repeat("ab", 32), SizeBytes: 7_654_321, Kernel: "linux", Program: "/bin/workspace",
		Warnings: []string{"imports fork"}, CreatedAt: noon.Add(-5 * time.Minute)}
	done := ended("failed")
	f := newFake(t, map[string]http.HandlerFunc{
		"GET /installations":      answer(200, client.Page[client.Installation]{Items: []client.Installation{installation("stable", nil), asleep, failed}}),
		"GET /installations/acme": answer(200, installation("update-in-progress", &op)),
		"GET /installations/acme/explain": answer(200, client.Explanation{About: "installation", Name: "acme", State: "update-in-progress", Summary: "it is being updated", WaitingFor: "backing-off",
			Detail: "after a fault", Step: "create-instance", StepNumber: 3, StepsTotal: 6, Since: noon.Add(-12 * time.Second), Attempts: 2, LastError: "no tap device",
			Next: "the step is tried again", Advice: []string{"see the host", "or wait"}, NextAt: noon.Add(4 * time.Second), Accepts: []string{"delete"}, Operation: &op, Queued: []string{"hibernate"}}),
		"GET /clusters":       answer(200, client.Page[client.Cluster]{Items: []client.Cluster{cluster}}),
		"GET /clusters/local": answer(200, cluster),
		"GET /packages":       answer(200, client.Page[client.Package]{Items: []client.Package{pkg}}),
		"GET /packages/pk1":   answer(200, pkg),
		"GET /operations":     answer(200, client.Page[client.Operation]{Items: []client.Operation{op, done, ended("succeeded")}}),
		"GET /operations/op1": answer(200, op),
	})
	for name, line := range map[string]string{
		"installation-list": "installation list", "installation-get": "installation get acme", "installation-explain": "installation explain acme",
		"cluster-list": "cluster list", "cluster-get": "cluster get local", "package-list": "package list", "package-get": "package get pk1",
		"operation-list": "operation list", "operation-get": "operation get op1",
	} {
		for _, output := range []string{"table", "json", "yaml"} {
			t.Run(name+"/"+output, func(t *testing.T) {
				t.Parallel()
				r := newRun(f.URL)
				require.Equal(t, exitDone, r.line(t, line+" -o "+output), r.err)
				require.Empty(t, r.err.String())
				require.NotContains(t, strings.ReplaceAll(r.out.String(), "\n", ""), "\x1b")
				golden(t, name+"."+output, r.out.String())
			})
		}
	}
}

func TestEmptyListIsAList(t *testing.T) {
	t.Parallel()
	f := newFake(t, map[string]http.HandlerFunc{"GET /installations": answer(200, client.Page[client.Installation]{})})
	r := newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "installation list -o json"))
	require.Equal(t, "[]\n", r.out.String())
}

func TestListsInPages(t *testing.T) {
	t.Parallel()
	two := func(a, b, next string) http.HandlerFunc {
		return answer(200, client.Page[client.Installation]{Items: []client.Installation{{Name: a}, {Name: b}}, NextCursor: next})
	}
	routes := func() map[string]http.HandlerFunc {
		return map[string]http.HandlerFunc{"GET /installations": inTurn(two("a", "b", "x"), two("c", "d", ""))}
	}
	f := newFake(t, routes())
	r := newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "installation list --owner alice --state stable --cluster local --label a=b -A"))
	require.Len(t, strings.Split(strings.TrimSpace(r.out.String()), "\n"), 5)
	require.Equal(t, "cluster=local&label=a%3Db&limit=100&owner=alice&state=stable", f.asked()[0].query)
	require.Contains(t, f.asked()[1].query, "cursor=x")

	f = newFake(t, routes())
	r = newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "installation list --limit 3"))
	require.Len(t, strings.Split(strings.TrimSpace(r.out.String()), "\n"), 4)
	require.Contains(t, r.err.String(), "there are more")
	require.Equal(t, exitUsage, newRun(f.URL).line(t, "installation list --limit 3 --all"))
	require.Equal(t, exitUsage, newRun(f.URL).line(t, "installation list --limit -3"))
}

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain ünïcödé":       "plain ünïcödé",
		"a\x1b[2Jb":           `a\x1b[2Jb`,
		"a\nb\tc\rd":          `a\nb c\x0dd`,
		"c1 \u009b31m":        `c1 \x9b31m`,
		"bidi \u202egnp.exe":  `bidi \u202egnp.exe`,
		"broken \xff\x9b end": "broken \ufffd\ufffd end",
	} {
		require.Equal(t, want, clean(in))
	}
	require.Equal(t, `"\u009b\u007f\u202e\u001b"`, string(escapeControls([]byte("\"\u009b\x7f\u202e\\u001b\""))))
}

func TestStripperTakesSequencesOut(t *testing.T) {
	t.Parallel()
	in := "a\x1b[31;1mred\x1b[0m\r\n\x1b]0;title\x07b\x1b]8;;http://x\x1b\\link\x1bP1$q\x1b\\c\x1b(Bd\x1b7e\u009b2Jf\x07\x08\tg\x1b[1\nh\x1b]never ended\ni ü\u202e j\x1bMk\n"
	want := "ared\nblinkcdef\tg\nh\ni ü jk\n"
	for size := 1; size <= len(in); size++ {
		var out strings.Builder
		s := &stripper{w: &out}
		for rest := in; rest != ""; {
			n := min(size, len(rest))
			written, err := s.Write([]byte(rest[:n]))
			require.NoError(t, err)
			require.Equal(t, n, written)
			rest = rest[n:]
		}
		require.Equal(t, want, out.String(), "in pieces of %d", size)
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 1234 * time.Millisecond: "1.2s", 61 * time.Second: "61s", 3 * time.Minute: "3m", 119 * time.Minute: "119m",
		47 * time.Hour: "47h", 49 * time.Hour: "2d", 800 * 24 * time.Hour: "2y",
	} {
		require.Equal(t, want, span(d))
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	f := newFake(t, map[string]http.HandlerFunc{"GET /installations/acme/logs": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("\x1b[31mred\x1b[0m\r\n"))
	}})
	for _, tc := range []struct {
		terminal bool
		flags    string
		want     string
	}{{false, " --tail 5", "\x1b[31mred\x1b[0m\r\n"}, {true, " -f", "red\n"}, {true, " --raw", "\x1b[31mred\x1b[0m\r\n"}} {
		r := newRun(f.URL)
		r.stdoutTTY = tc.terminal
		require.Equal(t, exitDone, r.line(t, "installation logs acme"+tc.flags), r.err)
		require.Equal(t, tc.want, r.out.String())
	}
	require.Equal(t, "tail=5", f.asked()[0].query)
	require.Equal(t, "follow=true", f.asked()[1].query)
	require.Equal(t, exitUsage, newRun(f.URL).line(t, "installation logs acme --tail -1"))
	require.Equal(t, exitNotFound, newRun(f.URL).line(t, "installation logs other"))

	broken := newFake(t, map[string]http.HandlerFunc{"GET /installations/acme/logs": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("one\n"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}})
	r := newRun(broken.URL)
	require.Equal(t, exitUnreachable, r.line(t, "installation logs acme -f"))
	require.Equal(t, "one\n", r.out.String())
	require.Contains(t, r.err.String(), "the log broke off")
}
