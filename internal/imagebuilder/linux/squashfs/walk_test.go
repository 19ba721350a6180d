package squashfs

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// image makes a squashfs file of a directory with some of everything.
func image(t testing.TB, args ...string) []byte {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	for name, body := range map[string]string{"a/empty": "", "a.d": "tail", "a/b/file": strings.Repeat("block", 2000)} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(body), 0o640))
	}
	require.NoError(t, os.Symlink("a/b", filepath.Join(dir, "link")))
	out := filepath.Join(t.TempDir(), "image")
	said, err := exec.Command("mksquashfs", append([]string{dir, out, "-quiet", "-no-progress", "-all-root", "-b", "4096"}, args...)...).CombinedOutput()
	require.NoError(t, err, "mksquashfs comes with squashfs-tools: %s", said)
	b, err := os.ReadFile(out)
	require.NoError(t, err)
	return b
}

func walk(b []byte, visit func(source.Entry, []byte)) error {
	r, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	return r.Walk(context.Background(), func(e source.Entry, content io.Reader) error {
		var body []byte
		if content != nil {
			var err error
			if body, err = io.ReadAll(io.LimitReader(content, 1<<20)); err != nil {
				return err
			}
		}
		visit(e, body)
		return nil
	})
}

func TestWalk(t *testing.T) {
	t.Parallel()
	var paths []string
	require.NoError(t, walk(image(t, "-comp", "lz4"), func(e source.Entry, body []byte) {
		paths = append(paths, e.Path)
		switch e.Path {
		case "a.d":
			require.Equal(t, "tail", string(body))
			require.Equal(t, uint32(0o640), e.Mode)
		case "a/b/file":
			require.Equal(t, strings.Repeat("block", 2000), string(body))
		case "link":
			require.Equal(t, "a/b", e.Target)
		}
	}))
	require.Equal(t, []string{"", "a", "a.d", "a/b", "a/b/file", "a/empty", "link"}, paths)
	// Nothing packed at all.
	require.NoError(t, walk(image(t, "-comp", "lz4", "-noI", "-noD", "-noF"), func(source.Entry, []byte) {}))
}

func TestOtherFilesAreRefused(t *testing.T) {
	t.Parallel()
	err := walk(image(t, "-comp", "gzip"), func(source.Entry, []byte) {})
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	require.ErrorContains(t, err, "compressor 1")
	err = walk(image(t, "-comp", "lz4", "-p", "pipe f 644 0 0 echo", "-p", "device c 600 0 0 1 3"), func(source.Entry, []byte) {})
	require.ErrorContains(t, err, "inode of type")
}

func FuzzWalk(f *testing.F) {
	f.Add(image(f, "-comp", "lz4"))
	f.Add(image(f, "-comp", "lz4", "-noI", "-noD", "-noF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := walk(b, func(source.Entry, []byte) {}); err != nil {
			require.Equal(t, fleet.KindPermanent, fleet.KindOf(err), "%v", err)
		}
	})
}
