package nanos

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func writeUEFI(t testing.TB, k *Kernel, image string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "uefi.img"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	require.NoError(t, k.WriteUEFI(context.Background(), image, f))
	return f
}

func TestWriteUEFI(t *testing.T) {
	t.Parallel()
	dir := fakeRelease(t)
	k := New(Options{Dir: dir})
	err := k.WriteUEFI(context.Background(), mustBuild(t, k, app(t)), nil)
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
	require.NoError(t, os.WriteFile(filepath.Join(dir, efiName), []byte("MZ loader"), 0o644))
	image := mustBuild(t, k, app(t))
	f := writeUEFI(t, k, image)
	whole, err := io.ReadAll(f)
	require.NoError(t, err)
	l, err := readLayout(f, int64(len(whole)))
	require.NoError(t, err)
	require.EqualValues(t, 4*512, l.klog)
	root, err := OpenRoot(f, int64(len(whole)))
	require.NoError(t, err)
	require.Equal(t, "x\n", text(t, root, dataDir+"/var/lib/app/deep/x"))
	boot, err := openAt(f, l.boot)
	require.NoError(t, err)
	require.Contains(t, text(t, boot, "kernel"), "\x7fELFkernel")
	require.Contains(t, string(whole[:l.boot.offset]), "MZ loader")
	again, err := io.ReadAll(writeUEFI(t, k, image))
	require.NoError(t, err)
	require.True(t, bytes.Equal(whole, again))
}

// The same disk boots by either firmware.
func TestBootUEFI(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: realRelease(t)})
	image := guestImage(t, k, guestManifest, nil)
	if _, err := os.Stat(filepath.Join(image, efiName)); err != nil {
		t.Skip("the release in NANOS_DIR has no loader for UEFI:", err)
	}
	for name, firmware := range map[string]string{"BIOS": "", "UEFI": "/usr/share/OVMF/OVMF_CODE.fd"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := writeUEFI(t, k, image)
			disks := []string{"-blockdev", "driver=raw,node-name=root,file.driver=file,file.filename=" + f.Name(), "-device", "virtio-blk-pci,drive=root"}
			if firmware != "" {
				if _, err := os.Stat(firmware); err != nil {
					t.Skip("there is no UEFI firmware (apt-get install ovmf):", err)
				}
				disks = append(disks, "-drive", "if=pflash,format=raw,readonly=on,file="+firmware)
			}
			m := start(t, "net=10.0.2.0/24", "10.0.2.15", disks...)
			m.await("guest: serving")
			require.Equal(t, []string{"/bin/guest", "base"}, m.about().Args)
		})
	}
}
