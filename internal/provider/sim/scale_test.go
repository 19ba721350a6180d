package sim_test

import (
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// TestTenThousand: that many instances cost no goroutine, no timer, little
// memory and little time, and are all there after a restart.
func TestTenThousand(t *testing.T) {
	// Not parallel: it counts goroutines and memory.
	const instances = 10_000
	options := sim.Options{Dir: t.TempDir(), Clock: newFakeClock()}
	clock := options.Clock.(*fakeClock)
	p, cluster := start(t, options, nil)
	specs := make([]fleet.InstanceSpec, instances)
	for i := range specs {
		specs[i] = newSpec(cluster.ID, "a")
	}
	goroutines, memory := runtime.NumGoroutine(), heap()
	times := make([]time.Duration, instances)
	for i, spec := range specs {
		begin := time.Now()
		st, err := p.Ensure(t.Context(), spec)
		times[i] = time.Since(begin)
		require.NoError(t, err)
		require.Equal(t, fleet.PowerOn, st.Power)
		require.Equal(t, fleet.HealthHealthy, st.Health)
	}
	perInstance := (int64(heap()) - int64(memory)) / instances
	runtime.KeepAlive(specs) // else they would be freed in between, and hide what was used
	slices.Sort(times)
	t.Logf("ensure: median %v, p99 %v; %d bytes of memory each", times[instances/2], times[instances*99/100], perInstance)
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
	require.Zero(t, clock.pending())
	require.Less(t, perInstance, int64(4096))
	// The claim is 20 µs; the race detector and a busy machine get some slack.
	require.Less(t, times[instances/2], 200*time.Microsecond)

	begin := time.Now()
	p = reopen(t, p, options, cluster)
	t.Logf("restart: %v", time.Since(begin))
	begin = time.Now()
	require.Len(t, all(t, p, cluster.ID), instances)
	t.Logf("list: %v", time.Since(begin))
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestLedgerIsBounded: it keeps the last calls in order, under concurrency.
func TestLedgerIsBounded(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{LedgerSize: 10}, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				_, _ = p.Observe(t.Context(), refOf(newSpec(cluster.ID, "a")))
			}
		})
	}
	wg.Wait()
	entries := p.Ledger()
	require.Len(t, entries, 10)
	for i, e := range entries {
		require.Equal(t, uint64(91+i), e.Seq)
		require.Equal(t, fleet.KindNotFound, e.Kind)
	}
}

func BenchmarkEnsure(b *testing.B) {
	for name, sync := range map[string]bool{"written": false, "synced": true} {
		b.Run(name, func(b *testing.B) {
			p, err := sim.New(sim.Options{Dir: b.TempDir(), Sync: sync})
			require.NoError(b, err)
			defer func() { require.NoError(b, p.Close()) }()
			cluster := newCluster(nil)
			require.NoError(b, p.Configure(cluster))
			spec := newSpec(cluster.ID, "a")
			b.ResetTimer()
			for b.Loop() {
				spec.ID = fleet.InstanceID(fleet.NewID())
				if _, err := p.Ensure(b.Context(), spec); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
