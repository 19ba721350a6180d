package nanos

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/source"
)

// BenchmarkBuild builds the image of a static program of 6 MB, another one each time; reading it back is part of it.
func BenchmarkBuild(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%t", sync), func(b *testing.B) {
			k := New(Options{Dir: realRelease(b)})
			digest, err := k.Digest(context.Background())
			require.NoError(b, err)
			binary := append([]byte("\x7fELF"), make([]byte, 6_000_000-4)...)
			random := rand.NewChaCha8([32]byte{})
			_, err = random.Read(binary[4:])
			require.NoError(b, err)
			dir := b.TempDir()
			var size int64
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				binary[100+i%1000]++
				p := pack(b, `{"Name":"app","Version":"1","Program":"/bin/app"}`, map[string]string{"sysroot/bin/app": string(binary)})
				out := filepath.Join(dir, strconv.Itoa(i))
				require.NoError(b, os.Mkdir(out, 0o755))
				b.StartTimer()
				require.NoError(b, k.Build(context.Background(), imagebuilder.BuildInput{Package: fleet.Package{Name: p.Name, Manifest: p.Manifest}, KernelDigest: digest, Tree: p.Tree}, out))
				if sync {
					f, err := os.Open(filepath.Join(out, diskName))
					require.NoError(b, err)
					require.NoError(b, f.Sync())
					require.NoError(b, f.Close())
				}
				b.StopTimer()
				info, err := os.Stat(filepath.Join(out, diskName))
				require.NoError(b, err)
				size = info.Size()
				require.NoError(b, os.RemoveAll(out))
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "build_ms")
			b.ReportMetric(float64(size), "image_bytes")
		})
	}
}

// BenchmarkCopy copies as many bytes as the image of BenchmarkBuild has, for comparison.
func BenchmarkCopy(b *testing.B) {
	dir := b.TempDir()
	from := filepath.Join(dir, "from")
	body := make([]byte, 9_638_912)
	_, err := rand.NewChaCha8([32]byte{}).Read(body)
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(from, body, 0o600))
	for b.Loop() {
		in, err := os.Open(from)
		require.NoError(b, err)
		out, err := os.Create(filepath.Join(dir, "to"))
		require.NoError(b, err)
		_, err = io.Copy(out, in)
		require.NoError(b, err)
		require.NoError(b, in.Close())
		require.NoError(b, out.Close())
		require.NoError(b, os.Remove(out.Name()))
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "copy_ms")
}

// BenchmarkSpecialise makes further tenants of one image, each with a configuration of its own.
func BenchmarkSpecialise(b *testing.B) {
	k := New(Options{Dir: realRelease(b)})
	many := map[string]string{"sysroot/bin/app": "\x7fELF" + strings.Repeat("x", 6_000_000)}
	for i := range 5000 {
		many[fmt.Sprintf("sysroot/usr/share/%d/%d", i%50, i)] = "x"
	}
	image := mustBuild(b, k, pack(b, `{"Name":"app","Version":"1","Program":"/bin/app"}`, many))
	dir := b.TempDir()
	var bytes int64
	for i := 0; b.Loop(); i++ {
		out := filepath.Join(dir, strconv.Itoa(i))
		b.StopTimer() // the directory is the caller's
		require.NoError(b, os.Mkdir(out, 0o755))
		b.StartTimer()
		env := map[string]string{}
		for j := range 20 {
			env[fmt.Sprintf("VARIABLE_%d", j)] = fmt.Sprintf("value %d of tenant %d", j, i)
		}
		files, err := k.Specialise(context.Background(), image, fleet.Tenant{
			Hostname: fmt.Sprintf("tenant-%d", i), Args: []string{"-listen", ":8080"}, Env: env,
			Network: fleet.GuestNetwork{Address: fmt.Sprintf("10.%d.%d.%d/8", i>>16&255, i>>8&255, i&255), Gateway: "10.255.255.254", DNS: []string{"10.255.255.253"}},
		}, out)
		require.NoError(b, err)
		bytes = max(bytes, allocated(b, files.OverlayPath, files.ConfigPath))
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "tenant_ms")
	b.ReportMetric(float64(bytes), "tenant_bytes")
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// BenchmarkBuild2GB tells how much memory an image of 2 GB takes: run it alone, for the peak is the process's.
func BenchmarkBuild2GB(b *testing.B) {
	const size = 2_000_000_000
	k := New(Options{Dir: realRelease(b)})
	digest, err := k.Digest(context.Background())
	require.NoError(b, err)
	r, w := io.Pipe()
	go func() {
		zw, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
		tw := tar.NewWriter(zw)
		body := `{"Name":"app","Version":"1","Program":"/bin/app"}`
		err := tw.WriteHeader(&tar.Header{Name: source.ManifestName, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))})
		if err == nil {
			_, err = io.WriteString(tw, body)
		}
		if err == nil {
			err = tw.WriteHeader(&tar.Header{Name: "sysroot/bin/app", Typeflag: tar.TypeReg, Mode: 0o755, Size: size})
		}
		if err == nil {
			_, err = io.CopyN(tw, io.MultiReader(strings.NewReader("\x7fELF"), zeros{}), size)
		}
		if err == nil {
			err = tw.Close()
		}
		if err == nil {
			err = zw.Close()
		}
		w.CloseWithError(err)
	}()
	p, err := source.ReadArchive(context.Background(), r, source.Options{SpoolDir: b.TempDir()})
	require.NoError(b, err)
	defer func() { require.NoError(b, p.Close()) }()
	dir := filepath.Join(b.TempDir(), "image")
	for b.Loop() {
		require.NoError(b, os.Mkdir(dir, 0o755))
		require.NoError(b, k.Build(context.Background(), imagebuilder.BuildInput{Package: fleet.Package{Name: p.Name, Manifest: p.Manifest}, KernelDigest: digest, Tree: p.Tree}, dir))
		require.NoError(b, os.RemoveAll(dir))
	}
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(b, err)
	for line := range bytes.Lines(status) {
		if f := bytes.Fields(line); len(f) > 1 && string(f[0]) == "VmHWM:" {
			kib, err := strconv.Atoi(string(f[1]))
			require.NoError(b, err)
			b.ReportMetric(float64(kib)/1024, "rss_MiB")
		}
	}
}
