package export_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/export"
)

func options(t *testing.T) export.Options {
	t.Helper()
	o := export.Options{WorkDir: t.TempDir(), Name: "workspace-1.2.3", MemoryMiB: 320, VCPUs: 2}
	t.Cleanup(func() {
		left, err := os.ReadDir(o.WorkDir)
		require.NoError(t, err)
		require.Empty(t, left, "nothing is left behind")
	})
	return o
}

// exported is a disk that was exported, as a user has it: taken out of its archive.
type exported struct {
	path   string
	driver string // QEMU's name for it
	// descriptor is an OVA's; nil else.
	descriptor *descriptor
}

func exportDisk(t *testing.T, disk string, format export.Format) exported {
	t.Helper()
	path := filepath.Join(t.TempDir(), format.FileName("disk"))
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, errors.Join(export.Export(context.Background(), disk, format, f, options(t)), f.Close()))
	switch format {
	case export.OVA:
		files := untar(t, path, false)
		require.Equal(t, []string{"workspace-1.2.3.ovf", "workspace-1.2.3.mf", "workspace-1.2.3-disk1.vmdk"}, files)
		dir := filepath.Dir(path)
		for line := range strings.Lines(read(filepath.Join(dir, files[1]))) {
			name, digest, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(line, "SHA256("), "\n"), ")= ")
			require.True(t, ok, line)
			require.Equal(t, sum(t, filepath.Join(dir, name)), digest)
		}
		d := readDescriptor(t, filepath.Join(dir, files[0]))
		return exported{filepath.Join(dir, d.Files[0].Href), "vmdk", d}
	case export.GCE:
		require.Equal(t, []string{"disk.raw"}, untar(t, path, true))
		return exported{path: filepath.Join(filepath.Dir(path), "disk.raw"), driver: "raw"}
	case export.VHD:
		return exported{path: path, driver: "vpc"}
	}
	return exported{path: path, driver: string(format)}
}

// untar unpacks beside the archive with the system's tar, and returns the names in order.
func untar(t *testing.T, path string, packed bool) []string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	var r io.Reader = f
	if packed {
		r, err = gzip.NewReader(f)
		require.NoError(t, err)
	}
	var names []string
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		want := tar.FormatUSTAR
		if packed {
			want = tar.FormatGNU
		}
		require.Equal(t, want, h.Format)
		require.Equal(t, int64(0), h.ModTime.Unix())
		names = append(names, h.Name)
	}
	out, err := exec.Command("tar", "--sparse", "-C", filepath.Dir(path), "-xf", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return names
}

// descriptor is what an importer reads of an OVF descriptor.
type descriptor struct {
	Files []struct {
		Href string `xml:"href,attr"`
		Size int64  `xml:"size,attr"`
	} `xml:"References>File"`
	Disks []struct {
		Capacity int64  `xml:"capacity,attr"`
		Format   string `xml:"format,attr"`
	} `xml:"DiskSection>Disk"`
	Items []struct {
		Type     int    `xml:"ResourceType"`
		Quantity int    `xml:"VirtualQuantity"`
		Units    string `xml:"AllocationUnits"`
		SubType  string `xml:"ResourceSubType"`
	} `xml:"VirtualSystem>VirtualHardwareSection>Item"`
	Config []struct {
		Key   string `xml:"key,attr"`
		Value string `xml:"value,attr"`
	} `xml:"VirtualSystem>VirtualHardwareSection>Config"`
}

func readDescriptor(t *testing.T, path string) *descriptor {
	t.Helper()
	var d descriptor
	require.NoError(t, xml.Unmarshal([]byte(read(path)), &d))
	return &d
}

// args are what attaches the disk to QEMU: for an OVA, as its descriptor says.
func (e exported) machine() machine {
	m := machine{args: append(writable(e.driver, e.path), "-M", "q35", "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk")}
	if e.descriptor == nil {
		return m
	}
	m = machine{args: append(drive(e.driver, e.path), "-M", "pc")}
	for _, i := range e.descriptor.Items {
		switch i.Type {
		case 3:
			m.args = append(m.args, "-smp", strconv.Itoa(i.Quantity))
		case 4:
			m.args = append(m.args, "-m", strconv.Itoa(i.Quantity))
		case 5:
			m.args = append(m.args, "-device", "ide-hd,drive=disk,bus=ide.0")
		case 10:
			m.card = strings.ToLower(i.SubType)
		}
	}
	return m
}

// Each format boots as exported. Every time, the one with most between the disk
// and the boot; all of them where that is asked for.
func TestExportsBoot(t *testing.T) {
	t.Parallel()
	for _, format := range export.Formats() {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			if format != export.OVA {
				needsAll(t)
			}
			serves(t, exportDisk(t, exampleDisk(t).disk, format).machine())
		})
	}
}

// sparse makes a disk of that size with something in its beginning, middle and end.
func sparse(t *testing.T, size int64, head func([]byte)) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(size))
	sector := bytes.Repeat([]byte("dormouse"), 64)
	for _, at := range []int64{512, size / 2 / 512 * 512, size - 512} {
		_, err = f.WriteAt(sector, at)
		require.NoError(t, err)
	}
	mbr := make([]byte, 512)
	mbr[510], mbr[511] = 0x55, 0xaa
	head(mbr)
	_, err = f.WriteAt(mbr, 0)
	require.NoError(t, err)
	return f.Name()
}

// bios is a boot sector that a BIOS starts.
func bios(mbr []byte) { copy(mbr, "\xeb\xfe") }

// Whatever the format, the same content comes back, and zeros behind it where the
// size was rounded up.
func TestExportKeepsContent(t *testing.T) {
	t.Parallel()
	const size = 33<<20 + 512
	disk := sparse(t, size, bios)
	for format, want := range map[export.Format]int64{
		export.Raw: size, export.QCOW2: size, export.VMDK: size, export.VHD: 34 << 20, export.VHDX: size, export.OVA: size, export.GCE: 1 << 30,
	} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			e := exportDisk(t, disk, format)
			out, err := exec.Command("qemu-img", "info", "--output=json", "-f", e.driver, e.path).Output()
			require.NoError(t, err)
			var info struct {
				Size int64 `json:"virtual-size"`
			}
			require.NoError(t, json.Unmarshal(out, &info))
			if format == export.VHDX {
				require.GreaterOrEqual(t, info.Size, want)
			} else {
				require.Equal(t, want, info.Size)
			}
			// It compares zeros behind the end of the shorter one too.
			said, err := exec.Command("qemu-img", "compare", "-f", "raw", "-F", e.driver, disk, e.path).CombinedOutput()
			require.NoError(t, err, "%s", said)
			if format == export.VHD {
				stat, err := os.Stat(e.path)
				require.NoError(t, err)
				require.Equal(t, want+512, stat.Size(), "a fixed disk is its content and a footer")
			}
		})
	}
}

func TestDescriptor(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		head func([]byte)
		efi  bool
	}{
		"BIOS":          {bios, false},
		"UEFI":          {func(mbr []byte) { mbr[450] = 0xee }, true},
		"GPTWithLoader": {func(mbr []byte) { bios(mbr); mbr[450] = 0xee }, false},
	} {
		const size = 4 << 20
		d := exportDisk(t, sparse(t, size, c.head), export.OVA).descriptor
		require.Len(t, d.Files, 1)
		require.Len(t, d.Disks, 1)
		require.Equal(t, int64(size), d.Disks[0].Capacity)
		quantities := map[int]int{}
		for _, i := range d.Items {
			quantities[i.Type] = i.Quantity
			if i.Type == 4 {
				require.Equal(t, "byte * 2^20", i.Units)
			}
		}
		require.Equal(t, []int{2, 320}, []int{quantities[3], quantities[4]}, "processors and memory")
		require.Len(t, quantities, 5, "and a controller, a disk and a network card")
		require.Equal(t, c.efi, len(d.Config) == 1 && d.Config[0].Key == "firmware" && d.Config[0].Value == "efi", name)
	}
}

func TestExportRefused(t *testing.T) {
	t.Parallel()
	disk := sparse(t, 1<<20, bios)
	odd := filepath.Join(t.TempDir(), "odd")
	require.NoError(t, os.WriteFile(odd, make([]byte, 1000), 0o600))
	for name, c := range map[string]struct {
		disk   string
		format export.Format
		change func(*export.Options)
		kind   fleet.ErrorKind
		says   string
	}{
		"Format":    {disk, "floppy", nil, fleet.KindInvalid, "use one of raw, qcow2"},
		"Relative":  {"disk", export.Raw, nil, fleet.KindInternal, "not absolute"},
		"Gone":      {disk + "x", export.Raw, nil, fleet.KindInternal, "no such file"},
		"Directory": {"/", export.QCOW2, nil, fleet.KindInvalid, "no raw disk"},
		"OddSize":   {odd, export.QCOW2, nil, fleet.KindInvalid, "multiple of 512"},
		"Name":      {disk, export.OVA, func(o *export.Options) { o.Name = "a<b" }, fleet.KindInvalid, "machine's name"},
		"NoName":    {disk, export.OVA, func(o *export.Options) { o.Name = "" }, fleet.KindInvalid, "machine's name"},
		"Memory":    {disk, export.OVA, func(o *export.Options) { o.MemoryMiB = 0 }, fleet.KindInvalid, "0 MiB"},
		"VCPUs":     {disk, export.OVA, func(o *export.Options) { o.VCPUs = -1 }, fleet.KindInvalid, "-1 processors"},
		"WorkDir":   {disk, export.VMDK, func(o *export.Options) { o.WorkDir = "x" }, fleet.KindInternal, "not absolute"},
	} {
		o := options(t)
		if c.change != nil {
			c.change(&o)
		}
		var out bytes.Buffer
		err := export.Export(context.Background(), c.disk, c.format, &out, o)
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, c.kind, fleet.KindOf(err), name)
		require.Zero(t, out.Len(), name)
	}
}

// cancelling cancels after so many bytes.
type cancelling struct {
	cancel context.CancelFunc
	left   int
}

// Write implements io.Writer.
func (c *cancelling) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		c.cancel()
	}
	return len(p), nil
}

func TestExportEndsWithItsContext(t *testing.T) {
	t.Parallel()
	disk := sparse(t, 64<<20, bios)
	for _, format := range export.Formats() {
		ctx, cancel := context.WithCancel(context.Background())
		err := export.Export(ctx, disk, format, &cancelling{cancel, 1000}, options(t))
		if err == nil { // it was all written at once
			require.Contains(t, []export.Format{export.QCOW2, export.VMDK, export.OVA}, format)
		} else {
			require.ErrorIs(t, err, context.Canceled, format)
		}
		require.ErrorIs(t, export.Export(ctx, disk, format, io.Discard, options(t)), context.Canceled, format)
		cancel()
	}
	broken := errors.New("the other side has hung up")
	for _, format := range export.Formats() {
		require.ErrorIs(t, export.Export(context.Background(), disk, format, brokenWriter{broken}, options(t)), broken, format)
	}
}

type brokenWriter struct{ err error }

// Write implements io.Writer.
func (b brokenWriter) Write([]byte) (int, error) { return 0, b.err }
