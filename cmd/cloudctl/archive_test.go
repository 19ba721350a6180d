package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

// tree writes a package directory; its times and the order of writing differ from call to call.
func tree(t *testing.T, age time.Duration) string {
	t.Helper()
	dir := t.TempDir()
	files := []string{"package.manifest", "sysroot/bin/app", "sysroot/etc/b", "sysroot/etc/a"}
	if age > 0 {
		files = []string{"sysroot/etc/a", "sysroot/etc/b", "sysroot/bin/app", "package.manifest"}
	}
	for _, name := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte("content of "+name), 0o644))
		require.NoError(t, os.Chtimes(path, time.Now().Add(-age), time.Now().Add(-age)))
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "sysroot/bin/app"), 0o755))
	require.NoError(t, os.Symlink("app", filepath.Join(dir, "sysroot/bin/link")))
	return dir
}

func TestArchiveIsAlwaysTheSame(t *testing.T) {
	t.Parallel()
	var first, second bytes.Buffer
	require.NoError(t, writeArchive(&first, tree(t, 0)))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(tree(t, 1000*time.Hour), link))
	require.NoError(t, writeArchive(&second, link))
	require.Equal(t, first.Bytes(), second.Bytes())

	zipped, err := gzip.NewReader(&first)
	require.NoError(t, err)
	require.True(t, zipped.ModTime.IsZero())
	var names []string
	for archive := tar.NewReader(zipped); ; {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		names = append(names, h.Name)
		require.Zero(t, h.Uid+h.Gid)
		require.Empty(t, h.Uname+h.Gname)
		require.Zero(t, h.ModTime.Unix())
		switch h.Name {
		case "sysroot/bin/app":
			require.EqualValues(t, 0o755, h.Mode)
		case "sysroot/bin/link":
			require.Equal(t, "app", h.Linkname)
		}
	}
	require.Equal(t, []string{"package.manifest", "sysroot/", "sysroot/bin/", "sysroot/bin/app", "sysroot/bin/link", "sysroot/etc/", "sysroot/etc/a", "sysroot/etc/b"}, names)
}

func TestPackageCreate(t *testing.T) {
	t.Parallel()
	dir := tree(t, 0)
	var want bytes.Buffer
	require.NoError(t, writeArchive(&want, dir))
	file := filepath.Join(t.TempDir(), "package.tar.gz")
	require.NoError(t, os.WriteFile(file, want.Bytes(), 0o644))
	for _, path := range []string{dir, file} {
		f := newFake(t, map[string]http.HandlerFunc{"POST /packages": inTurn(
			func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			answer(201, client.Package{ID: "pk1", Name: "web", Version: "1", Digest: "d", Warnings: []string{"imports fork"}}))})
		r := newRun(f.URL)
		require.Equal(t, exitDone, r.app.main(t.Context(), []string{"package", "create", path, "--name", "web", "--version", "1"}), r.err)
		require.Contains(t, r.out.String(), "web")
		require.Equal(t, "warning: imports fork\n", r.err.String())
		asked := f.asked()
		require.Len(t, asked, 2)
		for _, a := range asked {
			require.Equal(t, "name=web&version=1", a.query)
			require.Equal(t, want.String(), a.body)
		}
	}
}

func TestPackageCreateRefusesWhatIsNoPackage(t *testing.T) {
	t.Parallel()
	f := newFake(t, map[string]http.HandlerFunc{"POST /packages": answer(201, client.Package{ID: "pk1"})})
	text := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(text, []byte("hello"), 0o644))
	withSocket := tree(t, 0)
	l, err := net.Listen("unix", filepath.Join(withSocket, "s"))
	require.NoError(t, err)
	defer l.Close()
	for path, says := range map[string]string{
		t.TempDir(): "it has no package.manifest",
		text:        "neither a directory nor a .tar.gz",
		os.DevNull:  "neither a directory nor a .tar.gz",
		withSocket:  "s is a socket",
	} {
		r := newRun(f.URL)
		require.Equal(t, exitUsage, r.app.main(t.Context(), []string{"package", "create", path}), r.err)
		require.Contains(t, r.err.String(), says)
	}
}
