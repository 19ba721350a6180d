package qcow2

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMark(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "overlay.qcow2"))
	require.NoError(t, err)
	defer f.Close()
	base := bytes.NewReader(random(1 << 20))
	require.NoError(t, CreateLayout(f, Layout{Size: 1 << 20, Mark: []byte("whose it is")}, base, nil))
	mark, err := Mark(f)
	require.NoError(t, err)
	require.Equal(t, "whose it is", string(mark))

	none, err := Mark(create(t, 1<<20, nil, nil))
	require.NoError(t, err)
	require.Nil(t, none)
	require.ErrorContains(t, CreateLayout(f, Layout{Size: 1 << 20, Mark: make([]byte, MaxMark+1)}, base, nil), "at most")

	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed: apt-get install qemu-utils")
	}
	out, err := exec.Command("qemu-img", "check", f.Name()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	before, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	out, err = exec.Command("qemu-img", "amend", "-f", "qcow2", "-o", "lazy_refcounts=on", f.Name()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	after, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	require.NotEqual(t, before, after, "QEMU has written the header anew")
	mark, err = Mark(bytes.NewReader(after))
	require.NoError(t, err)
	require.Equal(t, "whose it is", string(mark))
}

func TestMarkRefused(t *testing.T) {
	t.Parallel()
	whole, err := io.ReadAll(create(t, 1<<20, nil, nil))
	require.NoError(t, err)
	extension := func(kind, length uint32, n int) []byte {
		b := bytes.Clone(whole)
		for i := range n {
			binary.BigEndian.PutUint32(b[headerLength+8*i:], kind)
			binary.BigEndian.PutUint32(b[headerLength+8*i+4:], length)
		}
		return b
	}
	far := bytes.Clone(whole)
	binary.BigEndian.PutUint32(far[100:], 1<<31)
	for name, b := range map[string][]byte{
		"TooLong": extension(markType, MaxMark+1, 1), "Huge": extension(7, 1<<31, 1), "Many": extension(7, 0, 100), "Far": far,
		"Short": whole[:headerLength], "NoOverlay": []byte(strings.Repeat("x", 4096)),
	} {
		_, err := Mark(bytes.NewReader(b))
		require.ErrorIs(t, err, ErrDamaged, name)
	}
}
