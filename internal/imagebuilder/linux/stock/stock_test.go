package stock

import (
	"bytes"
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func unpackCloud(t *testing.T, dir, data, modules string) Kernel {
	t.Helper()
	deb := makeDeb(t, filepath.Join(dir, "debs", "linux-image-6.1.0-9-cloud-amd64_6.1.1-1_amd64.deb"), data, withModules(t, cloudKernel(modules)))
	k, err := Unpack(context.Background(), filepath.Join(dir, "kernel"), deb)
	require.NoError(t, err)
	return k
}

func TestUnpackEveryCompression(t *testing.T) {
	t.Parallel()
	digests := map[string]bool{}
	for _, data := range []string{"", ".xz", ".zst", ".gz"} {
		for _, modules := range []string{"", ".xz", ".zst", ".gz"} {
			dir := t.TempDir()
			k := unpackCloud(t, dir, data, modules)
			digests[k.Digest] = true
			order, err := os.ReadFile(filepath.Join(k.Dir, orderFile))
			require.NoError(t, err)
			require.Equal(t, "virtio_ring.ko boot\nvirtio.ko boot\nvirtio_pci.ko boot\nvirtio_blk.ko boot\nvirtio_console.ko boot\n"+
				"virtio_net.ko boot\ncrc_generic.ko boot\nsquashfs.ko boot\n", string(order), "after what each depends on; ext4 is built in")
			image, err := os.ReadFile(k.BootPath())
			require.NoError(t, err)
			require.Equal(t, makeVmlinux(18), image)
			require.FileExists(t, k.VmlinuzPath())
			require.NoFileExists(t, filepath.Join(k.Dir, modulesDir, "unwanted.ko"))
			found, err := Find(filepath.Join(dir, "kernel"))
			require.NoError(t, err)
			require.Equal(t, k, found)
			left, err := os.ReadDir(filepath.Join(dir, "kernel"))
			require.NoError(t, err)
			require.Len(t, left, 1, "nothing but the kernel stays")
		}
	}
	require.Len(t, digests, 1, "the digest does not depend on how the package is compressed")
}

func TestUnpackAgainKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := unpackCloud(t, dir, ".xz", "")
	before, err := os.Stat(k.VmlinuzPath())
	require.NoError(t, err)
	again := unpackCloud(t, dir, ".xz", "")
	after, err := os.Stat(again.VmlinuzPath())
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after))
	// What is damaged is replaced.
	require.NoError(t, os.Remove(filepath.Join(k.Dir, modulesDir, "virtio.ko")))
	_, err = Find(filepath.Join(dir, "kernel"))
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	unpackCloud(t, dir, ".xz", "")
	_, err = Find(filepath.Join(dir, "kernel"))
	require.NoError(t, err)
}

func TestUnpackModulesFromTheirOwnPackage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all := withModules(t, cloudKernel(".zst"))
	image, modules := map[string][]byte{}, map[string][]byte{}
	for name, content := range all {
		if strings.HasPrefix(name, "boot/vmlinuz") {
			image[name] = content
		} else {
			modules["usr/"+name] = content
		}
	}
	a := makeDeb(t, filepath.Join(dir, "linux-image-6.1.0-9-cloud-amd64_1_amd64.deb"), ".zst", image)
	makeDeb(t, filepath.Join(dir, "linux-image-6.1.0-8-cloud-amd64_2_amd64.deb"), ".zst", nil)
	b := makeDeb(t, filepath.Join(dir, "linux-modules-6.1.0-9-cloud-amd64_1_amd64.deb"), ".zst", modules)
	debs, err := FindPackages(dir)
	require.NoError(t, err)
	require.Equal(t, []string{a, b}, debs)
	_, err = Unpack(context.Background(), filepath.Join(dir, "kernel"), a)
	require.ErrorContains(t, err, "linux-modules package of kernel 6.1.0-9-cloud-amd64")
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	k, err := Unpack(context.Background(), filepath.Join(dir, "kernel"), debs...)
	require.NoError(t, err)
	require.Len(t, k.Modules, 8)
}

func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	good := withModules(t, cloudKernel(""))
	without := func(part string) map[string][]byte {
		files := maps.Clone(good)
		maps.DeleteFunc(files, func(name string, _ []byte) bool { return strings.Contains(name, part) })
		return files
	}
	more := func(name string, content []byte) map[string][]byte {
		files := maps.Clone(good)
		files[name] = content
		return files
	}
	module := "lib/modules/6.1.0-9-cloud-amd64/kernel/drivers/block/virtio_blk.ko"
	for name, tc := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"Metapackage":   {nil, "no /boot/vmlinuz"},
		"NoDriver":      {without("virtio_blk"), "no virtio_blk"},
		"NoDependency":  {without("virtio-ring"), "no virtio_ring"},
		"TwoKernels":    {more("boot/vmlinuz-7.0", []byte("x")), "more than one kernel"},
		"BrokenModule":  {more(module, []byte("x")), "reading module virtio_blk"},
		"StrangeModule": {more("lib/modules/x/a b.ko", []byte("x")), "strange name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			deb := makeDeb(t, filepath.Join(dir, "x.deb"), ".gz", tc.files)
			_, err := Unpack(context.Background(), filepath.Join(dir, "kernel"), deb)
			require.ErrorContains(t, err, tc.want)
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
			left, err := os.ReadDir(filepath.Join(dir, "kernel"))
			require.NoError(t, err)
			require.Empty(t, left, "nothing is left behind")
		})
	}
}

func TestUnpackTruncatedPackage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	deb := makeDeb(t, filepath.Join(dir, "x.deb"), ".xz", withModules(t, cloudKernel("")))
	whole, err := os.ReadFile(deb)
	require.NoError(t, err)
	for _, n := range []int{0, 7, 40, 200, len(whole) / 2, len(whole) - 20} {
		require.NoError(t, os.WriteFile(deb, whole[:n], 0o644))
		_, err := Unpack(context.Background(), filepath.Join(dir, "kernel"), deb)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%d bytes: %v", n, err)
	}
	_, err = Unpack(context.Background(), filepath.Join(dir, "kernel"), filepath.Join(dir, "none.deb"))
	require.ErrorIs(t, err, os.ErrNotExist)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, os.WriteFile(deb, whole, 0o644))
	_, err = Unpack(gone, filepath.Join(dir, "kernel"), deb)
	require.ErrorIs(t, err, context.Canceled)
}

func TestFindNothing(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		_, err := Find(dir)
		require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
		_, err = FindPackages(dir)
		require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
		require.ErrorContains(t, err, "fetch-kernel.sh")
	}
}

func TestVersionLess(t *testing.T) {
	t.Parallel()
	ordered := []string{"5.10.0-9", "6.1.0-9-cloud", "6.1.0-56-cloud", "6.1.0-056-clouds", "6.10.0-1"}
	for i, a := range ordered {
		for j, b := range ordered {
			require.Equal(t, i < j, versionLess(a, b), "%s %s", a, b)
		}
	}
}

// cpioFiles returns what is in an initrd.
func cpioFiles(t *testing.T, initrd io.Reader) (map[string]cpio.FileMode, map[string]string) {
	t.Helper()
	r := cpio.NewReader(initrd)
	modes, contents := map[string]cpio.FileMode{}, map[string]string{}
	for {
		h, err := r.Next()
		if err == io.EOF {
			return modes, contents
		}
		require.NoError(t, err)
		modes[h.Name] = h.Mode
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		contents[h.Name] = string(content)
	}
}

// The drivers of other machines are in the disks' initrd only, and one that the
// package brings without what it needs is left out of both.
func TestBuildDiskInitrd(t *testing.T) {
	t.Parallel()
	files := cloudKernel("")
	dir := "lib/modules/6.1.0-9-cloud-amd64/"
	files[dir+"modules.builtin"] = []byte("kernel/drivers/nvme/host/nvme.ko\n")
	files = withModules(t, files)
	for name, info := range map[string]string{
		"drivers/net/ena": "depends=\x00", "drivers/net/gve": "depends=gone\x00", "drivers/scsi/virtio_scsi": "depends=virtio,scsi_mod\x00",
		"drivers/scsi/scsi_mod": "depends=jbd2\x00", "fs/ext4/ext4": "depends=jbd2\x00", "fs/jbd2/jbd2": "depends=\x00", "lib/zstd_common": "depends=\x00",
	} {
		files[dir+"kernel/"+name+".ko"] = makeModule(info)
	}
	deb := makeDeb(t, filepath.Join(t.TempDir(), "linux-image-6.1.0-9-cloud-amd64_1_amd64.deb"), "", files)
	k, err := Unpack(context.Background(), t.TempDir(), deb)
	require.NoError(t, err)
	var ours, disks bytes.Buffer
	require.NoError(t, BuildInitrd(&ours, k.Dir, []byte("\x7fELF")))
	require.NoError(t, BuildDiskInitrd(&disks, k.Dir, []byte("\x7fELF")))
	modes, contents := cpioFiles(t, &ours)
	for _, name := range []string{"ena", "gve", "virtio_scsi", "scsi_mod", "nvme"} {
		require.NotContains(t, modes, "modules/"+name+".ko")
		require.NotContains(t, contents["modules/order"], name)
	}
	require.Contains(t, contents["modules/order"], "jbd2.ko volume\next4.ko volume\n")
	modes, contents = cpioFiles(t, &disks)
	require.Contains(t, modes, "modules/ena.ko")
	require.NotContains(t, modes, "modules/gve.ko")
	require.True(t, strings.HasSuffix(contents["modules/order"], "jbd2.ko boot\next4.ko boot\nscsi_mod.ko disk\nvirtio_scsi.ko disk\nena.ko disk\n"), contents["modules/order"])
}

func TestBuildInitrd(t *testing.T) {
	t.Parallel()
	k := unpackCloud(t, t.TempDir(), ".zst", ".xz")
	initBinary := []byte("\x7fELF and so on")
	var first, second bytes.Buffer
	require.NoError(t, BuildInitrd(&first, k.Dir, initBinary))
	require.NoError(t, BuildInitrd(&second, k.Dir, initBinary))
	require.Equal(t, first.Bytes(), second.Bytes())
	modes, contents := cpioFiles(t, &first)
	require.Equal(t, string(initBinary), contents["init"])
	require.Equal(t, cpio.FileMode(modeFile|0o755), modes["init"])
	require.Equal(t, cpio.FileMode(modeChar|0o600), modes["dev/console"])
	require.Equal(t, cpio.FileMode(modeDir|0o755), modes["newroot"])
	for line := range strings.Lines(contents["modules/order"]) {
		file, _, _ := strings.Cut(line, " ")
		require.Contains(t, modes, "modules/"+file)
	}

	require.Equal(t, fleet.KindInvalid, fleet.KindOf(BuildInitrd(io.Discard, k.Dir, []byte("#!/bin/sh"))))
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(BuildInitrd(io.Discard, t.TempDir(), initBinary)))
}
