package sim_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

func kind(t *testing.T, want fleet.ErrorKind, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, fleet.KindOf(err), "%v", err)
}

func last(p *sim.Provider) sim.Entry {
	entries := p.Ledger()
	return entries[len(entries)-1]
}

// quiet gives the cluster no faults any more.
func quiet(t *testing.T, p *sim.Provider, cluster fleet.Cluster) {
	t.Helper()
	cluster.Settings = nil
	require.NoError(t, p.Configure(cluster))
}

func TestFaultsBefore(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		fault sim.Fault
		kind  fleet.ErrorKind
	}{
		{sim.FaultErrorBefore, fleet.KindUnavailable},
		{sim.FaultThrottle, fleet.KindThrottled},
		{sim.FaultCapacity, fleet.KindCapacity},
	} {
		t.Run(string(tc.fault), func(t *testing.T) {
			t.Parallel()
			p, cluster := start(t, sim.Options{}, map[string]string{"fault." + string(tc.fault): "1", "throttle_retry_after": "7s"})
			spec := newSpec(cluster.ID, "a")
			_, err := p.Ensure(t.Context(), spec)
			kind(t, tc.kind, err)
			if tc.kind == fleet.KindThrottled {
				var typed *fleet.Error
				require.ErrorAs(t, err, &typed)
				require.Equal(t, 7*time.Second, typed.RetryAfter)
			}
			e := last(p)
			require.Equal(t, sim.Entry{Seq: 1, At: e.At, Cluster: cluster.ID, Call: sim.CallEnsure, Object: string(spec.ID), Epoch: 1,
				Attempt: 1, Fault: tc.fault, Kind: tc.kind}, e)
			quiet(t, p, cluster)
			_, err = p.Observe(t.Context(), refOf(spec))
			kind(t, fleet.KindNotFound, err)
		})
	}
}

func TestFaultsAfter(t *testing.T) {
	t.Parallel()
	for _, fault := range []sim.Fault{sim.FaultErrorAfter, sim.FaultLostAnswer} {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			p, cluster := start(t, sim.Options{}, map[string]string{"fault." + string(fault): "1"})
			spec := newSpec(cluster.ID, "a")
			_, err := p.Ensure(t.Context(), spec)
			kind(t, fleet.KindUnavailable, err)
			if fault == sim.FaultLostAnswer {
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			}
			require.Equal(t, sim.EffectCreated, last(p).Effect)
			st, err := p.Observe(t.Context(), refOf(spec))
			require.NoError(t, err, "it was made, and calls that change nothing have no such fault")
			require.Equal(t, fleet.PowerOn, st.Power)
			_, err = p.Power(t.Context(), refOf(spec), fleet.PowerOff)
			kind(t, fleet.KindUnavailable, err)
			require.Equal(t, sim.EffectPowered, last(p).Effect)
			kind(t, fleet.KindUnavailable, p.Delete(t.Context(), refOf(spec)))
			require.Equal(t, sim.EffectDeleted, last(p).Effect)
			_, err = p.Observe(t.Context(), refOf(spec))
			kind(t, fleet.KindNotFound, err)
		})
	}
}

func TestFaultTimeoutAfter(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	p, cluster := start(t, sim.Options{Clock: clock}, map[string]string{"fault.timeout_after": "1"})
	spec := newSpec(cluster.ID, "a")
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() { _, err := p.Ensure(ctx, spec); failed <- err }()
	<-clock.waiting
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	require.Equal(t, sim.EffectCreated, last(p).Effect)

	// Without a deadline it ends by itself.
	go func() { failed <- p.Delete(t.Context(), refOf(spec)) }()
	<-clock.waiting
	clock.advance(time.Minute)
	kind(t, fleet.KindUnavailable, <-failed)
	require.Zero(t, clock.pending())
}

func TestFaultNotFoundAfterCreate(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{}, map[string]string{"fault.not_found_after_create": "1"})
	spec := newSpec(cluster.ID, "a")
	_, err := p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	for range 2 {
		_, err = p.Observe(t.Context(), refOf(spec))
		kind(t, fleet.KindNotFound, err)
		require.Equal(t, sim.FaultNotFoundAfterCreate, last(p).Fault)
	}
	_, err = p.Observe(t.Context(), refOf(spec))
	require.NoError(t, err)
}

func TestFaultBadEnd(t *testing.T) {
	t.Parallel()
	var changed []fleet.InstanceID
	clock := newFakeClock()
	p, cluster := start(t, sim.Options{Clock: clock, OnChange: func(id fleet.InstanceID) { changed = append(changed, id) }},
		map[string]string{"fault.bad_end": "1", "boot_time": "2s"})
	spec := newSpec(cluster.ID, "a")
	st, err := p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, fleet.PowerPending, st.Power)
	require.Equal(t, 2*time.Second, st.Again)
	clock.advance(2 * time.Second)
	require.Equal(t, []fleet.InstanceID{spec.ID}, changed)
	st, err = p.Observe(t.Context(), refOf(spec))
	require.NoError(t, err)
	require.Equal(t, fleet.PowerOff, st.Power)
	require.Equal(t, fleet.ReasonGuestPanic, st.Exit.Reason)

	quiet(t, p, cluster)
	_, err = p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	cluster.Settings = map[string]string{"fault.bad_end": "1"}
	require.NoError(t, p.Configure(cluster))
	st, err = p.Power(t.Context(), refOf(spec), fleet.PowerOff)
	require.NoError(t, err)
	require.Equal(t, fleet.PowerOff, st.Power)
	require.Equal(t, fleet.ReasonGuestPanic, st.Exit.Reason)
}

func TestFaultPartialList(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{PageSize: 4}, map[string]string{"fault.partial_list": "1"})
	for range 8 {
		_, err := p.Ensure(t.Context(), newSpec(cluster.ID, "a"))
		require.NoError(t, err)
	}
	page, next, err := p.List(t.Context(), cluster.ID, "")
	require.NoError(t, err)
	require.Len(t, page, 2)
	require.NotEmpty(t, next)
	page, next, err = p.List(t.Context(), cluster.ID, next)
	require.NoError(t, err)
	require.Len(t, page, 2)
	require.Empty(t, next)
}

func TestLatencyTakesTimeAndObeysContext(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	p, cluster := start(t, sim.Options{Clock: clock}, map[string]string{"latency": "40ms"})
	spec := newSpec(cluster.ID, "a")
	done := make(chan error)
	go func() { _, err := p.Ensure(t.Context(), spec); done <- err }()
	require.Equal(t, 40*time.Millisecond, <-clock.waiting)
	clock.advance(40 * time.Millisecond)
	require.NoError(t, <-done)

	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- p.Delete(ctx, refOf(spec)) }()
	<-clock.waiting
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.Equal(t, sim.EffectNone, last(p).Effect)
	require.Zero(t, clock.pending(), "no timer stays behind")
}

// TestReplay runs the same work twice in different orders: each question gets
// the same answer. Another seed gives others.
func TestReplay(t *testing.T) {
	t.Parallel()
	cluster := newCluster(nil)
	var specs []fleet.InstanceSpec
	for range 50 {
		specs = append(specs, newSpec(cluster.ID, "a"))
	}
	run := func(seed string, workers int) []string {
		cluster.Settings = map[string]string{"seed": seed, "fault.not_found_after_create": "0.2", "fault.wrong_health": "0.3", "boot_time": "0s..1ms"}
		for _, f := range []sim.Fault{sim.FaultErrorBefore, sim.FaultErrorAfter, sim.FaultLostAnswer, sim.FaultThrottle, sim.FaultCapacity, sim.FaultBadEnd} {
			cluster.Settings["fault."+string(f)] = "0.1"
		}
		// The clock stands, so that no boot ends before the next call.
		p, err := sim.New(sim.Options{LedgerSize: 10_000, Clock: newFakeClock()})
		require.NoError(t, err)
		defer func() { require.NoError(t, p.Close()) }()
		require.NoError(t, p.Configure(cluster))
		work := make(chan fleet.InstanceSpec)
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for spec := range work {
					for range 4 {
						_, _ = p.Ensure(t.Context(), spec)
						_, _ = p.Observe(t.Context(), refOf(spec))
					}
					_, _ = p.Power(t.Context(), refOf(spec), fleet.PowerOff)
					_ = p.Delete(t.Context(), refOf(spec))
				}
			})
		}
		for _, spec := range specs {
			work <- spec
		}
		close(work)
		wg.Wait()
		var lines []string
		for _, e := range p.Ledger() {
			lines = append(lines, fmt.Sprint(e.Object, e.Call, e.Attempt, e.Effect, e.Fault, e.Kind))
		}
		slices.Sort(lines)
		return lines
	}
	first := run("42", 1)
	require.Len(t, first, 50*10)
	require.Equal(t, first, run("42", 8))
	require.NotEqual(t, first, run("43", 1))
}

// TestFaultRates checks that probabilities are what is drawn.
func TestFaultRates(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{}, map[string]string{"fault.error_before": "0.25"})
	failed := 0
	const calls = 20_000
	spec := newSpec(cluster.ID, "a")
	for range calls {
		if _, err := p.Observe(t.Context(), refOf(spec)); fleet.KindOf(err) == fleet.KindUnavailable {
			failed++
		}
	}
	require.InDelta(t, 0.25, float64(failed)/calls, 0.02)
}
