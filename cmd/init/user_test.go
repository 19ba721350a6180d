package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFindUser(t *testing.T) {
	t.Parallel()
	etc := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(etc, "passwd"), []byte("root:x:0:0::/root:/bin/sh\nshort:x\npostgres:x:105:110::/var/lib/postgresql:/bin/sh\nbad:x:many:1::/:/\nall:x:4294967295:1::/:/\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(etc, "group"), []byte("postgres:x:110:\nssl-cert:x:111:root,postgres\nbad:x:many:bad\n"), 0o644))
	for spec, want := range map[string]identity{
		"root":              {groups: []uint32{111}, home: "/root"},
		"postgres":          {uid: 105, gid: 110, groups: []uint32{111}, home: "/var/lib/postgresql"},
		"105":               {uid: 105, gid: 110, groups: []uint32{111}, home: "/var/lib/postgresql"},
		"postgres:ssl-cert": {uid: 105, gid: 111, home: "/var/lib/postgresql"},
		"postgres:7":        {uid: 105, gid: 7, home: "/var/lib/postgresql"},
		"1000":              {uid: 1000},
		"1000:1000":         {uid: 1000, gid: 1000},
	} {
		got, err := findUser(spec, etc)
		require.NoError(t, err, spec)
		if want.groups == nil {
			require.Empty(t, got.groups, spec)
			got.groups = nil
		}
		require.Equal(t, &want, got, spec)
	}
	for spec, want := range map[string]string{
		"mysql":          `no user "mysql"`,
		":5":             `no user ""`,
		"-1":             `no user "-1"`,
		"4294967295":     "no number",
		"root:nobody":    `no group "nobody"`,
		"postgres:":      `no group ""`,
		"bad":            "no number",
		"all":            "no number",
		"99999999999999": "no user",
	} {
		_, err := findUser(spec, etc)
		require.ErrorContains(t, err, want, spec)
	}
	nobody, err := findUser("", etc)
	require.NoError(t, err)
	require.True(t, nobody.root())
	// An image without account files has numbers only.
	got, err := findUser("5:6", t.TempDir())
	require.NoError(t, err)
	require.Equal(t, []int{5, 6}, []int{got.uid, got.gid})
	// A line without an end is an error, and no memory is taken for it.
	require.NoError(t, os.WriteFile(filepath.Join(etc, "passwd"), []byte(strings.Repeat("x", maxAccounts+1)), 0o644))
	_, err = findUser("root", etc)
	require.ErrorContains(t, err, "accounts")
}

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

	require.NoError(t, give(dir, &identity{uid: 7, gid: 8}))
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
	require.NoError(t, give(dir, &identity{uid: 7, gid: 8}))
	require.Equal(t, [2]int{0, 0}, who("new"))
}
