package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"dormouse/client"
)

// The command line that the first issue promises to later ones and to scripts.
func TestPromisedCommandLine(t *testing.T) {
	t.Parallel()
	root := newRun("").root()
	root.InitDefaultCompletionCmd()
	require.NotNil(t, root.PersistentFlags().Lookup("server"))
	require.Equal(t, "o", root.PersistentFlags().Lookup("output").Shorthand)
	for line, flags := range map[string]string{
		"cluster create":   "provider set wait timeout",
		"cluster list":     "",
		"cluster get":      "",
		"cluster check":    "set wait timeout",
		"cluster delete":   "wait timeout",
		"package create":   "name version manifest oci deb disk kernel force trace sign-key",
		"package trace":    "for memory",
		"package list":     "",
		"package get":      "",
		"package delete":   "",
		"image list":       "limit all",
		"image get":        "",
		"image build":      "",
		"image ls":         "digests",
		"image cat":        "",
		"image diff":       "",
		"image provenance": "",
		"image delete":     "",
		"image sbom":       "",
		"image export":     "format out memory cpus volume uefi",
		"instance list":    "installation cluster limit all",
		"instance get":     "",
		"kernel add":       "url sha256",
		"kernel list":      "",
		"installation create": "owner package cluster memory disk cpus env secret label if-full group group-match wait timeout" +
			" dns-name idle-after minimum-awake never-sleep schedule no-wake-path no-wake-method no-wake-agent no-wake-cidr wake-cookie wake-header wakes-per-hour hidden",
		"installation list": "owner state cluster group label limit all",
		"installation get":  "",
		"installation update": "package memory disk cpus env secret label unset-env unset-secret unset-label group group-match leave-group keep-configuration from-group if-version wait timeout" +
			" dns-name idle-after minimum-awake never-sleep schedule no-wake-path no-wake-method no-wake-agent no-wake-cidr wake-cookie wake-header wakes-per-hour hidden",
		"installation restart":   "wait timeout if-version",
		"installation retry":     "wait timeout if-version",
		"installation hibernate": "cold wait timeout if-version",
		"installation clone":     "for wait timeout if-version",
		"installation open":      "print",
		"installation traffic":   "",
		"top":                    "every limit count",
		"installation wake":      "wait timeout if-version",
		"installation delete":    "wait timeout yes if-version",
		"installation explain":   "",
		"cluster explain":        "",
		"operation explain":      "",
		"rollout explain":        "",
		"installation logs":      "follow tail raw",
		"group create":           "package memory cpus env label unverifiable idle-after minimum-awake never-sleep schedule no-wake-path no-wake-method no-wake-agent no-wake-cidr wake-cookie wake-header wakes-per-hour hidden",
		"group list":             "limit all",
		"group get":              "",
		"group update":           "package memory cpus env label unverifiable unset-env unset-label leave-to-members if-version idle-after minimum-awake never-sleep schedule no-wake-path no-wake-method no-wake-agent no-wake-cidr wake-cookie wake-header wakes-per-hour hidden",
		"group delete":           "if-version",
		"group revisions":        "limit all",
		"rollout create": "to ring slots first-wave healthy-for health-deadline soak min-samples max-failures auto-rollback progress-deadline" +
			" metric-url metric-query metric-max metric-for verify-slots dry-run wait timeout",
		"rollout status":   "watch timeout",
		"rollout pause":    "if-version",
		"rollout resume":   "force wait timeout if-version",
		"rollout cancel":   "wait timeout if-version",
		"rollout rollback": "wait timeout if-version",
		"rollout retry":    "wait timeout if-version",
		"rollout list":     "group limit all",
		"rollout members":  "state limit all",
		"operation list":   "resource state limit all",
		"operation get":    "wait timeout",
		"version":          "",
		"completion":       "",
		"exit-codes":       "",
		"simulator":        "",
	} {
		cmd, rest, err := root.Find(strings.Fields(line))
		require.NoError(t, err, line)
		require.Empty(t, rest, line)
		require.Equal(t, "cloudctl "+line, cmd.CommandPath())
		for _, flag := range strings.Fields(flags) {
			require.NotNil(t, cmd.Flags().Lookup(flag), "%s --%s", line, flag)
		}
	}
	logs, _, err := root.Find([]string{"installation", "logs"})
	require.NoError(t, err)
	require.Equal(t, "f", logs.Flags().Lookup("follow").Shorthand)
	everyCommand(root, func(cmd *cobra.Command) {
		require.NotEmpty(t, cmd.Short, cmd.CommandPath())
		require.False(t, strings.HasSuffix(cmd.Short, "."), cmd.CommandPath())
	})
}

func everyCommand(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		everyCommand(c, f)
	}
}

func TestServerFromTheEnvironmentAndTheFlag(t *testing.T) {
	t.Parallel()
	a := newRun("").app
	a.root()
	require.Equal(t, standardServer, a.server)
	a = newRun("http://h:1").app
	require.NoError(t, a.root().ParseFlags(nil))
	require.Equal(t, "http://h:1", a.server)
	require.NoError(t, a.root().ParseFlags([]string{"--server", "http://h:2"}))
	require.Equal(t, "http://h:2", a.server)
}

func TestWhatIsSent(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("from a file\n"), 0o600))
	op := operation()
	in := answer(202, installation("x", &op))
	f := newFake(t, map[string]http.HandlerFunc{
		"POST /installations": in, "PATCH /installations/acme": in, "POST /installations/acme/wake": in, "POST /installations/acme/restart": in, "POST /installations/acme/retry": in,
		"POST /clusters": answer(202, client.Cluster{ID: "c", Operation: &op}), "POST /clusters/test/check": answer(202, client.Cluster{ID: "c", Operation: &op}),
	})
	last := func() request { all := f.asked(); return all[len(all)-1] }
	r := newRun(f.URL)
	r.stdin = strings.NewReader("from stdin")
	require.Equal(t, exitDone, r.line(t, "installation create acme --owner alice --package web@1.1 --cluster local --memory 256MiB --disk 2GiB --cpus 2"+
		" --env A=1 --env B=x=y --env C= --secret S=plain --secret T=@"+secret+" --secret U=- --secret V=@@at --label tier=gold --if-full refuse"), r.err)
	require.JSONEq(t, `{"name":"acme","owner":"alice","package":"web@1.1","cluster":"local","memory_mib":256,"disk_mib":2048,"vcpus":2,
		"env":{"A":"1","B":"x=y","C":""},"secrets":{"S":"plain","T":"from a file\n","U":"from stdin","V":"@at"},"labels":{"tier":"gold"},"when_full":"refuse"}`, last().body)

	require.Equal(t, exitDone, newRun(f.URL).line(t, "installation create acme --owner alice --package web"))
	require.JSONEq(t, `{"name":"acme","owner":"alice","package":"web"}`, last().body)

	require.Equal(t, exitDone, newRun(f.URL).line(t, "installation update acme --package web@2 --memory 1G --env A=1 --unset-env B --unset-secret S --unset-label tier"))
	require.JSONEq(t, `{"package":"web@2","memory_mib":1024,"env":{"A":"1","B":null},"secrets":{"S":null},"labels":{"tier":null}}`, last().body)

	for _, verb := range []string{"wake", "restart", "retry"} {
		require.Equal(t, exitDone, newRun(f.URL).line(t, "installation "+verb+" acme"))
		require.Equal(t, request{route: "POST /installations/acme/" + verb}, last())
	}
	require.Equal(t, exitDone, newRun(f.URL).line(t, "cluster create test --provider sim --set latency=10ms --set memory=4GiB"))
	require.JSONEq(t, `{"name":"test","provider":"sim","settings":{"latency":"10ms","memory":"4GiB"}}`, last().body)
	require.Equal(t, exitDone, newRun(f.URL).line(t, "cluster check test --set hosts=5 --set latency="))
	require.Equal(t, request{route: "POST /clusters/test/check", body: `{"settings":{"hosts":"5","latency":""}}`}, last())
}

func TestSecretIsAskedForOnATerminal(t *testing.T) {
	t.Parallel()
	r := newRun("")
	r.stdinTTY = true
	r.readHidden = func() ([]byte, error) { return []byte("hidden"), nil }
	m, err := r.secrets([]string{"K=-"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"K": "hidden"}, m)
	require.Equal(t, "K: \n", r.err.String())
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"128MiB": 128, "128 MiB": 128, "1GiB": 1024, "512M": 512, "1G": 1024, "2t": 2 << 20, "64mi": 64} {
		got, err := parseMiB(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, says := range map[string]string{
		"": "whole number", "128": "write 128MiB or 128GiB", "1.5GiB": "whole number", "-1MiB": "whole number", "1GB": "write 1GiB", "1KiB": "unknown unit",
		"0MiB": "nothing", "9999999999MiB": "too large", "99999999999999999999G": "too large", "9000TiB": "too large", "1e3MiB": "whole number",
	} {
		_, err := parseMiB(text)
		require.ErrorContains(t, err, says, text)
	}
	require.Equal(t, []string{"128MiB", "1GiB", "1536MiB", "2TiB", "0MiB"}, []string{showMiB(128), showMiB(1024), showMiB(1536), showMiB(2 << 20), showMiB(0)})
}

func TestVersion(t *testing.T) {
	t.Parallel()
	r := newRun("")
	require.Equal(t, exitDone, r.line(t, "version -o json"))
	var v build
	require.NoError(t, json.Unmarshal([]byte(r.out.String()), &v))
	require.NotEmpty(t, v.Version)
	require.Contains(t, v.Go, "go1.")
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		r := newRun("")
		require.Equal(t, exitDone, r.line(t, "completion "+shell), r.err)
		require.Contains(t, r.out.String(), "cloudctl")
	}
	f := newFake(t, map[string]http.HandlerFunc{
		"GET /installations": answer(200, client.Page[client.Installation]{Items: []client.Installation{{Name: "acme"}, {Name: "b\x1bad"}}}),
		"GET /clusters":      answer(200, client.Page[client.Cluster]{Items: []client.Cluster{{Name: "local", Hosts: []client.Host{{Name: "sim-1"}}}}}),
		"GET /packages":      answer(200, client.Page[client.Package]{Items: []client.Package{{Name: "web", Version: "1.0"}}}),
		"GET /groups":        answer(200, client.Page[client.Group]{Items: []client.Group{{Name: "free"}}}),
	})
	for line, want := range map[string]string{"group get ": "free", "rollout status ": "free", "installation wake ": "acme", "cluster get ": "local", "host drain ": "sim-1", "package get ": "web@1.0"} {
		r := newRun(f.URL)
		require.Equal(t, exitDone, r.app.main(t.Context(), append([]string{cobra.ShellCompRequestCmd}, strings.Split(line, " ")...)))
		require.Contains(t, r.out.String(), want+"\n")
		require.NotContains(t, r.out.String(), "\x1b")
	}
	r := newRun("")
	require.Equal(t, exitDone, r.app.main(t.Context(), []string{cobra.ShellCompRequestCmd, "cluster", "create", "x", "--provider", ""}))
	require.Contains(t, r.out.String(), "kvm\nsim\n")
}

func TestPackageDelete(t *testing.T) {
	t.Parallel()
	pkg := answer(200, client.Package{ID: "pk1", Name: "web", Version: "2.0"})
	f := newFake(t, map[string]http.HandlerFunc{
		"GET /packages/web": pkg, "GET /packages/web@2.0": pkg, "GET /packages/pk1": pkg,
		"DELETE /packages/pk1": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
	})
	r := newRun(f.URL)
	require.Equal(t, exitUsage, r.line(t, "package delete web"))
	require.Contains(t, r.err.String(), "cloudctl package delete web@2.0")
	for _, name := range []string{"web@2.0", "pk1"} {
		r = newRun(f.URL)
		require.Equal(t, exitDone, r.line(t, "package delete "+name), r.err)
		require.Equal(t, "deleted web@2.0\n", r.out.String())
	}
}
