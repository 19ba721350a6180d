package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// packed is a tar of those members, in order. A body of "" with a link is a
// symbolic link; a name that ends with a slash is a directory.
type packed []struct{ name, body, link string }

func (p packed) tar(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range p {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: 0o755, Size: int64(len(m.body))}
		if m.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, m.link
		} else if m.name[len(m.name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := w.Write([]byte(m.body))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// savedImage is what `docker save` writes of an image of those layers.
func savedImage(t *testing.T, config map[string]any, layers ...packed) []byte {
	t.Helper()
	var diffIDs, names []string
	var all packed
	for _, l := range layers {
		raw := l.tar(t)
		sum := sha256.Sum256(raw)
		digest := hex.EncodeToString(sum[:])
		diffIDs, names = append(diffIDs, "sha256:"+digest), append(names, digest+"/layer.tar")
		all = append(all, packed{{name: digest + "/layer.tar", body: string(raw)}}...)
	}
	raw, err := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "config": config, "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}})
	require.NoError(t, err)
	sum := sha256.Sum256(raw)
	name := hex.EncodeToString(sum[:]) + ".json"
	index, err := json.Marshal([]map[string]any{{"Config": name, "RepoTags": []string{"example/imaged:1.4"}, "Layers": names}})
	require.NoError(t, err)
	return append(all, packed{{name: name, body: string(raw)}, {name: "manifest.json", body: string(index)}}...).tar(t)
}

// requireFiles reads files in the guest; "" is one that must not be there.
func requireFiles(t *testing.T, e *harness.Environment, name string, files map[string]string) {
	t.Helper()
	for path, want := range files {
		a, err := e.Visit(t.Context(), name, "GET", "/files"+path, "")
		require.NoError(t, err)
		if want == "" {
			require.Equal(t, 404, a.Status, path)
			continue
		}
		require.Equal(t, 200, a.Status, "%s: %s", path, a.Body)
		require.Equal(t, want, a.Body, path)
	}
}

// TestPackagesOfOtherWorlds runs a container image of three layers and a
// package of OPS's as tenants, as their users have them.
func TestPackagesOfOtherWorlds(t *testing.T) {
	t.Parallel()
	e := suite.Shared(t)
	program, err := os.ReadFile(filepath.Join(suite.Program(t, "e2e/guestprobe"), "program"))
	require.NoError(t, err)
	create := func(t *testing.T, name, file string, content []byte, more ...string) client.Installation {
		t.Helper()
		file = filepath.Join(t.TempDir(), file)
		require.NoError(t, os.WriteFile(file, content, 0o600))
		p := decoded[client.Package](t, ctl(t, e, append([]string{"-o", "json", "package", "create", file}, more...)...).Stdout)
		in := installation(t, e, "create", name, "--owner", "dave", "--cluster", harness.Cluster, "--package", p.Name+"@"+p.Version, "--memory", "128MiB", "--wait", "--timeout", "10m")
		require.Equal(t, "stable", in.State)
		return in
	}
	type report struct {
		Env map[string]string `json:"env"`
	}

	t.Run("Image", func(t *testing.T) {
		image := savedImage(t,
			map[string]any{"Entrypoint": []string{"probe"}, "Env": []string{"PATH=/bin", "PLAIN=of the image"}, "ExposedPorts": map[string]any{"8080/tcp": map[string]any{}}, "Volumes": map[string]any{"/data": map[string]any{}}},
			packed{{name: "usr/bin/", body: ""}, {name: "usr/bin/probe", body: string(program)}, {name: "bin", link: "usr/bin"}, {name: "srv/one", body: "of the first layer"},
				{name: "srv/secret", body: "s"}, {name: "cache/old", body: "old"}, {name: "srv/was-file", body: "f"}},
			packed{{name: "srv/one", body: "of the second layer"}, {name: "srv/.wh.secret", body: ""}, {name: "bin/helper", body: "below the link"}},
			packed{{name: "cache/.wh..wh..opq", body: ""}, {name: "cache/new", body: "new"}, {name: "srv/was-file/", body: ""}, {name: "srv/was-file/x", body: "in a directory"}})
		manifest := filepath.Join(t.TempDir(), "http.manifest")
		require.NoError(t, os.WriteFile(manifest, []byte(`{"Ports": [8080], "Env": {"PASSWORD": "laid over"}}`), 0o600))
		in := create(t, "imaged", "image.tar", image, "--manifest", manifest)
		require.Equal(t, "imaged@1.4", in.Package)
		require.Equal(t, map[string]string{"PLAIN": "of the image", "PASSWORD": "laid over"}, visit[report](t, e, "imaged", "/").Env)
		requireFiles(t, e, "imaged", map[string]string{
			"/srv/one": "of the second layer", "/srv/secret": "", "/cache/old": "", "/cache/new": "new", "/usr/bin/helper": "below the link", "/srv/was-file/x": "in a directory",
		})
		deleteAndLook(t, e, in)
	})
	t.Run("OPS", func(t *testing.T) {
		in := create(t, "opsed", "amd64.tar.gz", packed{
			{name: "opsed_v2.1/", body: ""}, {name: "opsed_v2.1/program", body: string(program)}, {name: "opsed_v2.1/sysroot/etc/motd", body: "of OPS"}, {name: "opsed_v2.1/sysroot/data/", body: ""},
			{name: "opsed_v2.1/package.manifest", body: `{"Program": "opsed_v2.1/program", "Args": ["program"], "Version": "v2.1", "Env": {"PLAIN": "of OPS"}, "Mounts": {"data": "/data"}, "RunConfig": {"Ports": ["8080"], "Memory": "64m"}}`},
		}.tar(t))
		require.Equal(t, "opsed@v2.1", in.Package)
		require.Equal(t, map[string]string{"PLAIN": "of OPS"}, visit[report](t, e, "opsed", "/").Env)
		requireFiles(t, e, "opsed", map[string]string{"/etc/motd": "of OPS"})
		deleteAndLook(t, e, in)
	})
}
