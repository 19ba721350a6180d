package stock

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"
)

// compress packs by the ending of a name, as decompressed unpacks.
func compress(t *testing.T, ending string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ending {
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	case ".gz":
		w = gzip.NewWriter(&b)
	case "":
		return content
	default:
		require.FailNow(t, "unknown ending", ending)
	}
	require.NoError(t, err)
	_, err = w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// makeDeb writes a package with those files, its data packed by ending.
func makeDeb(t *testing.T, file, ending string, files map[string][]byte) string {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./boot/", Mode: 0o755}))
	for name, content := range files {
		require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Mode: 0o644, Size: int64(len(content))}))
		_, err := w.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	deb := []byte("!<arch>\n")
	for _, m := range []struct {
		name    string
		content []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", []byte("odd")}, {"data.tar" + ending, compress(t, ending, data.Bytes())}} {
		deb = fmt.Appendf(deb, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.content))
		deb = append(deb, m.content...)
		if len(m.content)%2 == 1 {
			deb = append(deb, '\n')
		}
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, deb, 0o644))
	return file
}

// makeModule is an ELF file that has nothing but a .modinfo section.
func makeModule(info string) []byte {
	names := "\x00.modinfo\x00.shstrtab\x00"
	const head, section = 64, 64
	out := make([]byte, head)
	copy(out, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(out[16:], 1)    // Relocatable.
	le.PutUint16(out[18:], 0x3e) // x86-64.
	le.PutUint32(out[20:], 1)
	le.PutUint64(out[40:], uint64(head+len(info)+len(names)))
	le.PutUint16(out[52:], head)
	le.PutUint16(out[58:], section)
	le.PutUint16(out[60:], 3)
	le.PutUint16(out[62:], 2)
	out = append(append(out, info...), names...)
	out = append(out, make([]byte, section)...)
	for _, s := range []struct{ name, kind, at, size int }{{1, 1, head, len(info)}, {10, 3, head + len(info), len(names)}} {
		h := make([]byte, section)
		le.PutUint32(h, uint32(s.name))
		le.PutUint32(h[4:], uint32(s.kind))
		le.PutUint64(h[24:], uint64(s.at))
		le.PutUint64(h[32:], uint64(s.size))
		out = append(out, h...)
	}
	return out
}

// makeVmlinux is an ELF file that has nothing but a note of that type.
func makeVmlinux(note uint32) []byte {
	le := binary.LittleEndian
	out := make([]byte, 64+56)
	copy(out, "\x7fELF\x02\x01\x01")
	le.PutUint16(out[16:], 2)
	le.PutUint16(out[18:], 0x3e)
	le.PutUint32(out[20:], 1)
	le.PutUint64(out[32:], 64)
	le.PutUint16(out[52:], 64)
	le.PutUint16(out[54:], 56)
	le.PutUint16(out[56:], 1)
	var notes []byte
	for _, kind := range []uint32{1, note} {
		notes = le.AppendUint32(notes, 4)
		notes = le.AppendUint32(notes, 6)
		notes = le.AppendUint32(notes, kind)
		notes = append(notes, "Xen\x00entry!\x00\x00"...)
	}
	le.PutUint32(out[64:], 4) // PT_NOTE
	le.PutUint64(out[64+8:], uint64(len(out)))
	le.PutUint64(out[64+32:], uint64(len(notes)))
	out = append(out, notes...)
	return append(out, make([]byte, 20000)...)
}

// makeBzImage puts a payload that is packed already behind a boot header.
func makeBzImage(payload []byte) []byte {
	out := make([]byte, 2*512+16)
	out[0x1f1] = 1
	copy(out[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(out[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(out[0x248:], 16)
	binary.LittleEndian.PutUint32(out[0x24c:], uint32(len(payload)))
	return append(append(out, payload...), "behind it"...)
}

func withSize(packed []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(packed, uint32(size))
}

// cloudKernel is a kernel with modules, as Debian packages it.
func cloudKernel(modules string) map[string][]byte {
	dir := "lib/modules/6.1.0-9-cloud-amd64/"
	return map[string][]byte{
		"boot/vmlinuz-6.1.0-9-cloud-amd64":                      makeBzImage(withSize(compressBare(makeVmlinux(18)), len(makeVmlinux(18)))),
		"boot/config-6.1.0-9-cloud-amd64":                       []byte("CONFIG_PVH=y\n"),
		dir + "modules.builtin":                                 []byte("kernel/fs/ext4/ext4.ko\nkernel/lib/zstd/zstd_common.ko\n"),
		dir + "kernel/drivers/virtio/virtio_pci.ko" + modules:   nil,
		dir + "kernel/drivers/virtio/virtio.ko" + modules:       nil,
		dir + "kernel/drivers/virtio/virtio-ring.ko" + modules:  nil,
		dir + "kernel/drivers/block/virtio_blk.ko" + modules:    nil,
		dir + "kernel/drivers/char/virtio_console.ko" + modules: nil,
		dir + "kernel/drivers/net/virtio_net.ko" + modules:      nil,
		dir + "kernel/fs/squashfs/squashfs.ko" + modules:        nil,
		dir + "kernel/crypto/crc_generic.ko" + modules:          nil,
		dir + "kernel/net/unwanted.ko" + modules:                nil,
	}
}

// compressBare is lz4's legacy frame, as lz4 -l makes of content that has no
// repetition: literals only.
func compressBare(content []byte) []byte {
	var block []byte
	block = append(block, 0xf0)
	n := len(content) - 15
	for ; n >= 255; n -= 255 {
		block = append(block, 255)
	}
	block = append(append(block, byte(n)), content...)
	out := []byte{0x02, 0x21, 0x4c, 0x18}
	return append(binary.LittleEndian.AppendUint32(out, uint32(len(block))), block...)
}

// withModules fills in what the modules of cloudKernel say of themselves.
func withModules(t *testing.T, files map[string][]byte) map[string][]byte {
	t.Helper()
	info := map[string]string{
		"virtio_pci":     "license=GPL\x00depends=virtio,virtio-ring\x00name=virtio_pci\x00",
		"virtio":         "depends=virtio_ring\x00",
		"virtio_ring":    "depends=\x00",
		"virtio_blk":     "depends=virtio\x00",
		"virtio_console": "depends=virtio\x00",
		"virtio_net":     "depends=virtio\x00",
		"squashfs":       "depends=zstd_common\x00softdep=post: other pre: crc absent\x00",
		"crc_generic":    "depends=\x00",
		"unwanted":       "depends=missing\x00",
	}
	for name, content := range files {
		if content == nil {
			said, ok := info[moduleName(name)]
			require.True(t, ok, name)
			ending := filepath.Ext(name)
			if ending == ".ko" {
				ending = ""
			}
			files[name] = compress(t, ending, makeModule(said))
		}
	}
	return files
}
