package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// paxSparse is a member with a hole of that size, as GNU tar writes it in its
// PAX formats 0.1 and 1.0 (tar manual, "Storing Sparse Files"); Go's writer has none.
func paxSparse(t testing.TB, version string, size int64) []byte {
	t.Helper()
	record := func(key, value string) string {
		line := fmt.Sprintf(" %s=%s\n", key, value)
		total := len(line) + len(fmt.Sprint(len(line)))
		total = len(line) + len(fmt.Sprint(total))
		return fmt.Sprint(total) + line
	}
	records, data := record("GNU.sparse.name", "sysroot/hole")+record("GNU.sparse.realsize", fmt.Sprint(size)), ""
	if version == "1.0" {
		records += record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0")
		data = fmt.Sprintf("1\n%d\n0\n", size)
		data += string(make([]byte, 512-len(data)))
	} else {
		records += record("GNU.sparse.size", fmt.Sprint(size)) + record("GNU.sparse.numblocks", "1") + record("GNU.sparse.map", fmt.Sprintf("%d,0", size))
	}
	block := func(kind byte, name, body string) []byte {
		b := make([]byte, 512)
		copy(b, name)
		copy(b[100:], "0000644\x000000000\x000000000\x00")
		copy(b[124:], fmt.Sprintf("%011o\x0000000000000\x00", len(body)))
		b[156] = kind
		copy(b[257:], "ustar\x0000")
		copy(b[148:], "        ")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		b = append(b, body...)
		return append(b, make([]byte, (512-len(body)%512)%512)...)
	}
	return append(block(tar.TypeXHeader, "PaxHeaders/hole", records), block(tar.TypeReg, "GNUSparseFile.0/hole", data)...)
}

func TestSparseFiles(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"0.1", "1.0"} {
		raw := append(paxSparse(t, version, 100_000), tarOf(t, app(), nil)...)
		p, err := readWith(t, gzipOf(t, raw, gzip.BestSpeed), Options{})
		require.NoError(t, err, version)
		e, err := p.Tree.Lookup("/hole")
		require.NoError(t, err)
		require.EqualValues(t, 100_000, e.Size, "%s: as it is read", version)

		raw = append(paxSparse(t, version, 8<<40), tarOf(t, app(), nil)...)
		_, err = readWith(t, gzipOf(t, raw, gzip.BestSpeed), Options{})
		requireInvalid(t, err, "more than 4096 MiB unpacked")

		s, err := newSpool(t.TempDir())
		require.NoError(t, err)
		err = newLayered(s, Limits{}.withDefaults()).add(context.Background(), bytes.NewReader(raw), 1)
		requireInvalid(t, err, "more than 4096 MiB unpacked")
		require.Zero(t, s.n)
		require.NoError(t, s.f.Close())
	}
}

// A layer of a million files ends where the limit is.
func TestLayerOfAMillionFiles(t *testing.T) {
	t.Parallel()
	s, err := newSpool(t.TempDir())
	require.NoError(t, err)
	defer s.f.Close()
	r, w := io.Pipe()
	written := make(chan int, 1)
	go func() {
		out, n := tar.NewWriter(w), 0
		for ; n < 1_000_000; n++ {
			if out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/f%d", n%1000, n)}) != nil {
				break
			}
		}
		written <- n
	}()
	err = newLayered(s, Limits{Members: 20_000}.withDefaults()).add(context.Background(), r, 1)
	requireInvalid(t, err, "more than 20000 files")
	require.NoError(t, r.Close())
	require.Less(t, <-written, 41_000)
}
