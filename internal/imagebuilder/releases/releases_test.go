package releases

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

type member struct {
	name, body string
	kind       byte
}

func archive(t *testing.T, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Typeflag: tar.TypeReg, Size: int64(len(m.body)), Mode: 0o600}
		if m.kind != 0 {
			h.Typeflag, h.Size, h.Linkname = m.kind, 0, m.body
		}
		require.NoError(t, tw.WriteHeader(h))
		if m.kind == 0 {
			_, err := tw.Write([]byte(m.body))
			require.NoError(t, err)
		}
	}
	require.NoError(t, tw.Close())
	require.NoError(t, zw.Close())
	return b.Bytes()
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func whole(t *testing.T, version string) []byte {
	return archive(t, member{name: "x/boot.img", body: "boot"}, member{name: "x/kernel.img", body: version}, member{name: "x/klibs/tls", body: "tls"},
		member{name: "x/README", body: "no"}, member{name: "x/klibs/evil", body: "/etc/passwd", kind: tar.TypeSymlink}, member{name: "../../klibs/../out", body: "no"})
}

func TestAdd(t *testing.T) {
	t.Parallel()
	bodies := map[string][]byte{"/1": whole(t, "one"), "/2": whole(t, "two"), "/text": []byte("hello"), "/empty": archive(t, member{name: "boot.img"}),
		"/twice": archive(t, member{name: "a/boot.img"}, member{name: "b/boot.img"})}
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		body, ok := bodies[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write(body)
	}))
	defer server.Close()
	dir := filepath.Join(t.TempDir(), "kernels")
	s, err := Open(Options{Dir: dir, MaxBytes: 100_000})
	require.NoError(t, err)
	require.Empty(t, s.Dir(fleet.KernelNanos))

	one, err := s.Add(t.Context(), fleet.KernelNanos, server.URL+"/1", digest(bodies["/1"]))
	require.NoError(t, err)
	require.True(t, one.Current)
	body, err := os.ReadFile(filepath.Join(s.Dir(fleet.KernelNanos), "kernel.img"))
	require.NoError(t, err)
	require.Equal(t, "one", string(body))
	names, err := filepath.Glob(filepath.Join(s.Dir(fleet.KernelNanos), "*", "*"))
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(s.Dir(fleet.KernelNanos), "klibs", "tls")}, names)

	_, err = s.Add(t.Context(), fleet.KernelNanos, server.URL+"/2", digest(bodies["/2"]))
	require.NoError(t, err)
	_, err = s.Add(t.Context(), fleet.KernelNanos, server.URL+"/1", digest(bodies["/1"]))
	require.NoError(t, err)
	require.Equal(t, 2, asked, "what is here is not fetched again")
	again, err := Open(Options{Dir: dir})
	require.NoError(t, err)
	list, err := again.List()
	require.NoError(t, err)
	require.Len(t, list, 2)
	for _, r := range list {
		require.Equal(t, r.SHA256 == one.SHA256, r.Current)
	}

	big := archive(t, member{name: "boot.img", body: strings.Repeat("x", 200_000)})
	bodies["/big"] = big
	for name, c := range map[string]struct {
		kind        fleet.KernelKind
		url, digest string
		says        string
	}{
		"Digest":    {fleet.KernelNanos, server.URL + "/text", strings.Repeat("a", 64), "has the SHA-256 2cf24dba"},
		"NoArchive": {fleet.KernelNanos, server.URL + "/text", digest(bodies["/text"]), "no tar.gz"},
		"Lacks":     {fleet.KernelNanos, server.URL + "/empty", digest(bodies["/empty"]), "holds no kernel.img"},
		"Twice":     {fleet.KernelNanos, server.URL + "/twice", digest(bodies["/twice"]), "holds boot.img twice"},
		"TooLarge":  {fleet.KernelNanos, server.URL + "/big", digest(big), "more than 0 MiB"},
		"NotThere":  {fleet.KernelNanos, server.URL + "/none", strings.Repeat("b", 64), "404"},
		"Scheme":    {fleet.KernelNanos, "file:///etc/passwd", strings.Repeat("b", 64), "give an http or https URL"},
		"NoDigest":  {fleet.KernelNanos, server.URL + "/1", "ABC", "no SHA-256"},
		"Kind":      {fleet.KernelLinux, server.URL + "/1", strings.Repeat("b", 64), "only nanos"},
	} {
		_, err := s.Add(t.Context(), c.kind, c.url, c.digest)
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), name)
	}
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(s.Use(fleet.KernelNanos, strings.Repeat("c", 64))))
	server.Close()
	_, err = s.Add(t.Context(), fleet.KernelNanos, server.URL+"/3", strings.Repeat("d", 64))
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))

	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing of what failed is left")
	list, err = s.List()
	require.NoError(t, err)
	require.Len(t, list, 2)
}
