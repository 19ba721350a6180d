package linux

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/source"
)

// content is made so that files compress, repeat and span blocks.
func content(seed, size int) string {
	return strings.Repeat(fmt.Sprintf("%x", sha256.Sum256([]byte{byte(seed)})), size/64+1)[:size]
}

// pack returns a package of the given members: name → body, "->target" for a
// link, "/" at the end of a name for a directory.
func pack(t testing.TB, manifest string, members map[string]string) *source.Package {
	t.Helper()
	var b bytes.Buffer
	zw, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	require.NoError(t, err)
	w := tar.NewWriter(zw)
	add := func(h tar.Header, body string) {
		h.Size = int64(len(body))
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, body)
		require.NoError(t, err)
	}
	add(tar.Header{Name: source.ManifestName, Typeflag: tar.TypeReg, Mode: 0o644}, manifest)
	add(tar.Header{Name: "sysroot/bin/app", Typeflag: tar.TypeReg, Mode: 0o4755}, "\x7fELF")
	for name, body := range members {
		switch target, link := strings.CutPrefix(body, "->"); {
		case link:
			add(tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}, "")
		case strings.HasSuffix(name, "/"):
			add(tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o700}, "")
		default:
			add(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o640}, body)
		}
	}
	require.NoError(t, w.Close())
	require.NoError(t, zw.Close())
	p, err := source.ReadArchive(context.Background(), &b, source.Options{SpoolDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

const manifest = `{"Name":"app","Version":"1","Program":"/bin/app","Persist":["/data","/var/lib/app"]}`

func testKernel(t testing.TB, o Options) (*Kernel, string) {
	t.Helper()
	dir := t.TempDir()
	o.KernelPath, o.InitrdPath, o.Cmdline = filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd"), "console=ttyS0 quiet"
	require.NoError(t, os.WriteFile(o.KernelPath, []byte("kernel"), 0o644))
	require.NoError(t, os.WriteFile(o.InitrdPath, []byte("initrd"), 0o644))
	return New(o), dir
}

func build(t testing.TB, k *Kernel, p *source.Package) (string, error) {
	t.Helper()
	digest, err := k.Digest(context.Background())
	require.NoError(t, err)
	dir := t.TempDir()
	return dir, k.Build(context.Background(), imagebuilder.BuildInput{
		Package: fleet.Package{Manifest: p.Manifest}, KernelDigest: digest, Tree: p.Tree,
	}, dir)
}

// list returns what unsquashfs sees: mode, size or target, and path, by path.
func list(t testing.TB, image string) map[string]string {
	t.Helper()
	out, err := exec.Command("unsquashfs", "-d", "", "-lln", image).Output()
	require.NoError(t, err, "unsquashfs comes with squashfs-tools")
	found := map[string]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		require.Equal(t, "0/0", f[1], line)
		require.Equal(t, "1970-01-01", f[3], line)
		path := ""
		if len(f) > 5 {
			path = f[5]
		}
		found[path] = f[0]
		switch f[0][0] {
		case '-':
			found[path] += " " + f[2]
		case 'l':
			found[path] += " " + f[7]
		}
	}
	return found
}

func TestBuild(t *testing.T) {
	t.Parallel()
	k, kernelDir := testKernel(t, Options{})
	p := pack(t, manifest, map[string]string{
		"sysroot/usr/lib/big": content(1, 700_000), "sysroot/lib": "->usr/lib", "sysroot/private/": "",
		"sysroot/etc/hosts": "->/elsewhere", "sysroot/etc/host": "->/etc/passwd", "sysroot/var": "->usr/var", "sysroot/run/": "",
	})
	before := p.Tree.Len()
	dir, err := build(t, k, p)
	require.NoError(t, err)
	require.Equal(t, before, p.Tree.Len(), "the package's tree stays as it was")
	require.Equal(t, map[string]string{
		"": "drwxr-xr-x", "/bin": "drwxr-xr-x", "/bin/app": "-rwsr-xr-x 4", "/usr": "drwxr-xr-x", "/usr/lib": "drwxr-xr-x", "/usr/lib/big": "-rw-r----- 700000",
		"/lib": "lrwxrwxrwx usr/lib", "/private": "drwx------", "/var": "lrwxrwxrwx usr/var", "/usr/var": "drwxr-xr-x", "/usr/var/lib": "drwxr-xr-x",
		"/usr/var/lib/app": "drwxr-xr-x", "/data": "drwxr-xr-x", "/proc": "dr-xr-xr-x", "/sys": "dr-xr-xr-x", "/dev": "drwxr-xr-x", "/tmp": "drwxrwxrwt",
		"/run": "drwx------", "/etc": "drwxr-xr-x", "/etc/hosts": "-rw-r--r-- 0", "/etc/hostname": "-rw-r--r-- 0", "/etc/resolv.conf": "-rw-r--r-- 0",
		"/etc/host": "lrwxrwxrwx /etc/passwd",
	}, list(t, filepath.Join(dir, rootName)))

	files, err := k.Files(dir)
	require.NoError(t, err)
	require.Equal(t, fleet.ImageFiles{
		Kernel: fleet.KernelLinux, KernelPath: filepath.Join(dir, "kernel"), InitrdPath: filepath.Join(dir, "initrd"),
		RootPath: filepath.Join(dir, "root.squashfs"), Cmdline: "console=ttyS0 quiet",
	}, files)

	// A kernel that is replaced, as package stock replaces it, leaves images as they are.
	next := filepath.Join(kernelDir, "next")
	require.NoError(t, os.WriteFile(next, []byte("newer kernel"), 0o644))
	was, err := k.Digest(context.Background())
	require.NoError(t, err)
	require.NoError(t, os.Rename(next, filepath.Join(kernelDir, "vmlinuz")))
	is, err := k.Digest(context.Background())
	require.NoError(t, err)
	require.NotEqual(t, was, is)
	body, err := os.ReadFile(files.KernelPath)
	require.NoError(t, err)
	require.Equal(t, "kernel", string(body))
	err = k.Build(context.Background(), imagebuilder.BuildInput{KernelDigest: was, Tree: p.Tree}, t.TempDir())
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
	require.ErrorContains(t, err, "replaced while the image was built")
}

// The files are such that mksquashfs 4.5.1 gives another result each time
// unless told otherwise: large ones with tail ends, among many of equal beginnings.
func TestBuildReproducible(t *testing.T) {
	t.Parallel()
	members := map[string]string{}
	for i := range 250 {
		members[fmt.Sprintf("sysroot/d%d/f%d", i%7, i)] = content(i%50, i*977)
	}
	k, _ := testKernel(t, Options{})
	p := pack(t, manifest, members)
	var first []byte
	for range 3 {
		dir, err := build(t, k, p)
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(dir, rootName))
		require.NoError(t, err)
		if first == nil {
			first = got
		}
		require.True(t, bytes.Equal(first, got), "two builds of the same tree differ")
	}
}

func TestBuildRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		members map[string]string
		says    string
	}{
		"ProcIsFile":   {map[string]string{"sysroot/proc": "x"}, "/proc is no directory"},
		"HostsIsDir":   {map[string]string{"sysroot/etc/hosts/": ""}, "is a directory"},
		"TmpIsALoop":   {map[string]string{"sysroot/tmp": "->tmp"}, "too many links"},
		"PersistBelow": {map[string]string{"sysroot/var": "x"}, "is a file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "PersistBelow" { // refused when read already; here what a kernel sees of it
				p := pack(t, strings.Replace(manifest, `"/var/lib/app"`, `"/d"`, 1), c.members)
				p.Manifest.Persist = []string{"/var/lib/app"}
				k, _ := testKernel(t, Options{})
				_, err := build(t, k, p)
				require.ErrorContains(t, err, c.says)
				return
			}
			k, _ := testKernel(t, Options{})
			_, err := build(t, k, pack(t, manifest, c.members))
			require.ErrorContains(t, err, c.says)
			require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
		})
	}
}

// tool writes a script that stands in for mksquashfs.
func tool(t testing.TB, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mksquashfs")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	return path
}

func TestBuildToolFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		kind   fleet.ErrorKind
		says   string
	}{
		"DiskFull":      {"echo 'Write failed because No space left on device' >&2; exit 1", fleet.KindCapacity, "the disk is full"},
		"Error":         {"cat >/dev/null; echo 'FATAL ERROR: nope'; exit 1", fleet.KindPermanent, "FATAL ERROR: nope"},
		"Killed":        {"kill -9 $$", fleet.KindUnavailable, "ended by a signal"},
		"NoOutput":      {"cat >/dev/null", fleet.KindPermanent, "left no image"},
		"WrongOutput":   {"cat >/dev/null; echo something else >$2", fleet.KindPermanent, "no squashfs"},
		"LostFiles":     {"cat >/dev/null; printf 'hsqs\\001\\000\\000\\000' >$2", fleet.KindPermanent, "wrote 1 files"},
		"OtherContent":  {"LC_ALL=C sed 's/written by the test/written by the tool/' | exec /usr/bin/mksquashfs \"$@\"", fleet.KindPermanent, "reading the image back: /small has another content"},
		"WithoutRead":   {"exec true", fleet.KindInternal, ""},
		"NotExecutable": {"", fleet.KindUnavailable, "squashfs-tools"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := tool(t, c.script)
			if c.script == "" {
				require.NoError(t, os.Remove(path))
			}
			k, _ := testKernel(t, Options{Mksquashfs: path})
			_, err := build(t, k, pack(t, manifest, map[string]string{"sysroot/big": content(1, 1<<20), "sysroot/small": "written by the test"}))
			require.ErrorContains(t, err, c.says)
			require.Equal(t, c.kind, fleet.KindOf(err), "%v", err)
		})
	}
}

func TestBuildCancelled(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "started")
	require.NoError(t, exec.Command("mkfifo", fifo).Run())
	k, _ := testKernel(t, Options{Mksquashfs: tool(t, "exec 3>"+fifo+"; exec 3>&-; exec sleep 600")})
	digest, err := k.Digest(context.Background())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		if f, err := os.Open(fifo); err == nil { // until the tool runs
			_ = f.Close()
		}
		cancel()
	}()
	p := pack(t, manifest, map[string]string{"sysroot/big": content(1, 1<<20)})
	err = k.Build(ctx, imagebuilder.BuildInput{KernelDigest: digest, Tree: p.Tree}, t.TempDir())
	require.ErrorIs(t, err, context.Canceled)
}

func TestKernelMissing(t *testing.T) {
	t.Parallel()
	k, dir := testKernel(t, Options{})
	require.NoError(t, os.Remove(filepath.Join(dir, "initrd")))
	_, err := k.Digest(context.Background())
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
	_, err = k.Files(t.TempDir())
	require.Equal(t, fleet.KindInternal, fleet.KindOf(err))
}
