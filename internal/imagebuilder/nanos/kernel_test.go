package nanos

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/source"
	"dormouse/internal/imagebuilder/tfs"
)

func openDisk(t testing.TB, image string) (*os.File, *layout, *tfs.FS) {
	t.Helper()
	f, err := os.Open(filepath.Join(image, diskName))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	info, err := f.Stat()
	require.NoError(t, err)
	l, err := readLayout(f, info.Size())
	require.NoError(t, err)
	root, err := OpenRoot(f, info.Size())
	require.NoError(t, err)
	return f, l, root
}

func TestBuild(t *testing.T) {
	t.Parallel()
	dir := fakeRelease(t)
	k := New(Options{Dir: dir})
	p := app(t)
	p.Manifest.Klibs = []string{"shmem", "shmem"}
	p.Manifest.Dir = "/data"
	p.Manifest.NameServers = []string{"10.0.0.1"}
	p.Manifest.Passthrough = map[string]any{"readonly_rootfs": true, "debug_exit": "t", "mounts": map[string]any{"other": "/tmp"}, "log_level": "info", "mtu": 1400.0, "consoles": []any{"+net"}}
	before := p.Tree.Len()
	image := mustBuild(t, k, p)
	require.Equal(t, before, p.Tree.Len(), "the package's tree stays as it was")

	disk, l, root := openDisk(t, image)
	require.EqualValues(t, 4*512, l.klog)
	boot, err := openAt(disk, l.boot)
	require.NoError(t, err)
	entries, err := boot.Entries()
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Path)
	}
	require.Equal(t, []string{"", "kernel", "klib", "klib/shmem"}, names)

	r := root.Root
	require.Equal(t, "/bin/app", r.Get("program"))
	require.Equal(t, []string{"/bin/app", "-v"}, r.Strings("arguments"))
	require.Equal(t, map[string]string{"A": "1"}, r.Map("environment"))
	require.Equal(t, map[string]string{"other": "/tmp", configLabel: "/.dormouse/config:ro", dataLabel: "/.dormouse/data"}, r.Map("mounts"))
	require.Equal(t, []any{"bootfs", "/data", "t", "t", "info", int64(1400)}, []any{r.Get("klibs"), r.Get("cwd"), r.Get("readonly_rootfs"), r.Get("debug_exit"), r.Get("log_level"), r.Get("mtu")})
	require.Equal(t, []string{"+net"}, r.Strings("consoles"))

	got := map[string]string{}
	require.NoError(t, k.Read(context.Background(), image, func(e source.Entry, content io.Reader) error {
		require.Equal(t, e.Kind == source.File, content != nil, e.Path)
		got[e.Path] = fmt.Sprintf("%o %s", e.Mode, e.Target)
		if content != nil {
			b, err := io.ReadAll(content)
			require.NoError(t, err)
			require.Len(t, b, int(e.Size))
			got[e.Path] += string(b[:min(len(b), 20)])
		}
		return nil
	}))
	require.Equal(t, map[string]string{
		"": "777 ", "bin": "777 ", "bin/app": "555 \x7fELF program", "lib": "777 usr/lib", "usr": "777 ", "usr/lib": "777 ", "usr/lib/big": "777 01234567890123456789",
		"usr/lib/empty": "777 ", "usr/lib/dir": "777 ", "data": "777 /.dormouse/data/data", "var": "777 ", "var/lib": "777 ", "var/lib/app": "777 /.dormouse/data/var/lib/app",
		".dormouse": "777 ", ".dormouse/data": "777 ", ".dormouse/data/data": "777 ", ".dormouse/data/data/seed": "777 seed\n", ".dormouse/data/var": "777 ",
		".dormouse/data/var/lib": "777 ", ".dormouse/data/var/lib/app": "777 ", ".dormouse/data/var/lib/app/deep": "777 ", ".dormouse/data/var/lib/app/deep/x": "777 x\n",
		".dormouse/data/var/lib/app/l": "777 deep/x", ".dormouse/config": "777 ", ".dormouse/config/hosts": "777 127.0.0.1 localhost\n"[:24], ".dormouse/config/resolv.conf": "777 nameserver 10.0.0.1\n"[:24],
		"etc": "777 ", "etc/passwd": "777 me\n", "etc/group": "777 " + group[:20], "etc/nsswitch.conf": "777 " + nsswitch[:20], "etc/hostname": "777 app\n",
		"etc/hosts": "777 /.dormouse/config/hosts", "etc/resolv.conf": "777 /.dormouse/config/resolv.conf", "tmp": "777 ", "run": "777 ", "root": "777 ",
		"var/tmp": "777 ",
	}, got)

	files, err := k.Files(image)
	require.NoError(t, err)
	require.Equal(t, fleet.ImageFiles{Kernel: fleet.KernelNanos, DiskPath: filepath.Join(image, "disk.img")}, files)
	for _, name := range []string{diskName, buildName, namesName} {
		again, err := os.ReadFile(filepath.Join(mustBuild(t, New(Options{Dir: dir}), p), name))
		require.NoError(t, err)
		first, err := os.ReadFile(filepath.Join(image, name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(first, again), "two builds of the same package differ in %s", name)
	}
}

func TestBuildRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*fleet.Manifest)
		says   string
	}{
		"Klib":        {func(m *fleet.Manifest) { m.Klibs = []string{"no"} }, "sandbox shmem"},
		"Passthrough": {func(m *fleet.Manifest) { m.Passthrough = map[string]any{"program": "/x"} }, "use Program"},
		"Address":     {func(m *fleet.Manifest) { m.Passthrough = map[string]any{"en1": map[string]any{}} }, "installation's"},
		"False":       {func(m *fleet.Manifest) { m.Passthrough = map[string]any{"readonly_rootfs": false} }, "leave the key out"},
		"MountsKind":  {func(m *fleet.Manifest) { m.Passthrough = map[string]any{"mounts": "x"} }, "no object"},
		"MountsOurs": {func(m *fleet.Manifest) { m.Passthrough = map[string]any{"mounts": map[string]any{dataLabel: "/x"}} },
			"take another"},
		"RootPersists": {func(m *fleet.Manifest) { m.Persist = []string{"/"} }, "can't persist"},
		"EtcPersists":  {func(m *fleet.Manifest) { m.Persist = []string{"/etc"} }, "can't persist"},
		"FilePersists": {func(m *fleet.Manifest) { m.Persist = []string{"/bin/app"} }, "no directory"},
		"TooLarge":     {func(m *fleet.Manifest) { m.RootBytes = 1 << 50 }, "smaller"},
	} {
		p := app(t)
		c.change(&p.Manifest)
		_, err := buildImage(t, New(Options{Dir: fakeRelease(t)}), p)
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, fleet.KindPermanent, fleet.KindOf(err), name)
	}
	p := pack(t, manifest, map[string]string{"sysroot/bin/app": "\x7fELF", "sysroot/.dormouse/x": "x"})
	_, err := buildImage(t, New(Options{Dir: fakeRelease(t)}), p)
	require.ErrorContains(t, err, "which is ours")
}

func TestPersistThroughLinksAndNested(t *testing.T) {
	t.Parallel()
	p := pack(t, `{"Name":"app","Version":"1","Program":"/bin/app","Persist":["/a/data","/b/data/sub","/z"]}`,
		map[string]string{"sysroot/bin/app": "\x7fELF", "sysroot/a": "->b", "sysroot/b/data/sub/x": "x", "sysroot/z": "->b/data/zz", "sysroot/b/data/zz/y": "y"})
	k := New(Options{Dir: fakeRelease(t)})
	_, _, root := openDisk(t, mustBuild(t, k, p))
	for path, target := range map[string]string{"b/data": "/.dormouse/data/a/data", "z": "b/data/zz", "a": "b"} {
		e, err := root.Lookup(path)
		require.NoError(t, err)
		require.Equal(t, target, e.Target)
	}
	for _, path := range []string{".dormouse/data/a/data/sub/x", ".dormouse/data/a/data/zz/y"} {
		_, err := root.Lookup(path)
		require.NoError(t, err)
	}
}

func TestRootBytes(t *testing.T) {
	t.Parallel()
	p := app(t)
	p.Manifest.RootBytes = 1<<30 + 1
	k := New(Options{Dir: fakeRelease(t)})
	image := mustBuild(t, k, p)
	disk, l, _ := openDisk(t, image)
	require.EqualValues(t, 1<<30+512, l.root.bytes)
	info, err := disk.Stat()
	require.NoError(t, err)
	b, err := readBuild(image)
	require.NoError(t, err)
	require.Equal(t, info.Size(), b.TenantBytes)
	require.Less(t, allocated(t, disk.Name()), int64(2<<20), "what is not written takes no room")
}

func TestRelease(t *testing.T) {
	t.Parallel()
	_, err := New(Options{}).Digest(context.Background())
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
	require.ErrorContains(t, err, "NANOS_DIR")
	for name, spoil := range map[string]func(dir string) error{
		"NoBoot":     func(dir string) error { return os.Remove(filepath.Join(dir, bootName)) },
		"BootIsText": func(dir string) error { return os.WriteFile(filepath.Join(dir, bootName), make([]byte, 2048), 0o600) },
		"Kernel":     func(dir string) error { return os.WriteFile(filepath.Join(dir, kernelName), []byte("x"), 0o600) },
		"BootLength": func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, bootName))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, bootName), b[:1536], 0o600)
		},
		"KlibIsDir": func(dir string) error { return os.Mkdir(filepath.Join(dir, klibsDir, "d"), 0o755) },
	} {
		dir := fakeRelease(t)
		k := New(Options{Dir: dir})
		was, err := k.Digest(context.Background())
		require.NoError(t, err)
		require.NotEmpty(t, was)
		require.NoError(t, spoil(dir), name)
		_, err = k.Digest(context.Background())
		require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), name)
	}
}

// A release that is replaced is seen, and a build that began with the old one says so.
func TestReleaseReplaced(t *testing.T) {
	t.Parallel()
	dir := fakeRelease(t)
	k := New(Options{Dir: dir})
	was, err := k.Digest(context.Background())
	require.NoError(t, err)
	path := filepath.Join(dir, kernelName)
	require.NoError(t, os.WriteFile(path, []byte("\x7fELF another"), 0o644))
	require.NoError(t, os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)))
	is, err := k.Digest(context.Background())
	require.NoError(t, err)
	require.NotEqual(t, was, is)
	p := app(t)
	err = k.Build(context.Background(), imagebuilder.BuildInput{KernelDigest: was, Tree: p.Tree}, t.TempDir())
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
}

func TestReadDamaged(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: fakeRelease(t)})
	image := mustBuild(t, k, app(t))
	path := filepath.Join(image, diskName)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	b, err := readBuild(image)
	require.NoError(t, err)
	for name, spoil := range map[string]func(b []byte) []byte{
		"NoTable":    func(d []byte) []byte { d[510] = 0; return d },
		"Partitions": func(d []byte) []byte { clear(d[partitionsAt:510]); return d },
		"Short":      func(d []byte) []byte { return d[:b.RootOffset] },
		"Log":        func(d []byte) []byte { d[b.RootOffset+512+10] ^= 0xff; return d },
	} {
		require.NoError(t, os.WriteFile(path, spoil(bytes.Clone(whole)), 0o644))
		err := k.Read(context.Background(), image, func(source.Entry, io.Reader) error { return nil })
		require.Equal(t, fleet.KindPermanent, fleet.KindOf(err), "%s: %v", name, err)
	}
}
