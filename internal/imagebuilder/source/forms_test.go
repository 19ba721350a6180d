package source

import (
	"bytes"
	"compress/gzip"
	"context"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestProgramByItself(t *testing.T) {
	t.Parallel()
	body := []byte(elfBytes + strings.Repeat("x", 100_000))
	p, err := readWith(t, body, Options{FileName: "dir/My_Server"})
	require.NoError(t, err)
	require.Equal(t, []string{"my-server", sha256Of(body).Hex[:12], "/my-server"}, []string{p.Name, p.Version, p.Manifest.Program})
	require.Equal(t, map[string]string{"my-server": string(body)}, filesOf(t, p))
	require.Equal(t, []Origin{{Type: OriginFile, Name: "my-server", Version: p.Version, Digest: sha256Of(body).Hex}}, p.Origins)
	require.Equal(t, fleet.HealthNone, p.Manifest.Health.Type)

	p, err = readWith(t, gzipOf(t, body, gzip.BestSpeed), Options{Name: "x", Version: "2", Overlay: bytes.NewReader(archiveOf(t, with(`{"Ports": [80], "Args": ["-p", "80"]}`)))})
	require.NoError(t, err)
	require.Equal(t, []string{"x", "2", "/x"}, []string{p.Name, p.Version, p.Manifest.Program})
	require.Equal(t, []string{"-p", "80"}, p.Manifest.Args)

	_, err = readWith(t, body, Options{})
	requireInvalid(t, err, "has no name")
	_, err = readWith(t, body, Options{Name: "x", Limits: Limits{Bytes: 1000}})
	requireInvalid(t, err, "unpacked")
}

func TestFormsOfArchive(t *testing.T) {
	t.Parallel()
	raw := tarOf(t, app(), nil)
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	want := digestOf(t, mustRead(t, app()))
	zst := w.EncodeAll(raw, nil)
	for what, body := range map[string][]byte{"Plain": raw, "Gzip": gzipOf(t, raw, gzip.BestCompression), "Zstd": zst} {
		p, err := readWith(t, body, Options{})
		require.NoError(t, err, what)
		require.Equal(t, want, digestOf(t, p), what)
	}
	for cut := 0; cut < len(zst); cut += 7 {
		_, err := readWith(t, zst[:cut], Options{})
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "cut at %d: %v", cut, err)
	}
	for i := range zst {
		bad := bytes.Clone(zst)
		bad[i] ^= 0x55
		if _, err := readWith(t, bad, Options{}); err != nil {
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "byte %d: %v", i, err)
		}
	}
	for body, says := range map[string]string{
		"": "is empty", "something": "neither a program (ELF) nor a tar archive", strings.Repeat("x", 2000): "neither a program",
		"PK\x03\x04 and so on": "a zip archive", "QFI\xfb": "a qcow2 disk", "#!/bin/sh\n": "a script", "!<arch>\ndebian-binary": "a Debian package",
	} {
		_, err := readWith(t, []byte(body), Options{})
		requireInvalid(t, err, says)
	}
}

// As its users have one: NAME_VERSION/ with the program beside sysroot, and keys of OPS's configuration.
func TestTarballOfOPS(t *testing.T) {
	t.Parallel()
	members := with(`{"Program": "redis-server_v7.2/redis-server", "Args": ["redis-server", "--port", "6379"], "Version": "7.2", "Language": "c", "Runtime": "",
		"Description": "d", "Env": {"A": "b"}, "MapDirs": {"conf/*": "/etc/redis"}, "Mounts": {"data": "/data"}, "RunConfig": {"Ports": ["6379"], "Memory": "128M"}}`,
		file("redis-server", elfBytes), dir("sysroot"), dir("sysroot/data"), file("conf/redis.conf", "c"), file("README.md", "d"))
	for i := range members {
		members[i].name = "redis-server_v7.2/" + members[i].name
	}
	members = append([]member{dir("redis-server_v7.2/")}, members...)
	p := mustRead(t, members)
	require.Equal(t, []string{"redis-server", "7.2", "/redis-server"}, []string{p.Name, p.Version, p.Manifest.Program})
	require.Equal(t, []string{"--port", "6379"}, p.Manifest.Args)
	require.Equal(t, []string{"/data"}, p.Manifest.Persist)
	require.Equal(t, map[string]string{"redis-server": elfBytes, "etc/redis/redis.conf": "c"}, filesOf(t, p))
}

func TestOverlayIsReadFirst(t *testing.T) {
	t.Parallel()
	var order []string
	note := func(what string, body []byte) readerFunc {
		r := bytes.NewReader(body)
		return func(p []byte) (int, error) {
			if len(order) == 0 || order[len(order)-1] != what {
				order = append(order, what)
			}
			return r.Read(p)
		}
	}
	p, err := ReadArchive(context.Background(), note("source", archiveOf(t, app())), Options{SpoolDir: t.TempDir(), Overlay: note("overlay", archiveOf(t, with(`{}`)))})
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.Equal(t, []string{"overlay", "source"}, order)
}
