package tfs

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// memory is a disk that grows.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(m.b) {
		m.b = append(m.b, make([]byte, need-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) truncate(n int64) {
	if n > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, n-int64(len(m.b)))...)
	}
	m.b = m.b[:n]
}

// sample writes a small tree, and as many files besides.
func sample(t testing.TB, o Options, files int, attrs ...Attr) (*memory, *State) {
	t.Helper()
	m := &memory{}
	w, err := NewWriter(m, o)
	require.NoError(t, err)
	require.NoError(t, w.File("etc/hosts", 10, strings.NewReader("127.0.0.1\n")))
	require.NoError(t, w.File("etc/empty", 0, strings.NewReader("")))
	require.NoError(t, w.Dir("var/lib/empty"))
	require.NoError(t, w.Symlink("lib", "usr/lib"))
	require.NoError(t, w.File("usr/lib/big", 1_500_000, strings.NewReader(strings.Repeat("0123456789", 150_000))))
	for i := range files {
		require.NoError(t, w.File(fmt.Sprintf("many/%d/%d", i%10, i), 4, strings.NewReader("body")))
	}
	s, err := w.Finish(attrs...)
	require.NoError(t, err)
	m.truncate(s.Sectors() * SectorSize)
	return m, s
}

func read(t testing.TB, m *memory) *FS {
	t.Helper()
	f, err := Open(m, int64(len(m.b)))
	require.NoError(t, err)
	_, err = f.Verify()
	require.NoError(t, err)
	return f
}

func list(t testing.TB, f *FS) []string {
	t.Helper()
	entries, err := f.Entries()
	require.NoError(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, fmt.Sprintf("%d %s %d %s", e.Kind, e.Path, e.Size, e.Target))
	}
	return all
}

func body(t testing.TB, f *FS, path string) string {
	t.Helper()
	e, err := f.Lookup(path)
	require.NoError(t, err)
	r, err := f.Content(e)
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}
