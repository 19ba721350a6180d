package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

const create = "installation create acme --owner alice --package workspace --wait"

// accepted are the routes of a create whose operation goes through these states.
func accepted(states ...http.HandlerFunc) map[string]http.HandlerFunc {
	queued := client.Operation{ID: "op1", Kind: "create", ResourceType: "installation", ResourceName: "acme", State: "queued", Revision: 1}
	done := ended("succeeded")
	return map[string]http.HandlerFunc{
		"POST /installations":    answer(202, installation("creation-requested", &queued)),
		"GET /operations/op1":    inTurn(states...),
		"GET /installations/in1": answer(200, installation("stable", &done)),
	}
}

func hold(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func TestWaitShowsTheStepsAndTheResult(t *testing.T) {
	t.Parallel()
	f := newFake(t, accepted(answer(200, operation()), answer(200, ended("succeeded"))))
	r := newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, create), r.err)
	require.Equal(t, `create of acme: queued
create of acme: step 1 of 6, place: done in 0.1s
create of acme: step 2 of 6, build-image: done in 7.0s (attempt 2)
create of acme: step 3 of 6, create-instance, backing-off, 1 failed try: provider-error: no tap device
create of acme: step 3 of 6, create-instance: done in 12s
create of acme: done in 20s
`, r.err.String())
	require.Contains(t, r.out.String(), "http://acme.localhost:8065")
	require.Contains(t, r.out.String(), "stable")

	// For a program, standard error stays empty and standard output is the result.
	f = newFake(t, accepted(answer(200, operation()), answer(200, ended("succeeded"))))
	r = newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, create+" -o json"))
	require.Empty(t, r.err.String())
	var in client.Installation
	require.NoError(t, json.Unmarshal([]byte(r.out.String()), &in))
	require.Equal(t, "stable", in.State)
}

func TestWithoutWaitTheAcceptedIsTheResult(t *testing.T) {
	t.Parallel()
	f := newFake(t, accepted())
	r := newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, strings.TrimSuffix(create, " --wait")))
	require.Contains(t, r.out.String(), "creation-requested")
	require.Empty(t, r.err.String())
	require.Len(t, f.asked(), 1)
}

func TestLiveLineOnATerminal(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	f := newFake(t, accepted(answer(200, operation()), func(w http.ResponseWriter, r *http.Request) {
		<-goOn
		answer(200, ended("succeeded"))(w, r)
	}))
	r := newRun(f.URL)
	r.stderrTTY = true
	code := make(chan int, 1)
	go func() { code <- r.line(t, create) }()
	live := "\r\x1b[Kcreate of acme: step 3 of 6, create-instance, backing-off, 1 failed try: provi…"
	// It is drawn again, as time goes by.
	require.Eventually(t, func() bool { return strings.Count(r.err.String(), live) > 2 }, 20*time.Second, 10*time.Millisecond, r.err)
	close(goOn)
	require.Equal(t, exitDone, <-code)
	require.True(t, strings.HasSuffix(r.err.String(), "create of acme: done in 20s\n"), r.err)
	require.NotContains(t, r.out.String(), "\x1b")
}

func TestWaitOfAnOperationThatFails(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		op   client.Operation
		code int
		says string
	}{
		"Failed":    {ended("failed"), exitFailed, "the create of acme failed at step 3 of 6, create-instance: provider-error: no tap device"},
		"Cancelled": {ended("cancelled"), exitFailed, "the create of acme was cancelled"},
		"NoRoom": {func() client.Operation {
			op := ended("failed")
			op.FailReason = "insufficient-capacity"
			return op
		}(), exitCapacity, "the create of acme failed at step 3 of 6, create-instance: insufficient-capacity: no tap device"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			routes := accepted(answer(200, tc.op))
			routes["GET /installations/in1"] = answer(200, installation("creation-failed", &tc.op))
			r := newRun(newFake(t, routes).URL)
			require.Equal(t, tc.code, r.line(t, create))
			require.Contains(t, r.err.String(), "error: "+tc.says)
			require.Contains(t, r.err.String(), "cloudctl installation explain acme")
			require.Contains(t, r.out.String(), "creation-failed")

			r = newRun(newFake(t, map[string]http.HandlerFunc{"GET /operations/op1": answer(200, tc.op)}).URL)
			require.Equal(t, tc.code, r.line(t, "operation get op1 --wait -o json"))
			var got failure
			require.NoError(t, json.Unmarshal([]byte(r.err.String()), &got))
			require.Equal(t, "op1", got.Operation)
			// Only to look is no failure.
			require.Equal(t, exitDone, newRun(newFake(t, map[string]http.HandlerFunc{"GET /operations/op1": answer(200, tc.op)}).URL).line(t, "operation get op1"))
		})
	}
}

func TestWaitTimesOut(t *testing.T) {
	t.Parallel()
	f := newFake(t, accepted(answer(200, operation()), hold))
	r := newRun("http://127.0.0.1:1")
	require.Equal(t, exitTimeout, r.line(t, "--server "+f.URL+" "+create+" --timeout 300ms"))
	require.Contains(t, r.err.String(), "error: timed out waiting for the create of acme: step 3 of 6, create-instance")
	require.Contains(t, r.err.String(), "cloudctl --server "+f.URL+" operation get op1 --wait")
	require.Equal(t, exitUsage, newRun(f.URL).line(t, create+" --timeout -1s"))
}

func TestInterruptedWait(t *testing.T) {
	t.Parallel()
	for signal, code := range map[os.Signal]int{os.Interrupt: exitInterrupted, syscall.SIGTERM: exitTerminated} {
		ctx, cancel := context.WithCancelCause(t.Context())
		f := newFake(t, accepted(answer(200, operation()), func(w http.ResponseWriter, r *http.Request) {
			cancel(interrupted{signal})
			hold(w, r)
		}))
		r := newRun(f.URL)
		require.Equal(t, code, r.with(ctx, create))
		require.Contains(t, r.err.String(), "error: interrupted; the create of acme goes on as operation op1\nfollow it with: cloudctl operation get op1 --wait\n")
		require.Empty(t, r.out.String())
	}
	// Before anything was accepted.
	ctx, cancel := context.WithCancelCause(t.Context())
	f := newFake(t, map[string]http.HandlerFunc{"POST /installations": func(w http.ResponseWriter, r *http.Request) {
		cancel(interrupted{os.Interrupt})
		hold(w, r)
	}})
	r := newRun(f.URL)
	require.Equal(t, exitInterrupted, r.with(ctx, create))
	require.Contains(t, r.err.String(), "what the server has accepted goes on")
}

// The server is killed in the middle of a wait, stays away for longer than
// other requests are repeated, and comes back with the operation finished.
func TestWaitSurvivesARestartOfTheServer(t *testing.T) {
	t.Parallel()
	polling := make(chan struct{})
	var once sync.Once
	first := newFake(t, accepted(answer(200, operation()), func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(polling) })
		hold(w, r)
	}))
	address := first.Listener.Addr().String()
	r := newRun(first.URL)
	code := make(chan int, 1)
	go func() { code <- r.line(t, create) }()
	<-polling
	require.NoError(t, first.Listener.Close())
	first.CloseClientConnections()
	require.Eventually(t, func() bool { return strings.Contains(r.err.String(), "the server does not answer; trying again\n") }, 20*time.Second, 5*time.Millisecond)

	second := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		accepted(answer(200, ended("succeeded")))[r.Method+" "+strings.TrimPrefix(r.URL.Path, "/api/v1")](w, r)
	}))
	require.NoError(t, second.Listener.Close())
	require.Eventually(t, func() bool {
		var err error
		second.Listener, err = net.Listen("tcp", address)
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
	second.Start()
	t.Cleanup(second.Close)
	require.Equal(t, exitDone, <-code, r.err)
	require.Contains(t, r.out.String(), "stable")
	require.Equal(t, 1, strings.Count(r.err.String(), "trying again"))
}

func TestWaitForADeletion(t *testing.T) {
	t.Parallel()
	op := ended("succeeded")
	op.Kind = "delete"
	tombstone := map[string]http.HandlerFunc{
		"DELETE /installations/acme": answer(202, installation("deletion-requested", &client.Operation{ID: "op1", Kind: "delete", ResourceName: "acme", State: "queued"})),
		"GET /operations/op1":        answer(200, op),
	}
	// The fake has no tombstone: not found is what was asked for.
	r := newRun(newFake(t, tombstone).URL)
	require.Equal(t, exitDone, r.line(t, "installation delete acme --wait -o json"), r.err)
	var in client.Installation
	require.NoError(t, json.Unmarshal([]byte(r.out.String()), &in))
	require.Equal(t, "deleted", in.State)
}

func TestDeletionAsksOnATerminal(t *testing.T) {
	t.Parallel()
	op := client.Operation{ID: "op1", Kind: "delete", State: "queued"}
	for input, code := range map[string]int{"y\n": exitDone, "YES\n": exitDone, "n\n": exitUsage, "": exitUsage, "\n": exitUsage} {
		f := newFake(t, map[string]http.HandlerFunc{"DELETE /installations/acme": answer(202, installation("deletion-requested", &op))})
		r := newRun(f.URL)
		r.stdinTTY, r.stderrTTY, r.stdin = true, true, strings.NewReader(input)
		require.Equal(t, code, r.line(t, "installation delete acme"), input)
		require.Contains(t, r.err.String(), "delete installation acme with all its data? [y/N]")
		if code == exitDone {
			require.Len(t, f.asked(), 1)
		} else {
			require.Empty(t, f.asked())
			require.Equal(t, exitDone, r.line(t, "installation delete acme --yes"))
		}
	}
}
