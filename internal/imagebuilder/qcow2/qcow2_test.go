package qcow2

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func create(t testing.TB, size int64, base []byte, patches []Patch) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "overlay.qcow2"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	require.NoError(t, Create(f, size, bytes.NewReader(base), patches))
	return f
}

func random(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// disk is what the overlay must show.
func disk(size int64, base []byte, patches []Patch) []byte {
	b := make([]byte, size)
	copy(b, base)
	for _, p := range patches {
		copy(b[p.Offset:], p.Data)
	}
	return b
}

func TestCreate(t *testing.T) {
	t.Parallel()
	base := random(5<<20 + 512)
	for name, c := range map[string]struct {
		size    int64
		patches []Patch
	}{
		"Nothing": {6 << 20, nil},
		"Few":     {5<<20 + 512, []Patch{{512, []byte("abc")}, {4090, []byte("across two clusters")}, {4095, []byte("later")}, {5<<20 + 510, []byte("xy")}}},
		"Longer":  {64 << 20, []Patch{{5 << 20, bytes.Repeat([]byte("y"), 9000)}, {64<<20 - 1, []byte("z")}, {32 << 20, nil}}},
		"Many":    {40 << 20, []Patch{{1 << 20, random(12 << 20)}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := create(t, c.size, base, c.patches)
			d, err := Open(f, bytes.NewReader(base))
			require.NoError(t, err)
			require.Equal(t, c.size, d.Size())
			got, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size()+100))
			require.NoError(t, err)
			want := disk(c.size, base, c.patches)
			require.True(t, bytes.Equal(want, got))

			// QEMU agrees, about the tables as well as about the content.
			if _, err := exec.LookPath("qemu-img"); err != nil {
				t.Skip("qemu-img is not installed: apt-get install qemu-utils")
			}
			out, err := exec.Command("qemu-img", "check", f.Name()).CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), "No errors were found")
			basePath, whole := filepath.Join(t.TempDir(), "base"), filepath.Join(t.TempDir(), "whole")
			require.NoError(t, os.WriteFile(basePath, base, 0o600))
			out, err = exec.Command("qemu-img", "convert", "--image-opts", "-O", "raw",
				"driver=qcow2,file.driver=file,file.filename="+f.Name()+",backing.driver=raw,backing.file.driver=file,backing.file.filename="+basePath, whole).CombinedOutput()
			require.NoError(t, err, "%s", out)
			seen, err := os.ReadFile(whole)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, seen))
		})
	}
}

func TestCreateIsSmall(t *testing.T) {
	t.Parallel()
	f := create(t, MaxSize, nil, []Patch{{100, []byte("x")}, {MaxSize - 512, []byte("y")}})
	info, err := f.Stat()
	require.NoError(t, err)
	require.LessOrEqual(t, info.Sys().(*syscall.Stat_t).Blocks*512, int64(48<<10))
}

func TestCreateRefused(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer f.Close()
	for _, size := range []int64{0, -512, 513, MaxSize + 512} {
		require.ErrorContains(t, Create(f, size, bytes.NewReader(nil), nil), "multiple of 512")
	}
	require.ErrorContains(t, Create(f, 512, bytes.NewReader(nil), []Patch{{510, []byte("abc")}}), "beyond the disk's end")
}

func TestOpenRefused(t *testing.T) {
	t.Parallel()
	f := create(t, 1<<20, nil, []Patch{{0, []byte("x")}})
	whole, err := io.ReadAll(f)
	require.NoError(t, err)
	change := func(at int, b byte) []byte { c := bytes.Clone(whole); c[at] = b; return c }
	for name, c := range map[string]struct {
		body []byte
		says string
	}{
		"Short":      {whole[:50], "header"},
		"Magic":      {change(0, 'x'), "no qcow2"},
		"Version":    {change(7, 2), "version 3"},
		"Backing":    {change(15, 1), "names a file"},
		"Clusters":   {change(23, 30), "2^30"},
		"Encrypted":  {change(35, 1), "encrypted"},
		"Features":   {change(79, 4), "0x4"},
		"Size":       {change(24, 1), "beyond"},
		"FirstTable": {change(39, 0), "too short"},
	} {
		_, err := Open(bytes.NewReader(c.body), bytes.NewReader(nil))
		require.ErrorIs(t, err, ErrDamaged, name)
		require.ErrorContains(t, err, c.says, name)
	}
	for name, c := range map[string][]byte{"Compressed": change(4*clusterSize, 0xc0), "Table": change(3*clusterSize+5, 0xff), "Unaligned": change(4*clusterSize+6, 0x52)} {
		d, err := Open(bytes.NewReader(c), bytes.NewReader(nil))
		require.NoError(t, err)
		_, err = d.ReadAt(make([]byte, 10), 0)
		require.ErrorIs(t, err, ErrDamaged, name)
	}
}

// FuzzOpen: whatever the bytes, reading ends without a panic.
func FuzzOpen(f *testing.F) {
	overlay := create(f, 1<<20, nil, []Patch{{0, []byte("x")}, {1 << 19, []byte("y")}})
	whole, err := io.ReadAll(overlay)
	require.NoError(f, err)
	f.Add(whole[:5*clusterSize+100])
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Open(bytes.NewReader(b), bytes.NewReader([]byte("base")))
		if err != nil {
			require.ErrorIs(t, err, ErrDamaged)
			return
		}
		for _, off := range []int64{0, 511, d.Size() / 2, d.Size() - 1, d.Size()} {
			if _, err := d.ReadAt(make([]byte, 10_000), max(off, 0)); err != nil && err != io.EOF {
				require.ErrorIs(t, err, ErrDamaged)
			}
		}
	})
}
