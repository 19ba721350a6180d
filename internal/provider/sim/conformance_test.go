package sim_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/providertest"
	"dormouse/internal/provider/sim"
)

// TestConformance runs the suite on the simulator: at once, with times, in
// memory only, and with every write synced and compacted.
func TestConformance(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		settings map[string]string
		options  sim.Options
		memory   bool
	}{
		"Instant":  {},
		"InMemory": {memory: true},
		"WithTimes": {settings: map[string]string{
			"latency": "p50=300us,p99=3ms", "boot_time": "5ms..30ms", "stop_time": "10ms", "hosts": "3",
		}},
		"SyncedAndCompacted": {settings: map[string]string{"boot_time": "1ms"}, options: sim.Options{Sync: true, CompactBytes: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conform(t, tc.settings, tc.options, !tc.memory)
		})
	}
}

func conform(t *testing.T, settings map[string]string, options sim.Options, durable bool) {
	cluster := newCluster(settings)
	bad := newCluster(map[string]string{"latency": "soon", "fault.gremlins": "1"})
	options.PageSize = 3
	if durable {
		options.Dir = t.TempDir()
	}
	var current *sim.Provider
	open := func(t *testing.T) providertest.Provider {
		t.Helper()
		p, err := sim.New(options)
		require.NoError(t, err)
		require.NoError(t, p.Configure(cluster))
		current = p
		return p
	}
	h := providertest.Harness{
		Cluster: cluster, BadCluster: &bad,
		New: func(t *testing.T, onChange func(fleet.InstanceID)) providertest.Provider {
			options.OnChange = onChange
			p := open(t)
			t.Cleanup(func() { require.NoError(t, current.Close()) })
			return p
		},
		Spec: func(_ *testing.T, name string) fleet.InstanceSpec { return newSpec(cluster.ID, name) },
		End: func(t *testing.T, _ providertest.Provider, ref fleet.InstanceRef) {
			require.NoError(t, current.SetExit(ref.ID, fleet.Exit{Reason: fleet.ReasonProgramExited, Code: 3}))
		},
	}
	if durable {
		h.Reopen = func(t *testing.T) providertest.Provider {
			require.NoError(t, current.Close())
			return open(t)
		}
	}
	providertest.Run(t, h)
}

// newCluster returns a simulated cluster with those settings.
func newCluster(settings map[string]string) fleet.Cluster {
	return fleet.Cluster{
		ID: fleet.ClusterID(fleet.NewID()), Name: "sim", Provider: fleet.ProviderSim,
		State: fleet.ClusterStable, Settings: settings, AllowInstallations: true,
	}
}

// newSpec returns the spec of a new instance on the cluster's first host.
func newSpec(cluster fleet.ClusterID, name string) fleet.InstanceSpec {
	return fleet.InstanceSpec{
		ID: fleet.InstanceID(fleet.NewID()), InstallationID: fleet.InstallationID(fleet.NewID()),
		Name: name, Owner: "test", Role: fleet.RoleApplication, ClusterID: cluster, HostID: sim.HostID(cluster, 0),
		Epoch: 1, Kernel: fleet.KernelLinux, Image: "image", MemoryMiB: 128, VCPUs: 1,
		Manifest: fleet.Manifest{
			Program: "/bin/app", Restart: fleet.RestartNever,
			Ports: []fleet.Port{{Number: 8080, Protocol: fleet.ProtocolHTTP}, {Number: 1883, Protocol: fleet.ProtocolTCP, Name: "mqtt"}},
		},
	}
}

func refOf(spec fleet.InstanceSpec) fleet.InstanceRef {
	return fleet.InstanceRef{ID: spec.ID, ClusterID: spec.ClusterID, HostID: spec.HostID, Epoch: spec.Epoch}
}

// start opens a simulator with one configured cluster.
func start(t *testing.T, options sim.Options, settings map[string]string) (*sim.Provider, fleet.Cluster) {
	t.Helper()
	p, err := sim.New(options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	cluster := newCluster(settings)
	require.NoError(t, p.Configure(cluster))
	return p, cluster
}

// TestEndpointsAreLoopback keeps a gateway from dialling anything real.
func TestEndpointsAreLoopback(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{}, nil)
	for range 200 {
		st, err := p.Ensure(t.Context(), newSpec(cluster.ID, "a"))
		require.NoError(t, err)
		host, port, err := net.SplitHostPort(st.Endpoints[0].Address)
		require.NoError(t, err)
		require.Equal(t, "8080", port)
		require.True(t, net.ParseIP(host).IsLoopback())
		require.False(t, net.ParseIP(host).Equal(net.IPv4(127, 0, 0, 1)))
	}
}

// TestServe checks the hook that gives instances real addresses.
func TestServe(t *testing.T) {
	t.Parallel()
	stopped := map[fleet.InstanceID]int{}
	served := map[fleet.InstanceID]int{}
	dir := t.TempDir()
	options := sim.Options{Dir: dir, Serve: func(id fleet.InstanceID, ports []fleet.Port) ([]fleet.Endpoint, func(), error) {
		served[id]++
		return []fleet.Endpoint{{Port: ports[0].Number, Address: "127.0.0.1:1"}}, func() { stopped[id]++ }, nil
	}}
	p, cluster := start(t, options, nil)
	spec := newSpec(cluster.ID, "a")
	st, err := p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:1", st.Endpoints[0].Address)
	require.NoError(t, p.SetHealth(spec.ID, fleet.HealthUnhealthy, "test"))
	require.Equal(t, 1, served[spec.ID], "a change of health is no new start")
	st, err = p.Power(t.Context(), refOf(spec), fleet.PowerOff)
	require.NoError(t, err)
	require.Empty(t, st.Endpoints)
	require.Equal(t, 1, stopped[spec.ID])
	_, err = p.Power(t.Context(), refOf(spec), fleet.PowerOn)
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.Equal(t, 2, stopped[spec.ID])

	p, err = sim.New(options)
	require.NoError(t, err)
	require.NoError(t, p.Configure(cluster))
	require.Equal(t, 3, served[spec.ID], "served again after a restart")
	require.NoError(t, p.Delete(t.Context(), refOf(spec)))
	require.Equal(t, 3, stopped[spec.ID])
	require.NoError(t, p.Close())
	require.WithinDuration(t, time.Now(), st.CreatedAt, time.Minute)
}
