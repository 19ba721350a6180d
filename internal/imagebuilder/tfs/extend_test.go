package tfs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// extend adds what is a round's own, and as many files besides.
func extend(t testing.TB, w *Writer, round, files int) {
	t.Helper()
	require.NoError(t, w.File(fmt.Sprintf("etc/new%d", round), 4, strings.NewReader("new\n")))
	require.NoError(t, w.File(fmt.Sprintf("srv/%d/a/b", round), 1000, strings.NewReader(strings.Repeat("z", 1000))))
	require.NoError(t, w.Symlink(fmt.Sprintf("var/lib/empty/l%d", round), "x"))
	for i := range files {
		require.NoError(t, w.File(fmt.Sprintf("large%d/%d", round, i), 1, strings.NewReader("x")))
	}
}

func TestExtend(t *testing.T) {
	t.Parallel()
	for _, files := range []int{0, 9000} { // the second needs a new extent of the log at times
		m, _ := sample(t, Options{}, 100)
		m.truncate(24 << 20)
		for round := range 3 {
			w, err := read(t, m).Extend(m)
			require.NoError(t, err)
			require.True(t, w.Exists("etc/hosts"))
			require.True(t, w.Exists(""))
			require.False(t, w.Exists("etc/none"))
			require.ErrorContains(t, w.File("etc/hosts", 1, strings.NewReader("x")), "already")
			extend(t, w, round, files)
			before := bytes.Clone(m.b)
			syncs := 0
			require.NoError(t, w.FinishExtension(func() error { syncs++; return nil }))
			require.GreaterOrEqual(t, syncs, 2)
			after := m.b

			// Cut at any moment, what is there is the old file system or the new one.
			for cut := range syncs {
				m.b = bytes.Clone(before)
				w, err := read(t, m).Extend(m)
				require.NoError(t, err)
				extend(t, w, round, files)
				left := cut
				require.Error(t, w.FinishExtension(func() error {
					if left--; left < 0 {
						return errors.New("power cut")
					}
					return nil
				}))
				now, err := read(t, m).Entries()
				require.NoError(t, err)
				m.b = before
				then, err := read(t, m).Entries()
				require.NoError(t, err)
				m.b = after
				whole, err := read(t, m).Entries()
				require.NoError(t, err)
				require.Contains(t, []int{len(then), len(whole)}, len(now))
			}
			m.b = after
		}
		f := read(t, m)
		for round := range 3 {
			require.Equal(t, "new\n", body(t, f, fmt.Sprintf("etc/new%d", round)))
			require.Equal(t, strings.Repeat("z", 1000), body(t, f, fmt.Sprintf("srv/%d/a/b", round)))
			_, err := f.Lookup(fmt.Sprintf("var/lib/empty/l%d", round))
			require.NoError(t, err)
		}
		require.Equal(t, "127.0.0.1\n", body(t, f, "etc/hosts"))
	}
}

func TestExtendRefused(t *testing.T) {
	t.Parallel()
	m, _ := sample(t, Options{}, 0)
	m.truncate(int64(len(m.b)) + 2<<20)
	w, err := read(t, m).Extend(m)
	require.NoError(t, err)
	require.ErrorIs(t, w.File("a", 3<<20, strings.NewReader("")), ErrNoRoom)
	old := goldenVolume(t)
	old.b[6] = oldVersion
	f, err := Open(bytes.NewReader(old.b[:]), int64(len(old.b)))
	require.NoError(t, err)
	_, err = f.Extend(old)
	require.ErrorContains(t, err, "version 4")
}
