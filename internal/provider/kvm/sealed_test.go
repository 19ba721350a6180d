package kvm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// keyed seals with a key per installation.
func (s *stage) keyed() {
	s.o.Seal = func(id fleet.InstallationID) ([]byte, error) { return bytes.Repeat([]byte(id), 2)[:32], nil }
	s.o.MemoryDir = filepath.Join(s.t.TempDir(), "memory")
	s.reopen()
}

// guestIn reads the memory of one that is on no disk.
func (s *stage) guestIn(spec fleet.InstanceSpec) string {
	s.t.Helper()
	body, err := os.ReadFile(filepath.Join(s.o.MemoryDir, string(spec.ID)+"."+ramName))
	require.NoError(s.t, err)
	return string(bytes.TrimSpace(body[:fakeMemoryBytes]))
}

func TestSealed(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	old := s.started("serve") // before anybody wanted it sealed
	clear := s.started("serve")
	s.suspend(clear)
	s.keyed()
	s.becomes(clear, fleet.TierPacked)
	require.NoFileExists(t, s.file(clear, ramName))
	require.Equal(t, fleet.TierPacked, s.suspend(old).Saved.Tier)
	require.NoFileExists(t, s.file(old, ramName))
	require.NoFileExists(t, s.file(old, stateName))

	spec := s.started("serve")
	for n, one := range []fleet.InstanceSpec{spec, spec, old, clear} {
		if n < 2 {
			st := s.suspend(one)
			require.Equal(t, fleet.TierPacked, st.Saved.Tier)
			require.Empty(t, st.ColdReason)
		}
		left, err := os.ReadDir(s.o.MemoryDir)
		require.NoError(t, err)
		require.Len(t, left, max(0, n-1), "in memory is who runs")
		if n == 1 {
			s.reopen()
		}
		st := s.wake(one)
		require.Empty(t, st.ColdReason)
		require.Equal(t, fleet.StartResumed, st.Start)
		require.NoFileExists(t, s.file(one, ramName))
		require.NoFileExists(t, s.file(one, stateName))
		require.Contains(t, s.guestIn(one), `"Running":true`)
	}

	// Another key is another memory: it is booted.
	s.suspend(spec)
	s.o.Seal = func(fleet.InstallationID) ([]byte, error) { return make([]byte, 32), nil }
	s.reopen()
	require.NotEmpty(t, s.wake(spec).ColdReason)

	// Too short a key saves nothing, and harms nobody.
	s.o.Seal = func(fleet.InstallationID) ([]byte, error) { return []byte("short"), nil }
	s.reopen()
	_, err := s.Suspend(t.Context(), ref(spec), fleet.SuspendOptions{})
	require.ErrorContains(t, err, "has 5 bytes")
	s.await(spec, healthy)
	for _, one := range []fleet.InstanceSpec{spec, old, clear} {
		require.NoError(t, s.Delete(t.Context(), ref(one)))
	}
	left, err := os.ReadDir(s.o.MemoryDir)
	require.NoError(t, err)
	require.Empty(t, left)

	// A directory that others can reach is none.
	require.NoError(t, s.Close())
	require.NoError(t, os.Chmod(s.o.MemoryDir, 0o755))
	_, err = New(t.Context(), s.o)
	require.ErrorContains(t, err, "this user alone")
	require.NoError(t, os.Chmod(s.o.MemoryDir, 0o700))
	s.open()
}
