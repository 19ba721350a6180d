package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

func imageRoutes() map[string]http.HandlerFunc {
	ready := client.Image{ID: strings.Repeat("a1", 32), State: "ready", Kernel: "linux", KernelDigest: strings.Repeat("b", 64), PackageName: "web", PackageVersion: "1.0",
		PackageDigest: strings.Repeat("c", 64), BuilderVersion: "2", SizeBytes: 12 << 20, CreatedAt: noon.Add(-2 * time.Hour), UsedAt: noon.Add(-time.Minute), Log: []string{"0.1s built"}}
	building := client.Image{ID: strings.Repeat("b2", 32), State: "building", Kernel: "linux", PackageName: "web", PackageVersion: "1.1", StartedAt: noon.Add(-time.Second), DoneBytes: 30, TotalBytes: 60}
	failed := client.Image{ID: strings.Repeat("c3", 32), State: "failed", Detail: "no\x1b luck"}
	noList := ready
	noList.Log = nil
	old := "{\"path\":\"/\",\"kind\":\"directory\",\"mode\":493,\"size_bytes\":0}\n" +
		"{\"path\":\"/a\",\"kind\":\"file\",\"mode\":420,\"size_bytes\":5,\"sha256\":\"x\"}\n" +
		"{\"path\":\"/b\",\"kind\":\"symlink\",\"mode\":511,\"size_bytes\":0,\"target\":\"a\"}\n" +
		"{\"path\":\"/s\",\"kind\":\"file\",\"mode\":2541,\"size_bytes\":7,\"sha256\":\"y\"}\n"
	newer := "{\"path\":\"/\",\"kind\":\"directory\",\"mode\":493,\"size_bytes\":0}\n" +
		"{\"path\":\"/a\",\"kind\":\"file\",\"mode\":420,\"size_bytes\":5,\"sha256\":\"z\"}\n" +
		"{\"path\":\"/c\",\"kind\":\"file\",\"mode\":420,\"size_bytes\":0,\"sha256\":\"e\"}\n" +
		"{\"path\":\"/s\",\"kind\":\"file\",\"mode\":493,\"size_bytes\":7,\"sha256\":\"y\"}\n"
	lines := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
	}
	return map[string]http.HandlerFunc{
		"GET /images":                    answer(200, client.Page[client.Image]{Items: []client.Image{noList, building, failed}}),
		"GET /images/web@1.0":            answer(200, ready),
		"GET /images/bad":                answer(200, failed),
		"POST /images":                   answer(200, ready),
		"GET /images/web@1.0/files":      lines(old),
		"GET /images/web@1.1/files":      lines(newer),
		"GET /images/web@1.0/content":    lines("hello\n"),
		"GET /images/web@1.0/sbom":       lines("{\"bomFormat\":\"CycloneDX\"}"),
		"GET /images/web@1.0/export":     lines("disk"),
		"GET /images/web@1.0/provenance": lines("{\"_type\":\"x\"}"),
		"DELETE /images/" + ready.ID:     answer(204, nil),
		"GET /images/used":               answer(200, building),
		"DELETE /images/" + building.ID:  refuse(409, client.KindNotAccepted, "an instance is made of it"),
		"GET /images/none":               refuse(404, client.KindNotFound, "there is no image none"),
		"POST /packages/web@1.0/trace":   answer(200, client.Trace{Evidence: []string{"Nanos has no system call x"}, Exit: &client.Exit{Code: 3}, Lines: []string{"x() = -ENOSYS"}}),
		"GET /kernels": answer(200, client.Page[client.Kernel]{Items: []client.Kernel{
			{Kind: "nanos", SHA256: strings.Repeat("d", 64), URL: "https://example.com/a/nanos-1.tar.gz?x=1", Current: true, CreatedAt: noon.Add(-time.Hour)}}}),
		"POST /kernels":                 answer(201, client.Kernel{Kind: "nanos", SHA256: strings.Repeat("d", 64)}),
		"GET /instances":                answer(200, client.Page[client.InstanceDetail]{Items: []client.InstanceDetail{detail()}}),
		"GET /instances/" + detail().ID: answer(200, detail()),
	}
}

func detail() client.InstanceDetail {
	return client.InstanceDetail{
		Instance:       client.Instance{ID: "x1", Host: "host1", Power: "on", Image: strings.Repeat("a1", 32), MemoryMiB: 128, CreatedAt: noon.Add(-time.Hour)},
		InstallationID: "i1", Installation: "acme", Owner: "alice", Cluster: "local", Role: "application", Serving: true, Kernel: "nanos", VCPUs: 1,
		Address: "10.77.0.2/20", MAC: "52:54:00:00:00:02",
		Endpoints: []client.Endpoint{{Port: 80, Protocol: "http", Address: "10.77.0.2:80"}, {Port: 1883, Protocol: "tcp", Address: "10.77.0.2:1883"}},
	}
}

func TestImageGoldens(t *testing.T) {
	t.Parallel()
	goldens(t, newFake(t, imageRoutes()), map[string]string{
		"image-list": "image list", "image-get": "image get web@1.0", "image-failed": "image get bad", "image-ls": "image ls web@1.0",
		"image-diff": "image diff web@1.0 web@1.1", "instance-list": "instance list", "instance-get": "instance get x1", "kernel-list": "kernel list", "package-trace": "package trace web@1.0 --for 5s",
	})
}

func TestImageCommands(t *testing.T) {
	t.Parallel()
	f := newFake(t, imageRoutes())
	for line, want := range map[string]string{
		"image cat web@1.0 /a":                         "hello\n",
		"image sbom web@1.0":                           "{\"bomFormat\":\"CycloneDX\"}",
		"image export web@1.0 --format raw --out -":    "disk",
		"image provenance web@1.0":                     "{\"_type\":\"x\"}\n",
		"image delete web@1.0":                         "deleted " + strings.Repeat("a1", 32) + "\n",
		"image diff web@1.0 web@1.0":                   "",
		"kernel add nanos --url http://x/y --sha256 d": "nanos dddddddddddd: new images are built with it\n",
		"image ls web@1.0 -o json /b":                  "[",
	} {
		r := newRun(f.URL)
		require.Equal(t, exitDone, r.line(t, line), "%s: %s", line, r.err.String())
		require.True(t, strings.HasPrefix(r.out.String(), want), "%s: %s", line, r.out.String())
	}
	out := filepath.Join(t.TempDir(), "web.ova")
	r := newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "image export web@1.0 --format ova --memory 512MiB --out "+out), r.err.String())
	require.Equal(t, "format=ova&memory_mib=512", f.asked()[len(f.asked())-1].query)
	body, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "disk", string(body))
	require.NotEqual(t, exitDone, newRun(f.URL).line(t, "image export none --format ova --out "+out+".other"))
	require.NoFileExists(t, out+".other")
	require.NotEqual(t, exitDone, newRun(f.URL).line(t, "image export web@1.0 --format iso --out "+out))
	r = newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "image build web"))
	require.Contains(t, r.out.String(), "web@1.0")
	for _, line := range []string{"image delete used", "image get none", "image ls", "image cat web@1.0"} {
		r := newRun(f.URL)
		require.NotEqual(t, exitDone, r.line(t, line), line)
		require.NotEmpty(t, r.err.String(), line)
	}
}
