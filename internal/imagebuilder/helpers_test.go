package imagebuilder

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// fakeKernel builds images that list their package's files.
type fakeKernel struct {
	digest  string
	started chan struct{} // takes a token at the begin of each build, where not nil
	resume  chan struct{} // a build waits for it, where not nil
	fail    error
	panics  bool
}

func (k *fakeKernel) Kind() fleet.KernelKind { return fleet.KernelLinux }

func (k *fakeKernel) Digest(context.Context) (string, error) {
	if k.digest == "" {
		return "", fleet.Errorf(fleet.KindUnavailable, "no kernel yet")
	}
	return k.digest, nil
}

func (k *fakeKernel) Build(ctx context.Context, in BuildInput, dir string) error {
	out, err := os.OpenFile(filepath.Join(dir, "root"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if k.started != nil {
		k.started <- struct{}{}
	}
	if k.resume != nil {
		select {
		case <-k.resume:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), out.Close())
		}
	}
	if k.panics {
		panic("broken kernel")
	}
	return errors.Join(k.fail, in.Tree.WriteTar(ctx, out), out.Close())
}

func (k *fakeKernel) Files(dir string) (fleet.ImageFiles, error) {
	return fleet.ImageFiles{RootPath: filepath.Join(dir, "root")}, nil
}

func logger() *logrus.Logger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

func open(t testing.TB, dir string, k Kernel) *Builder {
	t.Helper()
	b, err := New(Options{Dir: dir, Kernels: []Kernel{k}, Log: logger()})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

// staticELF is the header of a static x86-64 program without segments.
func staticELF(machine elf.Machine) []byte {
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Entry: 1, Phoff: 64, Ehsize: 64, Phentsize: 56}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, h); err != nil {
		panic(err) // into memory: can't happen
	}
	return b.Bytes()
}

// archive is a package of one program.
func archive(t testing.TB, version string, program []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	w := tar.NewWriter(zw)
	for _, m := range []struct {
		name string
		body []byte
	}{
		{"package.manifest", []byte(`{"Name":"app","Version":"` + version + `","Program":"app","Ports":[8080],"Klibs":["tls"]}`)}, {"app", program},
	} {
		require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: 0o755, Size: int64(len(m.body))}))
		_, err := w.Write(m.body)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, zw.Close())
	return b.Bytes()
}

func importApp(t testing.TB, b *Builder, version string) fleet.Package {
	t.Helper()
	p, err := b.Import(context.Background(), bytes.NewReader(archive(t, version, staticELF(elf.EM_X86_64))), ImportOptions{})
	require.NoError(t, err)
	return p
}

// inDir lists a directory's names.
func inDir(t testing.TB, elems ...string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(elems...))
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
