package source

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// requireWhole checks what must hold of every package that is accepted: it can
// be stored and comes back as it was.
func requireWhole(t *testing.T, p *Package, limits Limits) {
	t.Helper()
	require.NoError(t, p.Tree.check(limits.withDefaults(), ""))
	path := filepath.Join(t.TempDir(), "p.tar")
	out, err := os.Create(path)
	require.NoError(t, err)
	digest, _, err := p.WriteCanonical(context.Background(), out)
	require.NoError(t, err)
	require.NoError(t, out.Close())
	back, err := Open(path, digest, limits)
	require.NoError(t, err)
	defer back.Close()
	require.Equal(t, digest, digestOf(t, back))
}

// FuzzReadAny reads whatever comes as a source would come from a user, and as
// an overlay over one.
func FuzzReadAny(f *testing.F) {
	raw := tarOf(f, app(symlink("sysroot/l", "/bin")), nil)
	f.Add(raw, tarOf(f, with(`{"Args":["x"]}`, file("sysroot/x", "")), nil))
	f.Add(archiveOf(f, app()), []byte{})
	f.Add([]byte(elfBytes), []byte("\x28\xb5\x2f\xfd"))
	f.Add(layoutOf(f, indexOf(richImage(f), nil)), archiveOf(f, with(`{"Env":{"A":"b"},"Program":"/usr/bin/app"}`)))
	f.Fuzz(func(t *testing.T, raw, over []byte) {
		o := Options{Name: "n", Version: "v", FileName: "f", SpoolDir: t.TempDir(), Limits: Limits{Members: 500, Bytes: 1 << 20, NameBytes: 1 << 16}}
		if len(over) > 0 {
			o.Overlay = bytes.NewReader(over)
		}
		p, err := ReadArchive(context.Background(), bytes.NewReader(raw), o)
		left, dirErr := os.ReadDir(o.SpoolDir)
		require.NoError(t, dirErr)
		require.Empty(t, left)
		if err != nil {
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%v", err)
			return
		}
		defer p.Close()
		requireWhole(t, p, o.Limits)
	})
}

// FuzzLayer lays any layer over another one, and the same again.
func FuzzLayer(f *testing.F) {
	f.Add(tarOf(f, []member{file("etc/.wh.gone", ""), file("cache/.wh..wh..opq", ""), file("lib/x", "2"), hardLink("etc/l", "lib/x"), dir("was-file"), symlink("bin", "usr/bin")}, nil))
	f.Add(tarOf(f, []member{file(".wh.etc", ""), {name: "dev/null", kind: tar.TypeChar}, symlink("a", "b"), symlink("b", "a"), file("c/d/e", "")}, nil))
	below := tarOf(f, []member{file("usr/bin/app", elfBytes), symlink("lib", "usr/lib"), file("etc/gone", "1"), file("cache/d/b", "1"), file("was-file", "1")}, nil)
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := newSpool(t.TempDir())
		require.NoError(t, err)
		defer s.f.Close()
		limits := Limits{Members: 300, Bytes: 1 << 20, NameBytes: 1 << 16}.withDefaults()
		l := newLayered(s, limits)
		require.NoError(t, l.add(context.Background(), bytes.NewReader(below), 1))
		for i := range 2 {
			if err := l.add(context.Background(), &boundedReader{r: bytes.NewReader(raw), left: limits.Bytes}, i+2); err != nil {
				require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%v", err)
				return
			}
		}
		tree, err := l.tree()
		if err != nil {
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%v", err)
			return
		}
		for _, name := range tree.paths() {
			clean, err := memberName(name)
			require.NoError(t, err)
			require.Equal(t, name, clean)
			if name != "" {
				require.Equal(t, Directory, tree.entries[parent(name)].Kind)
			}
			require.NotContains(t, "/"+name, "/"+whiteoutMeta)
		}
	})
}

// FuzzImageJSON reads any configuration and any index.
func FuzzImageJSON(f *testing.F) {
	img := richImage(f)
	config, err := img.RawConfigFile()
	require.NoError(f, err)
	manifest, err := img.RawManifest()
	require.NoError(f, err)
	layer := tarOf(f, []member{file("usr/bin/app", elfBytes)}, nil)
	one := fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q]},"config":{"Cmd":["/usr/bin/app"],"User":"1:2","Volumes":{"/x":{}},"ExposedPorts":{"80/tcp":{}}}}`, sha256Of(layer))
	f.Add(config, []byte(`[{"Config":"c.json","RepoTags":["a/b:1"],"Layers":["l.tar","l.tar","l.tar","l.tar"]}]`))
	f.Add(one, []byte(`[{"Config":"c.json","Layers":["l.tar"]}]`))
	f.Add(manifest, fmt.Appendf(nil, `{"manifests":[{"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"amd64"}}]}`, sha256Of(manifest), len(manifest)))
	f.Fuzz(func(t *testing.T, blob, index []byte) {
		for _, members := range [][]member{
			{file("manifest.json", string(index)), file("c.json", string(blob)), file("l.tar", string(layer))},
			{file("oci-layout", "{}"), file("index.json", string(index)), file("blobs/sha256/"+sha256Of(blob).Hex, string(blob)), file("blobs/sha256/"+sha256Of(layer).Hex, string(layer))},
		} {
			o := Options{Name: "n", Version: "v", SpoolDir: t.TempDir(), Limits: Limits{Members: 100, Bytes: 1 << 20, NameBytes: 1 << 16}}
			p, err := ReadArchive(context.Background(), bytes.NewReader(tarOf(t, members, nil)), o)
			if err != nil {
				require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%v", err)
				continue
			}
			requireWhole(t, p, o.Limits)
			require.NoError(t, p.Close())
		}
	})
}

// FuzzMergeManifests lays any manifest over any other.
func FuzzMergeManifests(f *testing.F) {
	f.Add([]byte(minimal), []byte(`{"Ports":[80],"RunConfig":{"Memory":"1G","Ports":["90"]},"Env":{"A":"b"},"Program":"/x"}`))
	f.Add([]byte(`{"Env":null,"Health":{"Path":"/x"},"Ports":["1/tcp"],"Args":["a"]}`), []byte(`{"env":{},"HEALTH":null,"ManifestPassthrough":{"a":1e99}}`))
	f.Fuzz(func(t *testing.T, under, over []byte) {
		merged, err := mergeManifests(under, over)
		if err == nil {
			_, err = ParseManifest(merged)
		}
		if err != nil {
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%v", err)
			return
		}
		// What was laid over is still there when it is laid over again.
		again, err := mergeManifests(merged, over)
		require.NoError(t, err)
		require.JSONEq(t, string(merged), string(again))
	})
}
