package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

var gzipped = header{"Content-Type", "application/gzip"}

func (h *harness) upload(t *testing.T, name, version, content string) client.Package {
	t.Helper()
	return call[client.Package](t, h, http.StatusCreated, "POST", "/api/v1/packages?name="+name+"&version="+version, content, gzipped)
}

func TestPackages(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	p := h.upload(t, "workspace", "1.0", "content")
	require.Equal(t, "/workspace", p.Program)
	require.Equal(t, []string{"imports fork"}, p.Warnings)
	require.Equal(t, p, h.upload(t, "workspace", "1.0", "content"), "the same again is the same package")
	require.Equal(t, p, call[client.Package](t, h, http.StatusOK, "GET", "/api/v1/packages/workspace@1.0", ""))
	require.Equal(t, p, call[client.Package](t, h, http.StatusOK, "GET", "/api/v1/packages/"+p.ID, ""))
	other := call[client.Package](t, h, http.StatusCreated, "POST", "/api/v1/packages?name=other&version=2", "x", gzipped, header{"Idempotency-Key", "k"})
	require.Contains(t, h.refused(t, http.StatusBadRequest, "POST", "/api/v1/packages?name=other", "y", gzipped).Detail, "?version=",
		"this fake's manifest names no version")
	page := call[client.Page[client.Package]](t, h, http.StatusOK, "GET", "/api/v1/packages?limit=1", "")
	require.NotEmpty(t, page.NextCursor)
	page = call[client.Page[client.Package]](t, h, http.StatusOK, "GET", "/api/v1/packages?limit=1&cursor="+page.NextCursor, "")
	require.Equal(t, other, page.Items[0])
}

func TestPackageRefusals(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(o *Options) { o.MaxPackageBytes = 10 })
	h.refused(t, http.StatusUnsupportedMediaType, "POST", "/api/v1/packages", "x")
	require.Equal(t, "query.name", h.refused(t, http.StatusBadRequest, "POST", "/api/v1/packages?name=..%2Fetc", "x", gzipped).Field)
	require.Equal(t, "query.name", h.refused(t, http.StatusBadRequest, "POST", "/api/v1/packages?name=", "x", gzipped).Field)
	require.Equal(t, "query.version", h.refused(t, http.StatusBadRequest, "POST", "/api/v1/packages?version=a@b", "x", gzipped).Field)
	h.refused(t, http.StatusBadRequest, "POST", "/api/v1/packages?nmae=x", "x", gzipped)
	h.refused(t, http.StatusRequestEntityTooLarge, "POST", "/api/v1/packages", "more than ten", gzipped)
	h.refused(t, http.StatusBadRequest, "POST", "/api/v1/packages", "x", gzipped, header{"Idempotency-Key", "\x01"})

	r := request("POST", "/api/v1/packages", "x", gzipped)
	r.Body = io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF))
	require.Equal(t, http.StatusBadRequest, h.do(t, r).Code)

	h.packages.err = fleet.Errorf(fleet.KindInvalid, "the archive holds ../etc/passwd: paths must stay inside")
	require.Contains(t, h.refused(t, http.StatusBadRequest, "POST", "/api/v1/packages", "x", gzipped).Detail, "../etc/passwd")
	h.packages.err = errors.New("disk full at /var/lib")
	require.NotContains(t, h.refused(t, http.StatusInternalServerError, "POST", "/api/v1/packages", "x", gzipped).Detail, "/var")
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/packages/a@b@c", "")
}

// Content whose record is refused is let go, unless another package has the same.
func TestContentWithoutARecordIsLetGo(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.upload(t, "a", "1", "one")
	kept := h.upload(t, "b", "1", "two")
	h.refused(t, http.StatusConflict, "POST", "/api/v1/packages?name=a&version=1", "three", gzipped)
	require.Equal(t, []string{fleet.DeriveID("three")}, h.packages.removed)
	h.refused(t, http.StatusConflict, "POST", "/api/v1/packages?name=a&version=1", "two", gzipped)
	require.True(t, h.packages.content[kept.Digest])

	h.store.setFail(fleet.Errorf(fleet.KindUnavailable, "no database"))
	h.refused(t, http.StatusServiceUnavailable, "POST", "/api/v1/packages?name=c&version=1", "four", gzipped)
	require.True(t, h.packages.content[fleet.DeriveID("four")], "nobody knows whether it is used")
}

func TestDeletePackage(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	one, same := h.upload(t, "a", "1.0", "content"), h.upload(t, "b", "1.0", "content")
	p := h.refused(t, http.StatusBadRequest, "DELETE", "/api/v1/packages/a", "")
	require.Contains(t, p.Detail, "a@VERSION")
	h.refused(t, http.StatusPreconditionFailed, "DELETE", "/api/v1/packages/a@1.0", "", header{"If-Match", `"1"`})
	require.Equal(t, http.StatusNoContent, h.call(t, "DELETE", "/api/v1/packages/a@1.0", "").Code)
	require.True(t, h.packages.content[one.Digest], "b has the same content")
	require.Equal(t, http.StatusNoContent, h.call(t, "DELETE", "/api/v1/packages/"+same.ID, "").Code)
	require.False(t, h.packages.content[one.Digest])
	h.refused(t, http.StatusNotFound, "DELETE", "/api/v1/packages/a@1.0", "")

	h.upload(t, "workspace", "1.0", "content")
	h.acme(t, fleet.StateStable)
	require.Equal(t, "not-accepted", h.refused(t, http.StatusConflict, "DELETE", "/api/v1/packages/workspace@1.0", "").Kind)
}

// Content is not removed while an upload may be about to record the same.
func TestDeletionWaitsForUploads(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.upload(t, "a", "1.0", "content")
	reading, goOn := make(chan struct{}), make(chan struct{})
	h.packages.reading = func() { close(reading); <-goOn }
	uploaded, deleted := make(chan int, 1), make(chan int, 1)
	go func() {
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, request("POST", "/api/v1/packages?name=b&version=1.0", "content", gzipped))
		uploaded <- w.Code
	}()
	<-reading
	h.packages.reading = nil
	go func() {
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, request("DELETE", "/api/v1/packages/a@1.0", ""))
		deleted <- w.Code
	}()
	require.Eventually(t, func() bool {
		_, err := h.store.Package(context.Background(), "a@1.0")
		return err != nil // its record is gone
	}, waitFor, tick)
	close(goOn)
	require.Equal(t, http.StatusCreated, <-uploaded)
	require.Equal(t, http.StatusNoContent, <-deleted)
	require.True(t, h.packages.content[fleet.DeriveID("content")])
}

func TestPackageNames(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"a", "workspace", "a.b-c_d", "7zip"} {
		require.NoError(t, checkPackageRef(s))
		require.NoError(t, checkPackageRef(s+"@2.0.18-1+deb12u1"))
	}
	for _, s := range []string{"", "A", "-a", "a-", "a@", "@1", "a@1@2", "a b", "a/b", "a@-1", strings.Repeat("a", 64), "a@" + strings.Repeat("1", 64)} {
		require.Error(t, checkPackageRef(s), s)
	}
}

// form is a multipart body of those parts, name and content in turn.
func form(t *testing.T, parts ...string) (string, header) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		part, err := w.CreateFormFile(parts[i], "x")
		require.NoError(t, err)
		_, err = part.Write([]byte(parts[i+1]))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.String(), header{"Content-Type", w.FormDataContentType()}
}

func TestPackageSources(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	const path = "/api/v1/packages?name=a&version="
	create := func(query, body string, headers ...header) PackageSource {
		t.Helper()
		call[client.Package](t, h, http.StatusCreated, "POST", path+query, body, headers...)
		return h.packages.source
	}
	for i, kind := range packageTypes()[:5] {
		s := create(fmt.Sprintf("%d&filename=server", i), "content", header{"Content-Type", kind})
		require.Equal(t, "server", s.FileName)
		require.Nil(t, s.Overlay)
	}
	body, kind := form(t, "overlay", "what is laid over", "source", "the source")
	create("form", body, kind)
	require.Equal(t, "what is laid over", h.packages.overlay)
	require.True(t, h.packages.content[fleet.DeriveID("the source")])
	body, kind = form(t, "source", "the other source")
	create("one-part", body, kind)
	require.True(t, h.packages.content[fleet.DeriveID("the other source")])

	s := create("oci&oci=ghcr.io%2Fx%2Fy:1&force=true&kernel=linux", "")
	require.Equal(t, "ghcr.io/x/y:1", s.OCI)
	require.True(t, s.Force)
	require.Nil(t, s.Overlay)
	require.Nil(t, s.Body)
	s = create("deb&deb=mosquitto&deb=libc6&force=false", "overlay", gzipped)
	require.Equal(t, []string{"mosquitto", "libc6"}, s.Deb)
	require.False(t, s.Force)
	require.Equal(t, "overlay", h.packages.overlay)
	require.Nil(t, s.Body)
	body, kind = form(t, "overlay", "part")
	create("oci-form&oci=x", body, kind)
	require.Equal(t, "part", h.packages.overlay)
	create("oci-empty&oci=x", "", gzipped)
	require.Empty(t, h.packages.overlay)

	body, kind = form(t, "overlay", "keys", "source", "a disk")
	s = create("disk&disk=true&filename=x.qcow2", body, kind)
	require.True(t, s.Disk)
	require.Equal(t, "keys", h.packages.overlay)
	require.True(t, h.packages.content[fleet.DeriveID("a disk")])
	require.False(t, create("no-disk&disk=false", "x", gzipped).Disk)

	nanos := call[client.Package](t, h, http.StatusCreated, "POST", path+"nanos&kernel=nanos", "for both", gzipped)
	require.Equal(t, "nanos", nanos.Kernel)
	p := h.refused(t, http.StatusConflict, "POST", path+"nanos&kernel=linux", "for both", gzipped)
	require.Contains(t, p.Detail, "exists for the kernel nanos")
	require.True(t, h.packages.content[nanos.Digest], "which is used")
}

func TestPackageSourcesRefused(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for query, field := range map[string]string{
		"oci=": "oci", "oci=a&oci=b": "oci", "oci=" + strings.Repeat("x", 513): "oci", "oci=a&deb=bb": "deb", "deb=": "deb", "deb=../x": "deb", "deb=A": "deb",
		"kernel=bsd": "kernel", "kernel=": "kernel", "kernel=disk": "kernel", "force=1": "force", "disk=yes": "disk", "disk=": "disk", "disk=true&oci=a": "disk", "disk=true&deb=aa": "disk", "disk=true&kernel=linux": "kernel",
		"filename=" + strings.Repeat("x", 256): "filename", "name=a&name=b": "name",
		strings.Repeat("deb=aa&", 33) + "deb=aa": "deb",
	} {
		require.Equal(t, "query."+field, h.refused(t, http.StatusBadRequest, "POST", "/api/v1/packages?"+query, "x", gzipped).Field, query)
	}
	h.refused(t, http.StatusUnsupportedMediaType, "POST", "/api/v1/packages?oci=a", "{}", header{"Content-Type", "application/json"})
	h.refused(t, http.StatusUnsupportedMediaType, "POST", "/api/v1/packages", "")

	for _, c := range []struct {
		query string
		parts []string
		says  string
	}{
		{"", []string{"package", "x"}, `begins with the part package`}, {"", []string{"overlay", "x"}, "lacks its part source"}, {"", nil, "lacks its part source"},
		{"", []string{"overlay", "x", "overlay", "y"}, "it must be source"}, {"", []string{"source", "x", "overlay", "y"}, "overlay comes before it"},
		{"?oci=a", []string{"source", "x"}, "begins with the part source"},
	} {
		body, kind := form(t, c.parts...)
		p := h.refused(t, http.StatusBadRequest, "POST", "/api/v1/packages"+c.query, body, kind)
		require.Contains(t, strings.ReplaceAll(p.Detail, `"`, ""), c.says)
	}
	body, kind := form(t, "overlay", "x", "source", "y")
	h.refused(t, http.StatusBadRequest, "POST", "/api/v1/packages", body[:len(body)-20], kind)
	h.refused(t, http.StatusBadRequest, "POST", "/api/v1/packages", body, header{"Content-Type", "multipart/form-data"})
}
