package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	now := epochTime.Add(12 * time.Second)
	active := func(change func(*fleet.Operation)) *fleet.Operation {
		op := &fleet.Operation{
			ID: "op", Kind: fleet.OperationCreate, State: fleet.OperationActive, Step: "create-instance", StepNumber: 3, StepsTotal: 6,
			StepSince: epochTime, StartedAt: epochTime, CreatedAt: epochTime, DueAt: now.Add(30 * time.Second),
		}
		change(op)
		return op
	}
	for name, c := range map[string]struct {
		view fleet.InstallationView
		want client.Explanation
		// advice is in what can be done about it; empty is nothing.
		advice string
	}{
		"Accepted": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateCreationRequested},
				Operation: &fleet.Operation{Kind: fleet.OperationCreate, State: fleet.OperationActive, CreatedAt: epochTime, DueAt: epochTime}},
			client.Explanation{Summary: "the create of acme waits for 12s for a worker", Since: epochTime, NextAt: epochTime,
				WaitingFor: "waiting-for-worker", Detail: "it has been due for 12s, and no worker has come for it",
				Next: "a worker begins with the first step", Accepts: []string{"update", "restart", "hibernate", "delete"}},
			"a provisioner with the role supervisor",
		},
		"Just accepted": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateCreationRequested},
				Operation: &fleet.Operation{Kind: fleet.OperationCreate, State: fleet.OperationActive, CreatedAt: now.Add(-time.Second), DueAt: now.Add(-time.Second)}},
			client.Explanation{Summary: "the create of acme waits for 1s for a worker", Since: now.Add(-time.Second), NextAt: now.Add(-time.Second),
				Next: "a worker begins with the first step", Accepts: []string{"update", "restart", "hibernate", "delete"}}, "",
		},
		// It was said to wait for a worker all through its first step.
		"First step": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateCreationInProgress},
				Operation: &fleet.Operation{Kind: fleet.OperationCreate, State: fleet.OperationActive, CreatedAt: epochTime, StartedAt: epochTime,
					Worker: "w", DueAt: now.Add(4 * time.Second)}},
			client.Explanation{Summary: "the create of acme is at its first step for 12s: the image of its package is built, or fetched", Since: epochTime,
				WaitingFor: "waiting-for-image", Detail: "the image of its package is built, or fetched", NextAt: now.Add(4 * time.Second),
				Next:    "the step after it; if its worker w has died, another one takes over when the lease ends, at next_at",
				Accepts: []string{"update", "restart", "hibernate", "delete"}},
			"the log of the provisioner",
		},
		"Its worker died": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateCreationInProgress},
				Operation: active(func(o *fleet.Operation) { o.Worker, o.DueAt = "w", now.Add(-3*time.Second) })},
			client.Explanation{Summary: "the create of acme is at step create-instance (3 of 6) for 12s; its worker is gone", Since: epochTime,
				WaitingFor: "waiting-for-worker", NextAt: now.Add(-3 * time.Second), Step: "create-instance", StepNumber: 3, StepsTotal: 6,
				Detail: "worker w has not extended its lease, which ended 3s ago: it has died, was stopped or does not reach the database",
				Next:   "another worker takes over, and does the step again", Accepts: []string{"update", "restart", "hibernate", "delete"}}, "",
		},
		"Its host is away": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateCreationInProgress}, HostName: "metal1", Instance: &fleet.Instance{HostID: "h1"},
				Operation: active(func(o *fleet.Operation) { o.Executor, o.DueAt = "h1", now.Add(-time.Minute) })},
			client.Explanation{Summary: "the create of acme is at step create-instance (3 of 6) for 12s; its host metal1 is away", Since: epochTime,
				WaitingFor: "waiting-for-host", NextAt: now.Add(-time.Minute), Step: "create-instance", StepNumber: 3, StepsTotal: 6,
				Detail: "only host metal1 may do this step, and it has not come for it in 1m0s",
				Next:   "it goes on when the host is back", Accepts: []string{"update", "restart", "hibernate", "delete"}}, "start the provisioner of host metal1",
		},
		"Its deadline passed": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateCreationInProgress},
				Operation: active(func(o *fleet.Operation) { o.StepDeadlineAt = now.Add(-3 * time.Second) })},
			client.Explanation{Summary: "the create of acme is at step create-instance (3 of 6) for 12s; its time was over 3s ago", Since: epochTime,
				NextAt: now.Add(30 * time.Second), Step: "create-instance", StepNumber: 3, StepsTotal: 6,
				Next:    "step create-instance ends; step 4 of 6 follows; it is looked at once more, and fails unless what it waits for has come true",
				Accepts: []string{"update", "restart", "hibernate", "delete"}}, "",
		},
		"Malformed": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateStable, UpdatedAt: epochTime, StateDetail: fleet.Unreadable + ": env"}},
			client.Explanation{Summary: "acme runs; nothing is waited for; but a part of its row can't be read", Since: epochTime, Next: "nothing, until there is a request",
				Detail: fleet.Unreadable + ": env", LastError: fleet.Unreadable + ": env", Accepts: []string{"update", "restart", "hibernate", "delete"}}, "mend it in the database",
		},
		"Running": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateCreationInProgress}, Operation: active(func(*fleet.Operation) {})},
			client.Explanation{Summary: "the create of acme is at step create-instance (3 of 6) for 12s", Since: epochTime,
				Step: "create-instance", StepNumber: 3, StepsTotal: 6, NextAt: now.Add(30 * time.Second),
				Next: "step create-instance ends; step 4 of 6 follows", Accepts: []string{"update", "restart", "hibernate", "delete"}}, "",
		},
		"Waiting": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateCreationInProgress}, Operation: active(func(o *fleet.Operation) {
				o.WaitReason, o.WaitDetail = fleet.WaitCapacity, "64 MiB are free"
				o.StepDeadlineAt = now.Add(time.Minute)
			}), Queued: []fleet.OperationKind{fleet.OperationHibernate}},
			client.Explanation{
				Summary:    "the create of acme is at step create-instance (3 of 6) for 12s: waiting for capacity: 64 MiB are free",
				WaitingFor: "waiting-for-capacity", Detail: "64 MiB are free", Since: epochTime,
				Step: "create-instance", StepNumber: 3, StepsTotal: 6, NextAt: now.Add(30 * time.Second),
				Next:    "step create-instance looks again when it is told of a change, or at next_at; step 4 of 6 follows; the step counts as failed at 2026-05-04T10:01:12Z; then: hibernate",
				Accepts: []string{"update", "hibernate", "wake", "delete"}, Queued: []string{"hibernate"},
			}, "make room in its cluster",
		},
		"BackingOffInTheLastStep": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateCreationInProgress}, Operation: active(func(o *fleet.Operation) {
				o.WaitReason, o.Attempt, o.Error, o.Step, o.StepNumber = fleet.WaitBackoff, 2, "qemu does not answer", "await-healthy", 6
			})},
			client.Explanation{
				Summary:    "the create of acme is at step await-healthy (6 of 6) for 12s: it failed 2 times and is tried again in 30s",
				WaitingFor: "backing-off", Since: epochTime, Attempts: 2, LastError: "qemu does not answer",
				Step: "await-healthy", StepNumber: 6, StepsTotal: 6, NextAt: now.Add(30 * time.Second),
				Next:    "step await-healthy is tried again; it is the last step, and the state becomes stable",
				Accepts: []string{"update", "restart", "hibernate", "delete"},
			}, "the last error says",
		},
		"Queued": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateStable},
				Operation: &fleet.Operation{Kind: fleet.OperationDelete, State: fleet.OperationQueued, CreatedAt: epochTime, StepsTotal: 4}},
			client.Explanation{Summary: "the delete of acme is queued for 12s", WaitingFor: "waiting-for-its-turn", Since: epochTime, StepsTotal: 4,
				Next: "the delete begins when the work before it is done", Accepts: []string{"delete"}}, "what the work before it waits for",
		},
		"Stable": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateStable, UpdatedAt: epochTime}},
			client.Explanation{Summary: "acme runs; nothing is waited for", Since: epochTime, Next: "nothing, until there is a request",
				Accepts: []string{"update", "restart", "hibernate", "delete"}}, "",
		},
		"Sleeping": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateHibernating, UpdatedAt: epochTime}},
			client.Explanation{Summary: "acme sleeps for 12s; its disk is kept", Since: epochTime, Next: "nothing, until a wake is requested",
				Accepts: []string{"update", "wake", "delete"}}, "",
		},
		"Failed": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateCreationFailed, UpdatedAt: epochTime,
				StateReason: fleet.ReasonNotHealthy, StateDetail: "port 8080 is closed"},
				Operation: active(func(o *fleet.Operation) {
					o.State, o.FailReason, o.Error, o.Attempt = fleet.OperationFailed, fleet.ReasonNotHealthy, "port 8080 is closed", 4
				})},
			client.Explanation{
				Summary: "the create of acme failed at step create-instance (3 of 6), not healthy in time: port 8080 is closed",
				Detail:  "port 8080 is closed", Since: epochTime, Step: "create-instance", StepNumber: 3, StepsTotal: 6, Attempts: 4,
				LastError: "port 8080 is closed", Next: "nothing by itself: a retry repeats the create", Accepts: []string{"update", "delete", "retry"},
			}, "installation logs acme",
		},
		"FailedWithoutOperation": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateDeletionFailed, UpdatedAt: epochTime,
				StateReason: fleet.ReasonProvider, StateDetail: "the host is gone"}},
			client.Explanation{
				Summary: "acme is deletion-failed for 12s, provider error: the host is gone", Detail: "the host is gone", Since: epochTime,
				Next: "nothing by itself: a retry repeats the delete", Accepts: []string{"delete", "retry"},
			}, "cloudctl installation retry acme",
		},
		"CrashLooping": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateCrashLooping, UpdatedAt: epochTime},
				Instance: &fleet.Instance{Restarts: 5, Exit: &fleet.Exit{Code: -1, Signal: "SIGSEGV", LastLines: []string{"a", "core dumped"}}}},
			client.Explanation{
				Summary: "acme is crash-looping: its program ended with signal SIGSEGV", Since: epochTime, Attempts: 5, LastError: "core dumped",
				Next: "nothing by itself: a retry repeats the restart", Accepts: []string{"update", "restart", "hibernate", "delete", "retry"},
			}, "see what it said",
		},
		"Exited": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateExited, UpdatedAt: epochTime},
				Instance: &fleet.Instance{Exit: &fleet.Exit{Code: 3}}},
			client.Explanation{
				Summary: "acme is exited: its program ended with exit code 3", Since: epochTime,
				Next: "nothing by itself: a retry repeats the restart", Accepts: []string{"update", "restart", "hibernate", "delete", "retry"},
			}, "see what it said",
		},
		"TransientWithoutWork": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateUpdateInProgress, UpdatedAt: epochTime}},
			client.Explanation{
				Summary: "acme is update-in-progress, but no work is recorded for it: a supervisor's sweep has to find it", Since: epochTime,
				Next: "the sweep of its cluster repairs it, or fails it with a reason", Accepts: []string{"delete"},
			}, "delete it",
		},
		"Deleted": {
			fleet.InstallationView{Installation: fleet.Installation{State: fleet.StateDeleted, DeletedAt: epochTime}},
			client.Explanation{Summary: "acme is deleted", Since: epochTime, Next: "nothing: the name may be used again", Accepts: []string{}}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.view.Name, c.want.About, c.want.Name, c.want.State = "acme", "installation", "acme", string(c.view.State)
			if c.view.Operation != nil {
				c.view.Operation.ResourceName = "acme"
				op := wireOperation(c.view.Operation)
				c.want.Operation = &op
			}
			if c.want.Queued == nil {
				c.want.Queued = []string{}
			}
			got := Explain(c.view, now)
			if c.advice == "" {
				require.Empty(t, got.Advice)
			}
			require.Contains(t, strings.Join(got.Advice, "; "), c.advice)
			got.Advice = nil
			require.Equal(t, c.want, got)
		})
	}
}

// Every state has an explanation that says something.
func TestExplainEveryState(t *testing.T) {
	t.Parallel()
	for _, state := range fleet.States() {
		e := Explain(fleet.InstallationView{Installation: fleet.Installation{Name: "acme", State: state}}, epochTime)
		require.Contains(t, e.Summary, "acme", state)
		require.NotEmpty(t, e.Next, state)
		require.NotNil(t, e.Accepts, state)
	}
}

func TestExplainInstallation(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	v := h.acme(t, fleet.StateExited)
	e := call[client.Explanation](t, h, http.StatusOK, "GET", "/api/v1/installations/"+string(v.ID)+"/explain", "")
	require.Equal(t, "acme is exited: its program ended with exit code 3", e.Summary)
	require.Equal(t, "bye", e.LastError)
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/installations/other/explain", "")
}
