package devpg

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeServer makes a directory with programs that say a version.
func fakeServer(t *testing.T, says string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"initdb", "postgres"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755))
	}
	return dir
}

func TestFindIn(t *testing.T) {
	t.Parallel()
	old := fakeServer(t, "postgres (PostgreSQL) 14.9")
	v15 := fakeServer(t, "postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)")
	v17 := fakeServer(t, "postgres (PostgreSQL) 17beta1")
	broken := fakeServer(t, "no server at all")
	found, err := findIn(t.Context(), []string{old, v15, broken, t.TempDir(), v17})
	require.NoError(t, err)
	require.Equal(t, []Installed{{BinDir: v17, Major: 17, Version: "17beta1"}, {BinDir: v15, Major: 15, Version: "15.8"}}, found)

	_, err = findIn(t.Context(), []string{old})
	require.ErrorContains(t, err, "found only 14.9")
	_, err = findIn(t.Context(), nil)
	require.ErrorContains(t, err, "install the package postgresql")

	got, err := choose(found, "/data", 15)
	require.NoError(t, err)
	require.Equal(t, v15, got.BinDir, "the one that made the data, not the newest")
	got, err = choose(found, "/data", 0)
	require.NoError(t, err)
	require.Equal(t, v17, got.BinDir)
}

func TestReadPidFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, want := range map[string]struct {
		file pidFile
		ok   bool
	}{
		"":                                       {},
		"x\n":                                    {},
		"-12\n/data\n":                           {}, // single-user mode
		"1\n":                                    {},
		"12":                                     {pidFile{pid: 12}, true},
		"12\n/d\n1\n5\n":                         {pidFile{pid: 12}, true},
		"12\n/d\n1\n5\n/so":                      {pidFile{pid: 12}, true}, // half-written
		"12\n/d\n1\n5\n/sock\n\n":                {pidFile{pid: 12, socketDir: "/sock"}, true},
		"12\n/d\n1\n5\n/sock\n\n1 2\nstarting\n": {pidFile{pid: 12, socketDir: "/sock"}, true},
		"12\n/d\n1\n5\n/sock\n\n1 2\nready      \n": {pidFile{pid: 12, socketDir: "/sock", ready: true}, true},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(text), 0o600))
		file, ok := readPidFile(dir)
		require.Equal(t, want.ok, ok, text)
		require.Equal(t, want.file, file, text)
	}
}
