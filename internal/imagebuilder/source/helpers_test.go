package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// elfBytes is enough of an ELF file for this package, which reads the magic only.
const elfBytes = "\x7fELF program"

// member is one member of a test's archive.
type member struct {
	name, body, link string
	kind             byte // tar.TypeReg where 0
	mode             int64
}

func file(name, body string) member { return member{name: name, body: body, mode: 0o755} }
func dir(name string) member        { return member{name: name, kind: tar.TypeDir, mode: 0o755} }
func symlink(name, to string) member {
	return member{name: name, link: to, kind: tar.TypeSymlink, mode: 0o777}
}
func hardLink(name, to string) member { return member{name: name, link: to, kind: tar.TypeLink} }

const minimal = `{"Name": "app", "Version": "1", "Program": "/bin/app"}`

// app is the smallest whole package, with what else a test adds.
func app(more ...member) []member {
	return append([]member{file(ManifestName, minimal), file("sysroot/bin/app", elfBytes)}, more...)
}

// with is a package of that manifest and those members.
func with(manifest string, more ...member) []member {
	return append([]member{file(ManifestName, manifest)}, more...)
}

func tarOf(t testing.TB, members []member, change func(*tar.Header)) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Linkname: m.link, Typeflag: m.kind, Mode: m.mode, Size: int64(len(m.body)), ModTime: time.Unix(1700000000, 0)}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if change != nil {
			change(h)
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := w.Write([]byte(m.body))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func gzipOf(t testing.TB, raw []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	require.NoError(t, err)
	_, err = w.Write(raw)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func archiveOf(t testing.TB, members []member) []byte {
	t.Helper()
	return gzipOf(t, tarOf(t, members, nil), gzip.BestSpeed)
}

func read(t testing.TB, members []member) (*Package, error) {
	t.Helper()
	return readWith(t, archiveOf(t, members), Options{})
}

func readWith(t testing.TB, archive []byte, o Options) (*Package, error) {
	t.Helper()
	o.SpoolDir = t.TempDir()
	p, err := ReadArchive(context.Background(), bytes.NewReader(archive), o)
	if err == nil {
		t.Cleanup(func() { require.NoError(t, p.Close()) })
	}
	return p, err
}

func mustRead(t testing.TB, members []member) *Package {
	t.Helper()
	p, err := read(t, members)
	require.NoError(t, err)
	return p
}

func digestOf(t testing.TB, p *Package) string {
	t.Helper()
	digest, _, err := p.WriteCanonical(context.Background(), &bytes.Buffer{})
	require.NoError(t, err)
	return digest
}

func requireInvalid(t testing.TB, err error, says string) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%v", err)
	require.ErrorContains(t, err, says)
}
