package kvm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func (s *stage) volumeSpec(sizeMiB int) fleet.VolumeSpec {
	return fleet.VolumeSpec{ID: fleet.VolumeID(fleet.NewID()), ClusterID: "cluster", Epoch: 5, SizeMiB: sizeMiB}
}

func volumeRef(spec fleet.VolumeSpec) fleet.VolumeRef {
	return fleet.VolumeRef{ID: spec.ID, ClusterID: spec.ClusterID, Epoch: spec.Epoch}
}

// blocks is the size of the file system on a volume, in MiB, after a check of it.
func fsMiB(t *testing.T, path string) int {
	t.Helper()
	out, err := exec.Command("e2fsck", "-f", "-n", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command("dumpe2fs", "-h", path).Output()
	require.NoError(t, err)
	var count, size int
	for line := range strings.Lines(string(out)) {
		if value, ok := strings.CutPrefix(line, "Block count:"); ok {
			count = number(t, value)
		}
		if value, ok := strings.CutPrefix(line, "Block size:"); ok {
			size = number(t, value)
		}
	}
	return count * size >> 20
}

func number(t *testing.T, s string) (n int) {
	t.Helper()
	for _, c := range strings.TrimSpace(s) {
		require.True(t, c >= '0' && c <= '9')
		n = n*10 + int(c-'0')
	}
	return n
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	// As root the tools run as users of their own, as with real guests.
	s.uids = newUIDs(DefaultUIDBase, DefaultUIDCount)
	if os.Geteuid() != 0 {
		s.uids = newUIDs(0, 0)
	}
	spec := s.volumeSpec(32)
	_, err := s.EnsureVolume(t.Context(), spec)
	require.NoError(t, err)
	path := s.volume(spec.ID).path()
	require.Equal(t, 32, fsMiB(t, path))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	stat, ok := info.Sys().(*syscall.Stat_t)
	require.True(t, ok)
	require.Equal(t, os.Geteuid(), int(stat.Uid), "it is not left to the tool's user")
	require.Less(t, stat.Blocks*512, int64(8<<20), "it is sparse")

	spec.SizeMiB = 96
	_, err = s.EnsureVolume(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, 96, fsMiB(t, path))

	// A growth that was cut after the file had grown.
	require.NoError(t, os.Truncate(path, 128<<20))
	spec.SizeMiB = 128
	s.reopen()
	_, err = s.EnsureVolume(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, 128, fsMiB(t, path))

	// A creation that was cut before the journal: no data can be on it yet.
	again := s.volumeSpec(32)
	require.NoError(t, os.WriteFile(s.volume(again.ID).path(), []byte("half"), 0o600))
	_, err = s.EnsureVolume(t.Context(), again)
	require.NoError(t, err)
	require.Equal(t, 32, fsMiB(t, s.volume(again.ID).path()))
	for _, spec := range []fleet.VolumeSpec{spec, again} {
		require.NoError(t, s.DeleteVolume(t.Context(), volumeRef(spec)))
	}
	requireEmpty(t, s)

	tiny := s.volumeSpec(1)
	_, err = s.EnsureVolume(t.Context(), tiny)
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
}

func TestVolumeHasOneUser(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	volume := s.volumeSpec(16)
	_, err := s.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
	at := volumeRef(volume)
	first, second := s.spec("serve"), s.spec("serve")
	first.Volume, second.Volume = &at, &at
	s.ensure(first)
	s.await(first, healthy)
	refused := func() {
		t.Helper()
		_, err := s.Ensure(t.Context(), second)
		require.Equal(t, fleet.KindConflict, fleet.KindOf(err), "%v", err)
		require.Equal(t, fleet.KindConflict, fleet.KindOf(s.DeleteVolume(t.Context(), at)))
		larger := volume
		larger.SizeMiB = 64
		_, err = s.EnsureVolume(t.Context(), larger)
		require.Equal(t, fleet.KindConflict, fleet.KindOf(err), "%v", err)
	}
	refused()
	s.reopen()
	refused()

	// Even where the journals are gone, the file's lock holds as long as QEMU does.
	v := s.volume(volume.ID)
	v.release(first.ID)
	refused()

	require.NoError(t, s.Delete(t.Context(), ref(first)))
	s.ensure(second)
	s.await(second, healthy)
}

// A full disk is said in words, and leaves nothing.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a small file system can be mounted by root only")
	}
	dir := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=755"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
	s := newStageIn(t, filepath.Join(dir, "kvm"))
	full := filepath.Join(dir, "full")
	fill := func() {
		f, err := os.Create(full)
		require.NoError(t, err)
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.NoError(t, f.Close())
	}
	for _, c := range []struct {
		name string
		call func() error
	}{
		{"Volume", func() error { _, err := s.EnsureVolume(t.Context(), s.volumeSpec(64)); return err }},
		{"VolumeOnFull", func() error { fill(); _, err := s.EnsureVolume(t.Context(), s.volumeSpec(64)); return err }},
		{"Instance", func() error { _, err := s.Ensure(t.Context(), s.spec("serve")); return err }},
	} {
		err := c.call()
		require.Equal(t, fleet.KindCapacity, fleet.KindOf(err), "%s: %v", c.name, err)
		require.ErrorContains(t, err, "free some space", c.name)
	}
	requireEmpty(t, s)
	require.NoError(t, os.Remove(full))
	spec := s.spec("serve")
	_, err := s.Ensure(t.Context(), spec)
	require.Equal(t, fleet.KindCapacity, fleet.KindOf(err), "the room for all of its memory is taken at the start: %v", err)
	require.NoError(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=2m"))
	spec.MemoryMiB = 1
	s.ensure(spec)
	s.await(spec, healthy)
}
