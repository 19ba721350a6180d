package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
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

func TestImageFromEverywhere(t *testing.T) {
	t.Parallel()
	img := richImage(t)
	inLayout, err := readWith(t, layoutOf(t, indexOf(img, map[string]string{"io.containerd.image.name": "docker.io/repo/app:1.2"})), Options{})
	require.NoError(t, err)
	require.Equal(t, richFiles(), filesOf(t, inLayout))
	require.Equal(t, []string{"app", "1.2"}, []string{inLayout.Name, inLayout.Version})
	m := inLayout.Manifest
	require.Equal(t, "/usr/bin/app", m.Program)
	require.Equal(t, []string{"-v", "app"}, m.Args)
	require.Equal(t, map[string]string{"PATH": "/usr/bin:/opt", "MODE": "x=y"}, m.Env)
	require.Equal(t, []string{"/srv/work", "www:33"}, []string{m.Dir, m.User})
	require.Equal(t, []fleet.Port{{Number: 443, Protocol: fleet.ProtocolTCP}, {Number: 8080, Protocol: fleet.ProtocolTCP}}, m.Ports)
	require.Equal(t, []string{"/var/lib/app"}, m.Persist)
	for name, mode := range map[string]uint32{"/usr/bin/app": 0o4755, "/tmp": 0o1777, "/srv/work": 0o755, "/var/lib/app": 0o755} {
		e, err := inLayout.Tree.Lookup(name)
		require.NoError(t, err)
		require.Equal(t, mode, e.Mode, name)
	}
	said := strings.Join(inLayout.Warnings, "\n")
	for _, part := range []string{"below /dev was left out (1 members)", "other users than root own members of the layers (38)", `"53/udp", which is no TCP port`, `volume "/proc/x" is not kept`, "/var/lib/app is kept"} {
		require.Contains(t, said, part)
	}
	layers, err := img.Layers()
	require.NoError(t, err)
	for i, l := range layers {
		digest, err := l.Digest()
		require.NoError(t, err)
		require.Equal(t, Origin{Type: OriginOCI, Name: "app", Version: "1.2", Digest: digest.Hex}, inLayout.Origins[i])
	}
	e, err := inLayout.Tree.Lookup("/etc/linked")
	require.NoError(t, err)
	require.Equal(t, 2, e.Origin, "a hard link is of the layer of its file")
	want := digestOf(t, inLayout)

	gzipped, err := readWith(t, gzipOf(t, layoutOf(t, indexOf(img, nil)), gzip.BestSpeed), Options{Name: "app", Version: "1.2"})
	require.NoError(t, err)
	require.Equal(t, richFiles(), filesOf(t, gzipped))

	var saved bytes.Buffer
	tag, err := name.NewTag("repo/app:1.2")
	require.NoError(t, err)
	require.NoError(t, tarball.Write(tag, img, &saved))
	docker, err := readWith(t, saved.Bytes(), Options{})
	require.NoError(t, err)
	require.Equal(t, want, digestOf(t, docker))

	repository := serve(t, img, nil)
	pulled, err := pullFrom(t, repository+":1.2", Options{})
	require.NoError(t, err)
	require.Equal(t, want, digestOf(t, pulled))
	digest, err := img.Digest()
	require.NoError(t, err)
	byDigest, err := pullFrom(t, repository+"@"+digest.String(), Options{Version: "1.2"})
	require.NoError(t, err)
	require.Equal(t, richFiles(), filesOf(t, byDigest))
}

func TestImageUnderOverlay(t *testing.T) {
	t.Parallel()
	repository := serve(t, imageOf(t, v1.Config{Cmd: []string{"nothing-there"}}, layerOf(t, types.OCILayer, file("bin/a", elfBytes), file("etc/c", "1"))), nil)
	_, err := pullFrom(t, repository+":1.2", Options{})
	requireInvalid(t, err, "the image starts nothing-there, which it does not hold")
	over := tarOf(t, with(`{"Name":"mine","Program":"/bin/a","Args":["-x"],"Ports":[80]}`, file("sysroot/etc/c", "2")), nil)
	p, err := pullFrom(t, repository+":1.2", Options{Overlay: bytes.NewReader(over)})
	require.NoError(t, err)
	require.Equal(t, []string{"mine", "1.2", "/bin/a"}, []string{p.Name, p.Version, p.Manifest.Program})
	require.Equal(t, map[string]string{"bin/a": elfBytes, "etc/c": "2"}, filesOf(t, p))
	require.Equal(t, []string{"/etc/c was replaced by what sysroot lays over it"}, p.Warnings)
	_, err = pullFrom(t, repository+":1.2", Options{Overlay: bytes.NewReader(tarOf(t, with(`{}`), nil))})
	requireInvalid(t, err, "does not say which program")
}

func TestImageForMachines(t *testing.T) {
	t.Parallel()
	config := v1.Config{Cmd: []string{"/a"}}
	of := func(body string) v1.Image { return imageOf(t, config, layerOf(t, types.OCILayer, file("a", body))) }
	add := func(img v1.Image, os, arch, variant string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch, Variant: variant}}}
	}
	o := Options{Name: "a", Version: "1"}
	arm, amd := add(of(elfBytes+"arm"), "linux", "arm64", "v8"), add(of(elfBytes+"amd"), "linux", "amd64", "")
	for what, index := range map[string]v1.ImageIndex{
		"Flat":      mutate.AppendManifests(empty.Index, arm, amd, add(of(elfBytes+"v3"), "linux", "amd64", "v3")),
		"InAnIndex": mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: mutate.AppendManifests(empty.Index, arm, amd)}),
	} {
		p, err := readWith(t, layoutOf(t, index), o)
		require.NoError(t, err, what)
		require.Equal(t, map[string]string{"a": elfBytes + "amd"}, filesOf(t, p), what)
	}
	_, err := readWith(t, layoutOf(t, mutate.AppendManifests(empty.Index, arm, add(of("w"), "windows", "amd64", ""))), o)
	requireInvalid(t, err, "no image for linux/amd64, only for linux/arm64/v8, windows/amd64")
	_, err = readWith(t, layoutOf(t, mutate.AppendManifests(empty.Index, amd, add(of(elfBytes+"2"), "linux", "amd64", ""))), o)
	requireInvalid(t, err, "there are 2 images for linux/amd64")
	_, err = readWith(t, layoutOf(t, empty.Index), o)
	requireInvalid(t, err, "names no image")
	foreign, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "riscv64"})
	require.NoError(t, err)
	_, err = readWith(t, layoutOf(t, indexOf(foreign, nil)), o)
	requireInvalid(t, err, "the image is for linux/riscv64")
}

func TestImageRefused(t *testing.T) {
	t.Parallel()
	config := v1.Config{Cmd: []string{"/a"}}
	a := file("a", elfBytes)
	for what, c := range map[string]struct {
		members []member
		says    string
	}{
		"DotDot":        {[]member{a, file("../x", "")}, ".. in its name"},
		"Device":        {[]member{a, {name: "sda", kind: tar.TypeBlock}}, "is a device"},
		"DeviceByLink":  {[]member{a, symlink("d", "dev"), {name: "d/sda", kind: tar.TypeBlock}}, "is a device"},
		"Fifo":          {[]member{a, {name: "run/f", kind: tar.TypeFifo}}, "named pipe"},
		"LinkOut":       {[]member{a, symlink("l", "../x")}, "outside of the package"},
		"BelowLinkOut":  {[]member{a, symlink("l", "../x"), file("l/y", "")}, "leads out of the tree"},
		"HardLinkOut":   {[]member{a, hardLink("l", "../../etc/passwd")}, "points outside of the image"},
		"HardLinkAway":  {[]member{a, hardLink("l", "nothing")}, "which is no file of that layer"},
		"HardLinkToDir": {[]member{a, dir("d/"), hardLink("l", "d")}, "which is no file of that layer"},
		"BelowFile":     {[]member{a, file("a/b", "")}, "of which a part is a file"},
		"LinkLoop":      {[]member{a, symlink("l", "l"), file("l/x", "")}, "too many links"},
		"NotUTF8":       {[]member{a, file("\xff", "")}, "not UTF-8"},
		"LinkNotUTF8":   {[]member{a, symlink("l", "\xff")}, "not UTF-8"},
		"WhiteoutOfDot": {[]member{a, file("d/.wh...", "")}, "removes nothing that has a name"},
		"WhiteoutEmpty": {[]member{a, file("d/.wh.", "")}, "removes nothing that has a name"},
		"RootIsFile":    {[]member{a, symlink(".", "x")}, "replaces the image's root"},
		"Many":          {append([]member{a}, repeated(120)...), "more than 50 files"},
		"Big":           {[]member{a, file("b", strings.Repeat("x", 2<<20))}, "more than 1 MiB unpacked"},
		"ProgramGone":   {[]member{file(".wh.a", "")}, "the image starts /a, which it does not hold"},
	} {
		o := Options{Name: "a", Version: "1", Limits: Limits{Members: 50, Bytes: 1 << 20}}
		_, err := readWith(t, layoutOf(t, indexOf(imageOf(t, config, layerOf(t, types.OCILayer, c.members...)), nil)), o)
		require.ErrorContains(t, err, c.says, what)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), what)
	}
	_, err := readWith(t, layoutOf(t, indexOf(imageOf(t, v1.Config{}, layerOf(t, types.OCILayer, a)), nil)), Options{Name: "a", Version: "1"})
	requireInvalid(t, err, "does not say which program")
	_, err = readWith(t, layoutOf(t, indexOf(imageOf(t, config, layerOf(t, types.OCILayer, a)), nil)), Options{})
	requireInvalid(t, err, "has no name")
}

func repeated(n int) []member {
	var m []member
	for i := range n {
		m = append(m, file(fmt.Sprintf("f%03d", i), ""))
	}
	return m
}

// Layers that are each within the bounds are not together.
func TestImageBombs(t *testing.T) {
	t.Parallel()
	config, o := v1.Config{Cmd: []string{"/a"}}, Options{Name: "a", Version: "1", Limits: Limits{Members: 100, Bytes: 1 << 20}}
	var rewrites, empties []v1.Layer
	for i := range 4 {
		rewrites = append(rewrites, layerOf(t, types.OCILayer, file("a", elfBytes), file("same", fmt.Sprint(i)+strings.Repeat("x", 400<<10))))
		raw := append(tarOf(t, []member{file("a", elfBytes)}, nil), make([]byte, 700<<10+i)...)
		empties = append(empties, testLayer{static.NewLayer(gzipOf(t, raw, gzip.BestSpeed), types.OCILayer), sha256Of(raw)})
	}
	for _, layers := range [][]v1.Layer{rewrites, empties} {
		_, err := readWith(t, layoutOf(t, indexOf(imageOf(t, config, layers...), nil)), o)
		requireInvalid(t, err, "MiB unpacked")
	}
}

// An archive or registry that serves something else than what its digests say is found out.
func TestImageThatLies(t *testing.T) {
	t.Parallel()
	img := imageOf(t, v1.Config{Cmd: []string{"/a"}}, layerOf(t, types.OCILayer, file("a", elfBytes)), layerOf(t, types.OCILayer, file("b", "b")))
	other := imageOf(t, v1.Config{Cmd: []string{"/a"}}, layerOf(t, types.OCILayer, file("a", elfBytes+"evil")))
	digest := func(h v1.Hash, err error) string { require.NoError(t, err); return h.String() }
	layers, err := img.Layers()
	require.NoError(t, err)
	evil, err := other.Layers()
	require.NoError(t, err)
	content := func(r io.ReadCloser, err error) []byte {
		require.NoError(t, err)
		body, err := io.ReadAll(r)
		require.NoError(t, err)
		return body
	}
	evilManifest, err := other.RawManifest()
	require.NoError(t, err)
	evilConfig, err := other.RawConfigFile()
	require.NoError(t, err)
	for what, lie := range map[string]struct {
		of   string
		body []byte
	}{
		"Layer":     {digest(layers[0].Digest()), content(evil[0].Compressed())},
		"LayerCut":  {digest(layers[0].Digest()), content(layers[0].Compressed())[:20]},
		"LayerJunk": {digest(layers[1].Digest()), []byte("junk")},
		"LayerMore": {digest(layers[1].Digest()), append(content(layers[1].Compressed()), 0)},
		"Config":    {digest(img.ConfigName()), evilConfig},
		"Manifest":  {digest(img.Digest()), evilManifest},
	} {
		var lied bool
		repository := serve(t, img, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasSuffix(r.URL.Path, "/"+lie.of) || r.Method != http.MethodGet {
					h.ServeHTTP(w, r)
					return
				}
				lied = true
				if what == "Manifest" {
					w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
					w.Header().Set("Docker-Content-Digest", lie.of)
				}
				_, err := w.Write(lie.body)
				require.NoError(t, err)
			})
		})
		_, err := pullFrom(t, repository+"@"+digest(img.Digest()), Options{})
		require.True(t, lied, what)
		requireInvalid(t, err, "")
		require.Regexp(t, "lies|cut short", err.Error(), what)

		dir := t.TempDir()
		_, err = layout.Write(dir, indexOf(img, nil))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "blobs", strings.Replace(lie.of, ":", "/", 1)), lie.body, 0o600))
		_, err = readWith(t, tarDir(t, dir), Options{Name: "a", Version: "1"})
		requireInvalid(t, err, "lies")
	}

	// A config that names another content of the layer than there is.
	wrong := imageOf(t, v1.Config{Cmd: []string{"/a"}}, testLayer{evil[0], sha256Of([]byte("x"))})
	_, err = readWith(t, layoutOf(t, indexOf(wrong, nil)), Options{Name: "a", Version: "1"})
	requireInvalid(t, err, "the content of a layer is not what its digest")
}

func TestPullRefused(t *testing.T) {
	t.Parallel()
	img := imageOf(t, v1.Config{Cmd: []string{"/a"}}, layerOf(t, types.OCILayer, file("a", elfBytes)))
	repository := serve(t, img, nil)
	for ref, says := range map[string]string{
		repository + ":other": "has no image", repository + "@sha256:" + strings.Repeat("0", 64): "has no image", "UPPER CASE": "no image reference", "": "no image reference",
	} {
		_, err := pullFrom(t, ref, Options{})
		requireInvalid(t, err, says)
	}
	locked := serve(t, img, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	})
	_, err := pullFrom(t, locked+":1.2", Options{})
	requireInvalid(t, err, "only to those who log in")

	endless := serve(t, img, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				h.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
			for range maxAnswer>>16 + 2 {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return // as we want it: they hung up
				}
			}
		})
	})
	_, err = pullFrom(t, endless+":1.2", Options{})
	requireInvalid(t, err, "")

	gone := serve(t, img, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	})
	_, err = pullFrom(t, gone+":1.2", Options{})
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Pull(ctx, repository+":1.2", Options{SpoolDir: t.TempDir()})
	require.ErrorIs(t, err, context.Canceled)
}

func TestPlainHTTPIsLoopbacks(t *testing.T) {
	t.Parallel()
	answers := roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("ok")), Header: http.Header{}}, nil
	})
	for _, c := range []struct {
		url      string
		loopback bool
		ok       bool
	}{
		{"http://registry.example/v2/", false, false}, {"http://10.0.0.1:5000/v2/", false, false}, {"https://registry.example/v2/", false, true},
		{"http://127.0.0.1:5000/v2/", true, true}, {"http://[::1]:5000/v2/", true, true}, {"http://localhost:5000/v2/", true, true},
		{"http://127.0.0.1:5000/v2/", false, false}, {"http://registry.example/redirected", true, false},
	} {
		r, err := http.NewRequest(http.MethodGet, c.url, nil)
		require.NoError(t, err)
		answer, err := (&carefulTransport{inner: answers, loopback: c.loopback, blobs: 10}).RoundTrip(r)
		if c.ok {
			require.NoError(t, err, c.url)
			require.NoError(t, answer.Body.Close())
			continue
		}
		requireInvalid(t, err, "plain http")
	}
	for host, is := range map[string]bool{"localhost": true, "localhost:5000": true, "127.0.0.2:80": true, "[::1]:80": true, "localhost.example:80": false, "10.0.0.1": false, "127.0.0.1.example": false} {
		require.Equal(t, is, isLoopback(host), host)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
