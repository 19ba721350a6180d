package deb

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestCache(t *testing.T) {
	t.Parallel()
	r := newRepository(t, "trusted=yes", archive("")...)
	o := Options{CacheDir: filepath.Join(t.TempDir(), "debs")}
	one, _, err := fetch(t, r, o, "hello")
	require.NoError(t, err)
	debs, err := filepath.Glob(filepath.Join(o.CacheDir, "*.deb"))
	require.NoError(t, err)
	require.Len(t, debs, 9)

	// What is damaged there is fetched once more.
	body, err := os.ReadFile(debs[0])
	require.NoError(t, err)
	body[len(body)/2] ^= 1
	require.NoError(t, os.WriteFile(debs[0], body, 0o644))
	two, _, err := fetch(t, r, o, "hello")
	require.NoError(t, err)
	require.Equal(t, listing(t, one), listing(t, two))

	// All is there without the archive.
	require.NoError(t, os.Rename(filepath.Join(r.dir, "pool"), filepath.Join(r.dir, "away")))
	_, _, err = fetch(t, r, o, "hello")
	require.NoError(t, err)

	// The bound holds, and what was used last is kept.
	var size int64
	for _, d := range debs {
		info, err := os.Stat(d)
		require.NoError(t, err)
		size = max(size, info.Size())
	}
	o.CacheBytes = size
	_, _, err = fetch(t, r, o, "hello")
	require.NoError(t, err)
	debs, err = filepath.Glob(filepath.Join(o.CacheDir, "*.deb"))
	require.NoError(t, err)
	require.NotEmpty(t, debs)
	require.Less(t, len(debs), 9)

	// And without both it says so.
	_, _, err = fetch(t, r, o, "hello")
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "apt-get update")
}
