package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func imageOfDigits(d string) fleet.ImageID { return fleet.ImageID(strings.Repeat(d, 64)) }

func TestImages(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	p := h.upload(t, "workspace", "1.0", "content")
	now := time.Now().UTC()
	h.images.images = []fleet.Image{
		{ID: imageOfDigits("a"), State: fleet.ImageReady, PackageName: "x", SizeBytes: 5, CreatedAt: now, UsedAt: now, Log: []string{"built"}},
		{ID: imageOfDigits("b"), State: fleet.ImageBuilding, StartedAt: now, DoneBytes: 1, TotalBytes: 2},
		{ID: imageOfDigits("c"), State: fleet.ImageFailed, Detail: "no luck"},
	}
	page := call[client.Page[client.Image]](t, h, http.StatusOK, "GET", "/api/v1/images?limit=2", "")
	require.Len(t, page.Items, 2)
	require.Empty(t, page.Items[0].Log)
	rest := call[client.Page[client.Image]](t, h, http.StatusOK, "GET", "/api/v1/images?limit=2&cursor="+page.NextCursor, "")
	require.Len(t, rest.Items, 1)
	require.Equal(t, "no luck", rest.Items[0].Detail)
	require.Empty(t, rest.NextCursor)

	one := call[client.Image](t, h, http.StatusOK, "GET", "/api/v1/images/aaaaaaaa", "")
	require.Equal(t, []string{"built"}, one.Log)
	require.Equal(t, http.StatusNotFound, h.call(t, "GET", "/api/v1/images/"+string(imageOfDigits("d")), "").Code)
	require.Equal(t, http.StatusNotFound, h.call(t, "GET", "/api/v1/images/..x", "").Code)
	require.Equal(t, http.StatusNotFound, h.call(t, "GET", "/api/v1/images/workspace@1.0", "").Code, "it is not built")

	built := call[client.Image](t, h, http.StatusOK, "POST", "/api/v1/images", `{"package":"workspace@1.0"}`)
	require.Equal(t, []string{p.Name + "@" + p.Version}, h.images.built)
	require.Equal(t, built, call[client.Image](t, h, http.StatusOK, "GET", "/api/v1/images/workspace@1.0", ""))
	for body, code := range map[string]int{`{"package":"none@1"}`: 404, `{"package":"a b"}`: 400, `{}`: 400, `{"package":null}`: 400, `{"pkg":"x"}`: 400} {
		require.Equal(t, code, h.call(t, "POST", "/api/v1/images", body).Code, body)
	}

	h.images.images = append(h.images.images, fleet.Image{ID: imageOfDigits("a")[:63] + "b"})
	require.Contains(t, h.call(t, "GET", "/api/v1/images/aaaaaaaa", "").Body.String(), "several images begin with aaaaaaaa")

	h.images.inUse = imageOfDigits("b")
	require.Equal(t, http.StatusConflict, h.call(t, "DELETE", "/api/v1/images/"+string(imageOfDigits("b")), "").Code)
	require.Equal(t, http.StatusNoContent, h.call(t, "DELETE", "/api/v1/images/"+string(imageOfDigits("c")), "").Code)
	require.Equal(t, http.StatusNotFound, h.call(t, "DELETE", "/api/v1/images/"+string(imageOfDigits("c")), "").Code)
}

func TestImageContents(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.images.images = []fleet.Image{{ID: imageOfDigits("a"), State: fleet.ImageReady}}
	base := "/api/v1/images/" + string(imageOfDigits("a"))
	w := h.call(t, "GET", base+"/files?path=/&digests=true", "")
	require.Equal(t, "application/x-ndjson", w.Header().Get("Content-Type"))
	require.Equal(t, `{"path":"/a","kind":"file","mode":0,"size_bytes":5,"sha256":"abc"}`+"\n"+
		`{"path":"/b","kind":"symlink","mode":0,"size_bytes":0,"target":"a"}`+"\n", w.Body.String())
	require.Equal(t, http.StatusBadRequest, h.call(t, "GET", base+"/files?digests=yes", "").Code)
	require.Equal(t, http.StatusNotFound, h.call(t, "GET", base+"/files?path=/none", "").Code)

	w = h.call(t, "GET", base+"/content?path=/a", "")
	require.Equal(t, "hello", w.Body.String())
	require.Equal(t, "5", w.Header().Get("Content-Length"))
	require.Equal(t, http.StatusNotFound, h.call(t, "GET", base+"/content?path=/b", "").Code)
	require.Equal(t, http.StatusBadRequest, h.call(t, "GET", base+"/content", "").Code)
	h.images.content = ""
	require.Equal(t, http.StatusOK, h.call(t, "GET", base+"/content?path=/a", "").Code, "an empty file")

	require.JSONEq(t, `{"_type":"x"}`, h.call(t, "GET", base+"/provenance", "").Body.String())

	require.JSONEq(t, `{"bomFormat":"CycloneDX"}`, h.call(t, "GET", base+"/sbom", "").Body.String())
	w = h.call(t, "GET", base+"/export?format=ova&memory_mib=512&vcpus=2&volume_mib=64&uefi=true", "")
	require.Equal(t, "disk", w.Body.String())
	require.Equal(t, `attachment; filename=web-1.ova`, w.Header().Get("Content-Disposition"))
	require.Equal(t, fleet.ImageExport{Format: "ova", MemoryMiB: 512, VCPUs: 2, VolumeMiB: 64, UEFI: true}, h.images.exported)
	for _, query := range []string{"", "?format=iso", "?format=ova&memory_mib=0", "?format=ova&vcpus=x", "?format=ova&uefi=1", "?format=ova&disk=1"} {
		require.Equal(t, http.StatusBadRequest, h.call(t, "GET", base+"/export"+query, "").Code, query)
	}

	// Half a list is not taken for the whole.
	h.images.breaks = true
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { h.call(t, "GET", base+"/files", "") })
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { h.call(t, "GET", base+"/export?format=ova", "") })
}

func TestKernels(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	body := `{"kind":"nanos","url":"https://example.com/n.tar.gz","sha256":"` + string(imageOfDigits("a")) + `"}`
	k := call[client.Kernel](t, h, http.StatusCreated, "POST", "/api/v1/kernels", body)
	require.True(t, k.Current)
	require.Equal(t, []client.Kernel{k}, call[client.Page[client.Kernel]](t, h, http.StatusOK, "GET", "/api/v1/kernels", "").Items)
	h.refused(t, http.StatusBadRequest, "POST", "/api/v1/kernels", strings.Replace(body, "nanos", "linux", 1))
	h.refused(t, http.StatusBadRequest, "POST", "/api/v1/kernels", `{"kind":"nanos","path":"/x"}`)
}

func TestTrace(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.upload(t, "web", "1.0", "content")
	h.upload(t, "web", "2", "other")
	trace := call[client.Trace](t, h, http.StatusOK, "POST", "/api/v1/packages/web@1.0/trace", "")
	require.Equal(t, []string{}, trace.Evidence)
	require.Equal(t, 1, trace.Exit.Code)
	require.Equal(t, fleet.TraceOptions{AtMost: 30 * time.Second}, h.images.traced)
	h.images.evidence = []string{"Nanos has no system call x"}
	trace = call[client.Trace](t, h, http.StatusOK, "POST", "/api/v1/packages/web@1.0/trace", `{"seconds":5,"memory_mib":256}`)
	require.Equal(t, h.images.evidence, trace.Evidence)
	require.Equal(t, fleet.TraceOptions{AtMost: 5 * time.Second, MemoryMiB: 256}, h.images.traced)
	h.refused(t, http.StatusConflict, "POST", "/api/v1/packages/web@2/trace", "")
	h.refused(t, http.StatusNotFound, "POST", "/api/v1/packages/none/trace", "")
	for _, body := range []string{`{"seconds":0}`, `{"seconds":301}`, `{"memory_mib":1}`, `{"minutes":1}`, `{"seconds":null}`} {
		h.refused(t, http.StatusBadRequest, "POST", "/api/v1/packages/web@1.0/trace", body)
	}
}
