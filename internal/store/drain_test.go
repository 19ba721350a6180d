package store

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// twoHosts is a world with room for eight on each of two hosts.
func twoHosts(t testing.TB) *world {
	return newWorld(t, fleet.Host{Name: "h1", State: fleet.HostUp, MemoryMiB: 1024, DiskMiB: 10000, AddressPool: "10.77.0.0/28"},
		fleet.Host{Name: "h2", State: fleet.HostUp, MemoryMiB: 1024, DiskMiB: 10000, AddressPool: "10.77.0.0/28"})
}

func (w *world) controlHost(host string, verb fleet.HostVerb) (fleet.HostView, error) {
	return w.ControlHost(context.Background(), fleet.HostControl{Cluster: "local", Host: host, Verb: verb, OperationID: newOperationID()})
}

func (w *world) mustControlHost(host string, verb fleet.HostVerb) fleet.HostView {
	w.t.Helper()
	v, err := w.controlHost(host, verb)
	require.NoError(w.t, err)
	return v
}

// heldOn returns the name of the host that an installation is held on.
func (w *world) heldOn(name string) string {
	w.t.Helper()
	return w.text(w.t, `SELECT h.name FROM installation i JOIN host h ON h.id = i.held_host_id WHERE i.name = $1`, name)
}

// drains has a drain of a host begin moves, as its step does.
func (w *world) drains(host string, begin ...string) fleet.Snapshot {
	w.t.Helper()
	w.mustControlHost(host, fleet.HostDrain)
	return w.begins(begin...)
}

// begins has the drain that is due begin moves.
func (w *world) begins(names ...string) fleet.Snapshot {
	w.t.Helper()
	for _, s := range w.claim() {
		if s.Operation.Kind == fleet.OperationDrain {
			v, err := w.Host(context.Background(), "local", s.Operation.ResourceID)
			require.NoError(w.t, err)
			w.commit(fleet.Result{OperationID: s.Operation.ID, Epoch: s.Operation.Epoch, State: fleet.OperationActive, Step: "move-installations",
				StepNumber: 1, StepsTotal: 1, DueMillis: 3_600_000, Changes: fleet.Changes{Drain: w.beginning(v, names...)}})
			return s
		}
	}
	require.Fail(w.t, "no drain is due")
	return fleet.Snapshot{}
}

func (w *world) beginning(v fleet.HostView, names ...string) *fleet.DrainChange {
	c := &fleet.DrainChange{HostID: v.ID, OperationID: v.DrainOperationID}
	for _, name := range names {
		c.Begin = append(c.Begin, fleet.MoveStart{InstallationID: w.installation(name).ID, OperationID: newOperationID()})
	}
	return c
}

func TestHostVerbs(t *testing.T) {
	t.Parallel()
	w := twoHosts(t)
	ctx := t.Context()
	for _, c := range []struct {
		verb fleet.HostVerb
		want fleet.HostState
	}{
		{fleet.HostUncordon, fleet.HostUp}, {fleet.HostCordon, fleet.HostCordoned}, {fleet.HostCordon, fleet.HostCordoned}, {fleet.HostUncordon, fleet.HostUp},
		{fleet.HostDrain, fleet.HostDraining}, {fleet.HostCordon, fleet.HostDraining}, {fleet.HostUncordon, fleet.HostUp},
	} {
		require.Equal(t, c.want, w.mustControlHost("h1", c.verb).State, c.verb)
	}
	require.Equal(t, 4, w.count(t, "SELECT count(*) FROM event WHERE kind = 'host.state'"), "one for each change, none for what was so")

	v := w.mustControlHost("h1", fleet.HostDrain)
	require.Equal(t, fleet.DefaultDrainAtOnce, v.DrainAtOnce)
	again, err := w.ControlHost(ctx, fleet.HostControl{Cluster: "local", Host: string(v.ID), Verb: fleet.HostDrain, AtOnce: 7, OperationID: newOperationID()})
	require.NoError(t, err)
	require.Equal(t, v.Operation.ID, again.Operation.ID, "a drain under way is joined")
	require.Equal(t, 7, again.DrainAtOnce, "and does what was said last")
	require.Equal(t, 7, w.mustControlHost("h1", fleet.HostDrain).DrainAtOnce)
	w.mustControlHost("h1", fleet.HostUncordon)
	op, err := w.Operation(ctx, v.Operation.ID)
	require.NoError(t, err)
	require.Equal(t, fleet.OperationCancelled, op.State)
	require.Equal(t, fleet.ReasonUncordoned, op.FailReason)

	_, err = w.controlHost("h1", fleet.HostRemove)
	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err), "it is up")
	for _, bad := range []fleet.HostControl{{Cluster: "local", Host: "h9"}, {Cluster: "elsewhere", Host: "h1"}} {
		bad.Verb = fleet.HostCordon
		_, err = w.ControlHost(ctx, bad)
		require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	}
}

func TestHostVerbIsDoneOncePerKey(t *testing.T) {
	t.Parallel()
	w := twoHosts(t)
	ctx := t.Context()
	drain := fleet.HostControl{Cluster: "local", Host: "h1", Verb: fleet.HostDrain, OperationID: newOperationID(), Key: fleet.IdempotencyKey{Key: "k", RequestHash: "h"}}
	first, err := w.ControlHost(ctx, drain)
	require.NoError(t, err)
	w.mustControlHost("h1", fleet.HostUncordon)
	drain.OperationID = newOperationID()
	again, err := w.ControlHost(ctx, drain)
	require.NoError(t, err)
	require.True(t, again.Replayed)
	require.Equal(t, first.Operation.ID, again.Operation.ID)
	require.Equal(t, fleet.HostUp, again.State, "nothing was done")
	drain.Key.RequestHash = "other"
	_, err = w.ControlHost(ctx, drain)
	require.Equal(t, fleet.KindConflict, fleet.KindOf(err))

	w.mustControlHost("h2", fleet.HostCordon)
	remove := fleet.HostControl{Cluster: "local", Host: "h2", Verb: fleet.HostRemove, Key: fleet.IdempotencyKey{Key: "r", RequestHash: "r"}}
	for _, replayed := range []bool{false, true} {
		v, err := w.ControlHost(ctx, remove)
		require.NoError(t, err)
		require.Equal(t, replayed, v.Replayed)
	}
	require.Zero(t, w.count(t, "SELECT count(*) FROM host WHERE name = 'h2'"))
	require.Zero(t, w.count(t, "SELECT count(*) FROM address_lease l WHERE NOT EXISTS (SELECT FROM host h WHERE h.id = l.host_id)"))
}

// A commit that had chosen a host before it was cordoned is not granted.
func TestNothingIsAddedToACordonedHost(t *testing.T) {
	t.Parallel()
	w := twoHosts(t)
	lying := w.running("lying")
	on := w.heldOn("lying")
	w.create("late")
	s := w.claimOne()
	require.Len(t, s.Hosts, 2)
	w.mustControlHost(on, fleet.HostCordon)
	require.Equal(t, fleet.WaitCapacity, w.commit(step(s, fleet.Changes{Hold: &fleet.Hold{HostID: lying.HeldHostID, MemoryMiB: 1}}))[0].Denied)
	w.requireSums()
	_, err := w.CreateInstallation(t.Context(), w.full("refused", 1024))
	require.NoError(t, err, "the other host has room")
	w.mustControlHost(map[string]string{"h1": "h2", "h2": "h1"}[on], fleet.HostCordon)
	_, err = w.CreateInstallation(t.Context(), w.full("refused-2", 128))
	require.Equal(t, fleet.KindCapacity, fleet.KindOf(err), "no host takes anything")

	// What lies there may stay, and grow.
	w.mustChange("lying", fleet.OperationUpdate)
	for _, s := range w.claim() {
		if s.Installation.Name == "lying" {
			require.Len(t, s.Hosts, 1)
			require.Empty(t, w.commit(step(s, fleet.Changes{Hold: &fleet.Hold{HostID: lying.HeldHostID, MemoryMiB: 256, DiskMiB: 100}}))[0].Denied)
		} else {
			require.Empty(t, s.Hosts, "%s sees a host that takes nothing", s.Installation.Name)
		}
	}
	w.requireSums()
}

func (w *world) full(name string, memory int) fleet.NewInstallation {
	in := w.request(name)
	in.WhenFull, in.MemoryMiB = fleet.WhenFullRefuse, memory
	return in
}

func TestMoveHoldsOnBothHosts(t *testing.T) {
	t.Parallel()
	w := twoHosts(t)
	w.running("web")
	from := w.heldOn("web")
	address := w.text(t, "SELECT address FROM address_lease WHERE installation_id IS NOT NULL")
	w.drains(from, "web")
	s := w.claimOne()
	require.Equal(t, fleet.OperationMove, s.Operation.Kind)
	require.Equal(t, fleet.ClassBulk, s.Operation.Class)
	require.Equal(t, fleet.StateStable, s.Installation.State, "which a move leaves")
	require.Len(t, s.Hosts, 2, "its own, and where it may go")
	for _, stopped := range []bool{false, true} {
		if stopped {
			off := s.Instances[0]
			off.Power, off.Serving, off.Endpoints = fleet.PowerOff, false, nil
			w.commit(step(s, fleet.Changes{Instances: []fleet.Instance{off}}))
		}
		route, err := w.Route(t.Context(), "web")
		require.NoError(t, err)
		require.Equal(t, stopped, route.Moving, "its users are told why nothing serves")
		require.Equal(t, stopped, route.Address == "")
	}
	there := s.Hosts[1]

	for range 2 { // done twice it is done once
		c := w.commit(step(s, fleet.Changes{Reserve: &fleet.Hold{HostID: there.ID, MemoryMiB: 128, DiskMiB: 100}}))
		require.Empty(t, c[0].Denied)
		w.requireSums()
	}
	require.Equal(t, 2, w.count(t, "SELECT count(*) FROM address_lease WHERE installation_id IS NOT NULL"))
	s = w.reclaim(s)
	require.Equal(t, address, s.Lease.Address, "the address where it is held counts")
	require.Equal(t, there.ID, s.Installation.ReservedHostID)

	for range 2 { // its answer was lost, and it is sent again
		c := w.commit(step(s, fleet.Changes{HoldOn: there.ID}))
		require.Equal(t, there.ID, c[0].Lease.HostID)
		w.requireSums()
	}
	s = w.reclaim(s)
	require.Equal(t, there.ID, s.Installation.HeldHostID)
	require.Equal(t, there.ID, s.Lease.HostID)
	require.EqualValues(t, 128, s.Installation.ReservedMemoryMiB, "and it can come back")

	require.Empty(t, w.commit(step(s, fleet.Changes{Reserve: &fleet.Hold{}}))[0].Denied)
	w.requireSums()
	require.Zero(t, w.host(from).MemoryHeldMiB+w.host(from).DiskHeldMiB)
	require.Equal(t, 1, w.count(t, "SELECT count(*) FROM address_lease WHERE installation_id IS NOT NULL"))
}

// reclaim claims the operation again, as after a kill.
func (w *world) reclaim(s fleet.Snapshot) fleet.Snapshot {
	w.t.Helper()
	_, err := w.Release(context.Background(), "w1")
	require.NoError(w.t, err)
	for _, again := range w.claim() {
		if again.Operation.ID == s.Operation.ID {
			return again
		}
	}
	require.Fail(w.t, "it was not to be had again")
	return s
}

func TestMoveIsDeniedWhereThereIsNoRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Host{Name: "h1", State: fleet.HostUp, MemoryMiB: 512, DiskMiB: 10000, AddressPool: "10.77.0.0/29"},
		fleet.Host{Name: "h2", State: fleet.HostUp, MemoryMiB: 511, DiskMiB: 10000, AddressPool: "10.77.0.0/30"})
	w.running("web")
	require.Equal(t, "h1", w.heldOn("web"), "which has the most room")
	w.drains("h1", "web")
	s := w.claimOne()
	there := s.Hosts[1].ID
	held := w.text(t, "SELECT string_agg(row(h.*)::text, ' ' ORDER BY id) FROM host h")
	for _, no := range []fleet.Hold{{HostID: there, MemoryMiB: 512, DiskMiB: 100}, {HostID: there, MemoryMiB: 1, DiskMiB: 10001},
		{HostID: s.Installation.HeldHostID, MemoryMiB: 1}, {HostID: "nowhere", MemoryMiB: 1}} {
		require.Equal(t, fleet.WaitCapacity, w.commit(step(s, fleet.Changes{Reserve: &no, Observed: map[string]string{"a": "b"}}))[0].Denied, "%+v", no)
	}
	stale := step(s, fleet.Changes{Reserve: &fleet.Hold{HostID: there, MemoryMiB: 128}})
	stale.Epoch--
	require.True(t, w.commit(stale)[0].Stale)
	require.Equal(t, held, w.text(t, "SELECT string_agg(row(h.*)::text, ' ' ORDER BY id) FROM host h"))

	// Its one address is gone.
	_, err := w.db.Exec("UPDATE address_lease SET installation_id = 'somebody' WHERE host_id = $1", there)
	require.NoError(t, err)
	require.Equal(t, fleet.WaitAddress, w.commit(step(s, fleet.Changes{Reserve: &fleet.Hold{HostID: there, MemoryMiB: 128}}))[0].Denied)
	w.requireSums()
}

// Moves, creates and their ends at once: nothing is promised twice, and nobody waits for ever.
func TestMovesAndCreatesAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Host{Name: "h1", State: fleet.HostUp, MemoryMiB: 4000, DiskMiB: 10000, AddressPool: "10.77.0.0/24"},
		fleet.Host{Name: "h2", State: fleet.HostUp, MemoryMiB: 2000, DiskMiB: 10000, AddressPool: "10.77.0.0/24"})
	var names []string
	for i := range 8 {
		name := fmt.Sprintf("m%d", i)
		w.running(name)
		require.Equal(t, "h1", w.heldOn(name))
		names = append(names, name)
	}
	w.drains("h1", names...)
	moves := w.claim()
	require.Len(t, moves, 8)
	for i := range 24 {
		w.create(fmt.Sprintf("c%d", i))
	}
	creates := w.claim()
	require.Len(t, creates, 24)
	there := creates[0].Hosts[0].ID
	for _, err := range together(8, func(worker int) error {
		m := moves[worker]
		for range 3 {
			for _, c := range []fleet.Changes{
				{Reserve: &fleet.Hold{HostID: there, MemoryMiB: 128, DiskMiB: 100}}, {HoldOn: there}, {HoldOn: m.Installation.HeldHostID}, {Reserve: &fleet.Hold{}},
				{Reserve: &fleet.Hold{HostID: there, MemoryMiB: 128, DiskMiB: 100}}, {Reserve: &fleet.Hold{}},
			} {
				batch := []fleet.Result{step(m, c)}
				for _, s := range creates[worker*3 : worker*3+3] {
					batch = append(batch, step(s, fleet.Changes{Hold: &fleet.Hold{HostID: there, MemoryMiB: 100, DiskMiB: 10}, Address: there}))
				}
				if _, err := w.Commit(context.Background(), batch); err != nil {
					return err
				}
				for i := range batch {
					batch[i].Changes = fleet.Changes{}
					if i > 0 {
						batch[i].Changes.Hold = &fleet.Hold{}
					}
				}
				if _, err := w.Commit(context.Background(), batch); err != nil {
					return err
				}
			}
		}
		return nil
	}) {
		require.NoError(t, err)
	}
	w.requireSums()
	require.Zero(t, w.count(t, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
}

func TestDrainBeginsOnlyWhatItMay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Host{Name: "h1", State: fleet.HostUp, MemoryMiB: 4000, DiskMiB: 10000, AddressPool: "10.77.0.0/28"},
		fleet.Host{Name: "h2", State: fleet.HostUp, MemoryMiB: 400, DiskMiB: 10000, AddressPool: "10.77.0.0/28"})
	for _, name := range []string{"free", "busy", "gone", "elsewhere"} {
		w.running(name)
	}
	w.mustChange("busy", fleet.OperationRestart)
	w.mustChange("gone", fleet.OperationDelete)
	_, err := w.db.Exec("UPDATE installation SET held_host_id = 'another' WHERE name = 'elsewhere'")
	require.NoError(t, err)
	v := w.mustControlHost("h1", fleet.HostDrain)
	var drain fleet.Snapshot
	for _, s := range w.claim() {
		if s.Operation.Kind == fleet.OperationDrain {
			drain = s
		}
	}
	begin := fleet.Result{OperationID: drain.Operation.ID, Epoch: drain.Operation.Epoch, State: fleet.OperationActive, Step: "move-installations", StepNumber: 1, StepsTotal: 1,
		Changes: fleet.Changes{Drain: w.beginning(v, "free", "busy", "gone", "elsewhere")}, Keep: true, DueMillis: 15000}
	before := w.installation("free")
	require.False(t, w.commit(begin)[0].Stale)
	require.Equal(t, "free", w.text(t, "SELECT string_agg(resource_name, ' ') FROM operation WHERE kind = 'move'"))
	after := w.installation("free")
	require.Equal(t, []int64{before.Version + 1, before.Generation + 1}, []int64{after.Version, after.Generation})

	look, err := w.LookAtDrain(t.Context(), v.ID, nil)
	require.NoError(t, err)
	progress := map[string]fleet.DrainProgress{}
	for _, m := range look.Members {
		progress[m.Name] = m.Progress()
	}
	require.Equal(t, map[string]fleet.DrainProgress{"free": fleet.DrainMoving, "busy": fleet.DrainWaiting, "gone": fleet.DrainWaiting}, progress)
	require.Len(t, look.Others, 1)
	known, err := w.LookAtDrain(t.Context(), v.ID, []fleet.InstallationID{after.ID, "nobody"})
	require.NoError(t, err)
	require.Len(t, known.Members, 1)

	// Once it is uncordoned, a decision that comes late begins nothing.
	w.mustControlHost("h1", fleet.HostUncordon)
	require.True(t, w.commit(begin)[0].Stale)
	w.mustControlHost("h1", fleet.HostDrain)
	_, err = w.LookAtDrain(t.Context(), "nowhere", nil)
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
}

func TestRequestsAndMoves(t *testing.T) {
	t.Parallel()
	w := twoHosts(t)
	w.running("early")
	w.running("late")
	on := w.heldOn("early")
	w.drains(on, "early")
	move := w.claimOne()
	a := w.mustChange("early", fleet.OperationUpdate)
	require.Equal(t, fleet.OperationActive, a.Operation.State, "a move that has touched nothing gives way")
	require.True(t, w.commit(step(move, fleet.Changes{Reserve: &fleet.Hold{HostID: move.Hosts[1].ID, MemoryMiB: 128}}))[0].Stale)
	w.requireSums()

	w.mustControlHost(on, fleet.HostUncordon)
	w.commit(finish(w.claimOne(), fleet.StateStable))
	w.drains(on, "early")
	move = w.claimOne()
	r := step(move, fleet.Changes{Reserve: &fleet.Hold{HostID: move.Hosts[1].ID, MemoryMiB: 128, DiskMiB: 100}})
	r.Step = "stop-instance"
	require.Empty(t, w.commit(r)[0].Denied)
	a = w.mustChange("early", fleet.OperationHibernate)
	require.Equal(t, fleet.OperationQueued, a.Operation.State, "one that has begun is followed")
	require.Equal(t, 0, w.count(t, "SELECT class FROM operation WHERE id = $1", move.Operation.ID), "and hurries")
	_, err := w.change("early", fleet.OperationCreate)
	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err), "by the state that it leaves alone")
	end := finish(move, "")
	end.Follow, end.Changes.Reserve = fleet.Accepts(fleet.StateStable), &fleet.Hold{}
	require.Equal(t, a.Operation.ID, w.commit(end)[0].Next)
	require.Equal(t, "stable hibernation-requested", w.text(t, `SELECT (data ->> 'from') || ' ' || (data ->> 'to') FROM event WHERE operation_id = $1 AND kind = 'installation.state'`, a.Operation.ID))

	// A delete cancels it at any time, and gives back both.
	w.mustControlHost(on, fleet.HostUncordon)
	w.mustControlHost(w.heldOn("late"), fleet.HostDrain)
	w.begins("late")
	for _, s := range w.claim() {
		if s.Operation.Kind == fleet.OperationMove {
			r := step(s, fleet.Changes{Reserve: &fleet.Hold{HostID: s.Hosts[1].ID, MemoryMiB: 128, DiskMiB: 100}})
			r.Step = "change-host"
			require.Empty(t, w.commit(r)[0].Denied)
		}
	}
	w.mustChange("late", fleet.OperationDelete)
	for _, s := range w.claim() {
		if s.Installation != nil && s.Installation.Name == "late" {
			r := finish(s, fleet.StateDeleted)
			r.Changes = fleet.Changes{Hold: &fleet.Hold{}, Reserve: &fleet.Hold{}, ReleaseAddress: true}
			w.commit(r)
		}
	}
	w.requireSums()
	require.Zero(t, w.count(t, "SELECT count(*) FROM address_lease l JOIN installation i ON i.id = l.installation_id WHERE i.name = 'late'"))
}

func TestOnlyAnEmptyHostIsRemoved(t *testing.T) {
	t.Parallel()
	w := twoHosts(t)
	w.running("web")
	on := w.heldOn("web")
	w.mustControlHost(on, fleet.HostCordon)
	_, err := w.controlHost(on, fleet.HostRemove)
	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err))
	require.ErrorContains(t, err, "installation web lies there")
	w.mustChange("web", fleet.OperationDelete)
	s := w.claimOne()
	r := finish(s, fleet.StateDeleted)
	r.Changes = fleet.Changes{Hold: &fleet.Hold{}, ReleaseAddress: true}
	for _, i := range s.Instances {
		i.DeletedAt, i.Serving, i.Power = s.Now, false, fleet.PowerOff
		r.Changes.Instances = append(r.Changes.Instances, i)
	}
	s.Volume.DeletedAt, s.Volume.AttachedInstanceID = s.Now, ""
	r.Changes.Volume = s.Volume
	w.commit(r)
	w.mustControlHost(on, fleet.HostRemove)
	hosts, err := w.ListHosts(t.Context(), "local")
	require.NoError(t, err)
	require.Len(t, hosts, 1)
	require.Equal(t, "local", hosts[0].ClusterName)
}

// A check that finds a host no more must not take it from under an installation.
func TestHostsThatTheCheckMisses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Host{Name: "h1", State: fleet.HostUp, MemoryMiB: 2000, DiskMiB: 1000, AddressPool: "10.77.0.0/28"},
		fleet.Host{Name: "h2", State: fleet.HostUp, MemoryMiB: 1000, DiskMiB: 1000, AddressPool: "10.77.0.0/28"},
		fleet.Host{Name: "h3", State: fleet.HostUp, MemoryMiB: 500, DiskMiB: 1000})
	w.running("web")
	require.Equal(t, "h1", w.heldOn("web"))
	w.mustControlHost("h3", fleet.HostCordon)
	all := map[string]fleet.Host{"h1": w.host("h1"), "h2": w.host("h2"), "h3": w.host("h3")}
	check := func(names ...string) map[string]fleet.HostState {
		var found []fleet.Host
		for _, name := range names {
			h := all[name]
			h.State = fleet.HostUp // as a provider says
			found = append(found, h)
		}
		require.NoError(t, w.InTx(t.Context(), func(tx *Tx) error {
			return tx.writeHosts(t.Context(), fleet.Result{ClusterID: w.cluster.ID, Changes: fleet.Changes{Check: &fleet.CheckReport{Hosts: found}}})
		}))
		states := map[string]fleet.HostState{}
		hosts, err := w.ListHosts(t.Context(), "local")
		require.NoError(t, err)
		for _, h := range hosts {
			states[h.Name] = h.State
		}
		return states
	}
	require.Equal(t, map[string]fleet.HostState{"h1": fleet.HostDown, "h3": fleet.HostCordoned}, check("h3"))
	w.create("late")
	require.Empty(t, w.claimOne().Hosts, "neither takes anything")
	require.Zero(t, w.count(t, "SELECT count(*) FROM address_lease WHERE host_id = $1", all["h2"].ID))
	require.Equal(t, map[string]fleet.HostState{"h1": fleet.HostUp, "h2": fleet.HostUp, "h3": fleet.HostCordoned}, check("h1", "h2", "h3"))
	require.Equal(t, map[string]fleet.HostState{"h1": fleet.HostUp, "h2": fleet.HostUp, "h3": fleet.HostCordoned}, check(), "a check that found none at all says nothing")
	w.requireSums()
}
