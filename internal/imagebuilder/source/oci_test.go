package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

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
	huge := imageOf(t, config, testLayer{static.NewLayer(make([]byte, 1<<20+1), types.OCILayer), sha256Of(nil)})
	_, err := pullFrom(t, serve(t, huge, nil)+":1.2", Options{Limits: Limits{Bytes: 1 << 20}})
	requireInvalid(t, err, "more than 1 MiB unpacked")
	for _, layers := range [][]v1.Layer{rewrites, empties} {
		_, err := readWith(t, layoutOf(t, indexOf(imageOf(t, config, layers...), nil)), o)
		requireInvalid(t, err, "MiB unpacked")
	}
}

// What an image's configuration says at length is cut, not passed on.
func TestImageThatTalksTooMuch(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100_000)
	config := v1.Config{Cmd: []string{"/a"}, ExposedPorts: map[string]struct{}{long: {}}, Volumes: map[string]struct{}{"/" + long: {}}}
	for i := range 1000 {
		config.ExposedPorts[fmt.Sprintf("%d/udp", i)] = struct{}{}
	}
	a := layerOf(t, types.OCIUncompressedLayer, file("a", elfBytes))
	p, err := readWith(t, layoutOf(t, indexOf(imageOf(t, config, a), nil)), Options{Name: "a", Version: "1"})
	require.NoError(t, err)
	require.LessOrEqual(t, len(p.Warnings), maxReplaced+1)
	require.Less(t, len(strings.Join(p.Warnings, "")), 20_000)
	for _, c := range []v1.Config{{Cmd: []string{long}}, {Cmd: []string{"/" + long}}, {Cmd: []string{"x"}, Env: []string{"PATH=" + long}}} {
		_, err = readWith(t, layoutOf(t, indexOf(imageOf(t, c, a), nil)), Options{Name: "a", Version: "1"})
		requireInvalid(t, err, "which it does not hold")
		require.Less(t, len(err.Error()), 2000)
	}
}
