package sim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// TestChangeThatCannotBeKept: where the log can't be written, the call fails
// and nothing has changed; when it can be again, all goes on.
func TestChangeThatCannotBeKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, err := New(Options{Dir: dir})
	require.NoError(t, err)
	cluster := fleet.Cluster{ID: "c"}
	require.NoError(t, p.Configure(cluster))
	j := p.clusters["c"].journal
	good := j.log
	// A descriptor that can't be written stands in for a full disk.
	j.log, err = os.Open(good.Name())
	require.NoError(t, err)
	spec := fleet.InstanceSpec{ID: "i", ClusterID: "c", Epoch: 1}
	_, err = p.Ensure(t.Context(), spec)
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(p.Delete(t.Context(), fleet.InstanceRef{ID: "i", ClusterID: "c", Epoch: 9})))
	_, err = p.Observe(t.Context(), fleet.InstanceRef{ID: "i", ClusterID: "c"})
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))

	require.NoError(t, j.log.Close())
	j.log = good
	_, err = p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	require.NoError(t, p.Close())
	p, err = New(Options{Dir: dir})
	require.NoError(t, err)
	require.NoError(t, p.Configure(cluster))
	_, err = p.Observe(t.Context(), fleet.InstanceRef{ID: "i", ClusterID: "c"})
	require.NoError(t, err)
	require.NoError(t, p.Close())
}

// TestCompactionThatFails: at each place where it can, the state stays whole.
func TestCompactionThatFails(t *testing.T) {
	t.Parallel()
	for name, obstacle := range map[string]string{"Snapshot": "snapshot.tmp", "Log": "log.1", "Rename": "snapshot"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p, err := New(Options{Dir: dir, CompactBytes: 1})
			require.NoError(t, err)
			require.NoError(t, p.Configure(fleet.Cluster{ID: "c"}))
			// A directory in the place of the file, which is not empty.
			path := filepath.Join(dir, "c", obstacle)
			require.NoError(t, os.MkdirAll(filepath.Join(path, "x"), 0o700))
			for _, id := range []fleet.InstanceID{"a", "b", "c"} {
				_, err = p.Ensure(t.Context(), fleet.InstanceSpec{ID: id, ClusterID: "c", Epoch: 1})
				require.NoError(t, err)
			}
			require.Equal(t, uint64(0), p.clusters["c"].journal.generation)
			require.NoError(t, p.Close())
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				require.NoError(t, os.RemoveAll(path))
			}
			p, err = New(Options{Dir: dir})
			require.NoError(t, err)
			require.NoError(t, p.Configure(fleet.Cluster{ID: "c"}))
			require.Len(t, p.clusters["c"].instances, 3)
			require.NoError(t, p.Close())
		})
	}
}
