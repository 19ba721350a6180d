package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestMemoryKey(t *testing.T) {
	t.Parallel()
	none, err := openMemoryKey("")
	require.NoError(t, err)
	require.Nil(t, none)

	path := filepath.Join(t.TempDir(), "memory.key")
	first, err := openMemoryKey(path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	again, err := openMemoryKey(path)
	require.NoError(t, err)
	keys := map[string]bool{}
	for _, id := range []fleet.InstallationID{"a", "b"} {
		key, err := first(id)
		require.NoError(t, err)
		require.Len(t, key, memoryKeySize)
		same, err := again(id)
		require.NoError(t, err)
		require.Equal(t, key, same)
		keys[string(key)] = true
	}
	require.Len(t, keys, 2, "each installation has its own")

	for _, bad := range []string{"", "zz", "00"} {
		require.NoError(t, os.WriteFile(path, []byte(bad), 0o600))
		_, err = openMemoryKey(path)
		require.ErrorContains(t, err, "is no key")
	}
}
