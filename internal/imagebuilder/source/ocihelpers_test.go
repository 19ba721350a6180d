package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// layerOf is a layer of those members, compressed as its media type says.
func layerOf(t testing.TB, kind types.MediaType, members ...member) v1.Layer {
	t.Helper()
	raw := tarOf(t, members, func(h *tar.Header) { h.Uid, h.Gid = 1000, 1000 })
	stored := raw
	switch kind {
	case types.OCILayer, types.DockerLayer:
		stored = gzipOf(t, raw, gzip.BestSpeed)
	case types.OCILayerZStd:
		w, err := zstd.NewWriter(nil)
		require.NoError(t, err)
		stored = w.EncodeAll(raw, nil)
	}
	return testLayer{static.NewLayer(stored, kind), sha256Of(raw)}
}

// testLayer knows the digest of what is in it.
type testLayer struct {
	v1.Layer
	diffID v1.Hash
}

func (l testLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }

func imageOf(t testing.TB, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(mutate.MediaType(empty.Image, types.OCIManifestSchema1), &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: config})
	require.NoError(t, err)
	img, err = mutate.AppendLayers(img, layers...)
	require.NoError(t, err)
	return img
}

// richImage has four layers with all that layers can do to one another.
func richImage(t testing.TB) v1.Image {
	t.Helper()
	return imageOf(t,
		v1.Config{
			Entrypoint: []string{"app"}, Cmd: []string{"-v", "app"}, Env: []string{"PATH=/usr/bin:/opt", "MODE=x=y", "broken"}, WorkingDir: "/srv/work", User: "www:33",
			ExposedPorts: map[string]struct{}{"8080/tcp": {}, "53/udp": {}, "443": {}}, Volumes: map[string]struct{}{"/var/lib/app/": {}, "/proc/x": {}},
		},
		layerOf(t, types.OCILayer, dir("usr/"), dir("usr/lib/"), symlink("lib", "usr/lib"), file("usr/bin/app", elfBytes), file("etc/gone", "1"), file("etc/kept", "1"),
			file("cache/a", "1"), file("cache/d/b", "1"), file("was-file", "1"), dir("was-dir/"), file("was-dir/x", "1"), file("was-link-target/y", "1"), symlink("was-link", "was-link-target"),
			member{name: "dev/null", kind: tar.TypeChar}, file("dead/x", "1"), file("etc/twin", "twin")),
		// A whiteout is of the layers below, wherever it stands: before and behind what the layer adds.
		layerOf(t, types.OCILayerZStd, file("etc/.wh.gone", ""), file("cache/new", "2"), file("cache/.wh..wh..opq", ""), file("lib/liba.so", "2"), file("/absolute", "2"),
			dir("was-file"), file("was-file/now-dir", "2"), file("etc/.wh.never-was", ""), file("nowhere/.wh.x", ""), file(".wh.dead", ""), file("dead/y", "2"), file(".wh..wh.plnk/1.2", "")),
		layerOf(t, types.OCIUncompressedLayer, file("was-dir", "3"), hardLink("etc/linked", "lib/liba.so"), hardLink("etc/again", "etc/linked"), dir("was-link/"), file("was-link/z", "3"),
			member{name: "usr/bin/app", body: elfBytes + "3", mode: 0o4755}, file("etc/twin", "new twin")),
		layerOf(t, types.OCILayer, file("usr/lib/.wh.liba.so", ""), dir("tmp/"), member{name: "tmp", kind: tar.TypeDir, mode: 0o1777}),
	)
}

// richFiles is what must be left of richImage.
func richFiles() map[string]string {
	return map[string]string{
		"absolute": "2", "cache/new": "2", "dead/y": "2", "etc/again": "2", "etc/kept": "1", "etc/linked": "2", "etc/twin": "new twin", "lib": "-> usr/lib",
		"usr/bin/app": elfBytes + "3", "was-dir": "3", "was-file/now-dir": "2", "was-link-target/y": "1", "was-link/z": "3",
	}
}

func filesOf(t testing.TB, p *Package) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, p.Tree.Walk(func(e Entry) error {
		switch e.Kind {
		case Symlink:
			files[e.Path] = "-> " + e.Target
		case File:
			body, err := io.ReadAll(p.Tree.Content(e))
			require.NoError(t, err)
			files[e.Path] = string(body)
		}
		return nil
	}))
	return files
}

// tarDir packs a directory of this host.
func tarDir(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.AddFS(os.DirFS(dir)))
	require.NoError(t, w.Close())
	return b.Bytes()
}

func layoutOf(t testing.TB, index v1.ImageIndex) []byte {
	t.Helper()
	dir := t.TempDir()
	_, err := layout.Write(dir, index)
	require.NoError(t, err)
	return tarDir(t, dir)
}

func indexOf(img v1.Image, annotations map[string]string) v1.ImageIndex {
	return mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Annotations: annotations}})
}

// serve is a registry on loopback that holds the image as repo/app:1.2.
func serve(t testing.TB, img v1.Image, change func(http.Handler) http.Handler) string {
	t.Helper()
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	upload := httptest.NewServer(handler)
	defer upload.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(upload.URL, "http://") + "/repo/app:1.2")
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, img))
	if change != nil {
		handler = change(handler)
	}
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://") + "/repo/app"
}

func pullFrom(t testing.TB, ref string, o Options) (*Package, error) {
	t.Helper()
	o.SpoolDir = t.TempDir()
	p, err := Pull(context.Background(), ref, o)
	if err == nil {
		t.Cleanup(func() { require.NoError(t, p.Close()) })
	}
	left, readErr := os.ReadDir(o.SpoolDir)
	require.NoError(t, readErr)
	require.Empty(t, left)
	return p, err
}
