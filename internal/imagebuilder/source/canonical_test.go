package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func rich() []member {
	return with(`{"Name":"app","Version":"1.0~rc1","Program":"/bin/app","Args":["app","app","-v"],"Env":{"B":"2","A":"ü"},"Ports":["1883/tcp",8080],"Persist":["/z","/a"],"MinMemory":"1G","Dir":"/srv","Restart":"never"}`,
		dir("sysroot"), dir("sysroot/bin"), file("sysroot/bin/app", elfBytes), member{name: "sysroot/bin/su", body: "x", mode: 0o4711},
		dir("sysroot/"+strings.Repeat("ü", 60)), file("sysroot/"+strings.Repeat("ü", 60)+"/"+strings.Repeat("n", 120), strings.Repeat("x", 3000)),
		symlink("sysroot/link", "bin/app"), file("sysroot/bin-x", "sorts between bin and bin/app"), file("sysroot/empty", ""))
}

func TestCanonicalWhateverTheInput(t *testing.T) {
	t.Parallel()
	want := digestOf(t, mustRead(t, rich()))
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 20 {
		members := rich()
		random.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		format := []tar.Format{tar.FormatPAX, tar.FormatGNU, tar.FormatUnknown}[i%3]
		raw := tarOf(t, members, func(h *tar.Header) {
			h.ModTime, h.Uid, h.Gid, h.Uname, h.Format = time.Unix(random.Int64N(1e9), 0), random.IntN(70000), i, "somebody", format
			switch i % 4 {
			case 1:
				h.Name = "./" + h.Name
			case 2:
				h.Name = "top_9/" + h.Name
			}
		})
		p, err := readWith(t, gzipOf(t, raw, i%10), Options{})
		require.NoError(t, err)
		require.Equal(t, want, digestOf(t, p), "input %d", i)
	}
	other := rich()
	other[3].body += "!"
	require.NotEqual(t, want, digestOf(t, mustRead(t, other)))
}

func TestCanonicalFromDirectory(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "app_1")
	for _, m := range rich() {
		at := filepath.Join(root, m.name)
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
		switch m.kind {
		case tar.TypeDir:
			require.NoError(t, os.MkdirAll(at, 0o755))
		case tar.TypeSymlink:
			require.NoError(t, os.Symlink(m.link, at))
		default:
			require.NoError(t, os.WriteFile(at, []byte(m.body), 0o600))
			mode := os.FileMode(m.mode & 0o777)
			if m.mode&0o4000 != 0 {
				mode |= os.ModeSetuid
			}
			require.NoError(t, os.Chmod(at, mode))
		}
	}
	p, err := ReadDirectory(context.Background(), root, Options{SpoolDir: t.TempDir()})
	require.NoError(t, err)
	defer p.Close()
	require.Equal(t, digestOf(t, mustRead(t, rich())), digestOf(t, p))

	require.NoError(t, os.Symlink("/../etc", filepath.Join(root, "sysroot", "out")))
	_, err = ReadDirectory(context.Background(), root, Options{SpoolDir: t.TempDir()})
	requireInvalid(t, err, "outside of the package")
	_, err = ReadDirectory(context.Background(), filepath.Join(root, "nothing"), Options{})
	requireInvalid(t, err, "name one that holds package.manifest")
}

func TestCanonicalReadsBack(t *testing.T) {
	t.Parallel()
	p := mustRead(t, rich())
	path := filepath.Join(t.TempDir(), "p.tar")
	f, err := os.Create(path)
	require.NoError(t, err)
	digest, size, err := p.WriteCanonical(context.Background(), f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.EqualValues(t, len(raw), size)

	back, err := Open(path, digest, Limits{})
	require.NoError(t, err)
	defer back.Close()
	require.Equal(t, p.Manifest, back.Manifest)
	require.Equal(t, fleet.Manifest{
		Program: "/bin/app", Args: []string{"app", "-v"}, Env: map[string]string{"A": "ü", "B": "2"}, Dir: "/srv",
		Ports:   []fleet.Port{{Number: 1883, Protocol: fleet.ProtocolTCP}, {Number: 8080, Protocol: fleet.ProtocolHTTP}},
		Health:  fleet.Health{Type: fleet.HealthHTTP, Port: 8080, Path: "/", Timeout: DefaultHealthTimeout},
		Persist: []string{"/a", "/z"}, Restart: fleet.RestartNever, MinMemoryMiB: 1024,
	}, back.Manifest)
	require.Equal(t, []string{p.Name, p.Version}, []string{back.Name, back.Version})
	require.Equal(t, digest, digestOf(t, back))
	require.NoError(t, p.Tree.Walk(func(e Entry) error {
		got, err := back.Tree.Lookup(e.Path)
		if e.Kind == Symlink {
			return nil
		}
		require.NoError(t, err)
		require.Equal(t, e.Mode, got.Mode)
		if e.Kind == File {
			a, err := io.ReadAll(p.Tree.Content(e))
			require.NoError(t, err)
			b, err := io.ReadAll(back.Tree.Content(got))
			require.NoError(t, err)
			require.Equal(t, a, b, e.Path)
		}
		return nil
	}))

	// Uploaded again, the canonical form is the same package.
	again, err := readWith(t, gzipOf(t, raw, gzip.BestSpeed), Options{})
	require.NoError(t, err)
	require.Equal(t, digest, digestOf(t, again))

	raw[len(raw)/2] ^= 1
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	_, err = Open(path, digest, Limits{})
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	require.ErrorContains(t, err, "damaged")
	_, err = Open(path+"x", digest, Limits{})
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
}

func FuzzReadArchive(f *testing.F) {
	f.Add(tarOf(f, rich(), nil))
	f.Add(tarOf(f, app(hardLink("sysroot/a", "sysroot/bin/app"), symlink("sysroot/b", "/bin")), nil))
	f.Add(tarOf(f, with(`{"Program":"top_1/x","Dirs":["d"],"MapDirs":{"d/*":"/e"}}`, file("x", "#!/bin/sh\n"), file("sysroot/bin/sh", elfBytes), file("d/f", "")),
		func(h *tar.Header) { h.Name = "top_1/" + h.Name }))
	f.Fuzz(func(t *testing.T, raw []byte) {
		spool, err := newSpool(t.TempDir())
		require.NoError(t, err)
		defer spool.f.Close()
		limits := Limits{Members: 500, Bytes: 1 << 20, NameBytes: 1 << 16}.withDefaults()
		c := newCollector(spool, limits)
		err = c.readTar(bytes.NewReader(raw), func(r io.Reader, n int64) (int64, error) { return c.store(context.Background(), r, n) })
		var tree *Tree
		var p *Package
		if err == nil {
			tree, err = c.finish()
		}
		if err == nil {
			p, err = assemble(tree, Options{Limits: limits, Name: "n", Version: "v"})
		}
		if err != nil {
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%v", err)
			return
		}
		require.NoError(t, p.Tree.check(limits, ""))
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
	})
}
