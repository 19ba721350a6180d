package ramfile

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// The limits in these tests, in bytes.
const (
	fuzzRAM   = 3 * chunkBytes
	fuzzState = chunkBytes
)

// unpackBytes unpacks into a new directory. Whatever the bytes are, it ends well
// or with ErrDamaged, and within the limits.
func unpackBytes(t testing.TB, b []byte) error {
	dir := t.TempDir()
	src := filepath.Join(dir, "packed")
	require.NoError(t, os.WriteFile(src, b, 0o600))
	files := [3]*os.File{}
	for i, name := range []string{"packed", "ram", "state"} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		require.NoError(t, err)
		defer f.Close()
		files[i] = f
	}
	info, err := Unpack(t.Context(), files[0], files[1], files[2], Options{MaxRAM: fuzzRAM, MaxState: fuzzState, Parallel: 1})
	for i, limit := range []int64{fuzzRAM, fuzzState} {
		got, e := files[i+1].Stat()
		require.NoError(t, e)
		require.LessOrEqual(t, got.Size(), limit)
	}
	if err != nil {
		require.ErrorIs(t, err, ErrDamaged)
		return err
	}
	require.LessOrEqual(t, info.Data, info.RAM+info.State)
	return nil
}

// crafted makes a file as somebody could who knows the format: its tags are
// right. Each chunk is sealed as it is given.
func crafted(t testing.TB, h header, chunks [][]byte, change func(table []entry)) []byte {
	s, err := newSeal(nil, h)
	require.NoError(t, err)
	b := h.encode()
	var table []entry
	for i, chunk := range chunks {
		sealed := s.sealChunk(int64(i), append([]byte(nil), chunk...))
		table = append(table, entry{offset: uint64(len(b)), length: uint32(len(sealed))})
		b = append(b, sealed...)
	}
	if change != nil {
		change(table)
	}
	return append(b, s.sealTable(encodeTable(table))...)
}

func compressed(t testing.TB, b []byte) []byte {
	e, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	defer e.Close()
	return e.EncodeAll(b, nil)
}

// page returns a chunk that has the first page only, as it was before compression.
func page(n int) []byte {
	return append(append([]byte{1}, make([]byte, bitmapBytes-1)...), make([]byte, n)...)
}

func TestCraftedFilesAreRefused(t *testing.T) {
	t.Parallel()
	h := header{ram: 3 * chunkBytes}
	good := compressed(t, page(pageBytes))
	require.NoError(t, unpackBytes(t, crafted(t, h, [][]byte{good, good, good}, nil)))
	over := page(pageBytes)
	over[bitmapBytes-1] = 0x80
	for name, b := range map[string][]byte{
		"ShortPages":    crafted(t, h, [][]byte{good, compressed(t, page(pageBytes-1)), good}, nil),
		"LongPages":     crafted(t, h, [][]byte{good, compressed(t, page(2*pageBytes)), good}, nil),
		"NoBitmap":      crafted(t, h, [][]byte{good, compressed(t, []byte{1}), good}, nil),
		"Empty":         crafted(t, h, [][]byte{good, nil, good}, nil),
		"NotCompressed": crafted(t, h, [][]byte{good, page(pageBytes), good}, nil),
		"Bomb":          crafted(t, h, [][]byte{good, compressed(t, make([]byte, 64<<20)), good}, nil),
		"PastTheEnd":    crafted(t, header{ram: 4096}, [][]byte{compressed(t, append(over, make([]byte, pageBytes)...))}, nil),
		"ChunksMissing": crafted(t, h, [][]byte{good, good}, nil),
		"ChunksTooMany": crafted(t, h, [][]byte{good, good, good, good}, nil),
		"HugeSizes":     crafted(t, header{ram: 1 << 63, state: 1<<64 - 1}, nil, nil),
		"Flags":         crafted(t, header{flags: 2}, nil, nil),
		"Offset":        crafted(t, h, [][]byte{good, good, good}, func(table []entry) { table[1].offset = 1<<64 - 8 }),
		"Length":        crafted(t, h, [][]byte{good, good, good}, func(table []entry) { table[1].length = 1<<32 - 1 }),
		"Gap":           crafted(t, h, [][]byte{good, good, good}, func(table []entry) { table[1].length-- }),
		"Swapped":       crafted(t, h, [][]byte{good, good, good}, func(table []entry) { table[0], table[1] = table[1], table[0] }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.ErrorIs(t, unpackBytes(t, b), ErrDamaged)
		})
	}
	newer := crafted(t, h, [][]byte{good, good, good}, nil)
	binary.LittleEndian.PutUint32(newer[8:], 2)
	require.ErrorContains(t, unpackBytes(t, newer), "version 2")
}

// FuzzUnpack makes of its input a whole file, or one whose chunk or table alone
// is hostile and whose tags are right.
func FuzzUnpack(f *testing.F) {
	h := header{ram: chunkBytes + 5, state: 7}
	good := compressed(f, page(pageBytes))
	f.Add(uint8(0), crafted(f, header{}, nil, nil))
	f.Add(uint8(0), crafted(f, h, [][]byte{good, compressed(f, page(5)), compressed(f, page(7))}, nil))
	f.Add(uint8(1), good)
	f.Add(uint8(2), page(pageBytes))
	f.Add(uint8(3), make([]byte, 3*entryBytes))
	f.Fuzz(func(t *testing.T, how uint8, b []byte) {
		switch how % 4 {
		case 0: // the file
		case 1: // a chunk
			b = crafted(t, h, [][]byte{b, good, b}, nil)
		case 2: // a chunk before compression
			c := compressed(t, b)
			b = crafted(t, h, [][]byte{c, c, c}, nil)
		case 3: // the table
			b = crafted(t, h, [][]byte{good, good, good}, func(table []entry) {
				copy(table, decodeTable(append(b, make([]byte, 3*entryBytes)...)))
			})
		}
		if err := unpackBytes(t, b); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
	})
}
