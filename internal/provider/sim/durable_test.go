package sim_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// reopen closes a simulator and opens the next on the same directory.
func reopen(t *testing.T, p *sim.Provider, options sim.Options, cluster fleet.Cluster) *sim.Provider {
	t.Helper()
	require.NoError(t, p.Close())
	next, err := sim.New(options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, next.Close()) })
	require.NoError(t, next.Configure(cluster))
	return next
}

// all lists everything, in one map.
func all(t *testing.T, p *sim.Provider, cluster fleet.ClusterID) map[fleet.InstanceID]fleet.InstanceStatus {
	t.Helper()
	found := map[fleet.InstanceID]fleet.InstanceStatus{}
	for after := ""; ; {
		page, next, err := p.List(t.Context(), cluster, after)
		require.NoError(t, err)
		for _, st := range page {
			found[st.ID] = st
		}
		if next == "" {
			return found
		}
		after = next
	}
}

func TestSecondOpenerIsRefused(t *testing.T) {
	t.Parallel()
	options := sim.Options{Dir: t.TempDir()}
	p, err := sim.New(options)
	require.NoError(t, err)
	_, err = sim.New(options)
	kind(t, fleet.KindConflict, err)
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	p, err = sim.New(options)
	require.NoError(t, err)
	require.NoError(t, p.Close())
}

// TestClosed: no call after Close has an effect or panics.
func TestClosed(t *testing.T) {
	t.Parallel()
	p, cluster := start(t, sim.Options{Dir: t.TempDir()}, nil)
	require.NoError(t, p.Close())
	_, err := p.Ensure(t.Context(), newSpec(cluster.ID, "a"))
	kind(t, fleet.KindUnavailable, err)
	kind(t, fleet.KindUnavailable, p.Configure(cluster))
	_, err = p.Check(t.Context(), cluster)
	kind(t, fleet.KindUnavailable, err)
}

// TestTornLog cuts the log at every byte of its last record, and overwrites it:
// all that came before is there, and what is written next too.
func TestTornLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	options := sim.Options{Dir: dir}
	p, cluster := start(t, options, nil)
	first, second := newSpec(cluster.ID, "first"), newSpec(cluster.ID, "second")
	path := filepath.Join(dir, string(cluster.ID), "log.0")
	_, err := p.Ensure(t.Context(), first)
	require.NoError(t, err)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	_, err = p.Ensure(t.Context(), second)
	require.NoError(t, err)
	longer, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, p.Close())

	var warnings bytes.Buffer
	log := logrus.New()
	log.SetOutput(&warnings)
	options.Log = log
	check := func(content []byte, torn bool) {
		t.Helper()
		warnings.Reset()
		require.NoError(t, os.WriteFile(path, content, 0o600))
		p, err := sim.New(options)
		require.NoError(t, err)
		require.NoError(t, p.Configure(cluster))
		found := all(t, p, cluster.ID)
		require.Contains(t, found, first.ID)
		require.NotContains(t, found, second.ID)
		require.Equal(t, torn, bytes.Contains(warnings.Bytes(), []byte("torn")))
		third := newSpec(cluster.ID, "third")
		_, err = p.Ensure(t.Context(), third)
		require.NoError(t, err)
		require.NoError(t, p.Close())
		p, err = sim.New(options)
		require.NoError(t, err)
		require.NoError(t, p.Configure(cluster))
		require.Len(t, all(t, p, cluster.ID), 2)
		require.NoError(t, p.Close())
	}
	for n := len(whole); n < len(longer); n += 7 {
		check(longer[:n], n > len(whole))
	}
	flipped := bytes.Clone(longer)
	flipped[len(flipped)-5] ^= 1
	check(flipped, true)
	check(append(bytes.Clone(whole), make([]byte, 4096)...), true)
}

// TestDamagedLog: a broken record with sound ones behind it is no torn end, and
// dropping what follows would lose instances silently.
func TestDamagedLog(t *testing.T) {
	t.Parallel()
	for name, offset := range map[string]int{"Payload": 20, "Length": 1, "Sum": 5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p, cluster := start(t, sim.Options{Dir: dir}, nil)
			for range 3 {
				_, err := p.Ensure(t.Context(), newSpec(cluster.ID, "a"))
				require.NoError(t, err)
			}
			require.NoError(t, p.Close())
			path := filepath.Join(dir, string(cluster.ID), "log.0")
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			content[offset] ^= 4
			require.NoError(t, os.WriteFile(path, content, 0o600))
			p, err = sim.New(sim.Options{Dir: dir})
			require.NoError(t, err)
			err = p.Configure(cluster)
			kind(t, fleet.KindPermanent, err)
			require.ErrorContains(t, err, path)
			report, err := p.Check(t.Context(), cluster)
			require.NoError(t, err)
			require.Len(t, report.Missing(), 1)
			require.NoError(t, p.Close())
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, content, after, "nothing is cut off")
		})
	}
}

// TestCompaction: the files stay small however much happens, and lose nothing,
// also where a compaction was interrupted.
func TestCompaction(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	options := sim.Options{Dir: dir, CompactBytes: 4096}
	p, cluster := start(t, options, nil)
	spec, dead := newSpec(cluster.ID, "a"), newSpec(cluster.ID, "dead")
	volume := fleet.VolumeSpec{ID: "v", InstallationID: spec.InstallationID, ClusterID: cluster.ID, Epoch: 3, SizeMiB: 10}
	_, err := p.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
	spec.Volume = &fleet.VolumeRef{ID: "v", ClusterID: cluster.ID, Epoch: 3}
	dead.Epoch = 9
	require.NoError(t, p.Delete(t.Context(), refOf(dead)))
	for epoch := range fleet.Epoch(2000) {
		spec.Epoch = epoch + 1
		_, err := p.Ensure(t.Context(), spec)
		require.NoError(t, err)
	}
	clusterDir := filepath.Join(dir, string(cluster.ID))
	var size int64
	entries, err := os.ReadDir(clusterDir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "a snapshot and a log")
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		size += info.Size()
	}
	require.Less(t, size, int64(3*4096))
	before := all(t, p, cluster.ID)

	// An interrupted compaction leaves these.
	require.NoError(t, os.WriteFile(filepath.Join(clusterDir, "snapshot.tmp"), []byte("half"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(clusterDir, "log.99999"), nil, 0o600))
	p = reopen(t, p, options, cluster)
	require.Equal(t, before, all(t, p, cluster.ID))
	entries, err = os.ReadDir(clusterDir)
	require.NoError(t, err)
	require.LessOrEqual(t, len(entries), 2)
	dead.Epoch = 8
	_, err = p.Ensure(t.Context(), dead)
	kind(t, fleet.KindFenced, err)
	kind(t, fleet.KindConflict, p.DeleteVolume(t.Context(), fleet.VolumeRef{ID: "v", ClusterID: cluster.ID, Epoch: 3}))

	// A snapshot is never torn.
	require.NoError(t, p.Close())
	path := filepath.Join(clusterDir, "snapshot")
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, content[:len(content)-1], 0o600))
	p, err = sim.New(options)
	require.NoError(t, err)
	kind(t, fleet.KindPermanent, p.Configure(cluster))
	require.NoError(t, p.Close())
}

// TestBootGoesOnAfterRestart: a restart in the midst of a boot neither loses it
// nor begins it anew.
func TestBootGoesOnAfterRestart(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	var changed []fleet.InstanceID
	options := sim.Options{Dir: t.TempDir(), Clock: clock, OnChange: func(id fleet.InstanceID) { changed = append(changed, id) }}
	p, cluster := start(t, options, map[string]string{"boot_time": "10s"})
	spec := newSpec(cluster.ID, "a")
	_, err := p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	clock.advance(4 * time.Second)
	require.NoError(t, p.Close())
	require.Zero(t, clock.pending())
	p = reopen(t, p, options, cluster)
	clock.advance(5 * time.Second)
	st, err := p.Observe(t.Context(), refOf(spec))
	require.NoError(t, err)
	require.Equal(t, fleet.PowerPending, st.Power)
	require.Equal(t, time.Second, st.Again)

	// Another stop and start in the midst of it: only the last one counts.
	_, err = p.Power(t.Context(), refOf(spec), fleet.PowerOff)
	require.NoError(t, err)
	_, err = p.Power(t.Context(), refOf(spec), fleet.PowerOn)
	require.NoError(t, err)
	clock.advance(9 * time.Second)
	require.Empty(t, changed)
	clock.advance(time.Second)
	require.Equal(t, []fleet.InstanceID{spec.ID}, changed)
	require.Zero(t, clock.pending(), "at rest there is no timer")
}

func TestTombstonesArePruned(t *testing.T) {
	t.Parallel()
	clock := newFakeClock()
	options := sim.Options{Dir: t.TempDir(), Clock: clock, CompactBytes: 1}
	p, cluster := start(t, options, nil)
	spec := newSpec(cluster.ID, "a")
	spec.Epoch = 5
	require.NoError(t, p.Delete(t.Context(), refOf(spec)))
	spec.Epoch = 4
	clock.advance(59 * time.Minute)
	p = reopen(t, p, options, cluster)
	_, err := p.Ensure(t.Context(), spec)
	kind(t, fleet.KindFenced, err)
	clock.advance(2 * time.Minute)
	require.NoError(t, p.Delete(t.Context(), refOf(newSpec(cluster.ID, "b"))))
	_, err = p.Ensure(t.Context(), spec)
	require.NoError(t, err)
}

func TestDeletedClusterIsForgotten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, cluster := start(t, sim.Options{Dir: dir}, nil)
	_, err := p.Ensure(t.Context(), newSpec(cluster.ID, "a"))
	require.NoError(t, err)
	cluster.State = fleet.ClusterDeleted
	require.NoError(t, p.Configure(cluster))
	require.NoError(t, p.Configure(cluster))
	require.NoDirExists(t, filepath.Join(dir, string(cluster.ID)))

	// Deleted while this process was away.
	left := filepath.Join(dir, "left", "log.0")
	require.NoError(t, os.MkdirAll(left, 0o700))
	require.NoError(t, p.Configure(fleet.Cluster{ID: "left", State: fleet.ClusterDeleted}))
	require.NoDirExists(t, filepath.Dir(left))
}
