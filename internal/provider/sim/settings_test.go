package sim_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

func TestParseSettings(t *testing.T) {
	t.Parallel()
	s, err := sim.ParseSettings(nil)
	require.NoError(t, err)
	require.Equal(t, 1, s.Hosts)
	require.Equal(t, int64(64<<20), s.MemoryMiB)
	require.True(t, s.Latency.Zero())
	require.True(t, s.Clones)
	require.True(t, s.Sleep)

	s, err = sim.ParseSettings(map[string]string{
		"hosts": "4", "memory_mib": "1024", "disk_mib": "2048", "latency": "p50=20ms,p99=200ms", "boot_time": "1s..3s", "stop_time": "5ms",
		"fault.lost_answer": "0.5", "fault.capacity": "0", "seed": "-9", "throttle_retry_after": "2s",
		"background_time": "1m", "clones": "false", "sleep": "false",
	})
	require.NoError(t, err)
	require.Equal(t, sim.Settings{
		Hosts: 4, MemoryMiB: 1024, DiskMiB: 2048, RetryAfter: 2 * time.Second, Seed: -9,
		Latency:  sim.Span{P50: 20 * time.Millisecond, P99: 200 * time.Millisecond},
		BootTime: sim.Span{Min: time.Second, Max: 3 * time.Second},
		StopTime: sim.Span{Min: 5 * time.Millisecond, Max: 5 * time.Millisecond},
		Faults:   map[sim.Fault]float64{sim.FaultLostAnswer: 0.5},

		BackgroundTime: sim.Span{Min: time.Minute, Max: time.Minute},
	}, s)
	require.Len(t, sim.Keys(), 11+len(sim.Faults()))
}

func TestBadSettings(t *testing.T) {
	t.Parallel()
	p, good := start(t, sim.Options{}, nil)
	for key, value := range map[string]string{
		"hosts": "0", "memory_mib": "-1", "disk_mib": "a lot", "latency": "50ms..10ms", "boot_time": "p50=1s", "stop_time": "-1s",
		"fault.lost_answer": "1.5", "fault.error_before": "NaN", "fault.gremlins": "0.1", "fault.": "1", "seed": "pi", "colour": "red",
		"throttle_retry_after": "2", "background_time": "0s", "clones": "maybe", "sleep": "well",
	} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			cluster := newCluster(map[string]string{key: value})
			err := p.Configure(cluster)
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
			require.ErrorContains(t, err, key)
			var typed *fleet.Error
			require.ErrorAs(t, err, &typed)
			require.Equal(t, "settings."+key, typed.Field)

			report, err := p.Check(t.Context(), cluster)
			require.NoError(t, err)
			require.Len(t, report.Missing(), 1)
			require.Equal(t, "settings."+key, report.Missing()[0].Name)
			require.NotEmpty(t, report.Missing()[0].Mend)

			// A cluster that is in use keeps its settings.
			good := good
			good.Settings = cluster.Settings
			require.Error(t, p.Configure(good))
			_, err = p.Ensure(t.Context(), newSpec(good.ID, "a"))
			require.NoError(t, err)
		})
	}
	for _, id := range []fleet.ClusterID{"", ".", "..", "a/b"} {
		bad := good
		bad.ID = id
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(p.Configure(bad)))
	}
}

func TestUnconfiguredCluster(t *testing.T) {
	t.Parallel()
	p, _ := start(t, sim.Options{}, nil)
	_, err := p.Ensure(t.Context(), newSpec("unheard-of", "a"))
	kind(t, fleet.KindUnavailable, err)
	_, _, err = p.List(t.Context(), "unheard-of", "")
	kind(t, fleet.KindUnavailable, err)
}

func TestCapacityOfHosts(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{}, map[string]string{"hosts": "2", "memory_mib": "256", "disk_mib": "100"})
	var specs []fleet.InstanceSpec
	for range 3 {
		specs = append(specs, newSpec(cluster.ID, "a"))
	}
	for _, spec := range specs[:2] {
		_, err := p.Ensure(t.Context(), spec)
		require.NoError(t, err)
	}
	_, err := p.Ensure(t.Context(), specs[2])
	kind(t, fleet.KindCapacity, err)
	elsewhere := newSpec(cluster.ID, "b")
	elsewhere.HostID = sim.HostID(cluster.ID, 1)
	_, err = p.Ensure(t.Context(), elsewhere)
	require.NoError(t, err)
	elsewhere.ID, elsewhere.HostID = fleet.InstanceID(fleet.NewID()), "no-such-host"
	_, err = p.Ensure(t.Context(), elsewhere)
	kind(t, fleet.KindInvalid, err)

	// What is off uses no memory.
	_, err = p.Power(t.Context(), refOf(specs[0]), fleet.PowerOff)
	require.NoError(t, err)
	_, err = p.Ensure(t.Context(), specs[2])
	require.NoError(t, err)
	_, err = p.Power(t.Context(), refOf(specs[0]), fleet.PowerOn)
	kind(t, fleet.KindCapacity, err)
	require.NoError(t, p.Delete(t.Context(), refOf(specs[2])))
	_, err = p.Power(t.Context(), refOf(specs[0]), fleet.PowerOn)
	require.NoError(t, err)

	volume := fleet.VolumeSpec{ID: "v", InstallationID: "i", ClusterID: cluster.ID, Epoch: 1, SizeMiB: 60}
	_, err = p.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
	volume.SizeMiB = 101
	_, err = p.EnsureVolume(t.Context(), volume)
	kind(t, fleet.KindCapacity, err)
	volume.SizeMiB = 100
	_, err = p.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
	require.NoError(t, p.DeleteVolume(t.Context(), fleet.VolumeRef{ID: "v", ClusterID: cluster.ID, Epoch: 1}))
	volume.ID = "w"
	_, err = p.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
}

func TestSpanPercentiles(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	p, cluster := start(t, sim.Options{Clock: clock}, map[string]string{"boot_time": "p50=20ms,p99=200ms"})
	below, beyond := 0, 0
	const boots = 4000
	for range boots {
		st, err := p.Ensure(t.Context(), newSpec(cluster.ID, "a"))
		require.NoError(t, err)
		if st.Again < 20*time.Millisecond {
			below++
		}
		if st.Again > 200*time.Millisecond {
			beyond++
		}
	}
	require.InDelta(t, 0.5, float64(below)/boots, 0.04)
	require.InDelta(t, 0.01, float64(beyond)/boots, 0.008)
}
