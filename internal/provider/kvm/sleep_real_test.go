package kvm_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm"
	"dormouse/internal/provider/kvm/hostnet"
)

// sleeper is a real guest that is put to sleep.
type sleeper struct {
	*bench
	t       *testing.T
	spec    fleet.InstanceSpec
	changed chan struct{}
	phases  chan kvm.WakePhases
}

func newSleeper(t *testing.T, mode string) *sleeper {
	t.Helper()
	s := &sleeper{t: t, changed: make(chan struct{}, 1000), phases: make(chan kvm.WakePhases, 1000)}
	s.bench = newBench(t, mode, func(fleet.InstanceID) { s.changed <- struct{}{} })
	s.options.OnWake = func(_ fleet.InstanceID, p kvm.WakePhases) { s.phases <- p }
	s.reopen(t)
	s.spec = s.bench.spec(t, "sleeper")
	volume := fleet.VolumeSpec{ID: fleet.VolumeID(fleet.NewID()), ClusterID: "cluster", Epoch: 1, SizeMiB: 32}
	_, err := s.p.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
	s.spec.Volume = &fleet.VolumeRef{ID: volume.ID, Epoch: 1}
	_, err = s.p.Ensure(t.Context(), s.spec)
	require.NoError(t, err)
	return s
}

func (s *sleeper) ref() fleet.InstanceRef { return fleet.InstanceRef{ID: s.spec.ID, Epoch: 1} }

func (s *sleeper) healthy() fleet.InstanceStatus {
	s.t.Helper()
	deadline := time.After(time.Minute)
	for {
		st, err := s.p.Observe(s.t.Context(), s.ref())
		require.NoError(s.t, err)
		if st.Health == fleet.HealthHealthy {
			return st
		}
		select {
		case <-s.changed:
		case <-deadline:
			require.FailNow(s.t, "timeout", "%+v", st)
		}
	}
}

func (s *sleeper) suspend() fleet.InstanceStatus {
	s.t.Helper()
	st, err := s.p.Suspend(s.t.Context(), s.ref(), fleet.SuspendOptions{})
	require.NoError(s.t, err)
	require.True(s.t, st.Asleep)
	require.Equal(s.t, fleet.PowerOff, st.Power)
	return st
}

func (s *sleeper) file(name string) string {
	return filepath.Join(s.options.DataDir, "instances", string(s.spec.ID), name)
}

func TestSleepReal(t *testing.T) {
	t.Parallel()
	mode, detail := hostnet.Detect(t.Context())
	t.Log(mode, detail)
	s := newSleeper(t, mode)
	st := s.healthy()
	s.get(t, st, "/set?text="+url.QueryEscape("kept"))
	for n := 1; n <= 5; n++ {
		require.Equal(t, strconv.Itoa(n), s.get(t, st, "/count"))
		began := time.Now()
		asleep := s.suspend()
		t.Log("suspend took", time.Since(began), asleep.Saved, asleep.ColdReason)
		require.Empty(t, asleep.ColdReason)
		require.Equal(t, fleet.TierWarm, asleep.Saved.Tier)
		began = time.Now()
		var err error
		st, err = s.p.Wake(t.Context(), s.spec.ID)
		require.NoError(t, err)
		woke := time.Since(began)
		s.get(t, st, "/")
		t.Logf("wake took %v, first answer %v, %+v", woke, time.Since(began), <-s.phases)
		require.Empty(t, st.ColdReason)
		require.Equal(t, fleet.StartResumed, st.Start)
		require.True(t, st.Woken)
		require.NoFileExists(t, s.file("state"))
	}
	require.Equal(t, "6", s.get(t, st, "/count"))
	require.Equal(t, "kept", s.get(t, st, "/value"))
	now, err := strconv.ParseInt(s.get(t, st, "/now"), 10, 64)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), time.UnixMilli(now), 2*time.Second)
	_, err = os.Stat(s.file("ram"))
	require.NoError(t, err)
}
