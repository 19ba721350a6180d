package export_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/linux"
	"dormouse/internal/imagebuilder/linux/stock"
)

// bootLimit bounds a boot with firmware, on a machine that emulates and is busy with other tests.
const bootLimit = 4 * time.Minute

// needsAll leaves out what takes long: a few boots say enough after each change.
func needsAll(t *testing.T) {
	t.Helper()
	if os.Getenv("DORMOUSE_EXPORT_ALL") == "" {
		t.Skip("left out, because each boot takes ten seconds of a core under emulation and more: set DORMOUSE_EXPORT_ALL=1")
	}
}

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(sharedDir())
	os.Exit(code)
}

func sharedDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("dormouse-export-%d", os.Getpid()))
}

// example is the example's image and a disk of it, made once.
type example struct {
	disk  string
	input linux.DiskInput
	err   error
}

var theExample = sync.OnceValue(makeExample)

func exampleDisk(t *testing.T) example {
	t.Helper()
	e := theExample()
	require.NoError(t, e.err)
	return e
}

func makeExample() (e example) {
	dir := sharedDir()
	e.err = func() error {
		pkg := filepath.Join(dir, "package")
		if err := os.MkdirAll(pkg, 0o755); err != nil {
			return err
		}
		for _, argv := range [][]string{
			{"../../../scripts/package-workspace.sh", pkg, "1.2.3"},
			{"go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "init"), "../../../cmd/init"},
		} {
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", argv[0], err, out)
			}
		}
		var err error
		if e.input.Kernel, err = diskKernel(dir); err != nil {
			return err
		}
		if e.input.Package, e.input.RootPath, err = buildImage(dir, pkg, e.input.Kernel); err != nil {
			return err
		}
		e.disk = filepath.Join(dir, "disk.raw")
		return linux.WriteDisk(context.Background(), e.disk, e.input)
	}()
	return e
}

// diskKernel is the kernel that the scripts have fetched, with the init of the tree as it is.
func diskKernel(dir string) (k linux.DiskKernel, err error) {
	cache, err := filepath.Abs("../../../.cache")
	if err != nil {
		return k, err
	}
	debs, err := stock.FindPackages(filepath.Join(cache, "kernel"))
	if err != nil {
		return k, fmt.Errorf("run scripts/fetch-kernel.sh .cache/kernel: %w", err)
	}
	kernel, err := stock.Unpack(context.Background(), filepath.Join(dir, "kernels"), debs...)
	if err != nil {
		return k, err
	}
	k = linux.DiskKernel{VmlinuzPath: kernel.VmlinuzPath(), InitrdPath: filepath.Join(dir, "initrd"), Cmdline: stock.DiskCmdline}
	if k.StubPath, err = stub(cache); err != nil {
		return k, err
	}
	init, err := os.ReadFile(filepath.Join(dir, "init"))
	if err != nil {
		return k, err
	}
	f, err := os.Create(k.InitrdPath)
	if err != nil {
		return k, err
	}
	return k, errors.Join(stock.BuildDiskInitrd(f, kernel.Dir, init), f.Close())
}

func stub(cache string) (string, error) {
	path := filepath.Join(cache, "efi", "linuxx64.efi.stub")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("run scripts/fetch-efi-stub.sh .cache/efi: %w", err)
	}
	return path, nil
}

func buildImage(dir, pkg string, k linux.DiskKernel) (p fleet.Package, root string, err error) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	b, err := imagebuilder.New(imagebuilder.Options{
		Dir: filepath.Join(dir, "images"), Log: log,
		Kernels: []imagebuilder.Kernel{linux.New(linux.Options{KernelPath: k.VmlinuzPath, InitrdPath: k.InitrdPath})},
	})
	if err != nil {
		return p, "", err
	}
	defer b.Close()
	if p, err = b.ImportDir(context.Background(), pkg, imagebuilder.ImportOptions{}); err != nil {
		return p, "", err
	}
	id, err := b.Ensure(context.Background(), p)
	if err != nil {
		return p, "", err
	}
	files, err := b.Files(context.Background(), id)
	return p, files.RootPath, err
}

// The disk boots on what clouds and hypervisors have: NVMe (EC2, Compute
// Engine, VMware), virtio-scsi (Compute Engine), virtio-blk, IDE (VirtualBox).
func TestDiskBoots(t *testing.T) {
	t.Parallel()
	nvme := machine{args: []string{"-M", "q35", "-device", "nvme,drive=disk,serial=1"}, button: true}
	for name, m := range map[string]machine{
		"NVMe":       nvme,
		"VirtioSCSI": {args: []string{"-M", "q35", "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk"}},
		"VirtioBlk":  {args: []string{"-M", "q35", "-device", "virtio-blk-pci,drive=disk"}},
		"IDE":        {args: []string{"-M", "pc", "-device", "ide-hd,drive=disk,bus=ide.0"}},
		"VMware":     {args: nvme.args, card: "vmxnet3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name != "NVMe" {
				needsAll(t)
			}
			m.args = append(drive("raw", exampleDisk(t).disk), m.args...)
			serves(t, m)
		})
	}
}

// The small kernel has its EFI stub and the drivers of EC2 and Compute Engine built in.
func TestDiskOfSmallKernelBoots(t *testing.T) {
	t.Parallel()
	built, err := filepath.Glob("../../../.cache/small-kernel/*/bzImage")
	require.NoError(t, err)
	if len(built) == 0 {
		t.Skip("left out, because there is no small kernel: make kernel builds it")
	}
	e := exampleDisk(t)
	k, err := stock.UnpackImage(context.Background(), t.TempDir(), built[0])
	require.NoError(t, err)
	init, err := os.ReadFile(filepath.Join(sharedDir(), "init"))
	require.NoError(t, err)
	initrd := filepath.Join(t.TempDir(), "initrd")
	f, err := os.Create(initrd)
	require.NoError(t, err)
	require.NoError(t, errors.Join(stock.BuildDiskInitrd(f, k.Dir, init), f.Close()))
	e.input.Kernel.VmlinuzPath, e.input.Kernel.InitrdPath = k.VmlinuzPath(), initrd
	disk := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, linux.WriteDisk(context.Background(), disk, e.input))
	serves(t, machine{args: append(drive("raw", disk), "-M", "q35", "-device", "nvme,drive=disk,serial=1"), button: true})
}
