package qcow2

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGrow(t *testing.T) {
	t.Parallel()
	base := random(1 << 20)
	f, err := os.Create(filepath.Join(t.TempDir(), "overlay.qcow2"))
	require.NoError(t, err)
	defer f.Close()
	patches := []Patch{{1<<20 - 5, []byte("abcde")}}
	require.NoError(t, CreateLayout(f, Layout{Size: 1 << 20, Room: 64 << 20, Mark: []byte("m")}, bytes.NewReader(base), patches))
	for _, size := range []int64{1 << 20, 512, 40 << 20, 64 << 20} {
		require.NoError(t, Grow(f, size))
		d, err := Open(f, bytes.NewReader(base))
		require.NoError(t, err)
		require.Equal(t, max(size, 1<<20), d.Size())
		got, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size()))
		require.NoError(t, err)
		require.True(t, bytes.Equal(disk(d.Size(), base, patches), got))
	}
	mark, err := Mark(f)
	require.NoError(t, err)
	require.Equal(t, "m", string(mark))
	require.ErrorContains(t, Grow(f, 65<<20), "room")
	require.ErrorContains(t, Grow(create(t, 1<<20, nil, nil), 4<<20), "room")
	require.ErrorContains(t, CreateLayout(f, Layout{Size: 512, Room: MaxSize + 512}, bytes.NewReader(nil), nil), "room")
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed: apt-get install qemu-utils")
	}
	out, err := exec.Command("qemu-img", "check", f.Name()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "No errors were found")
}
