package source

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

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
		answer, err := (&carefulTransport{inner: answers, loopback: c.loopback, blobs: 10, patience: time.Minute}).RoundTrip(r)
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

func (f roundTripper) CloseIdleConnections() {}

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestRegistryThatFallsSilent(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, err := io.WriteString(w, "begun")
		require.NoError(t, err)
		require.NoError(t, http.NewResponseController(w).Flush())
		<-r.Context().Done()
	}))
	defer s.Close()
	careful := newTransport(Limits{}.withDefaults())
	defer careful.inner.CloseIdleConnections()
	careful.loopback, careful.patience = true, 20*time.Millisecond
	r, err := http.NewRequest(http.MethodGet, s.URL, nil)
	require.NoError(t, err)
	answer, err := careful.RoundTrip(r)
	require.NoError(t, err)
	_, err = io.ReadAll(answer.Body)
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "sent nothing for 20ms")
	require.NoError(t, answer.Body.Close())
}
