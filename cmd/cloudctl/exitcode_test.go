package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"dormouse/client"
)

func TestExitCodesOfRefusals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		kind   string
		status int
		code   int
		says   string
	}{
		{client.KindInvalid, 400, exitUsage, "correct it"},
		{client.KindNotFound, 404, exitNotFound, "cloudctl installation list"},
		{client.KindConflict, 409, exitConflict, "choose another name"},
		{client.KindNotAccepted, 409, exitConflict, "accepted now: delete, wake · see what it does: cloudctl installation explain acme"},
		{client.KindStale, 412, exitConflict, "read it again"},
		{client.KindCapacity, 409, exitCapacity, "--if-full wait"},
		{client.KindThrottled, 429, exitUnreachable, "try again"},
		{client.KindUnavailable, 503, exitUnreachable, "try again"},
		{client.KindPermanent, 422, exitFailed, "request r1"},
		{client.KindInternal, 500, exitFailed, "look for request r1 in the server's log"},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			t.Parallel()
			p := client.Problem{Type: "urn:x", Title: "t", Status: tc.status, Kind: tc.kind, Detail: "it \x1b[2Jis so", RequestID: "r1", Accepts: []string{"delete", "wake"}}
			f := newFake(t, map[string]http.HandlerFunc{"POST /installations/acme/hibernate": problem(p)})
			r := newRun(f.URL)
			require.Equal(t, tc.code, r.line(t, "installation hibernate acme --wait"))
			require.Empty(t, r.out.String())
			lines := strings.Split(strings.TrimSpace(r.err.String()), "\n")
			require.Len(t, lines, 2)
			require.Equal(t, `error: it \x1b[2Jis so`, lines[0])
			require.Contains(t, lines[1], tc.says)

			for _, format := range []string{"json", "yaml"} {
				r = newRun(f.URL)
				require.Equal(t, tc.code, r.line(t, "-o "+format+" installation hibernate acme --wait"))
				var got failure
				require.NoError(t, yaml.UnmarshalStrict([]byte(r.err.String()), &got), r.err)
				require.Equal(t, tc.code, got.ExitCode)
				require.Equal(t, tc.kind, got.Kind)
				require.Contains(t, got.Advice, tc.says)
				if format == "json" {
					require.True(t, json.Valid([]byte(r.err.String())))
				}
			}
		})
	}
}

func TestExitCodeUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := "http://" + l.Addr().String()
	require.NoError(t, l.Close())
	for _, line := range []string{"installation list", "installation create a --owner o --package p --wait", "operation get op1 --wait", "package get x", "cluster delete x"} {
		r := newRun("http://127.0.0.1:1")
		require.Equal(t, exitUnreachable, r.line(t, "--server "+address+" "+line), line)
		require.Contains(t, r.err.String(), "no answer from the server at "+address)
		require.Contains(t, r.err.String(), "provisioner server --dev")
		require.Contains(t, r.err.String(), "connection refused")
	}
}

func TestExitCodeUsage(t *testing.T) {
	t.Parallel()
	f := newFake(t, nil)
	for line, says := range map[string]string{
		"instalation list":                "cloudctl has no command",
		"installation":                    "needs a command",
		"installation hibernat x":         "did you mean hibernate",
		"installation get":                "needs one NAME, and got 0",
		"installation get a b":            "needs one NAME, and got 2",
		"installation list --nonsense":    "unknown flag",
		"-o xml installation list":        "none of table, json and yaml",
		"installation create a --owner o": `"package" not set`,
		"cluster create a":                `"provider" not set`,
		"installation create a --owner o --package p --memory 128":                "has no unit: write 128MiB or 128GiB",
		"installation create a --owner o --package p --memory 1GB":                "write 1GiB",
		"installation create a --owner o --package p --if-full later":             "give wait or refuse",
		"installation create a --owner o --package p --env X":                     "write it KEY=VALUE",
		"installation create a --owner o --package p --env A=1 --env A=2":         "given twice",
		"installation create a --owner o --package p --env A=1 --secret A=2":      "in both",
		"installation create a --owner o --package p --secret A=@/does/not/exist": "no such file",
		"installation create a --owner o --package p --secret A=-":                "standard input is empty",
		"installation create a --owner o --package p --secret A=- --secret B=-":   "only one",
		"installation create a --owner o --package p --secret hunter2":            "KEY=@FILE",
		"installation create a --owner o --package p --cpus -1":                   "above 0",
		"installation update a":                         "nothing to change",
		"installation update a --env A=1 --unset-env A": "in both",
		"installation update a --unset-env A=1":         "the key alone",
		"--server 127.0.0.1:8075 installation list":     "write http://127.0.0.1:8075",
		"package create /does/not/exist":                "no such file",
		"operation list extra":                          "unknown command",
	} {
		r := newRun(f.URL)
		require.Equal(t, exitUsage, r.line(t, line), "%s: %s", line, r.err)
		require.Contains(t, r.err.String(), says, line)
		require.NotContains(t, r.err.String(), "hunter2")
		require.Len(t, strings.Split(strings.TrimSpace(r.err.String()), "\n"), 2, r.err)
	}
	require.Empty(t, f.asked())
}

func TestHelpNamesEveryExitCode(t *testing.T) {
	t.Parallel()
	r := newRun("")
	require.Equal(t, exitDone, r.line(t, "help exit-codes"))
	for _, code := range []int{exitDone, exitFailed, exitUsage, exitNotFound, exitConflict, exitTimeout, exitUnreachable, exitCapacity, exitInterrupted} {
		require.Regexp(t, fmt.Sprintf(`(?m)^  %d +\S`, code), r.out.String())
	}
	require.Contains(t, r.out.String(), fmt.Sprint(exitTerminated))
}

func TestMissingPartsOfANewInstallation(t *testing.T) {
	t.Parallel()
	f := newFake(t, map[string]http.HandlerFunc{"POST /installations": refuse(404, client.KindNotFound, "there is no package p")})
	r := newRun(f.URL)
	require.Equal(t, exitNotFound, r.line(t, "installation create a --owner o --package p"))
	require.Contains(t, r.err.String(), "cloudctl package list")
}
