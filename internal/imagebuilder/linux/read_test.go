package linux

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// seen is an entry with its content's digest.
type seen struct {
	source.Entry
	sum string
}

func digestOf(t *testing.T, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	_, err := io.Copy(h, r)
	require.NoError(t, err)
	return fmt.Sprintf("%x", h.Sum(nil))
}

// plain is an entry as another package can have it.
func plain(e source.Entry) source.Entry {
	return source.Entry{Path: e.Path, Kind: e.Kind, Mode: e.Mode, Size: e.Size, Target: e.Target}
}

// members is a tree with all that a squashfs writes differently: files of no, one and
// many blocks with and without an end of their own, holes, noise, long links, long names,
// directories of many entries, and names whose order is not that of directories.
func members() map[string]string {
	noise := make([]byte, 300_000)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	m := map[string]string{
		"sysroot/a/b": "1", "sysroot/a.d/b": "2", "sysroot/a-b": "3", "sysroot/a b": "4", "sysroot/a0": "5",
		"sysroot/empty": "", "sysroot/block": content(1, 128<<10), "sysroot/blocks": content(2, 3*128<<10), "sysroot/ends": content(3, 128<<10+1),
		"sysroot/noise": string(noise), "sysroot/holes": strings.Repeat("\x00", 400_000) + "x" + strings.Repeat("\x00", 200_000),
		"sysroot/link": "->" + strings.Repeat("long/", 200) + "target", "sysroot/" + strings.Repeat("n", 255): "long name", "sysroot/none/": "",
	}
	for i := range 3000 {
		m[fmt.Sprintf("sysroot/many/file-%d", i)] = strings.Repeat(fmt.Sprint(i), i%40)
	}
	return m
}

func builtExample(t *testing.T) (k *Kernel, dir string, want []seen) {
	t.Helper()
	k, _ = testKernel(t, Options{})
	p := pack(t, manifest, members())
	dir, err := build(t, k, p)
	require.NoError(t, err)
	tree := p.Tree.Clone()
	require.NoError(t, addMountPoints(tree, p.Manifest.Persist))
	require.NoError(t, tree.Walk(func(e source.Entry) error {
		s := seen{Entry: plain(e)}
		if e.Kind == source.File {
			s.sum = digestOf(t, tree.Content(e))
		}
		want = append(want, s)
		return nil
	}))
	return k, dir, want
}

func TestRead(t *testing.T) {
	t.Parallel()
	k, dir, want := builtExample(t)
	require.Greater(t, len(want), 3000)
	var got []seen
	require.NoError(t, k.Read(context.Background(), dir, func(e source.Entry, content io.Reader) error {
		s := seen{Entry: e}
		if e.Kind == source.File {
			s.sum = digestOf(t, content)
		} else {
			require.Nil(t, content)
		}
		got = append(got, s)
		return nil
	}))
	require.Equal(t, want, got)

	// A visit that reads nothing, or a little, changes nothing for the next.
	count := 0
	require.NoError(t, k.Read(context.Background(), dir, func(e source.Entry, content io.Reader) error {
		if count++; content != nil && e.Size > 0 && count%2 == 0 {
			_, err := io.ReadFull(content, make([]byte, 1))
			return err
		}
		return nil
	}))
	require.Len(t, want, count)
}

func TestReadEndsEarly(t *testing.T) {
	t.Parallel()
	k, dir, _ := builtExample(t)
	enough := errors.New("enough")
	require.ErrorIs(t, k.Read(context.Background(), dir, func(e source.Entry, _ io.Reader) error {
		if e.Path == "bin" {
			return enough
		}
		return nil
	}), enough)
	ctx, cancel := context.WithCancel(context.Background())
	require.ErrorIs(t, k.Read(ctx, dir, func(e source.Entry, content io.Reader) error {
		if e.Path == "blocks" {
			cancel()
			_, err := io.Copy(io.Discard, content)
			return err
		}
		return nil
	}), context.Canceled)
	require.ErrorIs(t, k.Read(ctx, dir, nil), context.Canceled)
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(k.Read(context.Background(), t.TempDir(), nil)))
}

// readAll reads everything of the image with those bytes.
func readAll(t *testing.T, k *Kernel, image []byte) error {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, rootName), image, 0o600))
	return k.Read(context.Background(), dir, func(_ source.Entry, content io.Reader) error {
		if content == nil {
			return nil
		}
		_, err := io.Copy(io.Discard, content)
		return err
	})
}

func TestReadSaysDamage(t *testing.T) {
	t.Parallel()
	k, dir, _ := builtExample(t)
	good, err := os.ReadFile(filepath.Join(dir, rootName))
	require.NoError(t, err)
	require.NoError(t, readAll(t, k, good))
	with := func(at int, b ...byte) []byte {
		image := bytes.Clone(good)
		copy(image[at:], b)
		return image
	}
	for name, image := range map[string][]byte{
		"Empty": nil, "Magic": with(0, 'x'), "Cut": good[:len(good)/2], "CutHead": good[:50], "Version": with(28, 5), "Compressor": with(20, 1),
		"BlockSize": with(12, 1), "FewerInodes": with(4, 9, 0), "MoreInodes": with(4, 0xff, 0xff), "Root": with(32, 0xff, 0xff, 0xff), "RootInode": with(32, 1),
		"NoTables": with(64, bytes.Repeat([]byte{0xff}, 24)...), "Data": append(append(bytes.Clone(good[:96]), bytes.Repeat([]byte{0xff}, len(good)/2)...), good[96+len(good)/2:]...),
	} {
		err := readAll(t, k, image)
		require.Equal(t, fleet.KindPermanent, fleet.KindOf(err), "%s: %v", name, err)
		require.ErrorContains(t, err, "damaged", name)
	}
	// Anywhere: nothing but that error, no panic, no memory without end.
	r := rand.New(rand.NewPCG(3, 4))
	for range 60 {
		image := bytes.Clone(good)
		from := r.IntN(len(image))
		if from%2 == 0 { // among the tables, which are small and at the end
			from = len(image) - 1 - from%40_000
		}
		for i := range 1 + r.IntN(8) {
			image[min(from+i, len(image)-1)] = byte(r.Uint32())
		}
		if err := readAll(t, k, image); err != nil {
			require.Equal(t, fleet.KindPermanent, fleet.KindOf(err), "at %d: %v", from, err)
		}
	}
}

// The memory that reading takes is that of some blocks, whatever the size of files.
func TestReadTakesLittleMemory(t *testing.T) {
	// Not parallel: it looks at the memory of the whole process.
	k, _ := testKernel(t, Options{})
	dir, err := build(t, k, pack(t, manifest, map[string]string{"sysroot/large": content(7, 96<<20)}))
	require.NoError(t, err)
	runtime.GC()
	var before, at runtime.MemStats
	runtime.ReadMemStats(&before)
	most := uint64(0)
	require.NoError(t, k.Read(context.Background(), dir, func(_ source.Entry, content io.Reader) error {
		if content == nil {
			return nil
		}
		buf := make([]byte, 1<<20)
		for {
			if _, err := content.Read(buf); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			runtime.ReadMemStats(&at)
			most = max(most, at.HeapAlloc)
		}
	}))
	require.Less(t, most-min(most, before.HeapAlloc), uint64(32<<20))
}
