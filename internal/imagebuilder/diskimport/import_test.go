package diskimport

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/export"
)

const diskSize = 20 << 20

// rawDisk is a disk that boots, as far as one can see, with holes.
func rawDisk(t testing.TB) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(diskSize))
	sector := bytes.Repeat([]byte("dormouse"), 64)
	sector[510], sector[511] = 0x55, 0xaa
	for _, at := range []int64{0, 5 << 20, diskSize - 512} {
		_, err := f.WriteAt(sector, at)
		require.NoError(t, err)
	}
	return f.Name()
}

func qemuImg(t testing.TB, args ...string) {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	require.NoError(t, err, "qemu-img %v: %s", args, out)
}

// converted is the disk in a format of QEMU's.
func converted(t testing.TB, format string, options ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "disk."+format)
	qemuImg(t, append(append([]string{"convert", "-f", "raw", "-O", format}, options...), rawDisk(t), out)...)
	return out
}

// take imports a file and sees that a failure leaves nothing.
func take(t testing.TB, from string, o Options) (Imported, string, error) {
	t.Helper()
	o.WorkDir = t.TempDir()
	to := filepath.Join(t.TempDir(), "imported.raw")
	got, err := Import(context.Background(), from, to, o)
	left, readErr := os.ReadDir(o.WorkDir)
	require.NoError(t, readErr)
	require.Empty(t, left)
	if err != nil {
		require.NoFileExists(t, to)
	}
	return got, to, err
}

func ova(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.ova")
	f, err := os.Create(path)
	require.NoError(t, err)
	o := export.Options{WorkDir: t.TempDir(), Name: "m", MemoryMiB: 64, VCPUs: 1}
	require.NoError(t, errors.Join(export.Export(context.Background(), rawDisk(t), export.OVA, f, o), f.Close()))
	return path
}

func TestImport(t *testing.T) {
	t.Parallel()
	disk := streamed(t)
	for name, c := range map[string]struct {
		path   string
		format Format
	}{
		"Raw":           {rawDisk(t), Raw},
		"QCOW2":         {converted(t, "qcow2"), QCOW2},
		"QCOW2Old":      {converted(t, "qcow2", "-o", "compat=0.10"), QCOW2},
		"QCOW2Packed":   {converted(t, "qcow2", "-c", "-o", "compression_type=zstd"), QCOW2},
		"VMDK":          {converted(t, "vmdk"), VMDK},
		"VMDKStreamed":  {converted(t, "vmdk", "-o", "subformat=streamOptimized"), VMDK},
		"VMDKFooter":    {file(t, footered(t)), VMDK},
		"OVA":           {ova(t), OVA},
		"OVASHA1":       {pack(t, member{"m.ovf", []byte("x")}, member{"d.vmdk", disk}, member{"m.mf", sha1Manifest(t, "d.vmdk", disk)}), OVA},
		"OVANoManifest": {pack(t, member{"m.ovf", []byte("x")}, member{"../../d.vmdk", streamed(t)}), OVA},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, to, err := take(t, c.path, Options{})
			require.NoError(t, err)
			require.Equal(t, Imported{c.format, diskSize}, got)
			want, err := os.ReadFile(rawDisk(t))
			require.NoError(t, err)
			is, err := os.ReadFile(to)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, is), "another content")
			var stat syscall.Stat_t
			require.NoError(t, syscall.Stat(to, &stat))
			require.Less(t, stat.Blocks*512, int64(1<<20), "it is sparse")
		})
	}
}

type member struct {
	name    string
	content []byte
}

func pack(t testing.TB, members ...member) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(m.content)), Format: tar.FormatUSTAR}
		if m.content == nil {
			h.Typeflag, h.Linkname = tar.TypeSymlink, "/etc/passwd"
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := w.Write(m.content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return file(t, b.Bytes())
}

func file(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

func body(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

func streamed(t testing.TB) []byte {
	return body(t, converted(t, "vmdk", "-o", "subformat=streamOptimized"))
}

// footered is as VMware streams a disk: the header that counts comes last, between
// its marker and that of the end.
func footered(t testing.TB) []byte {
	b := streamed(t)
	footer := bytes.Clone(b[:512])
	copy(b[56:], bytes.Repeat([]byte{0xff}, 8))
	marker := make([]byte, 512)
	marker[12] = 3
	return append(append(append(b, marker...), footer...), make([]byte, 512)...)
}

// sha1Manifest is one as older tools write it, digested by a tool that is not ours.
func sha1Manifest(t testing.TB, name string, content []byte) []byte {
	t.Helper()
	out, err := exec.Command("sha1sum", file(t, content)).Output()
	require.NoError(t, err)
	return fmt.Appendf(nil, "SHA1(%s)= %s\n", name, strings.ToUpper(string(out[:40])))
}

// patched is a copy of the file with other bytes at a place.
func patched(t testing.TB, path string, at int, bytes ...byte) string {
	t.Helper()
	b := body(t, path)
	copy(b[at:], bytes)
	return file(t, b)
}

// replaced is a copy with a text of the same length in place of another.
func replaced(t testing.TB, path, from, to string) string {
	t.Helper()
	b := body(t, path)
	require.Contains(t, string(b), from)
	return file(t, bytes.Replace(b, []byte(from), []byte(to+strings.Repeat("\n", len(from)-len(to))), 1))
}

// What hostile files name is a secret of this machine's: none may come out.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	secret := rawDisk(t)
	inDir := func(args ...string) string {
		out := filepath.Join(t.TempDir(), "disk")
		qemuImg(t, append(args, out)...)
		return out
	}
	backed := inDir("create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw")
	external := filepath.Join(t.TempDir(), "external")
	qemuImg(t, "create", "-q", "-f", "qcow2", "-o", "data_file="+external+".data", external, "1M")
	split := filepath.Join(t.TempDir(), "split.vmdk")
	qemuImg(t, "create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", split, "1M")
	child := filepath.Join(t.TempDir(), "child.vmdk")
	qemuImg(t, "create", "-q", "-f", "vmdk", "-b", converted(t, "vmdk"), "-F", "vmdk", child)
	qcow2, vmdk, stream := converted(t, "qcow2"), converted(t, "vmdk"), file(t, footered(t))
	end := len(body(t, stream))
	noBoot := filepath.Join(t.TempDir(), "noboot")
	qemuImg(t, "create", "-q", "-f", "qcow2", noBoot, "1M")
	for name, c := range map[string]struct{ path, says string }{
		"Empty":              {file(t, nil), "no disk that boots"},
		"Text":               {file(t, bytes.Repeat([]byte("x"), 9000)), "no disk that boots"},
		"Gzip":               {file(t, []byte("\x1f\x8bxx")), "gzip"},
		"VHDX":               {file(t, []byte("vhdxfile")), "vhdx"},
		"Directory":          {t.TempDir(), "no regular file"},
		"Device":             {"/dev/zero", "no regular file"},
		"RawOddSize":         {file(t, body(t, rawDisk(t))[:1000]), "no multiple of 512"},
		"Backing":            {backed, "backing file"},
		"BackingOffsetOnly":  {patched(t, qcow2, 8, 0, 0, 0, 0, 0, 0, 1, 0), "backing file"},
		"External":           {external, "another file"},
		"Encrypted":          {patched(t, qcow2, 32, 0, 0, 0, 1), "encrypted"},
		"Corrupt":            {patched(t, qcow2, 79, 2), "corrupt"},
		"Features":           {patched(t, qcow2, 72, 0x80), "features"},
		"Version":            {patched(t, qcow2, 7, 9), "version 9"},
		"ClusterBits":        {patched(t, qcow2, 20, 0xff), "damaged"},
		"HugeQCOW2":          {patched(t, qcow2, 24, 0x7f), "claims"},
		"LargeQCOW2":         {patched(t, qcow2, 27, 0x7f), "make it smaller"},
		"CutQCOW2Header":     {file(t, body(t, qcow2)[:60]), "cut off"},
		"CutQCOW2":           {file(t, body(t, qcow2)[:400_000]), "qemu-img"},
		"CutVMDK":            {file(t, body(t, vmdk)[:100_000]), "qemu-img"},
		"CutVMDKStreamed":    {file(t, streamed(t)[:66_000]), "qemu-img"},
		"QCOW2OddSize":       {patched(t, qcow2, 31, 7), "no multiple"},
		"NoBootSector":       {noBoot, "no boot sector"},
		"VMDKDescriptor":     {split, "other files"},
		"VMDKExtent":         {strings.TrimSuffix(split, ".vmdk") + "-s001.vmdk", "the vmdk has"},
		"VMDKChild":          {child, "parent"},
		"VMDKParentID":       {replaced(t, vmdk, "parentCID=ffffffff", "parentCID=12345678"), "parent"},
		"VMDKNoParentID":     {replaced(t, vmdk, "parentCID=ffffffff", "x=1"), "parent"},
		"VMDKHint":           {replaced(t, vmdk, "# The Disk Data Base", ` parentFileNameHint`), "parent"},
		"VMDKKind":           {replaced(t, vmdk, `"monolithicSparse"`, `"monolithicFlat"`), "monolithicFlat"},
		"VMDKNoCapacity":     {patched(t, vmdk, 12, make([]byte, 8)...), "describes other files"},
		"VMDKHugeCapacity":   {patched(t, vmdk, 12, bytes.Repeat([]byte{0xff}, 8)...), "damaged"},
		"VMDKLargeCapacity":  {patched(t, vmdk, 12, 0, 0, 0, 0, 1), "make it smaller"},
		"VMDKNoDescriptor":   {patched(t, vmdk, 28, make([]byte, 16)...), "no descriptor"},
		"VMDKVersion":        {patched(t, vmdk, 4, 9), "version 9"},
		"VMDKCut":            {file(t, body(t, vmdk)[:300]), "cut off"},
		"VMDKFooterCapacity": {patched(t, stream, end-1024+12, 0, 0, 0, 0, 1), "does not fit"},
		"VMDKFooterMagic":    {patched(t, stream, end-1024, 0), "does not fit"},
		"VMDKFooterCut":      {file(t, body(t, stream)[:end-1024]), "does not fit"},
		"VMDKFooterOdd":      {file(t, body(t, stream)[:end-100]), "cut off"},
		"OVALink":            {pack(t, member{"m.vmdk", nil}), "no regular file"},
		"OVATwoDisks":        {pack(t, member{"a.vmdk", []byte("KDMV")}, member{"b.vmdk", []byte("KDMV")}), "several disks"},
		"OVANoDisk":          {pack(t, member{"m.ovf", []byte("x")}), "holds no vmdk"},
		"OVADiskIsText":      {pack(t, member{"m.vmdk", body(t, split)}), "no sparse vmdk"},
		"OVADiskIsQCOW2":     {pack(t, member{"m.vmdk", body(t, backed)}), "no sparse vmdk"},
		"OVAWrongDigest":     {pack(t, member{"d.vmdk", streamed(t)}, member{"m.mf", []byte("SHA256(d.vmdk)= 00\n")}), "SHA256"},
		"OVAManifestWithout": {pack(t, member{"d.vmdk", streamed(t)}, member{"m.mf", []byte("SHA256(e.vmdk)= 00\n")}), "does not name"},
		"OVACut":             {file(t, body(t, ova(t))[:30_000]), "cut off"},
		"OVAMany":            {pack(t, make([]member, maxMembers+1)...), "no regular file"},
	} {
		_, _, err := take(t, c.path, Options{})
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%s: %v", name, err)
	}
	_, _, err := take(t, rawDisk(t), Options{MaxBytes: diskSize - 512})
	require.ErrorContains(t, err, "make it smaller")
	full := file(t, append(bytes.Repeat([]byte("full"), 2<<20/4), body(t, rawDisk(t))[:512]...)[512:])
	packed := filepath.Join(t.TempDir(), "packed")
	qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", "-c", full, packed)
	require.Less(t, len(body(t, packed)), 512<<10)
	_, _, err = take(t, packed, Options{MaxDataBytes: 1 << 20})
	require.ErrorContains(t, err, "MiB of data, at most 1 are taken")
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	_, _, err = take(t, converted(t, "qcow2"), Options{MaxDataBytes: 1 << 20})
	require.NoError(t, err, "it is full of holes")
	_, _, err = take(t, pack(t, member{"d.vmdk", make([]byte, 3<<20)}), Options{MaxBytes: 1 << 20})
	require.ErrorContains(t, err, "has more than")
	_, _, err = take(t, "relative", Options{})
	require.ErrorContains(t, err, "absolute")
}

func TestImportKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	there := file(t, []byte("there"))
	_, err := Import(context.Background(), rawDisk(t), there, Options{WorkDir: t.TempDir()})
	require.ErrorIs(t, err, os.ErrExist)
	require.Equal(t, []byte("there"), body(t, there))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, from := range []string{rawDisk(t), converted(t, "qcow2"), ova(t)} {
		to := filepath.Join(t.TempDir(), "to")
		_, err := Import(ctx, from, to, Options{WorkDir: t.TempDir()})
		require.ErrorIs(t, err, context.Canceled)
		require.NoFileExists(t, to)
	}
}

// Whatever the headers say, reading them neither panics nor takes much memory.
func FuzzHeaders(f *testing.F) {
	head := func(path string, n int) []byte {
		b := body(f, path)
		return b[:min(n, len(b))]
	}
	f.Add(head(converted(f, "qcow2"), 512))
	f.Add(head(converted(f, "vmdk"), 12<<10))
	f.Add(head(file(f, streamed(f)), 12<<10))
	v := make([]byte, 1024)
	copy(v, "KDMV")
	binary.LittleEndian.PutUint64(v[12:], 1)
	f.Add(v)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, size := range []func() (int64, error){
			func() (int64, error) { return lookQCOW2(b) },
			func() (int64, error) { return lookVMDK(bytes.NewReader(b), int64(len(b))) },
		} {
			if n, err := size(); err == nil {
				require.GreaterOrEqual(t, n, int64(0))
			}
		}
	})
}

func FuzzUnpackOVA(f *testing.F) {
	f.Add(body(f, pack(f, member{"m.ovf", []byte("x")}, member{"d.vmdk", []byte("KDMV")}, member{"m.mf", []byte("SHA1(d.vmdk)= 00")})))
	f.Fuzz(func(t *testing.T, b []byte) {
		work := t.TempDir()
		if u, err := unpackOVA(context.Background(), bytes.NewReader(b), work, 1<<20); err == nil {
			require.Equal(t, filepath.Join(work, "disk.vmdk"), u.disk)
		}
		left, err := os.ReadDir(work)
		require.NoError(t, err)
		require.LessOrEqual(t, len(left), 1, "nothing but the disk")
	})
}
