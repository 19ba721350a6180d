package integration

import (
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// checked asks for another check of a cluster and waits for its end.
func (w *world) checked(name string, settings map[string]string) fleet.ClusterView {
	w.t.Helper()
	v, err := w.store.CheckCluster(w.ctx, fleet.CheckCluster{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: name, Settings: settings})
	require.NoError(w.t, err)
	w.wake()
	w.finished(v.Operation.ID)
	v, err = w.store.Cluster(w.ctx, name)
	require.NoError(w.t, err)
	return v
}

// hostStates are the hosts of a cluster by name.
func hostStates(v fleet.ClusterView) map[string]fleet.HostState {
	states := map[string]fleet.HostState{}
	for _, h := range v.Hosts {
		states[h.Name] = h.State
	}
	return states
}

// A cluster found its hosts when it was created, and never again: who waited for
// room waited for ever, whatever was put beside it.
func TestCheckTakesUpHosts(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	w.createCluster(clusterName, map[string]string{"hosts": "1", "memory_mib": "200", "boot_time": "2ms", "stop_time": "1ms"})
	_, err := w.store.CreatePackage(w.ctx, fleet.Package{Name: "web", Version: "1", Digest: "d1", Kernel: fleet.KernelLinux, Manifest: fleet.Manifest{Program: "/web", Persist: []string{"/data"}}})
	require.NoError(t, err)
	e := w.start(setup{})
	defer e.stop()
	first := w.newCase(scenario{name: "first", kind: fleet.OperationCreate, end: "stable"})
	w.finished(first.create(nil, "web"))
	second := w.newCase(scenario{name: "second", kind: fleet.OperationCreate, end: "stable"})
	waits := second.create(nil, "web")
	w.eventually(func() bool {
		return w.strings(`SELECT wait_reason FROM operation WHERE id = $1`, waits)[0] == string(fleet.WaitCapacity)
	}, func() string { return "it has room" })

	// Nothing new: nothing changes.
	before, err := w.store.Cluster(w.ctx, clusterName)
	require.NoError(t, err)
	require.Equal(t, before.Hosts, w.checked(clusterName, nil).Hosts)

	v := w.checked(clusterName, map[string]string{"hosts": "2"})
	require.Equal(t, map[string]fleet.HostState{"sim-1": fleet.HostUp, "sim-2": fleet.HostUp}, hostStates(v))
	require.Equal(t, "2", v.Settings["hosts"])
	require.Equal(t, fleet.ClusterStable, v.State)
	w.finished(waits) // the one that waited has found it
	for _, c := range []*kase{first, second} {
		c.verify()
		c.backInService()
	}

	// Smaller than what is held, and a host that is gone with what lies there.
	v = w.checked(clusterName, map[string]string{"hosts": "1", "memory_mib": "100", "stop_time": ""})
	require.Equal(t, map[string]fleet.HostState{"sim-1": fleet.HostUp, "sim-2": fleet.HostDown}, hostStates(v))
	require.NotContains(t, v.Settings, "stop_time")
	for _, h := range v.Hosts {
		require.Equal(t, int64(128), h.MemoryHeldMiB, "what is held stays held")
	}
	require.Equal(t, int64(100), v.Hosts[0].MemoryMiB)
	for _, c := range []*kase{first, second} {
		require.Equal(t, "stable", c.state())
		c.backInService()
	}

	// It comes back, as what it was; with nothing on it, it is forgotten.
	v = w.checked(clusterName, map[string]string{"hosts": "3", "memory_mib": "500"})
	require.Equal(t, map[string]fleet.HostState{"sim-1": fleet.HostUp, "sim-2": fleet.HostUp, "sim-3": fleet.HostUp}, hostStates(v))
	require.Equal(t, int64(500), v.Hosts[1].MemoryMiB)
	_, err = w.store.ControlHost(w.ctx, fleet.HostControl{Cluster: clusterName, Host: "sim-1", Verb: fleet.HostCordon})
	require.NoError(t, err)
	v = w.checked(clusterName, map[string]string{"hosts": "2"})
	require.Equal(t, map[string]fleet.HostState{"sim-1": fleet.HostCordoned, "sim-2": fleet.HostUp}, hostStates(v))
	w.invariants()
}

func TestCheckThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	before := w.createCluster(clusterName, map[string]string{"hosts": "2"})
	e := w.start(setup{})
	defer e.stop()
	v := w.checked(clusterName, map[string]string{"hosts": "none"})
	require.Equal(t, fleet.OperationFailed, v.Operation.State)
	require.Equal(t, fleet.ReasonCheckFailed, v.Operation.FailReason)
	require.Contains(t, v.Operation.Error, "hosts")
	require.Equal(t, []any{fleet.ClusterStable, before.Settings, before.Hosts, before.Check}, []any{v.State, v.Settings, v.Hosts, v.Check})
	w.explains("clusters/"+clusterName, explained{summary: "its last check failed", advice: "cloudctl cluster check local", accepts: "delete check"})
	require.Equal(t, fleet.OperationSucceeded, w.checked(clusterName, nil).Operation.State)
	w.explains("clusters/"+clusterName, explained{summary: "with 2 of 2 hosts up", accepts: "delete check"})
}

// One whose creation failed had to be deleted and made anew.
func TestCheckCreatesAgain(t *testing.T) {
	t.Parallel()
	w := bareWorld(t)
	v, err := w.store.CreateCluster(w.ctx, newCluster("there", map[string]string{"hosts": "none"}))
	require.NoError(t, err)
	ask := fleet.CheckCluster{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: "there", Key: fleet.IdempotencyKey{Key: "k", RequestHash: "h"}}
	_, err = w.store.CheckCluster(w.ctx, ask)
	require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err), "it is at work")
	e := w.start(setup{})
	defer e.stop()
	w.finished(v.Operation.ID)
	w.explains("clusters/there", explained{summary: "creation-failed", advice: "cloudctl cluster check there", accepts: "delete check"})
	ask.Settings = map[string]string{"hosts": "2"}
	first, err := w.store.CheckCluster(w.ctx, ask)
	require.NoError(t, err)
	require.Equal(t, fleet.ClusterCreationRequested, first.State)
	again, err := w.store.CheckCluster(w.ctx, ask)
	require.NoError(t, err)
	require.True(t, again.Replayed)
	require.Equal(t, first.Operation.ID, again.Operation.ID)
	w.wake()
	w.finished(first.Operation.ID)
	v, err = w.store.Cluster(w.ctx, "there")
	require.NoError(t, err)
	require.Equal(t, fleet.ClusterStable, v.State, v.StateDetail)
	require.Empty(t, v.StateDetail)
	require.Len(t, v.Hosts, 2)
	w.invariants()

	deletion, err := w.store.DeleteCluster(w.ctx, "there", fleet.IdempotencyKey{})
	require.NoError(t, err)
	w.wake()
	w.finished(deletion.Operation.ID)
	_, err = w.store.CheckCluster(w.ctx, fleet.CheckCluster{OperationID: fleet.OperationID(fleet.NewID()), IDOrName: string(v.ID)})
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
}
