package remote_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
	"dormouse/internal/provider/sim/remote"
)

const patience = 10 * time.Second

// listener collects a client's signals.
func listener() (chan fleet.InstanceID, func(fleet.InstanceID)) {
	got := make(chan fleet.InstanceID, 10_000)
	return got, func(id fleet.InstanceID) { got <- id }
}

func next(t *testing.T, got chan fleet.InstanceID) fleet.InstanceID {
	t.Helper()
	select {
	case id := <-got:
		return id
	case <-time.After(patience):
		require.FailNow(t, "no signal came")
		return ""
	}
}

// TestSignalsReachWhoCalled: of two clients, the one that called last about an
// instance hears of it, and only that one.
func TestSignalsReachWhoCalled(t *testing.T) {
	t.Parallel()
	s := serve(t, sim.Options{}, anyPort)
	first, onFirst := listener()
	second, onSecond := listener()
	one, two := connect(t, s.url, onFirst), connect(t, s.url, onSecond)
	cluster := newCluster(map[string]string{"boot_time": "1ms"})
	require.NoError(t, one.Configure(t.Context(), cluster))
	spec := newSpec(cluster.ID, "a")
	_, err := one.Ensure(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, spec.ID, next(t, first))

	// A worker of the second process takes over.
	_, err = two.Observe(t.Context(), refOf(spec))
	require.NoError(t, err)
	require.NoError(t, s.Provider().SetHealth(spec.ID, fleet.HealthUnhealthy, ""))
	require.Equal(t, spec.ID, next(t, second))
	require.Empty(t, first)
}

// TestSignalsAfterARestart: a client finds the simulator again by itself, and
// hears of boots that were under way, though it has not called since.
func TestSignalsAfterARestart(t *testing.T) {
	t.Parallel()
	options, address := sim.Options{Dir: t.TempDir()}, socket(t)
	s := serve(t, options, address)
	got, onChange := listener()
	c := connect(t, s.url, onChange)
	cluster := newCluster(nil)
	require.NoError(t, c.Configure(t.Context(), cluster))
	spec := newSpec(cluster.ID, "a")
	_, err := c.Ensure(t.Context(), spec)
	require.NoError(t, err)
	s.stop()
	s = serve(t, options, address)
	require.Eventually(t, func() bool {
		require.NoError(t, s.Provider().SetHealth(spec.ID, fleet.HealthUnhealthy, ""))
		return len(got) > 0
	}, patience, 20*time.Millisecond)
	require.Equal(t, spec.ID, next(t, got))
}

// TestNoSignalIsLostWhileConnected, however many come at once.
func TestNoSignalIsLostWhileConnected(t *testing.T) {
	t.Parallel()
	s := serve(t, sim.Options{}, anyPort)
	got, onChange := listener()
	c := connect(t, s.url, onChange)
	cluster := newCluster(map[string]string{"boot_time": "0s..20ms"})
	require.NoError(t, c.Configure(t.Context(), cluster))
	pending := map[fleet.InstanceID]bool{}
	for n := range 500 {
		st, err := c.Ensure(t.Context(), newSpec(cluster.ID, fmt.Sprint(n)))
		require.NoError(t, err)
		if st.Power == fleet.PowerPending {
			pending[st.ID] = true
		}
	}
	require.NotEmpty(t, pending)
	for len(pending) > 0 {
		delete(pending, next(t, got))
	}
}

// BenchmarkCall is what a call costs, on both sides of the wire; cpu-µs/op is
// the processor time of both.
func BenchmarkCall(b *testing.B) {
	s := serve(b, sim.Options{Dir: b.TempDir()}, anyPort)
	c := connect(b, s.url, func(fleet.InstanceID) {})
	cluster := newCluster(nil)
	require.NoError(b, c.Configure(b.Context(), cluster))
	spec := newSpec(cluster.ID, "a")
	_, err := c.Ensure(b.Context(), spec)
	require.NoError(b, err)
	for name, call := range map[string]func(*remote.Client) error{
		"Ensure":  func(c *remote.Client) error { _, err := c.Ensure(b.Context(), spec); return err },
		"Observe": func(c *remote.Client) error { _, err := c.Observe(b.Context(), refOf(spec)); return err },
	} {
		b.Run(name, func(b *testing.B) {
			begun := processor(b)
			defer func() { b.ReportMetric(float64((processor(b)-begun).Nanoseconds())/1000/float64(b.N), "cpu-µs/op") }()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := call(c); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// processor is the processor time that this process has used.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
