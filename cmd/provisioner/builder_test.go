package main

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/api"
	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/source"
)

// noKernel is one for which nothing is built here.
type noKernel struct{}

func (noKernel) Kind() fleet.KernelKind                                       { return fleet.KernelLinux }
func (noKernel) Digest(context.Context) (string, error)                       { return "k", nil }
func (noKernel) Files(string) (fleet.ImageFiles, error)                       { return fleet.ImageFiles{}, nil }
func (noKernel) Build(context.Context, imagebuilder.BuildInput, string) error { return nil }

// staticProgram is the header of a static x86-64 program without segments.
func staticProgram(t *testing.T) []byte {
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: 1, Phoff: 64, Ehsize: 64, Phentsize: 56}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	var b bytes.Buffer
	require.NoError(t, binary.Write(&b, binary.LittleEndian, h))
	return b.Bytes()
}

// Each kind of source reaches the image builder, with what is laid over it.
func TestSourcesReachTheBuilder(t *testing.T) {
	t.Parallel()
	log := logrus.New()
	log.SetOutput(io.Discard)
	images, err := imagebuilder.New(imagebuilder.Options{Dir: t.TempDir(), Kernels: []imagebuilder.Kernel{noKernel{}}, Log: log})
	require.NoError(t, err)
	defer images.Close()
	program := staticProgram(t)
	overlay := func() io.Reader {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		body := `{"Version": "7", "Ports": [80]}`
		require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: source.ManifestName, Mode: 0o644, Size: int64(len(body))}))
		_, err := io.WriteString(w, body)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return &b
	}
	b := builder{b: images}
	p, err := b.Import(t.Context(), api.PackageSource{Body: bytes.NewReader(program), FileName: "server", Overlay: overlay()})
	require.NoError(t, err)
	require.Equal(t, []string{"server", "7", "/server"}, []string{p.Name, p.Version, p.Manifest.Program})
	require.Equal(t, 80, p.Manifest.Health.Port)

	_, err = b.Import(t.Context(), api.PackageSource{OCI: "no reference"})
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	require.ErrorContains(t, err, "no image reference")

	b.debs = func(names []string) imagebuilder.Fetch {
		return func(_ context.Context, dir string) (source.Laid, error) {
			return source.Laid{Name: names[0], Version: "2", Manifest: []byte(`{"Program": "/daemon"}`)}, os.WriteFile(filepath.Join(dir, "daemon"), program, 0o755)
		}
	}
	p, err = b.Import(t.Context(), api.PackageSource{Deb: []string{"mosquitto", "libc6"}, Overlay: overlay(), Name: "broker"})
	require.NoError(t, err)
	require.Equal(t, []string{"broker", "7", "/daemon"}, []string{p.Name, p.Version, p.Manifest.Program})
}
