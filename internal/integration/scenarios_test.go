package integration

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// scenario is one way through a workflow.
type scenario struct {
	name string
	kind fleet.OperationKind
	// before brings the installation to where the operation begins; nil is nothing.
	before func(c *kase)
	// begin accepts the request.
	begin func(c *kase) fleet.OperationID
	// end is the state in which it ends.
	end string
	// comesBack tells that after a failure the predecessor serves as before.
	comesBack bool
	// check looks at the end closer; may be nil.
	check func(c *kase)
}

// kase is one run of a scenario, on an installation or a cluster of its own.
type kase struct {
	*world
	scenario
	subject string // its name
	id      string // its ID
	began   string // the state that a move began in
}

// newCase runs what comes before the operation.
func (w *world) newCase(s scenario) *kase {
	w.t.Helper()
	w.cases++
	c := &kase{world: w, scenario: s, subject: fmt.Sprintf("%s-%d", s.name, w.cases)}
	w.images.broken.Store(false)
	w.images.builder.Store(0)
	w.cured.Store(false)
	if s.before != nil {
		s.before(c)
	}
	return c
}

// verify requires that it has ended as asked.
func (c *kase) verify() {
	c.t.Helper()
	require.Equal(c.t, c.end, c.state(), "%s", c.last())
	c.world.invariants()
	if c.check != nil {
		c.check(c)
	}
}

func (c *kase) state() string {
	c.t.Helper()
	if c.onCluster() {
		return c.strings(`SELECT state FROM cluster WHERE id = $1`, c.id)[0]
	}
	return c.strings(`SELECT state FROM installation WHERE id = $1`, c.id)[0]
}

// last says how its last operation ended.
func (c *kase) last() string {
	return fmt.Sprint(c.strings(`SELECT kind || ' ' || state || ' at ' || step || ': ' || fail_reason || ' ' || error FROM operation
		WHERE resource_id = $1 ORDER BY generation`, c.id))
}

func (c *kase) onCluster() bool {
	return c.kind == fleet.OperationCreateCluster || c.kind == fleet.OperationDeleteCluster || c.kind == fleet.OperationCheckCluster
}

func (c *kase) create(env map[string]string, pkg string) fleet.OperationID {
	c.t.Helper()
	in := fleet.NewInstallation{ID: fleet.InstallationID(fleet.NewID()), OperationID: fleet.OperationID(fleet.NewID()),
		Name: c.subject, Owner: "acme", PackageRef: pkg, ClusterName: clusterName, MemoryMiB: 128, DiskMiB: 100, VCPUs: 1, Env: env,
		Secrets: map[string]string{"KEY": "sealed:value"}, WhenFull: fleet.WhenFullWait}
	a, err := c.store.CreateInstallation(c.ctx, in)
	require.NoError(c.t, err)
	c.id = string(in.ID)
	c.wake()
	return a.Operation.ID
}

// ask accepts a request of that kind; edit may be nil.
func (c *kase) ask(kind fleet.OperationKind, edit func(*fleet.Change)) fleet.OperationID {
	c.t.Helper()
	ch := fleet.Change{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: c.id, Kind: kind}
	if edit != nil {
		edit(&ch)
	}
	a, err := c.store.ChangeInstallation(c.ctx, ch)
	require.NoError(c.t, err)
	c.wake()
	return a.Operation.ID
}

func env(key, value string) func(*fleet.Change) {
	return func(ch *fleet.Change) { ch.Env = map[string]*string{key: &value} }
}

// briefly has a clone run for a moment.
func briefly(ch *fleet.Change) {
	ch.Observed = map[string]string{fleet.ObservedTimeToLive: "50ms"}
}

func size(memory, disk int) func(*fleet.Change) {
	return func(ch *fleet.Change) { ch.MemoryMiB, ch.DiskMiB = &memory, &disk }
}

// do runs the operations one after the other and requires the states in which they end.
func (c *kase) do(steps ...doing) {
	c.t.Helper()
	var failing atomic.Value
	failing.Store("")
	e := c.start(setup{wrap: func(_ fleet.OperationKind, step string, run engine.Run) engine.Run {
		return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			if strings.Contains(failing.Load().(string), step) {
				return fleet.Outcome{}, fleet.Failure(fleet.ReasonProvider, "injected: %s", step)
			}
			return run(ctx, s)
		}
	}})
	defer e.stop()
	for _, s := range steps {
		failing.Store(s.failing)
		c.finished(s.begin(c))
		require.Equal(c.t, s.end, c.state(), "%s", c.last())
	}
}

type doing struct {
	begin func(c *kase) fleet.OperationID
	end   string
	// failing are the steps that fail.
	failing string
}

func failing(steps string, d doing) doing {
	d.failing = steps
	return d
}

func created(pkg string) doing {
	return doing{begin: func(c *kase) fleet.OperationID { return c.create(nil, pkg) }, end: "stable"}
}

func asked(kind fleet.OperationKind, edit func(*fleet.Change), end string) doing {
	return doing{begin: func(c *kase) fleet.OperationID { return c.ask(kind, edit) }, end: end}
}

func brokenBuilder(broken bool, d doing) doing {
	return doing{begin: func(c *kase) fleet.OperationID { c.images.broken.Store(broken); return d.begin(c) }, end: d.end}
}

func asking(kind fleet.OperationKind, edit func(*fleet.Change)) func(*kase) fleet.OperationID {
	return func(c *kase) fleet.OperationID { return c.ask(kind, edit) }
}

func after(steps ...doing) func(*kase) { return func(c *kase) { c.do(steps...) } }

var asleep = asked(fleet.OperationHibernate, nil, "hibernating")

// eachMachine does something to the installation's machines behind everybody's back.
func (c *kase) eachMachine(do func(fleet.InstanceRef) error) {
	cluster := fleet.ClusterID(c.strings(`SELECT cluster_id FROM installation WHERE id = $1`, c.id)[0])
	for _, st := range c.simInstances(cluster) {
		if string(st.InstallationID) == c.id {
			require.NoError(c.t, do(fleet.InstanceRef{ID: st.ID, ClusterID: cluster, Epoch: st.Epoch}))
		}
	}
}

// release asks for a package.
func release(name string) func(*fleet.Change) {
	return func(ch *fleet.Change) { ch.PackageRef = &name }
}

// noOverlay: what an update has laid over the volume is gone when it is over.
func (c *kase) noOverlay() {
	cluster := fleet.ClusterID(c.strings(`SELECT cluster_id FROM installation WHERE id = $1`, c.id)[0])
	volumes, err := c.sim.ListVolumes(c.ctx, cluster)
	require.NoError(c.t, err)
	for _, v := range volumes {
		require.False(c.t, string(v.InstallationID) == c.id && v.Overlay)
	}
}

// scenarios are the ways through all workflows; together they reach every step.
func scenarios() []scenario {
	serves := func(key, value string, memory int) func(*kase) {
		return func(c *kase) {
			require.Equal(c.t, []string{value + " " + fmt.Sprint(memory)}, c.strings(`SELECT coalesce(spec -> 'env' ->> $2, '') || ' ' || (spec ->> 'memory_mib')
				FROM instance WHERE installation_id = $1 AND deleted_at IS NULL`, c.id, key))
		}
	}
	retry := func(c *kase) fleet.OperationID {
		c.cured.Store(true)
		c.images.builder.Store(1) // a newer builder: another image
		return c.ask("", nil)
	}
	creating := func(env map[string]string) func(*kase) fleet.OperationID {
		return func(c *kase) fleet.OperationID { return c.create(env, "web") }
	}
	return []scenario{
		{name: "create", kind: fleet.OperationCreate, end: "stable",
			begin: func(c *kase) fleet.OperationID { return c.create(map[string]string{"A": "1"}, "web") }, check: serves("A", "1", 128)},
		{name: "create-plain", kind: fleet.OperationCreate, end: "stable",
			begin: func(c *kase) fleet.OperationID { return c.create(map[string]string{"A": "1"}, "plain") }, check: serves("A", "1", 128)},
		{name: "create-again", kind: fleet.OperationCreate, end: "stable",
			before: after(doing{begin: creating(map[string]string{"SICK": "1"}), end: "creation-failed"}),
			begin:  retry, check: serves("SICK", "1", 128)},
		// What the failed try has started is in the way of the next one's instance.
		{name: "create-anew", kind: fleet.OperationCreate, end: "stable",
			before: after(doing{begin: creating(nil), end: "creation-failed", failing: "await-healthy"}),
			begin:  retry, check: serves("A", "", 128)},
		{name: "create-job", kind: fleet.OperationCreate, end: "exited", begin: creating(map[string]string{"JOB": "1"})},
		{name: "update-config", kind: fleet.OperationUpdate, comesBack: true, end: "stable",
			before: after(created("web")), begin: asking(fleet.OperationUpdate, env("A", "2")), check: serves("A", "2", 128)},
		{name: "update-size", kind: fleet.OperationUpdate, comesBack: true, end: "stable",
			before: after(created("web")), begin: asking(fleet.OperationUpdate, size(256, 200)), check: func(c *kase) {
				serves("A", "", 256)(c)
				c.hasVolume(200)
			}},
		{name: "update-release", kind: fleet.OperationUpdate, comesBack: true, end: "stable",
			before: after(created("web")), begin: asking(fleet.OperationUpdate, release("web2")), check: func(c *kase) { c.noOverlay() }},
		{name: "update-release-sick", kind: fleet.OperationUpdate, comesBack: true, end: "update-failed",
			before: after(created("web")), check: func(c *kase) { c.backInService(); c.noOverlay() },
			begin: asking(fleet.OperationUpdate, release("bad"))},
		{name: "update-disk", kind: fleet.OperationUpdate, comesBack: true, end: "stable",
			before: after(created("web")), begin: asking(fleet.OperationUpdate, size(128, 200)), check: func(c *kase) { c.hasVolume(200) }},
		{name: "update-sick", kind: fleet.OperationUpdate, comesBack: true, end: "update-failed",
			before: after(created("web")), check: func(c *kase) { serves("SICK", "", 128)(c); c.backInService() },
			begin: asking(fleet.OperationUpdate, func(ch *fleet.Change) { env("SICK", "1")(ch); size(512, 100)(ch) })},
		// The predecessor's deletion, which came after it, had the end forgotten: an
		// installation whose program had ended was called stable.
		{name: "update-job", kind: fleet.OperationUpdate, end: "exited",
			before: after(created("web")), begin: asking(fleet.OperationUpdate, env("JOB", "1")), check: serves("JOB", "1", 128)},
		// Both are there after a rollback that failed. The one that was wanted all along was
		// started beside the other, which had the volume, and that one was never deleted.
		{name: "update-again", kind: fleet.OperationUpdate, end: "stable",
			before: after(created("web"), failing("await-healthy delete-successor", asked(fleet.OperationUpdate, env("A", "2"), "update-failed"))),
			begin:  func(c *kase) fleet.OperationID { return c.ask("", nil) }, check: serves("A", "2", 128)},
		// The predecessor is not the update's to delete, also where it was the one to stay.
		{name: "update-reverted", kind: fleet.OperationUpdate, end: "stable",
			before: after(created("web"), failing("await-healthy delete-successor", asked(fleet.OperationUpdate, env("A", "2"), "update-failed"))),
			begin:  asking(fleet.OperationUpdate, func(ch *fleet.Change) { ch.Env = map[string]*string{"A": nil} }), check: serves("A", "", 128)},
		// A wake that failed late left its instance running: the update called the
		// installation hibernating, and it ran on.
		{name: "update-half-awake", kind: fleet.OperationUpdate, end: "stable",
			before: after(created("web"), asleep, failing("await-healthy", asked(fleet.OperationWake, nil, "wake-up-failed"))),
			begin:  asking(fleet.OperationUpdate, env("A", "2")), check: serves("A", "2", 128)},
		// It failed early: there is nothing on, and what it held is given back.
		{name: "update-hardly-awake", kind: fleet.OperationUpdate, end: "hibernating",
			before: after(created("web"), asleep, failing("start-instance", asked(fleet.OperationWake, nil, "wake-up-failed"))),
			begin:  asking(fleet.OperationUpdate, env("A", "2"))},
		{name: "update-asleep", kind: fleet.OperationUpdate, end: "hibernating",
			before: after(created("web"), asleep), begin: asking(fleet.OperationUpdate, env("A", "2"))},
		{name: "restart", kind: fleet.OperationRestart, end: "stable",
			before: after(created("web")), begin: asking(fleet.OperationRestart, nil), check: serves("A", "", 128)},
		// No memory was held for it, and it was started all the same.
		{name: "restart-asleep", kind: fleet.OperationRestart, end: "stable",
			before: after(created("web"), asleep, brokenBuilder(true, asked(fleet.OperationUpdate, env("A", "2"), "update-failed"))),
			begin:  asking(fleet.OperationRestart, nil), check: serves("A", "", 128)},
		{name: "hibernate", kind: fleet.OperationHibernate, end: "hibernating",
			before: after(created("web")), begin: asking(fleet.OperationHibernate, nil), check: func(c *kase) { c.hasVolume(100) }},
		// Nothing sleeps there: it is stopped.
		{name: "hibernate-stopped", kind: fleet.OperationHibernate, end: "hibernating",
			before: func(c *kase) {
				c.do(created("web"))
				view, err := c.store.Cluster(c.ctx, clusterName)
				require.NoError(c.t, err)
				view.Settings["sleep"] = "false"
				require.NoError(c.t, c.sim.Configure(view.Cluster))
			},
			begin: asking(fleet.OperationHibernate, nil), check: func(c *kase) { c.hasVolume(100) }},
		{name: "wake", kind: fleet.OperationWake, end: "stable",
			before: after(created("web"), asleep), begin: asking(fleet.OperationWake, nil), check: serves("A", "", 128)},
		{name: "wake-changed", kind: fleet.OperationWake, end: "stable",
			before: after(created("web"), asleep, asked(fleet.OperationUpdate, func(ch *fleet.Change) { env("A", "2")(ch); size(256, 200)(ch) }, "hibernating")),
			begin:  asking(fleet.OperationWake, nil), check: func(c *kase) { serves("A", "2", 256)(c); c.hasVolume(200) }},
		{name: "wake-anew", kind: fleet.OperationWake, end: "stable",
			before: after(created("web"), asleep, failing("await-healthy", asked(fleet.OperationWake, nil, "wake-up-failed"))),
			begin:  retry, check: serves("A", "", 128)},
		// The stop had happened, and the hibernation failed all the same: the wake
		// found the instance on by its row, and started nothing.
		{name: "wake-stopped", kind: fleet.OperationWake, end: "stable",
			before: func(c *kase) {
				c.do(created("web"), failing("suspend-instance", asked(fleet.OperationHibernate, nil, "hibernation-failed")))
				c.eachMachine(func(ref fleet.InstanceRef) error {
					_, err := c.sim.Power(c.ctx, ref, fleet.PowerOff)
					return err
				})
			},
			begin: asking(fleet.OperationWake, nil), check: serves("A", "", 128)},
		// The predecessor of an instance that a failed wake had made was never deleted.
		{name: "wake-again", kind: fleet.OperationWake, end: "stable",
			before: after(created("web"), asleep, asked(fleet.OperationUpdate, env("SICK", "1"), "hibernating"), asked(fleet.OperationWake, nil, "wake-up-failed")),
			begin:  func(c *kase) fleet.OperationID { c.cured.Store(true); return c.ask("", nil) }, check: serves("SICK", "1", 128)},
		{name: "delete", kind: fleet.OperationDelete, end: "deleted",
			before: after(created("web")), begin: asking(fleet.OperationDelete, nil)},
		{name: "delete-asleep", kind: fleet.OperationDelete, end: "deleted",
			before: after(created("web"), asleep), begin: asking(fleet.OperationDelete, nil)},
		{name: "delete-two", kind: fleet.OperationDelete, end: "deleted",
			before: after(created("web"), asleep, asked(fleet.OperationUpdate, env("SICK", "1"), "hibernating"), asked(fleet.OperationWake, nil, "wake-up-failed")),
			begin:  asking(fleet.OperationDelete, nil)},
		{name: "update-member", kind: fleet.OperationUpdate, comesBack: true, end: "stable",
			before: after(joined), begin: rolled(fleet.OperationUpdate, "A", "2"), check: func(c *kase) { serves("A", "2", 128)(c); c.pins(2) }},
		// A rollout's update that fails goes back to the revision before.
		{name: "update-member-sick", kind: fleet.OperationUpdate, comesBack: true, end: "update-failed",
			before: after(joined), begin: rolled(fleet.OperationUpdate, "SICK", "1"), check: func(c *kase) { serves("SICK", "", 128)(c); c.pins(1) }},
		{name: "verify", kind: fleet.OperationVerify, end: "hibernating",
			before: after(joined, asleep), begin: rolled(fleet.OperationVerify, "A", "2"), check: func(c *kase) { c.pins(2) }},
		{name: "verify-sick", kind: fleet.OperationVerify, end: "hibernating",
			before: after(joined, asleep), begin: rolled(fleet.OperationVerify, "SICK", "1"), check: func(c *kase) { c.pins(1) }},
		{name: "clone", kind: fleet.OperationClone, end: "hibernating", before: after(created("web"), asleep), begin: asking(fleet.OperationClone, briefly), check: func(c *kase) {
			c.none("something of the clone is left", `SELECT id FROM instance WHERE installation_id = $1 AND deleted_at IS NULL AND clone`, c.id)
		}},
		{name: "clone-sick", kind: fleet.OperationClone, end: "hibernating",
			before: after(created("web"), asleep, asked(fleet.OperationUpdate, env("SICK", "1"), "hibernating")), begin: asking(fleet.OperationClone, briefly)},
		// What a verification leaves that was pre-empted goes first.
		{name: "update-cloned", kind: fleet.OperationUpdate, end: "hibernating",
			before: cloned, begin: asking(fleet.OperationUpdate, env("A", "2")), check: func(c *kase) { c.pins(1) }},
		{name: "wake-cloned", kind: fleet.OperationWake, end: "stable",
			before: cloned, begin: asking(fleet.OperationWake, nil), check: func(c *kase) { serves("A", "", 128)(c); c.pins(1) }},
		{name: "move", kind: fleet.OperationMove, comesBack: true, end: "stable",
			before: after(created("web")), begin: moving(true), check: func(c *kase) { c.moved(true); serves("A", "", 128)(c); c.hasVolume(100) }},
		{name: "move-plain", kind: fleet.OperationMove, comesBack: true, end: "stable",
			before: after(created("plain")), begin: moving(true), check: func(c *kase) { c.moved(true); serves("A", "", 128)(c) }},
		{name: "move-asleep", kind: fleet.OperationMove, end: "hibernating",
			before: after(created("web"), asleep), begin: moving(true), check: func(c *kase) {
				c.moved(true)
				c.none("something was started there", `SELECT id FROM instance WHERE installation_id = $1 AND deleted_at IS NULL AND power <> 'off'`, c.id)
				c.do(asked(fleet.OperationUpdate, env("A", "2"), "hibernating"), asked(fleet.OperationWake, nil, "stable"))
				serves("A", "2", 128)(c)
				c.moved(true)
				c.hasVolume(100)
			}},
		{name: "move-plain-asleep", kind: fleet.OperationMove, end: "hibernating",
			before: after(created("plain"), asleep), begin: moving(true), check: func(c *kase) {
				c.moved(true)
				c.do(asked(fleet.OperationWake, nil, "stable"))
				c.moved(true)
			}},
		// What can't be healthy there serves again where it was.
		{name: "move-sick", kind: fleet.OperationMove, comesBack: true, end: "stable",
			before: after(created("web")), begin: movingSick, check: func(c *kase) { c.moved(false); c.backInService(); c.hasVolume(100) }},
		// Both are there after a rollback that failed: the one that was to serve is on its new host.
		{name: "move-two", kind: fleet.OperationMove, end: "update-failed",
			before: after(created("web"), failing("await-healthy delete-successor", asked(fleet.OperationUpdate, env("A", "2"), "update-failed"))),
			begin:  moving(true), check: func(c *kase) {
				c.moved(true)
				c.do(doing{begin: func(c *kase) fleet.OperationID { return c.ask("", nil) }, end: "stable"})
				serves("A", "2", 128)(c)
			}},
		{name: "move-exited", kind: fleet.OperationMove, end: "exited",
			before: after(doing{begin: creating(map[string]string{"JOB": "1"}), end: "exited"}), begin: moving(true), check: func(c *kase) {
				c.moved(true)
				c.cured.Store(true)
				c.do(doing{begin: func(c *kase) fleet.OperationID { return c.ask("", nil) }, end: "stable"})
				c.moved(true)
			}},
		// It is drained no more when its turn comes.
		{name: "move-uncordoned", kind: fleet.OperationMove, end: "stable",
			before: after(created("web")), begin: moving(false), check: func(c *kase) { c.moved(false); serves("A", "", 128)(c) }},
		// A delete, a wake or an update finds what a move left that could neither go on nor come back.
		{name: "update-stranded", kind: fleet.OperationUpdate, end: "stable",
			before: stranded("web", "return-host"), begin: asking(fleet.OperationUpdate, env("A", "2")), check: func(c *kase) { serves("A", "2", 128)(c); c.hasVolume(100) }},
		{name: "update-stranded-late", kind: fleet.OperationUpdate, end: "stable",
			before: stranded("web", "start-predecessor"), begin: asking(fleet.OperationUpdate, env("A", "2")), check: func(c *kase) { serves("A", "2", 128)(c); c.hasVolume(100) }},
		{name: "update-stranded-plain", kind: fleet.OperationUpdate, end: "stable",
			before: stranded("plain", "delete-successor"), begin: asking(fleet.OperationUpdate, env("A", "2")), check: serves("A", "2", 128)},
		{name: "hibernate-stranded", kind: fleet.OperationHibernate, end: "hibernating",
			before: stranded("web", "release-host"), begin: asking(fleet.OperationHibernate, nil), check: func(c *kase) { c.hasVolume(100) }},
		{name: "create-cluster", kind: fleet.OperationCreateCluster, end: "stable", begin: createCluster},
		{name: "check-cluster", kind: fleet.OperationCheckCluster, end: "stable",
			before: after(doing{begin: createCluster, end: "stable"}), begin: checkCluster, check: func(c *kase) {
				require.Equal(c.t, []string{"3"}, c.strings(`SELECT count(*)::text FROM host WHERE cluster_id = $1 AND state = 'up'`, c.id))
			}},
		{name: "delete-cluster", kind: fleet.OperationDeleteCluster, end: "deleted",
			before: after(doing{begin: createCluster, end: "stable"}), begin: deleteCluster},
	}
}

func createCluster(c *kase) fleet.OperationID {
	in := newCluster(c.subject, map[string]string{"hosts": "2"})
	v, err := c.store.CreateCluster(c.ctx, in)
	require.NoError(c.t, err)
	c.id = string(in.ID)
	c.wake()
	return v.Operation.ID
}

func checkCluster(c *kase) fleet.OperationID {
	v, err := c.store.CheckCluster(c.ctx, fleet.CheckCluster{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: c.id, Settings: map[string]string{"hosts": "3"}})
	require.NoError(c.t, err)
	c.wake()
	return v.Operation.ID
}

func deleteCluster(c *kase) fleet.OperationID {
	v, err := c.store.DeleteCluster(c.ctx, c.id, fleet.IdempotencyKey{})
	require.NoError(c.t, err)
	c.wake()
	return v.Operation.ID
}

// remove accepts the deletion of the subject; deletions under way are joined.
func (c *kase) remove() fleet.OperationID {
	if c.onCluster() {
		return deleteCluster(c)
	}
	return c.ask(fleet.OperationDelete, nil)
}

// gone requires that nothing is left but the tombstone.
func (c *kase) gone() {
	c.t.Helper()
	require.Equal(c.t, "deleted", c.state(), "%s", c.last())
	c.world.invariants()
	for _, cluster := range c.strings(`SELECT id FROM cluster WHERE name = $1`, clusterName) {
		for _, st := range c.simInstances(fleet.ClusterID(cluster)) {
			require.NotEqual(c.t, c.id, string(st.InstallationID), "a machine is left")
		}
		volumes, err := c.sim.ListVolumes(c.ctx, fleet.ClusterID(cluster))
		require.NoError(c.t, err)
		for _, v := range volumes {
			require.NotEqual(c.t, fleet.DeriveID(c.id, "volume"), string(v.ID), "a volume is left")
		}
	}
}

// hasVolume requires one volume of that size, in the simulator too.
func (c *kase) hasVolume(mib int) {
	c.t.Helper()
	require.Equal(c.t, []string{fmt.Sprint(mib)}, c.strings(`SELECT size_mib::text FROM volume WHERE installation_id = $1 AND deleted_at IS NULL`, c.id))
	volumes, err := c.sim.ListVolumes(c.ctx, fleet.ClusterID(c.strings(`SELECT cluster_id FROM installation WHERE id = $1`, c.id)[0]))
	require.NoError(c.t, err)
	n := 0
	for _, v := range volumes {
		if string(v.ID) == fleet.DeriveID(c.id, "volume") {
			require.Equal(c.t, mib, v.SizeMiB)
			n++
		}
	}
	require.Equal(c.t, 1, n)
}

// backInService requires that the one instance serves and that no more is held than it uses.
func (c *kase) backInService() {
	c.t.Helper()
	require.Equal(c.t, []string{"true on 128"}, c.strings(`SELECT x.serving::text || ' ' || x.power || ' ' || i.held_memory_mib
		FROM instance x JOIN installation i ON i.id = x.installation_id WHERE i.id = $1 AND x.deleted_at IS NULL`, c.id))
	cluster := c.strings(`SELECT cluster_id FROM installation WHERE id = $1`, c.id)[0]
	for _, st := range c.simInstances(fleet.ClusterID(cluster)) {
		if string(st.InstallationID) == c.id {
			require.Equal(c.t, fleet.PowerOn, st.Power)
		}
	}
}
