package kvm_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/hostnet"
)

// BenchmarkLife measures, with real guests: the call of Ensure, from there to the
// first healthy signal, the adoption by a new provider until healthy again, and
// the clean stop.
func BenchmarkLife(b *testing.B) {
	mode, detail := hostnet.Detect(b.Context())
	b.Log(mode, detail)
	changed := make(chan struct{}, 1000)
	n := newBench(b, mode, func(fleet.InstanceID) { changed <- struct{}{} })
	await := func(spec fleet.InstanceSpec, ok func(fleet.InstanceStatus) bool) {
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		defer cancel()
		for {
			st, err := n.p.Observe(ctx, fleet.InstanceRef{ID: spec.ID})
			require.NoError(b, err)
			if ok(st) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				require.FailNow(b, "timeout", "%+v", st)
			}
		}
	}
	healthy := func(st fleet.InstanceStatus) bool { return st.Health == fleet.HealthHealthy }
	var ensure, ready, adopt, stop time.Duration
	lap := func(total *time.Duration, since time.Time) { *total += time.Since(since) }
	processor := childrenCPU()
	b.ResetTimer()
	for range b.N {
		spec := n.spec(b, "bench")
		at := fleet.InstanceRef{ID: spec.ID, Epoch: 1}
		begin := time.Now()
		_, err := n.p.Ensure(b.Context(), spec)
		require.NoError(b, err)
		lap(&ensure, begin)
		await(spec, healthy)
		lap(&ready, begin)
		require.NoError(b, n.p.Close())
		begin = time.Now()
		n.open(b)
		await(spec, healthy)
		lap(&adopt, begin)
		begin = time.Now()
		_, err = n.p.Power(b.Context(), at, fleet.PowerOff)
		require.NoError(b, err)
		await(spec, func(st fleet.InstanceStatus) bool { return st.Power == fleet.PowerOff })
		lap(&stop, begin)
		require.NoError(b, n.p.Delete(b.Context(), at))
	}
	processor = childrenCPU() - processor
	for name, total := range map[string]time.Duration{"ensure-ms": ensure, "healthy-ms": ready, "adopt-ms": adopt, "stop-ms": stop, "qemu-cpu-ms": processor} {
		b.ReportMetric(float64(total.Milliseconds())/float64(b.N), name)
	}
}

// childrenCPU is the processor time of all machines that have ended.
func childrenCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
