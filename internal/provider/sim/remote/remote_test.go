package remote_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/providertest"
	"dormouse/internal/provider/sim"
	"dormouse/internal/provider/sim/remote"
)

// served is a simulator that is served.
type served struct {
	*remote.Server
	url  string
	stop func()
}

// serve serves a simulator until stop is called, or the test ends.
func serve(t testing.TB, options sim.Options, address string) *served {
	t.Helper()
	server, err := remote.NewServer(options)
	require.NoError(t, err)
	l, err := remote.Listen(address)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	stopped := false
	s := &served{server, remote.URL(l), func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, server.Close())
	}}
	t.Cleanup(s.stop)
	return s
}

// anyPort lets the kernel choose.
const anyPort = "127.0.0.1:0"

// socket returns the address of a socket whose path is short enough for one.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sim")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return "unix:" + filepath.Join(dir, "s")
}

func connect(t testing.TB, url string, onChange func(fleet.InstanceID)) *remote.Client {
	t.Helper()
	c, err := remote.New(remote.Options{URL: url, OnChange: onChange})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func newCluster(settings map[string]string) fleet.Cluster {
	return fleet.Cluster{
		ID: fleet.ClusterID(fleet.NewID()), Name: "sim", Provider: fleet.ProviderSim,
		State: fleet.ClusterStable, Settings: settings, AllowInstallations: true,
	}
}

func newSpec(cluster fleet.ClusterID, name string) fleet.InstanceSpec {
	return fleet.InstanceSpec{
		ID: fleet.InstanceID(fleet.NewID()), InstallationID: fleet.InstallationID(fleet.NewID()),
		Name: name, Owner: "test", Role: fleet.RoleApplication, ClusterID: cluster, HostID: sim.HostID(cluster, 0),
		Epoch: 1, Kernel: fleet.KernelLinux, Image: "image", MemoryMiB: 128, VCPUs: 1,
		Manifest: fleet.Manifest{Program: "/bin/app", Restart: fleet.RestartNever, Ports: []fleet.Port{{Number: 8080, Protocol: fleet.ProtocolHTTP}}},
	}
}

func refOf(spec fleet.InstanceSpec) fleet.InstanceRef {
	return fleet.InstanceRef{ID: spec.ID, ClusterID: spec.ClusterID, HostID: spec.HostID, Epoch: spec.Epoch}
}

func kind(t *testing.T, want fleet.ErrorKind, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, fleet.KindOf(err), "%v", err)
}

// TestConformance runs the suite over the wire. A restart is one of the
// provisioner alone, or of the simulator too.
func TestConformance(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		settings map[string]string
		unix     bool
		restart  bool
	}{
		"TCP":                {},
		"Unix":               {unix: true},
		"WithTimes":          {settings: map[string]string{"latency": "p50=300us,p99=3ms", "boot_time": "5ms..30ms", "stop_time": "10ms", "hosts": "2"}},
		"SimulatorRestarted": {settings: map[string]string{"boot_time": "2ms"}, unix: true, restart: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outer, address := t, anyPort
			if tc.unix {
				address = socket(t)
			}
			cluster, bad := newCluster(tc.settings), newCluster(map[string]string{"latency": "soon"})
			options := sim.Options{Dir: t.TempDir(), PageSize: 3}
			s := serve(t, options, address)
			var signal func(fleet.InstanceID)
			var current *remote.Client
			open := func(t *testing.T) providertest.Provider {
				c, err := remote.New(remote.Options{URL: s.url, OnChange: signal})
				require.NoError(t, err)
				current = c
				return c
			}
			providertest.Run(t, providertest.Harness{
				Cluster: cluster, BadCluster: &bad,
				New: func(t *testing.T, onChange func(fleet.InstanceID)) providertest.Provider {
					signal = onChange
					p := open(t)
					t.Cleanup(func() { require.NoError(t, current.Close()) })
					require.NoError(t, current.Configure(t.Context(), cluster))
					return p
				},
				Reopen: func(t *testing.T) providertest.Provider {
					require.NoError(t, current.Close())
					if tc.restart {
						s.stop()
						s = serve(outer, options, address) // it outlives the subtest
					}
					return open(t)
				},
				Spec: func(_ *testing.T, name string) fleet.InstanceSpec { return newSpec(cluster.ID, name) },
				End: func(t *testing.T, _ providertest.Provider, ref fleet.InstanceRef) {
					require.NoError(t, current.SetExit(t.Context(), ref.ID, fleet.Exit{Reason: fleet.ReasonProgramExited, Code: 3}))
				},
			})
		})
	}
}

// TestErrorsCrossTheWire whole.
func TestErrorsCrossTheWire(t *testing.T) {
	t.Parallel()
	s := serve(t, sim.Options{}, anyPort)
	c := connect(t, s.url, nil)
	configured := func(settings map[string]string) fleet.ClusterID {
		cluster := newCluster(settings)
		require.NoError(t, c.Configure(t.Context(), cluster))
		return cluster.ID
	}
	var typed *fleet.Error
	_, err := c.Ensure(t.Context(), newSpec(configured(map[string]string{"fault.throttle": "1", "throttle_retry_after": "7s"}), "a"))
	kind(t, fleet.KindThrottled, err)
	require.ErrorAs(t, err, &typed)
	require.Equal(t, 7*time.Second, typed.RetryAfter)
	require.ErrorContains(t, err, "too many requests")

	_, err = c.Ensure(t.Context(), newSpec(configured(map[string]string{"fault.lost_answer": "1"}), "a"))
	kind(t, fleet.KindUnavailable, err)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)

	spec := newSpec(configured(nil), "a")
	spec.Env = map[string]string{sim.BehaviourVariable: "crsh"}
	_, err = c.Ensure(t.Context(), spec)
	kind(t, fleet.KindInvalid, err)
	require.ErrorAs(t, err, &typed)
	require.Equal(t, "env.SIM_BEHAVIOUR", typed.Field)

	_, err = c.Clone(t.Context(), newSpec(configured(map[string]string{"clones": "false"}), "a"))
	kind(t, fleet.KindPermanent, err)
	require.ErrorAs(t, err, &typed)
	require.Equal(t, fleet.ReasonUnverifiable, typed.Reason)

	_, err = c.Console(t.Context(), refOf(spec), fleet.ConsoleOptions{})
	kind(t, fleet.KindNotFound, err)
	kind(t, fleet.KindInvalid, c.Configure(t.Context(), newCluster(map[string]string{"colour": "red"})))
	kind(t, fleet.KindNotFound, c.SetHealth(t.Context(), "nobody", fleet.HealthHealthy, ""))
}

func TestBrokenConnection(t *testing.T) {
	t.Parallel()
	dir, address := t.TempDir(), socket(t)
	s := serve(t, sim.Options{Dir: dir}, address)
	c := connect(t, s.url, nil)
	cluster := newCluster(map[string]string{"latency": "1h"})
	require.NoError(t, c.Configure(t.Context(), cluster))
	spec := newSpec(cluster.ID, "a")
	under := make(chan error, 1)
	go func() { _, err := c.Ensure(t.Context(), spec); under <- err }()
	s.stop()
	kind(t, fleet.KindUnavailable, <-under)
	_, err := c.Observe(t.Context(), refOf(spec))
	kind(t, fleet.KindUnavailable, err)
	_, err = c.Console(t.Context(), refOf(spec), fleet.ConsoleOptions{})
	kind(t, fleet.KindUnavailable, err)
	_, err = c.Totals(t.Context())
	kind(t, fleet.KindUnavailable, err)

	// It goes on by itself when the simulator is there again, which knows its clusters.
	s = serve(t, sim.Options{Dir: dir}, address)
	cluster.Settings = nil
	require.NoError(t, s.Provider().Configure(cluster))
	_, err = c.Ensure(t.Context(), spec)
	require.NoError(t, err)
	s.stop()
	serve(t, sim.Options{Dir: dir}, address)
	_, err = c.Observe(t.Context(), refOf(spec))
	require.NoError(t, err)
}

func TestSomethingElseListensThere(t *testing.T) {
	t.Parallel()
	l, err := remote.Listen(anyPort)
	require.NoError(t, err)
	other := &http.Server{Handler: http.NotFoundHandler()}
	go func() { _ = other.Serve(l) }()
	defer other.Close()
	_, err = connect(t, remote.URL(l), nil).Observe(t.Context(), fleet.InstanceRef{ID: "a"})
	kind(t, fleet.KindUnavailable, err)
	require.ErrorContains(t, err, "make sure that it is one")
}

// TestContext: a call ends with its context, and the simulator hears of it.
func TestContext(t *testing.T) {
	t.Parallel()
	s := serve(t, sim.Options{}, anyPort)
	c := connect(t, s.url, nil)
	cluster := newCluster(map[string]string{"fault.timeout_after": "1"})
	require.NoError(t, c.Configure(t.Context(), cluster))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	spec := newSpec(cluster.ID, "a")
	begin := time.Now()
	_, err := c.Ensure(ctx, spec)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(begin), 5*time.Second, "not the 30 s that the simulator would hang")
	require.Eventually(t, func() bool { return s.Provider().Totals().ByCall[sim.CallEnsure].Calls == 1 }, 10*time.Second, time.Millisecond,
		"the simulator's side of the call has ended too")
	st, err := c.Observe(t.Context(), refOf(spec))
	require.NoError(t, err, "it had its effect")
	require.Equal(t, fleet.PowerOn, st.Power)
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "127.0.0.1:80", "https://127.0.0.1:80", "http://127.0.0.1", "http://10.0.0.1:80", "http://example.com:80", "http://127.0.0.1:80/x", "unix:"} {
		_, err := remote.New(remote.Options{URL: url})
		kind(t, fleet.KindInvalid, err)
	}
	for _, address := range []string{"", "80", ":80", "0.0.0.0:80", "10.0.0.1:80", "[::]:80"} {
		_, err := remote.Listen(address)
		kind(t, fleet.KindInvalid, err)
	}
	taken, err := remote.Listen(anyPort)
	require.NoError(t, err)
	defer taken.Close()
	_, err = remote.Listen(taken.Addr().String())
	kind(t, fleet.KindUnavailable, err)
}

// TestSocketOfAKilledProcess is taken over, and one in use is not.
func TestSocketOfAKilledProcess(t *testing.T) {
	t.Parallel()
	address := socket(t)
	l, err := remote.Listen(address)
	require.NoError(t, err)
	info, err := os.Stat(l.Addr().String())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	_, err = remote.Listen(address)
	kind(t, fleet.KindUnavailable, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	l, err = remote.Listen(address)
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// TestSecretsStayHere: of the environment, only what the simulator reads is sent.
func TestSecretsStayHere(t *testing.T) {
	t.Parallel()
	l, err := remote.Listen(anyPort)
	require.NoError(t, err)
	sent := make(chan string, 1)
	listening := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		sent <- string(content)
	})}
	defer listening.Close()
	go func() { _ = listening.Serve(l) }()
	spec := newSpec("c", "a")
	spec.Env = map[string]string{"TOKEN": "hush", sim.BehaviourVariable: "crash"}
	spec.Manifest.Env = map[string]string{"OTHER": "hush"}
	_, err = connect(t, remote.URL(l), nil).Ensure(t.Context(), spec)
	kind(t, fleet.KindUnavailable, err)
	got := <-sent
	require.NotContains(t, got, "hush")
	require.Contains(t, got, "crash")
	require.Equal(t, "hush", spec.Env["TOKEN"], "the caller's own is as it was")
}

// TestLedger is read over the wire as it is in process.
func TestLedger(t *testing.T) {
	t.Parallel()
	s := serve(t, sim.Options{}, anyPort)
	c := connect(t, s.url, nil)
	cluster := newCluster(map[string]string{"fault.lost_answer": "1"})
	require.NoError(t, c.Configure(t.Context(), cluster))
	spec := newSpec(cluster.ID, "a")
	_, err := c.Ensure(t.Context(), spec)
	kind(t, fleet.KindUnavailable, err)
	_, err = c.Ensure(t.Context(), spec)
	kind(t, fleet.KindUnavailable, err)
	totals, err := c.Totals(t.Context())
	require.NoError(t, err)
	require.Equal(t, s.Provider().Totals(), totals)
	require.Equal(t, uint64(1), totals.Instances)
	require.Equal(t, uint64(2), totals.Faults[sim.FaultLostAnswer])
	require.Zero(t, totals.Duplicates())

	entries, err := c.Ledger(t.Context(), 0)
	require.NoError(t, err)
	require.Len(t, entries, 2)
	require.Equal(t, sim.EffectCreated, entries[0].Effect)
	entries, err = c.Ledger(t.Context(), 1)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, uint64(2), entries[0].Seq)

	leaks, err := c.Leaks(t.Context(), sim.Known{Instances: []fleet.InstanceID{"gone"}})
	require.NoError(t, err)
	require.Equal(t, []fleet.InstanceID{spec.ID}, leaks.Instances)
	require.Equal(t, []fleet.InstanceID{"gone"}, leaks.MissingInstances)
}
