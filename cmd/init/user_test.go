package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/guest"
)

func TestGive(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away: run the test as root")
	}
	dir := t.TempDir()
	for name, uid := range map[string]int{"roots": 0, "theirs": 200, "old": 100} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		file := filepath.Join(dir, name, "file")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		require.NoError(t, os.Chown(file, uid, uid))
		require.NoError(t, os.Chmod(file, 0o710|os.ModeSetgid))
	}
	require.NoError(t, os.Symlink("/nowhere", filepath.Join(dir, "link")))
	require.NoError(t, os.Chown(dir, 100, 100))
	who := func(name string) [2]int {
		var st syscall.Stat_t
		require.NoError(t, syscall.Lstat(filepath.Join(dir, name), &st))
		return [2]int{int(st.Uid), int(st.Gid)}
	}
	require.NoError(t, give(dir, nil))
	require.Equal(t, [2]int{100, 100}, who("."))

	require.NoError(t, give(dir, &guest.User{UID: 7, GID: 8}))
	for name, want := range map[string][2]int{
		".": {7, 8}, "roots": {7, 8}, "roots/file": {7, 8}, "old/file": {7, 8}, "link": {7, 8}, "theirs/file": {200, 200},
	} {
		require.Equal(t, want, who(name), name)
	}
	info, err := os.Stat(filepath.Join(dir, "roots/file"))
	require.NoError(t, err)
	require.Equal(t, 0o710|os.ModeSetgid, info.Mode())

	// What has come since is left alone.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "new"), nil, 0o600))
	require.NoError(t, give(dir, &guest.User{UID: 7, GID: 8}))
	require.Equal(t, [2]int{0, 0}, who("new"))
}
