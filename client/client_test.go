package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNewRefusesWhatIsNoAddress(t *testing.T) {
	t.Parallel()
	for address, says := range map[string]string{
		"":                       "write it like http://",
		"127.0.0.1:8075":         "write http://127.0.0.1:8075",
		"localhost:8075":         "write http://localhost:8075",
		"ftp://x":                "only http:// and https://",
		"http://":                "followed by a host",
		"http://x/?a=b":          "leave out what follows",
		"http://127.0.0.1:80 75": "write it like",
	} {
		_, err := New(address, Options{})
		require.ErrorContains(t, err, says, address)
	}
	c, err := New("http://u:secret@h:1/base/", Options{})
	require.NoError(t, err)
	require.NotContains(t, c.BaseURL(), "secret")
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	memory := 256
	testRoutes(t, map[string]routeCase{
		"InstallationCreate": {func(ctx context.Context, c *Client) error {
			_, err := c.Installations.Create(ctx, CreateInstallation{Name: "acme", Owner: "alice", Package: "web@1"})
			return err
		}, "POST /api/v1/installations", `{"name":"acme","owner":"alice","package":"web@1"}`},
		"InstallationGet": {func(ctx context.Context, c *Client) error {
			_, err := c.Installations.Get(ctx, "a/../b c")
			return err
		}, "GET /api/v1/installations/a%2F..%2Fb%20c", ""},
		"InstallationList": {func(ctx context.Context, c *Client) error {
			_, err := c.Installations.List(ctx, ListInstallations{Owner: "a&b", Cluster: "local", State: "stable", Labels: map[string]string{"tier": "gold"}, Limit: 7, Cursor: "x"})
			return err
		}, "GET /api/v1/installations?cluster=local&cursor=x&label=tier%3Dgold&limit=7&owner=a%26b&state=stable", ""},
		"InstallationUpdate": {func(ctx context.Context, c *Client) error {
			_, err := c.Installations.Update(ctx, "acme", UpdateInstallation{MemoryMiB: &memory, Env: map[string]*string{"A": text("1"), "B": nil}}, IfMatch(7))
			return err
		}, "PATCH /api/v1/installations/acme", `{"memory_mib":256,"env":{"A":"1","B":null}}`},
		"InstallationDelete":    {on((*Installations).Delete), "DELETE /api/v1/installations/acme", ""},
		"InstallationHibernate": {on((*Installations).Hibernate), "POST /api/v1/installations/acme/hibernate", ""},
		"InstallationWake":      {on((*Installations).Wake), "POST /api/v1/installations/acme/wake", ""},
		"InstallationRestart":   {on((*Installations).Restart), "POST /api/v1/installations/acme/restart", ""},
		"InstallationRetry":     {on((*Installations).Retry), "POST /api/v1/installations/acme/retry", ""},
		"InstallationExplain": {func(ctx context.Context, c *Client) error {
			_, err := c.Installations.Explain(ctx, "acme")
			return err
		}, "GET /api/v1/installations/acme/explain", ""},
		"InstallationLogs": {func(ctx context.Context, c *Client) error {
			r, err := c.Installations.Logs(ctx, "acme", LogOptions{Tail: 5, Follow: true})
			if err == nil {
				err = r.Close()
			}
			return err
		}, "GET /api/v1/installations/acme/logs?follow=true&tail=5", ""},
		"ClusterCreate": {func(ctx context.Context, c *Client) error {
			_, err := c.Clusters.Create(ctx, CreateCluster{Name: "local", Provider: "kvm"})
			return err
		}, "POST /api/v1/clusters", `{"name":"local","provider":"kvm"}`},
		"ClusterGet":     {func(ctx context.Context, c *Client) error { _, err := c.Clusters.Get(ctx, "local"); return err }, "GET /api/v1/clusters/local", ""},
		"ClusterExplain": {func(ctx context.Context, c *Client) error { _, err := c.Clusters.Explain(ctx, "local"); return err }, "GET /api/v1/clusters/local/explain", ""},
		"ClusterList": {func(ctx context.Context, c *Client) error {
			_, err := c.Clusters.List(ctx, ListPage{Limit: 2})
			return err
		}, "GET /api/v1/clusters?limit=2", ""},
		"ClusterCheck": {func(ctx context.Context, c *Client) error {
			_, err := c.Clusters.Check(ctx, "local", CheckCluster{Settings: map[string]string{"hosts": "5"}})
			return err
		}, "POST /api/v1/clusters/local/check", `{"settings":{"hosts":"5"}}`},
		"ClusterDelete": {func(ctx context.Context, c *Client) error { _, err := c.Clusters.Delete(ctx, "local"); return err }, "DELETE /api/v1/clusters/local", ""},
		"HostList":      {func(ctx context.Context, c *Client) error { _, err := c.Hosts.List(ctx, "local"); return err }, "GET /api/v1/clusters/local/hosts", ""},
		"HostGet":       {func(ctx context.Context, c *Client) error { _, err := c.Hosts.Get(ctx, "local", "h 1"); return err }, "GET /api/v1/clusters/local/hosts/h%201", ""},
		"HostCordon":    {func(ctx context.Context, c *Client) error { _, err := c.Hosts.Cordon(ctx, "local", "h1"); return err }, "POST /api/v1/clusters/local/hosts/h1/cordon", ""},
		"HostUncordon":  {func(ctx context.Context, c *Client) error { _, err := c.Hosts.Uncordon(ctx, "local", "h1"); return err }, "POST /api/v1/clusters/local/hosts/h1/uncordon", ""},
		"HostDrain": {func(ctx context.Context, c *Client) error {
			_, err := c.Hosts.Drain(ctx, "local", "h1", DrainHost{AtOnce: 3})
			return err
		}, "POST /api/v1/clusters/local/hosts/h1/drain", `{"at_once":3}`},
		"HostRemove": {func(ctx context.Context, c *Client) error { return c.Hosts.Remove(ctx, "local", "h1") }, "DELETE /api/v1/clusters/local/hosts/h1", ""},
		"PackageCreate": {func(ctx context.Context, c *Client) error {
			_, err := c.Packages.Create(ctx, NewPackage{Name: "web", Version: "1.0", Content: strings.NewReader("bytes")})
			return err
		}, "POST /api/v1/packages?name=web&version=1.0", "bytes"},
		"PackageGet": {func(ctx context.Context, c *Client) error { _, err := c.Packages.Get(ctx, "web@1.0"); return err }, "GET /api/v1/packages/web@1.0", ""},
		"PackageList": {func(ctx context.Context, c *Client) error {
			_, err := c.Packages.List(ctx, ListPage{Cursor: "z"})
			return err
		}, "GET /api/v1/packages?cursor=z", ""},
		"PackageDelete": {func(ctx context.Context, c *Client) error { return c.Packages.Delete(ctx, "web@1.0") }, "DELETE /api/v1/packages/web@1.0", ""},
		"PackageTrace": {func(ctx context.Context, c *Client) error {
			_, err := c.Packages.Trace(ctx, "web@1.0", TracePackage{Seconds: 5})
			return err
		}, "POST /api/v1/packages/web@1.0/trace", `{"seconds":5}`},
		"ImageBuild": {func(ctx context.Context, c *Client) error {
			_, err := c.Images.Build(ctx, BuildImage{Package: "web@1.0"})
			return err
		}, "POST /api/v1/images", `{"package":"web@1.0"}`},
		"ImageGet":    {func(ctx context.Context, c *Client) error { _, err := c.Images.Get(ctx, "web@1.0"); return err }, "GET /api/v1/images/web@1.0", ""},
		"ImageList":   {func(ctx context.Context, c *Client) error { _, err := c.Images.List(ctx, ListPage{}); return err }, "GET /api/v1/images", ""},
		"ImageDelete": {func(ctx context.Context, c *Client) error { return c.Images.Delete(ctx, "abc") }, "DELETE /api/v1/images/abc", ""},
		"ImageFiles": {func(ctx context.Context, c *Client) error {
			for _, err := range c.Images.Files(ctx, "abc", FileOptions{Path: "/etc", Digests: true}) {
				return err
			}
			return nil
		}, "GET /api/v1/images/abc/files?digests=true&path=%2Fetc", ""},
		"ImageContent": {func(ctx context.Context, c *Client) error {
			r, err := c.Images.Content(ctx, "abc", "/etc/a b")
			if err == nil {
				err = r.Close()
			}
			return err
		}, "GET /api/v1/images/abc/content?path=%2Fetc%2Fa+b", ""},
		"ImageBill": {func(ctx context.Context, c *Client) error {
			r, err := c.Images.BillOfMaterials(ctx, "abc")
			if err == nil {
				err = r.Close()
			}
			return err
		}, "GET /api/v1/images/abc/sbom", ""},
		"ImageExport": {func(ctx context.Context, c *Client) error {
			r, err := c.Images.Export(ctx, "abc", ExportImage{Format: "ova", MemoryMiB: 512, UEFI: true})
			if err == nil {
				err = r.Close()
			}
			return err
		}, "GET /api/v1/images/abc/export?format=ova&memory_mib=512&uefi=true", ""},
		"ImageProvenance": {func(ctx context.Context, c *Client) error { _, err := c.Images.Provenance(ctx, "abc"); return err }, "GET /api/v1/images/abc/provenance", ""},
		"KernelList":      {func(ctx context.Context, c *Client) error { _, err := c.Kernels.List(ctx); return err }, "GET /api/v1/kernels", ""},
		"KernelAdd": {func(ctx context.Context, c *Client) error {
			_, err := c.Kernels.Add(ctx, AddKernel{Kind: "nanos", URL: "u", SHA256: "s"})
			return err
		}, "POST /api/v1/kernels", `{"kind":"nanos","url":"u","sha256":"s"}`},
		"InstanceList": {func(ctx context.Context, c *Client) error {
			_, err := c.Instances.List(ctx, ListInstances{Installation: "acme", Cluster: "local", Limit: 3})
			return err
		}, "GET /api/v1/instances?cluster=local&installation=acme&limit=3", ""},
		"InstanceGet":      {func(ctx context.Context, c *Client) error { _, err := c.Instances.Get(ctx, "x1"); return err }, "GET /api/v1/instances/x1", ""},
		"OperationGet":     {func(ctx context.Context, c *Client) error { _, err := c.Operations.Get(ctx, "op1"); return err }, "GET /api/v1/operations/op1", ""},
		"OperationExplain": {func(ctx context.Context, c *Client) error { _, err := c.Operations.Explain(ctx, "op1"); return err }, "GET /api/v1/operations/op1/explain", ""},
		"OperationWait": {func(ctx context.Context, c *Client) error {
			_, err := c.Operations.Wait(ctx, "op1", 30*time.Second, 4)
			return err
		}, "GET /api/v1/operations/op1?revision=4&wait=30s", ""},
		"OperationList": {func(ctx context.Context, c *Client) error {
			_, err := c.Operations.List(ctx, ListOperations{Resource: "acme", State: "failed", Limit: 3})
			return err
		}, "GET /api/v1/operations?limit=3&resource=acme&state=failed", ""},
		"Ready": {func(ctx context.Context, c *Client) error { return c.Ready(ctx) }, "GET /readyz", ""},
	})
}

func on(method func(*Installations, context.Context, string, ...RequestOption) (Installation, error)) func(context.Context, *Client) error {
	return func(ctx context.Context, c *Client) error {
		_, err := method(c.Installations, ctx, "acme")
		return err
	}
}

func TestNamesThatNameNothingAreNotSent(t *testing.T) {
	t.Parallel()
	f := newFake(t, answer(http.StatusOK, struct{}{}))
	c := newClient(t, f.URL, Options{})
	for _, id := range []string{"", ".", ".."} {
		_, err := c.Installations.Delete(t.Context(), id)
		require.ErrorContains(t, err, "no ID and no name")
	}
	require.Empty(t, f.seen())
}

func TestOptionsOfAChange(t *testing.T) {
	t.Parallel()
	f := newFake(t, answer(http.StatusAccepted, Installation{ID: "1"}))
	c := newClient(t, f.URL, Options{})
	_, err := c.Installations.Delete(t.Context(), "acme", WithIdempotencyKey("mine"), IfMatch(12))
	require.NoError(t, err)
	require.Equal(t, "mine", f.seen()[0].header.Get("Idempotency-Key"))
	require.Equal(t, `"12"`, f.seen()[0].header.Get("If-Match"))
}

func TestRepeatsUnderTheSameKey(t *testing.T) {
	t.Parallel()
	f := newFake(t, hangUp, cutOff, refuse(Problem{Status: 503, Kind: KindUnavailable}), answer(http.StatusAccepted, Installation{ID: "1"}))
	options := hurried()
	var retries []Retry
	options.OnRetry = func(r Retry) { retries = append(retries, r) }
	in, err := newClient(t, f.URL, options).Installations.Create(t.Context(), CreateInstallation{Name: "acme"})
	require.NoError(t, err)
	require.Equal(t, "1", in.ID)
	got := f.seen()
	require.Len(t, got, 4)
	for _, r := range got {
		require.Equal(t, got[0].header.Get("Idempotency-Key"), r.header.Get("Idempotency-Key"))
		require.Equal(t, got[0].body, r.body)
	}
	require.Len(t, retries, 3)
	require.Equal(t, 3, retries[2].Attempt)
	require.True(t, IsUnavailable(retries[2].Err))
}

func TestRepeatsAreBounded(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	options := hurried()
	options.Attempts = 3
	tries := 1
	options.OnRetry = func(Retry) { tries++ }
	_, err = newClient(t, "http://"+address, options).Installations.Wake(t.Context(), "acme")
	require.True(t, IsUnreachable(err), err)
	require.Equal(t, 3, tries)
	require.ErrorContains(t, err, "connection refused")
}

func TestProblems(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(error) bool{
		KindInvalid: IsInvalid, KindNotFound: IsNotFound, KindConflict: IsConflict, KindNotAccepted: IsNotAccepted,
		KindStale: IsStale, KindCapacity: IsCapacity, KindThrottled: IsThrottled, KindUnavailable: IsUnavailable,
	}
	for kind, is := range kinds {
		options := hurried()
		options.Attempts = 1
		f := newFake(t, refuse(Problem{Status: 409, Kind: kind, Title: "t", Detail: "no such luck", Field: "memory_mib", Accepts: []string{"delete"}}))
		_, err := newClient(t, f.URL, options).Installations.Get(t.Context(), "acme")
		require.True(t, is(err), kind)
		require.Len(t, f.seen(), 1)
		var refused *Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, 409, refused.StatusCode)
		require.Equal(t, []string{"delete"}, refused.Accepts)
		require.Equal(t, "memory_mib: no such luck", refused.Message())
		require.EqualError(t, err, "GET /api/v1/installations/acme: memory_mib: no such luck")
	}
	require.False(t, IsNotFound(nil))
	require.False(t, IsNotFound(errors.New("x")))
}

func TestAnswersOfOthersOnTheWay(t *testing.T) {
	t.Parallel()
	plain := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<html>\x1b[31m")
		}
	}
	for status, kind := range map[int]string{502: KindUnavailable, 404: KindNotFound, 500: KindInternal, 412: KindStale, 409: KindConflict,
		400: KindInvalid, 403: KindPermanent, 429: KindThrottled, 507: KindCapacity} {
		options := hurried()
		options.Attempts = 1
		_, err := newClient(t, newFake(t, plain(status)).URL, options).Clusters.Get(t.Context(), "x")
		require.Equal(t, kind, KindOf(err), status)
		require.NotContains(t, err.Error(), "\x1b")
		var refused *Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, time.Second, refused.RetryAfter)
	}
	// Somebody else's web server on our port.
	_, err := newClient(t, newFake(t, plain(200)).URL, Options{}).Clusters.Get(t.Context(), "x")
	require.ErrorContains(t, err, "check the server's address")
	require.False(t, IsUnreachable(err))
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	f := newFake(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	_, err := newClient(t, f.URL, Options{}).Installations.Get(ctx, "acme")
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, IsUnreachable(err))
}

func TestSilentServer(t *testing.T) {
	t.Parallel()
	f := newFake(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	options := hurried()
	options.Timeout, options.Attempts = 20*time.Millisecond, 2
	_, err := newClient(t, f.URL, options).Installations.Get(t.Context(), "acme")
	require.True(t, IsUnreachable(err), err)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
}

func TestAllGoesThroughThePages(t *testing.T) {
	t.Parallel()
	f := newFake(t,
		answer(200, Page[Installation]{Items: []Installation{{ID: "1"}, {ID: "2"}}, NextCursor: "c2"}),
		answer(200, Page[Installation]{NextCursor: "c3"}),
		answer(200, Page[Installation]{Items: []Installation{{ID: "3"}}}))
	var ids []string
	for in, err := range newClient(t, f.URL, Options{}).Installations.All(t.Context(), ListInstallations{Owner: "a"}) {
		require.NoError(t, err)
		ids = append(ids, in.ID)
	}
	require.Equal(t, []string{"1", "2", "3"}, ids)
	require.Equal(t, "/api/v1/installations?cursor=c3&owner=a", f.seen()[2].uri)

	broken := newFake(t, answer(200, Page[Installation]{Items: []Installation{{ID: "1"}}, NextCursor: "c"}), refuse(Problem{Status: 500, Kind: KindInternal}))
	seen, failed := 0, 0
	for _, err := range newClient(t, broken.URL, Options{}).Installations.All(t.Context(), ListInstallations{}) {
		if err != nil {
			failed++
		} else {
			seen++
		}
	}
	require.Equal(t, [2]int{1, 1}, [2]int{seen, failed})
}

func TestPackageUploads(t *testing.T) {
	t.Parallel()
	t.Run("RewindsASeeker", func(t *testing.T) {
		t.Parallel()
		f := newFake(t, hangUp, answer(201, Package{ID: "p"}))
		content := strings.NewReader("skipped|content")
		_, err := content.Seek(8, io.SeekStart)
		require.NoError(t, err)
		p, err := newClient(t, f.URL, hurried()).Packages.Create(t.Context(), NewPackage{Content: content})
		require.NoError(t, err)
		require.Equal(t, "p", p.ID)
		require.Equal(t, "content", f.seen()[0].body)
		require.Equal(t, "content", f.seen()[1].body)
		require.Equal(t, "application/octet-stream", f.seen()[0].header.Get("Content-Type"))
	})
	t.Run("TriesAStreamOnce", func(t *testing.T) {
		t.Parallel()
		f := newFake(t, hangUp, answer(201, Package{ID: "p"}))
		_, err := newClient(t, f.URL, hurried()).Packages.Create(t.Context(), NewPackage{Content: io.MultiReader(strings.NewReader("x"))})
		require.True(t, IsUnreachable(err), err)
		require.Len(t, f.seen(), 1)
	})
	t.Run("SaysThatReadingFailed", func(t *testing.T) {
		t.Parallel()
		f := newFake(t, answer(201, Package{ID: "p"}))
		_, err := newClient(t, f.URL, hurried()).Packages.Create(t.Context(), NewPackage{Reopen: func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), iotest.ErrReader(errors.New("the disk is gone")))), nil
		}})
		require.ErrorContains(t, err, "the disk is gone")
		require.False(t, IsUnreachable(err))
	})
	t.Run("LaysAnOverlayOver", func(t *testing.T) {
		t.Parallel()
		f := newFake(t, hangUp, answer(201, Package{ID: "p"}))
		opened := func(body string) func() (io.ReadCloser, error) {
			return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
		}
		_, err := newClient(t, f.URL, hurried()).Packages.Create(t.Context(),
			NewPackage{Content: strings.NewReader("the source"), Overlay: opened("the overlay"), FileName: "server", Kernel: "nanos", Force: true, Disk: true})
		require.NoError(t, err)
		for _, asked := range f.seen() {
			_, params, err := mime.ParseMediaType(asked.header.Get("Content-Type"))
			require.NoError(t, err)
			form := multipart.NewReader(strings.NewReader(asked.body), params["boundary"])
			for _, want := range []string{"overlay", "source"} {
				part, err := form.NextPart()
				require.NoError(t, err)
				require.Equal(t, want, part.FormName())
				body, err := io.ReadAll(part)
				require.NoError(t, err)
				require.Equal(t, "the "+want, string(body))
			}
			require.Equal(t, "/api/v1/packages?disk=true&filename=server&force=true&kernel=nanos", asked.uri)
		}
	})
	t.Run("NamesWhatIsElsewhere", func(t *testing.T) {
		t.Parallel()
		f := newFake(t, answer(201, Package{ID: "p"}))
		packages := newClient(t, f.URL, hurried()).Packages
		_, err := packages.Create(t.Context(), NewPackage{OCI: "ghcr.io/x/y:1"})
		require.NoError(t, err)
		_, err = packages.Create(t.Context(), NewPackage{Deb: []string{"a", "b"}, Overlay: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("o")), nil }})
		require.NoError(t, err)
		seen := f.seen()
		require.Equal(t, []string{"/api/v1/packages?oci=ghcr.io%2Fx%2Fy%3A1", "", ""}, []string{seen[0].uri, seen[0].body, seen[0].header.Get("Content-Type")})
		require.Equal(t, []string{"/api/v1/packages?deb=a&deb=b", "o", "application/octet-stream"}, []string{seen[1].uri, seen[1].body, seen[1].header.Get("Content-Type")})
		_, err = packages.Create(t.Context(), NewPackage{OCI: "x", Content: strings.NewReader("y")})
		require.ErrorContains(t, err, "not both")
		broken := func() (io.ReadCloser, error) { return nil, errors.New("the manifest is gone") }
		_, err = packages.Create(t.Context(), NewPackage{Content: strings.NewReader("y"), Overlay: broken})
		require.ErrorContains(t, err, "the manifest is gone")
	})
	t.Run("NothingToSend", func(t *testing.T) {
		t.Parallel()
		_, err := newClient(t, "http://127.0.0.1:1", hurried()).Packages.Create(t.Context(), NewPackage{})
		require.ErrorContains(t, err, "Content")
	})
}

func TestLogsAreStreamed(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	f := newFake(t, hangUp, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "one\n")
		_ = http.NewResponseController(w).Flush()
		<-goOn
		_, _ = io.WriteString(w, "two\n")
	})
	r, err := newClient(t, f.URL, hurried()).Installations.Logs(t.Context(), "acme", LogOptions{Follow: true})
	require.NoError(t, err)
	defer r.Close()
	first := make([]byte, 4)
	_, err = io.ReadFull(r, first)
	require.NoError(t, err)
	require.Equal(t, "one\n", string(first))
	close(goOn)
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "two\n", string(rest))
}

func TestUpdateIsAMergePatch(t *testing.T) {
	t.Parallel()
	body, err := json.Marshal(UpdateInstallation{})
	require.NoError(t, err)
	require.JSONEq(t, `{}`, string(body))
}
