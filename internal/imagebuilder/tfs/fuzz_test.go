package tfs

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzOpen: whatever the bytes, reading ends, within bounds and without a
// panic, and every complaint is ErrDamaged.
func FuzzOpen(f *testing.F) {
	m := goldenVolume(f)
	f.Add(m.b)
	f.Add(bytes.Replace(m.b, []byte(magic+"\x05"), []byte(magic+"\x04"), 2))
	small, _ := sample(f, Options{LogSectors: 2, Label: "l"}, 3, Attr{"arguments", []Value{"a", int64(-1), Null{}}})
	f.Add(small.b[:20*SectorSize])
	f.Fuzz(readAll)
}

// FuzzLog gives the fuzzer the log alone, in a volume that is right.
func FuzzLog(f *testing.F) {
	whole := fromHex(f, goldenLog)[8:]
	f.Add(whole, false)
	f.Add(fromHex(f, "02 08 08 91 88 01 61 B0 01 05 01 01"), false)
	f.Add(fromHex(f, "02 0D 0D C1 88 6368696C6472656E C1 81 61 04 02 02 02 10 01 01"), true)
	f.Fuzz(func(t *testing.T, log []byte, old bool) {
		m := goldenVolume(t)
		head := append([]byte(magic), version, 8)
		if old {
			head[len(magic)] = oldVersion
		}
		copy(m.b[SectorSize:9*SectorSize], append(head, log...))
		readAll(t, m.b)
	})
}

func readAll(t *testing.T, b []byte) {
	v, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		require.ErrorIs(t, err, ErrDamaged)
		return
	}
	if _, err := v.Verify(); err != nil {
		require.ErrorIs(t, err, ErrDamaged)
	}
	entries, err := v.Entries()
	if err != nil {
		require.ErrorIs(t, err, ErrDamaged)
		return
	}
	for _, e := range entries {
		if e.Kind != File {
			continue
		}
		r, err := v.Content(e)
		if err != nil {
			require.ErrorIs(t, err, ErrDamaged)
			continue
		}
		_, err = io.CopyN(io.Discard, r, 4096)
		if !errors.Is(err, io.EOF) {
			require.NoError(t, err)
		}
	}
}
