package nanos

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/source"
)

// fakeRelease is a release as far as a builder looks at it: nothing of it boots.
func fakeRelease(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	boot := bytes.Repeat([]byte{0x90}, 4*512)
	binary.LittleEndian.PutUint64(boot[regionAt+8:], 3*512)
	binary.LittleEndian.PutUint32(boot[regionAt+16:], regionType)
	boot[signatureAt], boot[signatureAt+1] = 0x55, 0xaa
	require.NoError(t, os.WriteFile(filepath.Join(dir, bootName), boot, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, kernelName), append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel"), 1000)...), 0o644))
	require.NoError(t, os.Mkdir(filepath.Join(dir, klibsDir), 0o755))
	for _, k := range []string{"shmem", "sandbox"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, klibsDir, k), []byte("klib "+k), 0o644))
	}
	return dir
}

// realRelease is the release that NANOS_DIR names, for tests that boot it.
func realRelease(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("NANOS_DIR")
	if dir == "" {
		t.Skip("NANOS_DIR names no Nanos release: nothing is booted")
	}
	return dir
}

// pack makes a package of a manifest and files: "->x" is a link to x, a name with a slash at its end a directory.
func pack(t testing.TB, manifest string, members map[string]string) *source.Package {
	t.Helper()
	var b bytes.Buffer
	zw, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	require.NoError(t, err)
	w := tar.NewWriter(zw)
	members = maps.Clone(members)
	members[source.ManifestName] = manifest
	for _, name := range slices.Sorted(maps.Keys(members)) {
		body := members[name]
		h := tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755}
		if target, link := strings.CutPrefix(body, "->"); link {
			h.Typeflag, h.Linkname, body = tar.TypeSymlink, target, ""
		} else if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		h.Size = int64(len(body))
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, body)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, zw.Close())
	p, err := source.ReadArchive(context.Background(), &b, source.Options{SpoolDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

const manifest = `{"Name":"app","Version":"1","Program":"/bin/app","Args":["-v"],"Env":{"A":"1"},"Persist":["/data","/var/lib/app"]}`

// app is a package with something of everything.
func app(t testing.TB) *source.Package {
	t.Helper()
	return pack(t, manifest, map[string]string{
		"sysroot/bin/app": "\x7fELF program", "sysroot/lib": "->usr/lib", "sysroot/usr/lib/big": strings.Repeat("0123456789", 70_000),
		"sysroot/usr/lib/empty": "", "sysroot/usr/lib/dir/": "", "sysroot/data/seed": "seed\n", "sysroot/var/lib/app/deep/x": "x\n",
		"sysroot/var/lib/app/l": "->deep/x", "sysroot/etc/passwd": "me\n",
	})
}

func buildImage(t testing.TB, k *Kernel, p *source.Package) (string, error) {
	t.Helper()
	digest, err := k.Digest(context.Background())
	require.NoError(t, err)
	dir := t.TempDir()
	return dir, k.Build(context.Background(), imagebuilder.BuildInput{
		Package: fleet.Package{Name: p.Name, Manifest: p.Manifest}, KernelDigest: digest, Tree: p.Tree,
	}, dir)
}

func mustBuild(t testing.TB, k *Kernel, p *source.Package) string {
	t.Helper()
	dir, err := buildImage(t, k, p)
	require.NoError(t, err)
	return dir
}
