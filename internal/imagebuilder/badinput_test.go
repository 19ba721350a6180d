package imagebuilder

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// tmpfs mounts a small file system.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	switch err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		t.Skipf("a file system that gets full needs the right to mount one: %v", err)
	default:
		require.NoError(t, err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	return dir
}

// packed is a tar of those files, and in it a manifest for /app.
func packed(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(name string, body []byte) {
		require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(body))}))
		_, err := w.Write(body)
		require.NoError(t, err)
	}
	put(source.ManifestName, []byte(`{"Name":"app","Version":"1","Program":"/app"}`))
	put("sysroot/app", staticELF(elf.EM_X86_64))
	for name, body := range files {
		put(name, body)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	_, _ = r.Read(b) // never fails
	return b
}

// The disk gets full while the contents are spooled, and while the canonical
// form is written: nothing is left, and what needs less room still has it.
func TestDiskFullHalfway(t *testing.T) {
	t.Parallel()
	dir := tmpfs(t, "4m")
	b := open(t, dir, &fakeKernel{digest: "k"})
	for what, size := range map[string]int{"Spool": 5 << 20, "Canonical": 3 << 20} {
		for range 3 {
			_, err := b.Import(context.Background(), bytes.NewReader(packed(t, map[string][]byte{"sysroot/noise": noise(size)})), ImportOptions{})
			require.Equal(t, fleet.KindCapacity, fleet.KindOf(err), "%s: %v", what, err)
			require.ErrorContains(t, err, "the disk is full")
			require.Empty(t, inDir(t, dir, "packages"))
			require.Empty(t, inDir(t, dir, "tmp"))
		}
	}
	_, err := b.ImportFetched(context.Background(), func(_ context.Context, into string) (source.Laid, error) {
		return source.Laid{}, os.WriteFile(filepath.Join(into, "noise"), noise(5<<20), 0o600)
	}, ImportOptions{})
	require.Equal(t, fleet.KindCapacity, fleet.KindOf(err), "%v", err)
	require.Empty(t, inDir(t, dir, "tmp"))
	p, err := b.Import(context.Background(), bytes.NewReader(packed(t, map[string][]byte{"sysroot/noise": noise(1 << 20)})), ImportOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{p.Digest + ".tar"}, inDir(t, dir, "packages"))
}

// What is hostile is refused as the user's fault, and neither the store nor
// what lies beside it has anything of it.
func TestHostileLeavesNothing(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	dir := filepath.Join(outside, "store")
	b := open(t, dir, &fakeKernel{digest: "k"})
	hostile := map[string][]byte{}
	member := func(name string, h tar.Header) {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		require.NoError(t, w.WriteHeader(&h))
		require.NoError(t, w.Close())
		hostile[name] = append(buf.Bytes()[:buf.Len()-1024], packed(t, nil)...)
	}
	member("DotDot", tar.Header{Typeflag: tar.TypeReg, Name: "../../evil"})
	member("Absolute", tar.Header{Typeflag: tar.TypeReg, Name: outside + "/evil"})
	member("LinkOut", tar.Header{Typeflag: tar.TypeSymlink, Name: "sysroot/l", Linkname: "../../../evil"})
	member("HardLinkOut", tar.Header{Typeflag: tar.TypeLink, Name: "sysroot/l", Linkname: "/etc/passwd"})
	member("Device", tar.Header{Typeflag: tar.TypeBlock, Name: "sysroot/sda", Devmajor: 8})
	member("NotUTF8", tar.Header{Typeflag: tar.TypeReg, Name: "sysroot/\xff\xfe", Format: tar.FormatGNU})
	for i, raw := range [][]byte{{0x7f, 'E', 'L', 'F'}, []byte(elf.ELFMAG + "\x02\x01\x01" + strings.Repeat("\xff", 200)), staticELF(elf.EM_X86_64)[:40]} {
		hostile[fmt.Sprint("ELF", i)] = raw
	}
	for name, body := range hostile {
		for _, o := range []ImportOptions{{Name: "x", Version: "1"}, {Name: "x", Version: "1", Overlay: bytes.NewReader(body)}} {
			in := body
			if o.Overlay != nil {
				in = packed(t, nil)
			}
			_, err := b.Import(context.Background(), bytes.NewReader(in), o)
			require.Error(t, err, name)
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%s: %v", name, err)
			require.Empty(t, inDir(t, dir, "packages"), name)
			require.Empty(t, inDir(t, dir, "tmp"), name)
			require.Equal(t, []string{"store"}, inDir(t, outside), name)
		}
	}
}

// A million empty files are refused when the limit is reached, not at their end.
func TestMillionFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir, &fakeKernel{digest: "k"})
	r, w := io.Pipe()
	written := make(chan int, 1)
	go func() {
		out, n := tar.NewWriter(w), 0
		for ; n < 1_000_000; n++ {
			if out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("sysroot/d%03d/f%07d", n%1000, n)}) != nil {
				break
			}
		}
		written <- n
	}()
	_, err := b.Import(context.Background(), r, ImportOptions{})
	require.NoError(t, r.Close())
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	require.ErrorContains(t, err, "more than 200000 files")
	require.Less(t, <-written, 210_000)
	require.Empty(t, inDir(t, dir, "tmp"))
}

// admitting is a kernel that judges.
type admitting struct {
	fakeKernel
	kind fleet.KernelKind
	saw  AdmitInput
	err  error
}

func (k *admitting) Kind() fleet.KernelKind { return k.kind }

func (k *admitting) Admit(_ context.Context, in AdmitInput) ([]string, error) {
	k.saw = in
	return []string{"can't be told by reading"}, k.err
}

func TestAdmission(t *testing.T) {
	t.Parallel()
	nanos := &admitting{kind: fleet.KernelNanos}
	b, err := New(Options{Dir: t.TempDir(), Kernels: []Kernel{&fakeKernel{digest: "k"}, nanos}, Log: logger()})
	require.NoError(t, err)
	defer b.Close()
	manifest := func(keys string) io.Reader {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		body := `{"Name":"app","Version":"1","Program":"/app","User":"www","Klibs":["tls"],"BaseVolumeSz":"1g","ManifestPassthrough":{"a":"b"}` + keys + `}`
		for name, body := range map[string]string{source.ManifestName: body, "sysroot/app": string(staticELF(elf.EM_X86_64))} {
			require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(body))}))
			_, err := w.Write([]byte(body))
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		return &buf
	}
	p, err := b.Import(context.Background(), manifest(`,"Kernel":"nanos"`), ImportOptions{})
	require.NoError(t, err)
	require.Equal(t, fleet.KernelNanos, p.Kernel, "the manifest's")
	require.Equal(t, []string{"package.manifest: the key User has no effect with the kernel nanos", "can't be told by reading"}, p.Warnings)
	require.Equal(t, []string{"/app"}, nanos.saw.Package.Executables)
	require.Len(t, nanos.saw.Reports, 1)

	p, err = b.Import(context.Background(), manifest(`,"Kernel":"nanos"`), ImportOptions{Kernel: fleet.KernelLinux})
	require.NoError(t, err)
	require.Equal(t, fleet.KernelLinux, p.Kernel, "who asks wins")
	require.Len(t, p.Warnings, 3)
	p, err = b.Import(context.Background(), manifest(""), ImportOptions{})
	require.NoError(t, err)
	require.Equal(t, fleet.KernelLinux, p.Kernel)

	nanos.err = fleet.Errorf(fleet.KindInvalid, "it forks: use linux")
	_, err = b.Import(context.Background(), manifest(""), ImportOptions{Kernel: fleet.KernelNanos})
	require.ErrorContains(t, err, "it forks")
	p, err = b.Import(context.Background(), manifest(""), ImportOptions{Kernel: fleet.KernelNanos, Force: true})
	require.NoError(t, err)
	require.Contains(t, p.Warnings, "admitted by force, although the kernel nanos refuses it: it forks: use linux")
	nanos.err = errors.New("the disk is broken")
	_, err = b.Import(context.Background(), manifest(""), ImportOptions{Kernel: fleet.KernelNanos, Force: true})
	require.ErrorContains(t, err, "the disk is broken", "force is about refusals only")
	arm := bytes.NewReader(archive(t, "1", staticELF(elf.EM_AARCH64)))
	_, err = b.Import(context.Background(), arm, ImportOptions{Force: true})
	require.ErrorContains(t, err, "ARM", "no kernel could start it")
}
