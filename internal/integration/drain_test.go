package integration

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// hosts of a test: three with room for everybody.
func roomy() map[string]string { return map[string]string{"hosts": "3"} }

// control asks something of a host, and wakes who works.
func (g *group) control(host string, verb fleet.HostVerb, atOnce int) fleet.HostView {
	g.t.Helper()
	v, err := g.store.ControlHost(g.ctx, fleet.HostControl{Cluster: clusterName, Host: host, Verb: verb, AtOnce: atOnce, OperationID: newOp()})
	require.NoError(g.t, err)
	g.wake()
	return v
}

// on lists the installations that lie on a host.
func (g *group) on(host string) []string {
	return g.strings(`SELECT i.name FROM installation i JOIN host h ON h.id = i.held_host_id WHERE h.name = $1 AND i.deleted_at IS NULL ORDER BY 1`, host)
}

// busiest is the host with the most installations.
func (g *group) busiest() string {
	return g.strings(`SELECT h.name FROM host h LEFT JOIN installation i ON i.held_host_id = h.id AND i.deleted_at IS NULL GROUP BY 1 ORDER BY count(i.id) DESC, 1 LIMIT 1`)[0]
}

// states lists what each installation is, and how many instances serve it.
func (g *group) states() []string {
	return g.strings(`SELECT i.name || ' ' || i.state || ' ' || coalesce((SELECT count(*)::text FROM instance x
		WHERE x.installation_id = i.id AND x.serving AND x.deleted_at IS NULL), '') FROM installation i WHERE i.deleted_at IS NULL ORDER BY 1`)
}

// again starts the group's engine anew.
func (g *group) again(s setup) {
	g.t.Helper()
	g.engine.stop()
	s.slots = 16
	g.engine = g.start(s)
}

// moves returns the last operations that moved an installation, as they stand.
func (g *group) moves(name string) []string {
	return g.strings(`SELECT state || ' ' || step FROM operation WHERE kind = 'move' AND resource_name = $1 ORDER BY generation`, name)
}

// atMost requires that no more moves than that were open at any time.
func (g *group) atMost(n int) {
	g.t.Helper()
	g.none("more moves at once than were allowed", `SELECT m.id FROM operation m WHERE m.kind = 'move'
		AND (SELECT count(*) FROM operation x WHERE x.kind = 'move' AND x.created_at <= m.created_at AND coalesce(x.finished_at, 'infinity') > m.created_at) > $1`, n)
}

func TestDrainMovesEverybodyAndWakesNobody(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 12, 6, roomy())
	busiest := g.busiest()
	before, on := g.states(), g.on(busiest)
	require.NotEmpty(t, on)
	v := g.control(busiest, fleet.HostDrain, 3)
	op := g.finished(v.Operation.ID)
	require.Equal(t, fleet.OperationSucceeded, op.State, "%s", op.Error)
	require.Empty(t, g.on(busiest))
	require.Equal(t, before, g.states(), "everybody is what they were")
	g.none("sleepers were woken", `SELECT id FROM operation WHERE kind = 'wake'`)
	g.none("memory held for sleepers", `SELECT name FROM installation WHERE state = 'hibernating' AND held_memory_mib > 0`)
	require.Equal(t, []string{fmt.Sprint(len(on))}, g.strings(`SELECT count(*)::text FROM operation WHERE kind = 'move' AND state = 'succeeded'`))
	g.atMost(3)
	g.invariants()

	require.Equal(t, fleet.HostCordoned, g.host(busiest).State)
	for _, name := range g.sleeper {
		require.Equal(t, fleet.OperationSucceeded, g.ask(name, fleet.OperationWake).State, "%s wakes where it is", name)
	}
	require.Empty(t, g.on(busiest))
	g.control(busiest, fleet.HostRemove, 0)
	_, err := g.store.Host(g.ctx, clusterName, busiest)
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	g.invariants()
}

func (g *group) host(name string) fleet.HostView {
	g.t.Helper()
	v, err := g.store.Host(g.ctx, clusterName, name)
	require.NoError(g.t, err)
	return v
}

// One can't be healthy elsewhere at first, one is deleted meanwhile, and one
// has failed before: each is dealt with, and none is lost.
func TestDrainWithMembersThatFailOrGo(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 9, 3, roomy())
	busiest := g.busiest()
	on := g.on(busiest)
	require.GreaterOrEqual(t, len(on), 3)
	sick, deleted, failed := on[0], on[1], on[2]
	var mu sync.Mutex
	bad := map[string]int{sick: 2}
	g.again(setup{wrap: func(kind fleet.OperationKind, step string, run engine.Run) engine.Run {
		return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			mu.Lock()
			defer mu.Unlock()
			out, err := run(ctx, s)
			switch {
			case kind == fleet.OperationMove && s.Operation.ResourceName == sick && step == "leave-host" && bad[sick] > 0:
				bad[sick]--
				return fleet.Fail(fleet.ReasonNotHealthy, "injected: not today"), nil
			case kind == fleet.OperationUpdate && s.Operation.ResourceName == failed && step == "start-instance":
				return fleet.Fail(fleet.ReasonProvider, "injected: not that release"), nil
			}
			return out, err
		}
	}})
	value := "2"
	a, err := g.store.ChangeInstallation(g.ctx, fleet.Change{OperationID: newOp(), IDOrName: failed, Kind: fleet.OperationUpdate, Env: map[string]*string{"A": &value}})
	require.NoError(t, err)
	g.wake()
	require.Equal(t, fleet.OperationFailed, g.finished(a.Operation.ID).State)
	require.Contains(t, g.states(), failed+" update-failed 1", "its old release serves")

	v := g.control(busiest, fleet.HostDrain, 2)
	a, err = g.store.ChangeInstallation(g.ctx, fleet.Change{OperationID: newOp(), IDOrName: deleted, Kind: fleet.OperationDelete})
	require.NoError(t, err)
	g.wake()
	op := g.finished(v.Operation.ID)
	require.Equal(t, fleet.OperationSucceeded, op.State, "%s", op.Error)
	require.Equal(t, fleet.OperationSucceeded, g.finished(a.Operation.ID).State)
	require.Empty(t, g.on(busiest))
	require.Len(t, g.moves(sick), 3, "it was tried again: %v", g.moves(sick))
	require.Contains(t, g.states(), failed+" update-failed 1")
	g.atMost(2)
	g.settled()
	g.invariants()
}

// waits waits until an operation waits for that reason.
func (g *group) waits(id fleet.OperationID, why fleet.Reason) fleet.Operation {
	g.t.Helper()
	var op fleet.Operation
	g.eventually(func() bool {
		var err error
		op, err = g.store.Operation(g.ctx, id)
		return err == nil && op.WaitReason == why
	}, func() string { return fmt.Sprintf("operation %s stands at %+v", id, op) })
	return op
}

func TestDrainWaitsForRoomAndGoesOn(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 6, 0, map[string]string{"hosts": "2", "memory_mib": "512"})
	on, others := g.on("sim-1"), g.on("sim-2") // six, and each has room for four
	require.NotEmpty(t, on)
	v := g.control("sim-1", fleet.HostDrain, 5)
	g.eventually(func() bool { return len(g.on("sim-1")) == 2 }, func() string { return fmt.Sprint(g.on("sim-1")) })
	op := g.waits(v.Operation.ID, fleet.WaitCapacity)
	require.Contains(t, op.WaitDetail, fmt.Sprintf("%d of %d have left host sim-1", len(on)-2, len(on)))
	require.Contains(t, op.WaitDetail, "2 find no other host with room")
	// What waits there is served, and may still be worked on.
	require.Equal(t, fleet.OperationSucceeded, g.ask(g.on("sim-1")[0], fleet.OperationRestart).State)
	for _, name := range others[:2] {
		require.Equal(t, fleet.OperationSucceeded, g.ask(name, fleet.OperationHibernate).State)
	}
	require.Equal(t, fleet.OperationSucceeded, g.finished(v.Operation.ID).State)
	require.Empty(t, g.on("sim-1"))
	g.invariants()
}

func TestUncordonCancelsADrain(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 6, 0, roomy())
	busiest := g.busiest()
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	g.again(setup{wrap: func(kind fleet.OperationKind, step string, run engine.Run) engine.Run {
		return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			if kind == fleet.OperationMove && step == "start-instance" {
				once.Do(func() {
					close(entered)
					<-leave
				})
			}
			return run(ctx, s)
		}
	}})
	on := g.on(busiest)
	v := g.control(busiest, fleet.HostDrain, 1)
	g.received(entered)
	h := g.control(busiest, fleet.HostUncordon, 0)
	require.Equal(t, fleet.HostUp, h.State)
	op := g.finished(v.Operation.ID)
	require.Equal(t, fleet.OperationCancelled, op.State)
	require.Equal(t, fleet.ReasonUncordoned, op.FailReason)
	close(leave)
	g.settled()
	require.Len(t, g.on(busiest), len(on)-1, "what had begun came to its end, and nothing else began")
	g.invariants()
}

// A process that conducts a drain is killed before and after it has written
// what it decided; another one goes on.
func TestDrainOutlivesItsConductor(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 6, 3, roomy())
	busiest := g.busiest()
	g.engine.stop()
	v := g.control(busiest, fleet.HostDrain, 2)
	for n, after := range map[int]bool{1: false, 2: true, 3: false} {
		ran := &ranSteps{last: map[fleet.OperationID][2]string{}}
		cutting := &cutStore{kind: fleet.OperationDrain, step: "move-installations", n: n, after: after, steps: ran, dead: make(chan struct{})}
		first := g.start(setup{wrap: ran.wrap, store: func(real engine.Store) engine.Store { cutting.Store = real; return cutting }})
		g.eventually(func() bool {
			op, err := g.store.Operation(g.ctx, v.Operation.ID)
			return cutting.killed() || err == nil && op.State.Finished()
		}, func() string { return "nobody was killed" })
		first.stop()
		_, err := g.store.Release(g.ctx, first.name) // its lease runs out
		require.NoError(t, err)
	}
	g.engine = g.start(setup{slots: 16})
	require.Equal(t, fleet.OperationSucceeded, g.finished(v.Operation.ID).State)
	require.Empty(t, g.on(busiest))
	g.atMost(2)
	g.settled()
	g.invariants()
}

func TestDrainLeavesWhatCannotMove(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 3, 3, roomy())
	busiest := g.busiest()
	g.again(setup{still: true})
	before, on := g.states(), g.on(busiest)
	require.NotEmpty(t, on)
	op := g.finished(g.control(busiest, fleet.HostDrain, 0).Operation.ID)
	require.Equal(t, fleet.OperationFailed, op.State)
	require.Equal(t, fleet.ReasonDataCannotMove, op.FailReason)
	require.Contains(t, op.Error, fmt.Sprintf("%d stay", len(on)))
	h := g.host(busiest)
	require.Equal(t, fleet.HostCordoned, h.State)
	require.Len(t, h.Members, len(on))
	for _, m := range h.Members {
		require.Equal(t, fleet.DrainStays, m.Progress(), "%+v", m)
		require.Equal(t, 1, m.Failures)
	}
	require.Equal(t, before, g.states())
	_, err := g.store.ControlHost(g.ctx, fleet.HostControl{Cluster: clusterName, Host: busiest, Verb: fleet.HostRemove})
	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err))
	g.invariants()
}

// A request that comes while a move is under way is accepted, and follows it.
func TestRequestsFollowAMoveThatHasBegun(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 3, 3, roomy())
	busiest := g.busiest()
	entered, leave := make(chan string, 16), make(chan struct{})
	g.again(setup{wrap: func(kind fleet.OperationKind, step string, run engine.Run) engine.Run {
		return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			if kind == fleet.OperationMove && step == "change-host" {
				entered <- s.Operation.ResourceName
				<-leave
			}
			return run(ctx, s)
		}
	}})
	on := g.on(busiest)
	v := g.control(busiest, fleet.HostDrain, 16)
	var asked []fleet.OperationID
	for range on {
		name := <-entered
		kind := fleet.OperationHibernate
		if i, err := g.store.Installation(g.ctx, "", name); err == nil && i.State == fleet.StateHibernating {
			kind = fleet.OperationWake
		}
		for _, kind := range []fleet.OperationKind{kind, fleet.OperationUpdate} {
			a, err := g.store.ChangeInstallation(g.ctx, fleet.Change{OperationID: newOp(), IDOrName: name, Kind: kind})
			require.NoError(t, err, "%s of %s", kind, name)
			require.Equal(t, fleet.OperationQueued, a.Operation.State)
			asked = append(asked, a.Operation.ID)
		}
	}
	g.none("a move that somebody waits behind is bulk", `SELECT resource_name FROM operation WHERE kind = 'move' AND state = 'active' AND class <> 0`)
	close(leave)
	for _, id := range asked {
		require.Equal(t, fleet.OperationSucceeded, g.finished(id).State)
	}
	require.Equal(t, fleet.OperationSucceeded, g.finished(v.Operation.ID).State)
	require.Empty(t, g.on(busiest))
	g.invariants()
}
