package kvm

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// becomes waits until the sleeper is kept so.
func (s *stage) becomes(spec fleet.InstanceSpec, tier fleet.SleepTier) fleet.InstanceStatus {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.observe(spec).Saved.Tier == tier }, 20*time.Second, time.Millisecond)
	st := s.observe(spec)
	require.True(s.t, st.Asleep)
	require.Equal(s.t, tier, s.journalled(spec).Saved.Tier)
	return st
}

func TestPackedByAge(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	var later atomic.Int64
	s.o.PackAfter, s.o.Clock = time.Hour, func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	s.reopen()
	spec := s.started("serve")
	warm := s.suspend(spec)
	require.Equal(t, fleet.TierWarm, warm.Saved.Tier)
	later.Store(int64(2 * time.Hour))
	s.fellAsleep()
	packed := s.becomes(spec, fleet.TierPacked)
	require.Less(t, packed.Saved.Bytes, warm.Saved.Bytes)
	require.Equal(t, warm.Saved.At, packed.Saved.At)
	require.NoFileExists(t, s.file(spec, ramName))
	require.NoFileExists(t, s.file(spec, stateName))
	s.reopen()
	st := s.wake(spec)
	require.Empty(t, st.ColdReason)
	require.Equal(t, fleet.StartResumed, st.Start)
	require.Equal(t, fakeGuest{Sleeps: 1, Clock: true, Running: true}, s.guest(spec))
	require.NoFileExists(t, s.file(spec, packedName))
	s.await(spec, healthy)
}

func TestSleepBudgets(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const each = 64 << 20
	s.o.WarmBytes = each * 3 / 2
	s.reopen()
	first, second := s.started("serve"), s.started("serve")
	s.suspend(first)
	s.suspend(second)
	s.becomes(first, fleet.TierPacked)
	require.Equal(t, fleet.TierWarm, s.observe(second).Saved.Tier)

	// So little that not even both packed fit.
	bytes := s.observe(first).Saved.Bytes
	s.o.SavedBytes = bytes * 3 / 2
	s.reopen()
	st := s.becomes(first, fleet.TierCold)
	require.Contains(t, st.ColdReason, "given up")
	s.becomes(second, fleet.TierPacked)
	require.NoFileExists(t, s.file(first, packedName))
	require.Equal(t, fleet.StartBooted, s.wake(first).Start)
	require.Equal(t, fleet.StartResumed, s.wake(second).Start)
}

// packNow has a sleeper packed that would not be yet.
func (s *stage) packNow(spec fleet.InstanceSpec) {
	s.t.Helper()
	_, err := s.known(spec.ID).packSleeper(s.t.Context(), *s.observe(spec).Saved)
	require.NoError(s.t, err)
	s.becomes(spec, fleet.TierPacked)
}

func TestPackedFallback(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.started("serve")
	for name, harm := range map[string]func(string) error{
		"damaged": func(path string) error {
			body, err := os.ReadFile(path)
			if err == nil {
				body[len(body)/2] ^= 1
				err = os.WriteFile(path, body, 0o600)
			}
			return err
		},
		"short": func(path string) error { return os.Truncate(path, 100) },
		"gone":  os.Remove,
	} {
		s.suspend(spec)
		s.packNow(spec)
		require.NoError(t, harm(s.file(spec, packedName)))
		st := s.wake(spec)
		require.NotEmpty(t, st.ColdReason, name)
		require.Equal(t, fleet.StartBooted, st.Start, name)
		require.NoFileExists(t, s.file(spec, packedName))
		s.await(spec, healthy)
	}
}

// Cut at any point, packing leaves one whole memory, and the journal names it.
func TestCutPacking(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.started("serve")
	s.suspend(spec)
	warm := s.journalled(spec)
	i := s.known(spec.ID)
	bytes, err := i.pack(t.Context(), nil)
	require.NoError(t, err)
	s.reopen() // before it counts
	require.NoFileExists(t, s.file(spec, packedName)+tempSuffix)
	i = s.known(spec.ID)
	_, err = i.pack(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, i.adoptPacked(bytes))
	packed := i.rec
	s.reopen() // before the journal names it
	require.NoFileExists(t, s.file(spec, packedName))
	require.Equal(t, warm.Saved, s.journalled(spec).Saved)
	i = s.known(spec.ID)
	_, err = i.pack(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, os.Rename(i.packedPath()+tempSuffix, i.packedPath()))
	require.NoError(t, s.Close())
	require.NoError(t, s.instanceJournal.save(string(spec.ID), packed))
	s.open() // before the raw files are gone
	require.NoFileExists(t, s.file(spec, stateName))
	require.NoFileExists(t, s.file(spec, ramName))
	st := s.wake(spec)
	require.Empty(t, st.ColdReason)
	require.Equal(t, 1, s.guest(spec).Sleeps)
}
