package stock

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExtractVmlinux(t *testing.T) {
	t.Parallel()
	image := makeVmlinux(18)
	for name, payload := range map[string][]byte{
		"LZ4":  withSize(compressBare(image), len(image)),
		"Zstd": withSize(compress(t, ".zst", image), len(image)),
		"Gzip": compress(t, ".gz", image), // Ends in its size by itself.
	} {
		got, err := extractVmlinux(makeBzImage(payload))
		require.NoError(t, err, name)
		require.Equal(t, image, got, name)
	}
}

func TestExtractVmlinuxRefuses(t *testing.T) {
	t.Parallel()
	image := makeVmlinux(18)
	plain := makeVmlinux(17)
	good := makeBzImage(withSize(compressBare(image), len(image)))
	for want, kernel := range map[string][]byte{
		"no bzImage":         []byte("MZ"),
		"cut off":            good[:len(good)-100],
		"no PVH entry point": makeBzImage(withSize(compressBare(plain), len(plain))),
		"no ELF file":        makeBzImage(withSize(compressBare(make([]byte, 999)), 999)),
		"not known here":     makeBzImage(withSize(compress(t, ".xz", image), len(image))),
		"broken":             makeBzImage(withSize(compressBare(image), len(image)+1)),
		"more than":          makeBzImage(withSize(compressBare(image), 1<<31-1)),
	} {
		_, err := extractVmlinux(kernel)
		require.ErrorContains(t, err, want)
	}
}

func TestUnpackLZ4Copies(t *testing.T) {
	t.Parallel()
	// "abc", then 4+16 bytes from 3 back (running into itself), then "x".
	block := []byte{0x3f, 'a', 'b', 'c', 3, 0, 1, 0x10, 'x'}
	packed := append(binary.LittleEndian.AppendUint32(nil, uint32(len(block))), block...)
	got, err := unpackLZ4(packed, 24)
	require.NoError(t, err)
	require.Equal(t, "abcabcabcabcabcabcabcabx", string(got))
}

func FuzzUnpackLZ4(f *testing.F) {
	f.Add([]byte{0x3f, 'a', 'b', 'c', 3, 0, 1, 0x10, 'x'}, uint16(24))
	f.Add([]byte{0xf0}, uint16(1))
	f.Add(bytes.Repeat([]byte{0xff}, 40), uint16(9000))
	f.Fuzz(func(t *testing.T, block []byte, size uint16) {
		out, err := lz4Block(nil, block, int(size))
		if err == nil {
			require.LessOrEqual(t, len(out), int(size))
		}
	})
}
