package integration

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// explained is what must be in an explanation; empty fields are not looked at,
// but for waiting, which is to be the reason.
type explained struct {
	waiting  fleet.Reason
	step     string
	summary  string
	detail   string
	last     string // the last error
	next     string
	advice   string
	accepts  string
	attempts int
}

func (x explained) mismatch(e client.Explanation) string {
	for _, c := range []struct{ name, want, got string }{
		{"step", x.step, e.Step}, {"summary", x.summary, e.Summary}, {"detail", x.detail, e.Detail}, {"last error", x.last, e.LastError}, {"next", x.next, e.Next},
		{"advice", x.advice, strings.Join(e.Advice, "; ")}, {"accepts", x.accepts, strings.Join(e.Accepts, " ")},
	} {
		if !strings.Contains(c.got, c.want) {
			return c.name + " has not " + c.want
		}
	}
	switch {
	case e.WaitingFor != string(x.waiting):
		return "it waits for " + e.WaitingFor + " and not for " + string(x.waiting)
	case e.Attempts < x.attempts:
		return "too few attempts"
	case e.Since.IsZero():
		return "it does not say since when"
	case e.Next == "":
		return "it does not say what comes next"
	}
	return ""
}

// explains waits until the API explains something so.
func (w *world) explains(path string, want explained) {
	w.t.Helper()
	f := w.api(w.store)
	var e client.Explanation
	var why string
	w.eventually(func() bool {
		e = client.Explanation{}
		require.Equal(w.t, http.StatusOK, f.get("/api/v1/"+path+"/explain", &e).StatusCode)
		why = want.mismatch(e)
		return why == ""
	}, func() string {
		return why + "\n" + strings.Join(append([]string{e.Summary, e.WaitingFor, e.Detail, e.LastError, e.Next}, e.Advice...), "\n")
	})
}

// exec changes rows as no part of ours does.
func (w *world) exec(query string, args ...any) {
	w.t.Helper()
	_, err := w.db.Exec(query, args...)
	require.NoError(w.t, err)
}

// stuckWorld is a world with one cluster of these settings, and a case in it.
func stuckWorld(t *testing.T, settings map[string]string) *kase {
	w := bareWorld(t)
	w.createCluster(clusterName, settings)
	_, err := w.store.CreatePackage(w.ctx, fleet.Package{Name: "web", Version: "1", Digest: "d", Kernel: fleet.KernelLinux, Manifest: fleet.Manifest{Program: "/web", Persist: []string{"/data"}}})
	require.NoError(t, err)
	return w.newCase(scenario{name: "acme", kind: fleet.OperationCreate})
}

// instead replaces what a step does.
func instead(step string, run engine.Run) func(fleet.OperationKind, string, engine.Run) engine.Run {
	return func(_ fleet.OperationKind, name string, real engine.Run) engine.Run {
		if name == step {
			return run
		}
		return real
	}
}

// until does nothing until leave is closed, whatever becomes of its context.
func until(leave <-chan struct{}) engine.Run {
	return func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		<-leave
		return fleet.Outcome{}, errors.New("it was stopped")
	}
}

// lapsing is a store that extends no lease, as one out of reach.
type lapsing struct{ engine.Store }

func (lapsing) Extend(context.Context, map[fleet.OperationID]fleet.Epoch, time.Duration) (map[fleet.OperationID]bool, error) {
	return nil, errors.New("injected: no route to host")
}

const longAgo = `UPDATE operation SET due_at = due_at - interval '1 minute', worker = '' WHERE state = 'active'`

func TestExplainInstallations(t *testing.T) {
	t.Parallel()
	throttled := func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		err := fleet.Errorf(fleet.KindThrottled, "injected: come again")
		err.RetryAfter = time.Hour
		return fleet.Outcome{}, err
	}
	broken := func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		return fleet.Outcome{}, errors.New("injected: connection refused")
	}
	for name, c := range map[string]struct {
		cluster map[string]string
		setup   setup
		stop    bool // the engine does not run on
		before  func(*kase)
		after   func(*kase)
		want    explained
	}{
		"NobodyCameYet": {stop: true, want: explained{summary: "the create of acme-1 waits for", next: "a worker begins with the first step"}},
		"NobodyComes": {stop: true, after: func(c *kase) { c.exec(longAgo) },
			want: explained{waiting: fleet.WaitWorker, detail: "no worker has come for it", advice: "role supervisor"}},
		"Capacity": {cluster: map[string]string{"memory_mib": "100"},
			want: explained{waiting: fleet.WaitCapacity, step: "prepare", summary: "no host of cluster local has 128 MiB of memory", next: "step prepare looks again", advice: "make room"}},
		"Address": {before: func(c *kase) { c.exec(`DELETE FROM address_lease`) },
			want: explained{waiting: fleet.WaitAddress, step: "prepare", summary: "all addresses of the host's pool are leased", advice: "--address-pool"}},
		"Cluster": {before: func(c *kase) { c.exec(`UPDATE cluster SET state = 'creation-failed'`) },
			want: explained{waiting: fleet.WaitCluster, step: "prepare", summary: "cluster local is creation-failed", advice: "cluster explain"}},
		"InstanceNotShown": {cluster: map[string]string{"fault.not_found_after_create": "1", "boot_time": "1h"},
			want: explained{waiting: fleet.WaitInstance, step: "await-healthy", summary: "does not show the instance yet", advice: "whether the provider has the machine"}},
		"Health": {cluster: map[string]string{"boot_time": "1h"},
			want: explained{waiting: fleet.WaitHealthy, step: "await-healthy", summary: "waiting for health", next: "the step counts as failed at", advice: "installation logs acme-1"}},
		"BackingOff": {setup: setup{wrap: instead("start-instance", throttled)},
			want: explained{waiting: fleet.WaitBackoff, step: "start-instance", summary: "it failed once and is tried again in", attempts: 1, last: "injected: come again", advice: "the last error says"}},
		"Quarantined": {setup: setup{wrap: instead("start-instance", broken)},
			want: explained{step: "start-instance", summary: "too many attempts", last: "injected: connection refused", next: "a retry repeats the create", advice: "installation retry acme-1"}},
		"ImageBuildFailed": {before: func(c *kase) { c.images.broken.Store(true) },
			want: explained{step: "prepare", summary: "image build failed: the builder is broken", advice: "ask for what can be made"}},
		"DeadlinePassed": {cluster: map[string]string{"memory_mib": "100"}, after: func(c *kase) {
			c.explains("installations/"+c.subject, explained{waiting: fleet.WaitCapacity})
			c.exec(`UPDATE operation SET step_deadline_at = dormouse_now() - interval '1 minute', due_at = dormouse_now() WHERE state = 'active'`)
			c.wake()
		}, want: explained{step: "prepare", summary: "deadline exceeded: step prepare did not end in time: it was waiting-for-capacity", last: "no host of cluster local", next: "a retry repeats the create"}},
		"NotHealthyInTime": {cluster: map[string]string{"boot_time": "1h"}, setup: setup{wrap: lookOften}, before: func(c *kase) { c.health = 200 * time.Millisecond },
			want: explained{step: "await-healthy", summary: "not healthy in time", last: "waiting-for-health", advice: "installation logs"}},
		"HostAway": {stop: true, after: func(c *kase) {
			c.exec(`UPDATE operation SET executor = 'far', due_at = due_at - interval '1 minute' WHERE state = 'active'`)
		}, want: explained{waiting: fleet.WaitHost, summary: "waits for", detail: "only host far may do this step", next: "when the host is back", advice: "start the provisioner of host far"}},
		"MalformedRow": {before: func(c *kase) {}, stop: true, after: func(c *kase) {
			c.exec(`UPDATE installation SET env = '{"A": {"nested": 1}}'`)
			e := c.start(setup{})
			c.t.Cleanup(e.stop)
			c.wake()
		}, want: explained{summary: fleet.Unreadable, detail: "decoding a stored JSON column", last: "decoding a stored JSON column", advice: "mend it in the database"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := stuckWorld(t, c.cluster)
			if c.before != nil {
				c.before(k)
			}
			if !c.stop {
				e := k.start(c.setup)
				t.Cleanup(e.stop)
			}
			op := k.create(nil, "web")
			if c.after != nil {
				c.after(k)
			}
			k.explains("installations/"+k.subject, c.want)
			k.explains("operations/"+string(op), explained{waiting: c.want.waiting, step: c.want.step, detail: c.want.detail, last: c.want.last, attempts: c.want.attempts})
		})
	}
}

func TestExplainAnImageThatIsBuilt(t *testing.T) {
	t.Parallel()
	c := stuckWorld(t, nil)
	leave := make(chan struct{})
	e := c.start(setup{wrap: instead("prepare", until(leave))})
	op := c.create(nil, "web")
	defer func() { close(leave); e.stop() }()
	want := explained{waiting: fleet.WaitImage, summary: "the image of its package is built", next: "another one takes over", advice: "the log of the provisioner"}
	c.explains("installations/"+c.subject, want)
	c.explains("operations/"+string(op), want)
}

func TestExplainAWorkerThatDied(t *testing.T) {
	t.Parallel()
	c := stuckWorld(t, nil)
	entered, leave := make(chan struct{}), make(chan struct{})
	hang := func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		close(entered)
		return until(leave)(ctx, s)
	}
	e := c.start(setup{lease: 500 * time.Millisecond, wrap: instead("start-instance", hang), store: func(real engine.Store) engine.Store { return lapsing{real} }})
	op := c.create(nil, "web")
	c.received(entered)
	e.cancel() // it takes nothing more, and gives nothing back until the step has ended
	want := explained{waiting: fleet.WaitWorker, step: "start-instance", summary: "its worker is gone", detail: "has not extended its lease", next: "another worker takes over"}
	c.explains("installations/"+c.subject, want)
	c.explains("operations/"+string(op), want)
	close(leave)
	e.stop()
	second := c.start(setup{})
	c.finished(op)
	second.stop()
}

func TestExplainWhatIsQueuedAndCancelled(t *testing.T) {
	t.Parallel()
	c := stuckWorld(t, map[string]string{"memory_mib": "100"})
	e := c.start(setup{})
	defer e.stop()
	first := c.create(nil, "web")
	second := c.ask(fleet.OperationHibernate, nil)
	c.explains("installations/"+c.subject, explained{waiting: fleet.WaitCapacity, next: "then: hibernate"})
	c.explains("operations/"+string(second), explained{waiting: fleet.WaitTurn, summary: "behind the create " + string(first), next: "when the work before it is done", advice: "operation explain " + string(first)})
	c.finished(c.remove())
	c.explains("operations/"+string(first), explained{summary: "was cancelled, preempted by delete", advice: "installation explain"})
	c.explains("operations/"+string(second), explained{summary: "was cancelled"})
	c.explains("installations/"+c.id, explained{summary: "is deleted"})
}

func TestExplainClusters(t *testing.T) {
	t.Parallel()
	missing := func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		return fleet.Fail(fleet.ReasonCheckFailed, "qemu: not found (apt-get install qemu-system-x86)"), nil
	}
	refused := func(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
		err := fleet.Errorf(fleet.KindUnavailable, "injected: connection refused")
		err.RetryAfter = time.Hour
		return fleet.Outcome{}, err
	}
	for name, c := range map[string]struct {
		run      engine.Run
		settings map[string]string
		none     bool
		after    func(*world)
		want     explained
	}{
		"NobodyComes": {none: true, after: func(w *world) { w.exec(longAgo) },
			want: explained{waiting: fleet.WaitWorker, summary: "the create-cluster of there waits for", advice: "role supervisor", accepts: "delete"}},
		"BackingOff":  {run: refused, want: explained{waiting: fleet.WaitBackoff, step: "check", attempts: 1, last: "connection refused", next: "step check is tried again; it is the last step, and the state becomes stable"}},
		"CheckFailed": {run: missing, want: explained{summary: "cluster there is creation-failed", detail: "apt-get install", last: "qemu: not found", advice: "mend what its checks name"}},
		"Runs":        {want: explained{summary: "1 of 1 hosts up", accepts: "delete"}},
		"Full": {after: func(w *world) { w.exec(`UPDATE host SET memory_held_mib = memory_mib`) },
			want: explained{waiting: fleet.WaitCapacity, summary: "0 MiB of memory free", advice: "give it more hosts"}},
		"HostDown": {after: func(w *world) { w.exec(`UPDATE host SET state = 'down'`) },
			want: explained{waiting: fleet.WaitCapacity, summary: "0 of 1 hosts up", detail: "is down"}},
		"MalformedRow": {after: func(w *world) { w.exec(`UPDATE cluster SET settings = '[1]'`) },
			want: explained{summary: fleet.Unreadable, detail: "can't be read", advice: "mend it in the database"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := bareWorld(t)
			if !c.none {
				s := setup{}
				if c.run != nil {
					s.wrap = instead("check", c.run)
				}
				e := w.start(s)
				t.Cleanup(e.stop)
			}
			v, err := w.store.CreateCluster(w.ctx, newCluster("there", c.settings))
			require.NoError(t, err)
			w.wake()
			if c.after != nil {
				if !c.none {
					w.finished(v.Operation.ID)
				}
				c.after(w)
			}
			w.explains("clusters/there", c.want)
		})
	}
}

func TestExplainRollouts(t *testing.T) {
	t.Parallel()
	hour := time.Hour
	slow := quick()
	slow.HealthyFor, slow.HealthDeadline, slow.Slots = hour, time.Minute, 2
	soaking := quick()
	soaking.Soak, soaking.FirstWave = hour, 3
	metric := func(answer string) func(*testing.T) fleet.RolloutSpec {
		return func(t *testing.T) fleet.RolloutSpec {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
			t.Cleanup(s.Close)
			spec := quick()
			spec.Metric = &fleet.MetricGate{URL: s.URL, Query: "errors", Max: 1, For: hour}
			return spec
		}
	}
	is := func(s fleet.RolloutSpec) func(*testing.T) fleet.RolloutSpec {
		return func(*testing.T) fleet.RolloutSpec { return s }
	}
	verb := func(v fleet.RolloutVerb) func(*group, fleet.RolloutID) {
		return func(g *group, id fleet.RolloutID) {
			_, err := g.store.ControlRollout(g.ctx, fleet.RolloutControl{ID: id, Verb: v})
			require.NoError(g.t, err)
			g.wake()
		}
	}
	stop := func(g *group, _ fleet.RolloutID) {
		g.engine.stop()
		g.exec(longAgo)
	}
	limit := quick()
	limit.MaxFailures, limit.FirstWave = 1, 6
	for name, c := range map[string]struct {
		spec  func(*testing.T) fleet.RolloutSpec
		env   string
		begin func(*group) // before the rollout
		after func(*group, fleet.RolloutID)
		want  explained
	}{
		"SlotsFull": {spec: is(slow), want: explained{waiting: fleet.WaitMembers, step: "all, wave 1", summary: "installations wait for a slot; in work: 2 rolling",
			next: "when a member is done", advice: "rollout members", accepts: "pause"}},
		"Soak":   {spec: is(soaking), want: explained{waiting: fleet.WaitSoak, step: "all, wave 1", summary: "soaking", detail: "0 of 3 installations have been watched for 1h0m0s"}},
		"Paused": {spec: is(slow), after: verb(fleet.RolloutPause), want: explained{summary: "is paused: nothing new is begun", next: "until somebody decides", advice: "rollout resume", accepts: "resume"}},
		"Halted": {spec: is(limit), env: "crash", want: explained{waiting: fleet.ReasonFailureLimit, summary: "was halted, failure limit", detail: "installations failed, more than 1",
			last: "crash loop", advice: "rollout rollback", accepts: "force retry rollback cancel"}},
		"MetricFails":   {spec: metric(`{"status":"error","error":"out of memory"}`), want: explained{waiting: fleet.WaitMetric, summary: "the metric's query does not answer", detail: "out of memory", advice: "the metric's server"}},
		"MetricTooHigh": {spec: metric(`{"status":"success","data":{"resultType":"scalar","result":[1,"5"]}}`), want: explained{waiting: fleet.WaitMetric, detail: "the metric is 5, above 1"}},
		"Superseded": {spec: is(slow), after: func(g *group, _ fleet.RolloutID) { g.roll(1, quick()) },
			want: explained{summary: "is superseded", detail: "took its place", next: "it has ended"}},
		"RollingBack": {spec: is(slow), after: func(g *group, id fleet.RolloutID) {
			g.eventually(func() bool {
				v, err := g.store.Rollout(g.ctx, id)
				return err == nil && counts(v)[fleet.MemberRolling] == 2
			}, func() string { return "two are rolling" })
			g.engine.stop()
			verb(fleet.RolloutRollback)(g, id)
		}, want: explained{summary: "is being taken back", next: "has its old release back", accepts: "cancel"}},
		"NobodyComes": {spec: is(slow), after: stop, want: explained{waiting: fleet.WaitWorker, summary: "no worker comes for it", advice: "role supervisor"}},
		"NobodysWork": {spec: is(slow), after: func(g *group, id fleet.RolloutID) {
			g.exec(`UPDATE operation SET state = 'failed', finished_at = dormouse_now(), error = 'a hand was at it' WHERE resource_id = $1`, id)
		}, want: explained{waiting: fleet.WaitWorker, summary: "nobody carries it out", last: "a hand was at it", advice: "rollout resume"}},
		"MalformedRow": {spec: is(soaking), after: func(g *group, id fleet.RolloutID) {
			g.exec(`UPDATE rollout SET spec = '[1]' WHERE id = $1`, id)
			g.exec(`UPDATE operation SET due_at = dormouse_now() WHERE resource_id = $1`, id)
			g.wake()
		}, want: explained{waiting: fleet.WaitBackoff, summary: fleet.Unreadable, attempts: 1, detail: "can't be read", last: "can't be read", advice: "mend it in the database"}},
		"BusyMembers": {spec: is(quick()), begin: func(g *group) {
			// It is being restarted by a host that does not come.
			g.exec(`INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, owner, class, state, request_state, generation, executor)
				SELECT $1, 'restart', 'installation', id, name, owner, 0, 'active', state, generation + 1, 'far' FROM installation WHERE name = 't000'`, fleet.NewID())
		}, want: explained{waiting: fleet.WaitMembers, summary: "1 installations are busy with something else", advice: "installation explain NAME"}},
		"Observer": {spec: is(slow), after: func(g *group, _ fleet.RolloutID) { g.blind.Store(true) },
			want: explained{waiting: fleet.WaitObserver, summary: "out of sight", advice: "what looks at their health"}},
		"Evidence": {spec: is(soaking), env: "crash", want: explained{waiting: fleet.WaitEvidence, summary: "whether the release is to blame", last: "crash loop"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGroup(t, 8, 0, nil)
			if c.begin != nil {
				c.begin(g)
			}
			change := fleet.GroupChange{PackageRef: &second}
			if c.env != "" {
				change.Env = envOf(c.env)
			}
			id := g.release(change, c.spec(t))
			if c.after != nil {
				g.eventually(func() bool { v, err := g.store.Rollout(g.ctx, id); return err == nil && v.Total == 8 }, func() string { return "it is planned" })
				c.after(g, id)
			}
			g.explains("rollouts/"+string(id), c.want)
		})
	}
	t.Run("MemberIsWatched", func(t *testing.T) {
		t.Parallel()
		g := newGroup(t, 1, 0, nil)
		g.release(fleet.GroupChange{PackageRef: &second}, slow)
		g.explains("installations/t000", explained{waiting: fleet.WaitSteady, step: "stay-healthy", summary: "healthy, and watched for 1h0m0s"})
	})
}
