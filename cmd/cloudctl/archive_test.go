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
	"strings"
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
	for path, query := range map[string]string{dir: "name=web&version=1", file: "filename=package.tar.gz&name=web&version=1"} {
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
			require.Equal(t, query, a.query)
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
		text:        "neither a program for Linux (ELF) nor a tar archive",
		os.DevNull:  "neither a directory nor a file",
		withSocket:  "s is a socket",
	} {
		r := newRun(f.URL)
		require.Equal(t, exitUsage, r.app.main(t.Context(), []string{"package", "create", path}), r.err)
		require.Contains(t, r.err.String(), says)
	}
}

func TestPackageCreateFromElsewhere(t *testing.T) {
	t.Parallel()
	dir := tree(t, 0)
	var packed bytes.Buffer
	require.NoError(t, writeArchive(&packed, dir))
	alone := filepath.Join(t.TempDir(), "server.manifest")
	require.NoError(t, os.WriteFile(alone, []byte(`{"Ports": [80]}`), 0o600))
	program := filepath.Join(t.TempDir(), "server")
	require.NoError(t, os.WriteFile(program, []byte("\x7fELF and so on"), 0o755))
	f := newFake(t, map[string]http.HandlerFunc{"POST /packages": answer(201, client.Package{ID: "pk1", Name: "web", Version: "1"})})
	last := func() request { all := f.asked(); return all[len(all)-1] }

	require.Equal(t, exitDone, newRun(f.URL).app.main(t.Context(), []string{"package", "create", "--oci", "ghcr.io/x/y:1", "--force", "--kernel", "linux"}))
	require.Equal(t, "force=true&kernel=linux&oci=ghcr.io%2Fx%2Fy%3A1", last().query)
	require.Empty(t, last().body)
	require.Equal(t, exitDone, newRun(f.URL).app.main(t.Context(), []string{"package", "create", "--deb", "a", "--deb", "b", "--manifest", dir}))
	require.Equal(t, "deb=a&deb=b", last().query)
	require.Equal(t, packed.String(), last().body)

	require.Equal(t, exitDone, newRun(f.URL).app.main(t.Context(), []string{"package", "create", program, "--manifest", alone}))
	require.Equal(t, "filename=server", last().query)
	first, rest, found := strings.Cut(last().body, "\r\n\r\n")
	require.True(t, found)
	require.Contains(t, first, `name="overlay"`)
	zipped, err := gzip.NewReader(strings.NewReader(rest))
	require.NoError(t, err)
	archive := tar.NewReader(zipped)
	h, err := archive.Next()
	require.NoError(t, err)
	require.Equal(t, "package.manifest", h.Name)
	body, err := io.ReadAll(archive)
	require.NoError(t, err)
	require.Equal(t, `{"Ports": [80]}`, string(body))
	require.Contains(t, rest, "\x7fELF and so on")

	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "x"}))
	require.NoError(t, w.Close())
	tarFile := filepath.Join(t.TempDir(), "x.tar")
	require.NoError(t, os.WriteFile(tarFile, plain.Bytes(), 0o600))
	require.Equal(t, exitDone, newRun(f.URL).app.main(t.Context(), []string{"package", "create", tarFile}))
	require.Equal(t, plain.String(), last().body)

	disk := filepath.Join(t.TempDir(), "x.qcow2")
	require.NoError(t, os.WriteFile(disk, []byte("QFI\xfb and so on"), 0o600))
	require.Equal(t, exitDone, newRun(f.URL).app.main(t.Context(), []string{"package", "create", "--disk", disk}))
	require.Equal(t, "disk=true&filename=x.qcow2", last().query)
	require.Equal(t, "QFI\xfb and so on", last().body)

	for says, args := range map[string][]string{
		"--disk": {dir, "--disk", disk}, "is a disk: to have it booted": {disk}, "no regular file": {"--disk", dir}, "reading the disk": {"--disk", "/does/not/exist"},
		"no source is named": nil, "one source": {dir, "--oci", "x"}, "a package has one source": {dir, dir}, "either": {"--oci", "x", "--deb", "y"},
		"has no package.manifest": {program, "--manifest", t.TempDir()}, "no such file": {program, "--manifest", "/does/not/exist"},
	} {
		r := newRun(f.URL)
		require.Equal(t, exitUsage, r.app.main(t.Context(), append([]string{"package", "create"}, args...)), says)
		require.Contains(t, r.err.String(), says)
	}
}

func TestPackageOfOPSByItsName(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	tarball := filepath.Join(home, "packages", "eyberg", "redis-server_7.2", "amd64.tar.gz")
	var body bytes.Buffer
	require.NoError(t, writeArchive(&body, tree(t, 0)))
	require.NoError(t, os.MkdirAll(filepath.Dir(tarball), 0o755))
	require.NoError(t, os.WriteFile(tarball, body.Bytes(), 0o600))
	unpacked := filepath.Join(home, "packages", "amd64", "eyberg", "node_v20")
	require.NoError(t, os.MkdirAll(filepath.Dir(unpacked), 0o755))
	require.NoError(t, os.Rename(tree(t, 0), unpacked))
	for ref, want := range map[string]string{"eyberg/redis-server:7.2": tarball, "eyberg/node:v20": unpacked} {
		s, err := packageSource(ref, home)
		require.NoError(t, err)
		require.Equal(t, want, s.path)
		r, err := s.open()
		require.NoError(t, err)
		sent, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.Equal(t, body.Bytes(), sent)
	}
	for _, ref := range []string{"eyberg/node:v21", "../redis-server:7.2", "eyberg/../x:1", "eyberg/node"} {
		_, err := packageSource(ref, home)
		require.ErrorContains(t, err, "no such file", ref)
	}
}
