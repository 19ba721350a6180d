package ramfile_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"dormouse/internal/provider/kvm/ramfile"
)

const mib = 1 << 20

func create(t testing.TB, name string) *os.File {
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func content(t testing.TB, f *os.File) []byte {
	b, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	return b
}

// memory makes a sparse file like a guest's: programs, random data, pages that
// were cleared, single pages here and there, and holes.
func memory(t testing.TB, size int64) *os.File {
	f := create(t, "ram")
	require.NoError(t, f.Truncate(size))
	put := func(offset int64, b []byte) {
		if room := size - offset; room > 0 {
			_, err := f.WriteAt(b[:min(int64(len(b)), room)], offset)
			require.NoError(t, err)
		}
	}
	program, err := os.ReadFile(must(os.Executable()))
	require.NoError(t, err)
	random := make([]byte, size/5)
	_, _ = rand.Read(random)
	put(3*4096, program[:min(len(program), int(size/8))])
	put(size/4, make([]byte, size/16))
	put(size/3, random)
	put(size/4*3, program[:min(len(program), int(size/6))])
	draw := mrand.New(mrand.NewPCG(1, 2))
	for range 100 {
		put(draw.Int64N(size/4096)*4096+int64(draw.IntN(4096)), []byte("one page"))
	}
	return f
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func state(t testing.TB, n int) *os.File {
	f := create(t, "state")
	b := make([]byte, n)
	_, _ = rand.Read(b)
	_, err := f.Write(b)
	require.NoError(t, err)
	return f
}

func limits(o ramfile.Options) ramfile.Options {
	o.MaxRAM, o.MaxState = 1<<40, 1<<30
	return o
}

func key(t testing.TB) []byte {
	k := make([]byte, ramfile.KeyBytes)
	_, err := rand.Read(k)
	require.NoError(t, err)
	return k
}

func TestWhatIsPackedComesOut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		ram, state int64
		o          ramfile.Options
	}{
		{"Guest", 64 * mib, 400_000, ramfile.Options{}},
		{"Encrypted", 64 * mib, 400_000, ramfile.Options{Key: key(t)}},
		{"OneWorker", 16 * mib, 1000, ramfile.Options{Parallel: 1}},
		{"ManyWorkers", 16 * mib, 1000, ramfile.Options{Parallel: 17, Key: key(t)}},
		{"Smallest", 16 * mib, 1000, ramfile.Options{Level: 4}},
		{"OddSizes", 5*mib + 4097, 3*mib + 1, ramfile.Options{}},
		{"OnePage", 4096, 0, ramfile.Options{}},
		{"NoMemory", 0, 7, ramfile.Options{Key: key(t)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ram, st, dst := memory(t, max(c.ram, 4096)), state(t, int(c.state)), create(t, "packed")
			require.NoError(t, ram.Truncate(c.ram))
			_, err := dst.Write(make([]byte, 10*mib)) // what was there before is no part of it
			require.NoError(t, err)
			info, err := ramfile.Pack(t.Context(), dst, ram, st, c.o)
			require.NoError(t, err)
			require.Equal(t, c.ram, info.RAM)
			require.Equal(t, c.state, info.State)
			require.Equal(t, c.o.Key != nil, info.Keyed)
			require.Len(t, content(t, dst), int(info.Packed))

			verified, err := ramfile.Verify(t.Context(), dst, limits(c.o))
			require.NoError(t, err)
			require.Equal(t, info, verified)

			outRAM, outState := create(t, "ram"), create(t, "state")
			_, err = outRAM.Write(bytes.Repeat([]byte("old"), mib)) // nor this
			require.NoError(t, err)
			out, err := ramfile.Unpack(t.Context(), dst, outRAM, outState, limits(c.o))
			require.NoError(t, err)
			require.Equal(t, info, out)
			require.True(t, bytes.Equal(content(t, ram), content(t, outRAM)), "the memory has changed")
			require.True(t, bytes.Equal(content(t, st), content(t, outState)), "the state has changed")
		})
	}
}

// A GiB of which little was touched costs little, in time and on either side.
func TestHolesStayHoles(t *testing.T) {
	t.Parallel()
	ram, st, dst := create(t, "ram"), state(t, 10), create(t, "packed")
	require.NoError(t, ram.Truncate(1<<30))
	for _, at := range []int64{0, 300 * mib, 700*mib + 8192, 1<<30 - 4096} {
		_, err := ram.WriteAt(bytes.Repeat([]byte("x"), 4096), at)
		require.NoError(t, err)
	}
	_, err := ram.WriteAt(make([]byte, 8*mib), 500*mib)
	require.NoError(t, err)
	info, err := ramfile.Pack(t.Context(), dst, ram, st, ramfile.Options{})
	require.NoError(t, err)
	require.Equal(t, int64(4*4096+10), info.Data)
	require.Less(t, info.Packed, int64(32<<10), "but for the table, 12 bytes per MiB, nearly nothing")
	outRAM, outState := create(t, "ram"), create(t, "state")
	_, err = ramfile.Unpack(t.Context(), dst, outRAM, outState, limits(ramfile.Options{}))
	require.NoError(t, err)
	before, err := ramfile.Allocated(ram)
	require.NoError(t, err)
	after, err := ramfile.Allocated(outRAM)
	require.NoError(t, err)
	require.GreaterOrEqual(t, before, int64(8*mib))
	require.LessOrEqual(t, after, int64(64<<10), "pages of zeros are holes")
	for _, at := range []int64{0, 300 * mib, 700*mib + 8192, 1<<30 - 4096} {
		b := make([]byte, 4096)
		_, err := outRAM.ReadAt(b, at)
		require.NoError(t, err)
		require.Equal(t, bytes.Repeat([]byte("x"), 4096), b)
	}
}

// packed returns a packed file's bytes and what it was made from.
func packed(t testing.TB, o ramfile.Options) (b []byte, ram *os.File) {
	ram = memory(t, 4*mib)
	dst := create(t, "packed")
	_, err := ramfile.Pack(t.Context(), dst, ram, state(t, 5000), o)
	require.NoError(t, err)
	return content(t, dst), ram
}

// requireDamaged unpacks bytes that must be refused.
func requireDamaged(t testing.TB, b []byte, o ramfile.Options) {
	t.Helper()
	f := create(t, "packed")
	_, err := f.Write(b)
	require.NoError(t, err)
	_, err = ramfile.Unpack(t.Context(), f, create(t, "ram"), create(t, "state"), o)
	require.ErrorIs(t, err, ramfile.ErrDamaged)
	_, err = ramfile.Verify(t.Context(), f, o)
	require.ErrorIs(t, err, ramfile.ErrDamaged)
}

func TestEveryChangeIsNoticed(t *testing.T) {
	t.Parallel()
	for _, o := range []ramfile.Options{limits(ramfile.Options{}), limits(ramfile.Options{Key: key(t)})} {
		whole, _ := packed(t, o)
		places := []int{0, 7, 8, 12, 16, 24, 32, 63, 64, len(whole) - 1, len(whole) - 16, len(whole) - 17}
		draw := mrand.New(mrand.NewPCG(3, 4))
		for range 60 {
			places = append(places, draw.IntN(len(whole)))
		}
		for _, at := range places {
			b := bytes.Clone(whole)
			b[at] ^= 1 << draw.IntN(8)
			requireDamaged(t, b, o)
		}
		for _, n := range append(places, 0, 1, 65) {
			requireDamaged(t, whole[:n], o)
		}
		requireDamaged(t, append(bytes.Clone(whole), 0), o)
		requireDamaged(t, append(bytes.Clone(whole), whole[len(whole)-64:]...), o)
		requireDamaged(t, append(bytes.Clone(whole[:64]), whole[65:]...), o)
	}
}

func TestFilesOfOneKeyDoNotMix(t *testing.T) {
	t.Parallel()
	o := limits(ramfile.Options{Key: key(t), Parallel: 1})
	ram, st := memory(t, 4*mib), state(t, 5000)
	var files [2][]byte
	for i := range files {
		dst := create(t, "packed")
		_, err := ramfile.Pack(t.Context(), dst, ram, st, o)
		require.NoError(t, err)
		files[i] = content(t, dst)
	}
	require.Len(t, files[1], len(files[0]), "the same with another salt")
	require.NotEqual(t, files[0], files[1])
	for _, cut := range []int{64, 1000, len(files[0]) - 100} {
		requireDamaged(t, append(bytes.Clone(files[0][:cut]), files[1][cut:]...), o)
	}
}

func TestOnlyTheRightKeyOpens(t *testing.T) {
	t.Parallel()
	right := limits(ramfile.Options{Key: key(t)})
	b, ram := packed(t, right)
	requireDamaged(t, b, limits(ramfile.Options{Key: key(t)}))
	requireDamaged(t, b, limits(ramfile.Options{}))
	open, _ := packed(t, ramfile.Options{})
	requireDamaged(t, open, right)
	// Nothing of the memory can be seen.
	one := []byte("one page")
	require.Contains(t, string(content(t, ram)), string(one))
	require.NotContains(t, string(b), string(one))

	_, err := ramfile.Pack(t.Context(), create(t, "packed"), ram, state(t, 1), ramfile.Options{Key: make([]byte, 16)})
	require.ErrorContains(t, err, "32 bytes")
}

func TestNoMoreComesOutThanAllowed(t *testing.T) {
	t.Parallel()
	b, _ := packed(t, ramfile.Options{})
	requireDamaged(t, b, ramfile.Options{MaxRAM: 4*mib - 1, MaxState: 5000})
	requireDamaged(t, b, ramfile.Options{MaxRAM: 4 * mib, MaxState: 4999})
	requireDamaged(t, b, ramfile.Options{})
	f := create(t, "packed")
	_, err := f.Write(b)
	require.NoError(t, err)
	_, err = ramfile.Verify(t.Context(), f, ramfile.Options{MaxRAM: 4 * mib, MaxState: 5000})
	require.NoError(t, err)
}

func TestCalledOff(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ram, st, dst := memory(t, 4*mib), state(t, 5000), create(t, "packed")
	_, err := ramfile.Pack(ctx, dst, ram, st, ramfile.Options{})
	require.ErrorIs(t, err, context.Canceled)
	_, err = ramfile.Pack(t.Context(), dst, ram, st, ramfile.Options{})
	require.NoError(t, err)
	_, err = ramfile.Unpack(ctx, dst, ram, st, limits(ramfile.Options{}))
	require.ErrorIs(t, err, context.Canceled)
}

// A disk that is full is said, and is no damage.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	require.NoError(t, err)
	defer full.Close()
	_, err = ramfile.Pack(t.Context(), full, memory(t, mib), state(t, 10), ramfile.Options{})
	require.Error(t, err)
	require.NotErrorIs(t, err, ramfile.ErrDamaged)

	_, err = ramfile.Pack(t.Context(), create(t, "packed"), full, state(t, 10), ramfile.Options{})
	require.ErrorContains(t, err, "no regular file")
}

// Not beside others: it counts what is allocated.
func TestMemoryIsBounded(t *testing.T) {
	ram, st, dst := memory(t, 64*mib), state(t, 5000), create(t, "packed")
	o := limits(ramfile.Options{Parallel: 2})
	allocated := func(f func()) uint64 {
		return uint64(testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		}).AllocedBytesPerOp())
	}
	require.Less(t, allocated(func() {
		_, err := ramfile.Pack(t.Context(), dst, ram, st, o)
		require.NoError(t, err)
	}), uint64(24*mib))
	require.Less(t, allocated(func() {
		_, err := ramfile.Unpack(t.Context(), dst, ram, st, o)
		require.NoError(t, err)
	}), uint64(12*mib))
}

// What can't be cut or read at a place is said.
func TestPipeIsRefused(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	_, err = ramfile.Pack(t.Context(), w, memory(t, mib), state(t, 10), ramfile.Options{})
	require.ErrorIs(t, err, unix.EINVAL)
	_, err = ramfile.Verify(t.Context(), r, limits(ramfile.Options{}))
	require.Error(t, err)
	require.NotErrorIs(t, err, io.EOF)
}
