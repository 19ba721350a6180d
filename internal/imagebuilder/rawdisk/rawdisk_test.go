package rawdisk_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/export"
	"dormouse/internal/imagebuilder/rawdisk"
)

const diskSize = 20 << 20

// disk is one that starts by BIOS, as far as one can see, with holes.
func disk(t testing.TB, text string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(diskSize))
	sector := bytes.Repeat([]byte(text), 512/len(text)+1)[:512]
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

// as is the disk in a format.
func as(t testing.TB, raw string, format export.Format) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, export.Export(context.Background(), raw, format, &b, export.Options{WorkDir: t.TempDir(), Name: "m", MemoryMiB: 64, VCPUs: 1}))
	return b.Bytes()
}

func open(t testing.TB, dir string) *imagebuilder.Builder {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	b, err := imagebuilder.New(imagebuilder.Options{Dir: dir, Kernels: []imagebuilder.Kernel{rawdisk.New()}, Log: log})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

func take(t testing.TB, b *imagebuilder.Builder, body []byte, o imagebuilder.ImportOptions) (fleet.Package, error) {
	t.Helper()
	return b.ImportDisk(context.Background(), bytes.NewReader(body), o)
}

// built imports a disk and builds its image.
func built(t testing.TB, b *imagebuilder.Builder, body []byte, o imagebuilder.ImportOptions) (fleet.Package, fleet.ImageFiles) {
	t.Helper()
	p, err := take(t, b, body, o)
	require.NoError(t, err)
	id, err := b.Ensure(context.Background(), p)
	require.NoError(t, err)
	files, err := b.Files(context.Background(), id)
	require.NoError(t, err)
	return p, files
}

func empty(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// overlay is a tar of a directory with that manifest, and other files.
func overlay(t testing.TB, manifest string, files ...string) io.Reader {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "package.manifest"), []byte(manifest), 0o600))
	for _, name := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
	}
	out, err := exec.Command("tar", "-C", dir, "-c", ".").Output()
	require.NoError(t, err)
	return bytes.NewReader(out)
}

// The same disk, whatever it comes as, gives the same image's content, and is
// exported as it came.
func TestImport(t *testing.T) {
	t.Parallel()
	raw := disk(t, "one disk")
	want, err := os.ReadFile(raw)
	require.NoError(t, err)
	for _, format := range []export.Format{export.Raw, export.QCOW2, export.VMDK, export.OVA} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := open(t, dir)
			body := as(t, raw, format)
			o := imagebuilder.ImportOptions{FileName: "Debian_12." + string(format)}
			p, files := built(t, b, body, o)
			require.Equal(t, fleet.KernelDisk, p.Kernel)
			require.Equal(t, "debian-12", p.Name)
			require.Regexp(t, `^[0-9a-f]{12}$`, p.Version)
			require.Empty(t, p.Warnings)
			require.Equal(t, fleet.Manifest{Health: fleet.Health{Type: fleet.HealthNone, Timeout: p.Manifest.Health.Timeout}, Persist: []string{"/"}, Restart: fleet.RestartAlways}, p.Manifest)
			require.Less(t, p.SizeBytes, int64(1<<20), "it is compressed")
			require.False(t, files.UEFI)
			got, err := os.ReadFile(files.DiskPath)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))

			again, err := take(t, open(t, t.TempDir()), body, o)
			require.NoError(t, err)
			require.Equal(t, p, again, "the same bytes in another store")
			var out bytes.Buffer
			require.NoError(t, b.Export(context.Background(), files.ID, fleet.ImageExport{Format: "raw"}, func(string) {}, &out))
			require.True(t, bytes.Equal(want, out.Bytes()))
			err = b.ListFiles(context.Background(), files.ID, "", false, func(fleet.ImageFile) error { return nil })
			require.Equal(t, fleet.KindNotAccepted, fleet.KindOf(err))
			require.NoError(t, b.BillOfMaterials(context.Background(), files.ID, &out))
			require.Contains(t, out.String(), "disk.qcow2")
			empty(t, filepath.Join(dir, "tmp"))
			left, err := os.ReadDir(filepath.Dir(files.DiskPath))
			require.NoError(t, err)
			require.Len(t, left, 4, "disk and records")
		})
	}
}

func TestImportWithManifest(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir())
	body := as(t, disk(t, "a"), export.QCOW2)
	p, err := take(t, b, body, imagebuilder.ImportOptions{FileName: "x.qcow2", Version: "7", Overlay: overlay(t, `{"Name": "named", "Ports": [80, "22/tcp"], "MinMemory": "512M",
		"Program": "/p", "Args": ["x"], "Env": {"A": "b"}, "User": "u", "Dir": "/d", "Klibs": ["k"], "BaseVolumeSz": "1g", "ManifestPassthrough": {"a": 1}, "Files": ["f"], "NameServers": ["9.9.9.9"]}`, "f", "sysroot/etc/motd")})
	require.NoError(t, err)
	require.Equal(t, []string{"named", "7", ""}, []string{p.Name, p.Version, p.Manifest.Program})
	require.Equal(t, fleet.Manifest{
		Ports: []fleet.Port{{Number: 80, Protocol: fleet.ProtocolHTTP}, {Number: 22, Protocol: fleet.ProtocolTCP}}, Health: p.Manifest.Health, MinMemoryMiB: 512, Restart: fleet.RestartAlways,
		Env: map[string]string{"A": "b"}, Persist: []string{"/"}, NameServers: []string{"9.9.9.9"},
	}, p.Manifest)
	require.Equal(t, fleet.HealthHTTP, p.Manifest.Health.Type)
	said := strings.Join(p.Warnings, "\n")
	for _, key := range []string{"Program", "Args", "User", "Dir", "Klibs", "BaseVolumeSz", "ManifestPassthrough", "Files"} {
		require.Contains(t, said, "the key "+key+" has no effect with the kernel disk")
	}
	require.Contains(t, said, "sysroot: nothing is put on a disk")
	require.Len(t, p.Warnings, 9)
	_, err = b.Ensure(context.Background(), p)
	require.NoError(t, err)

	for name, c := range map[string]struct {
		o    imagebuilder.ImportOptions
		says string
	}{
		"Persist": {imagebuilder.ImportOptions{Overlay: overlay(t, `{"Persist": ["/data"]}`)}, "all persists"},
		"Mounts":  {imagebuilder.ImportOptions{Overlay: overlay(t, `{"Mounts": {"v": "/data"}}`)}, "all persists"},
		"Kernel":  {imagebuilder.ImportOptions{Overlay: overlay(t, `{"Kernel": "linux"}`)}, "leave Kernel out"},
		"Unknown": {imagebuilder.ImportOptions{Overlay: overlay(t, `{"Colour": "blue"}`)}, "unknown key"},
	} {
		c.o.FileName = "x.qcow2"
		_, err := take(t, b, body, c.o)
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), name)
	}
}

// What is hostile is refused as the user's fault, and nothing of it stays.
func TestHostileDisks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir)
	secret := disk(t, "secret")
	backed := filepath.Join(t.TempDir(), "backed")
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", backed)
	backing, err := os.ReadFile(backed)
	require.NoError(t, err)
	whole := as(t, disk(t, "x"), export.QCOW2)
	huge := bytes.Clone(whole)
	huge[26] = 1 // a TiB
	for name, c := range map[string]struct {
		body []byte
		says string
	}{
		"Empty": {nil, "no disk"}, "Program": {[]byte("\x7fELF" + strings.Repeat("x", 1000)), "no disk"}, "Truncated": {whole[:len(whole)/2], "qemu-img"},
		"Backing": {backing, "backing file"}, "Huge": {huge, "make it smaller"},
	} {
		_, err := take(t, b, c.body, imagebuilder.ImportOptions{Name: "x", Version: "1"})
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%s: %v", name, err)
		empty(t, filepath.Join(dir, "tmp"))
		empty(t, filepath.Join(dir, "packages"))
	}
	broken := errors.New("the connection broke")
	_, err = b.ImportDisk(context.Background(), io.MultiReader(bytes.NewReader(whole[:9000]), failing{broken}), imagebuilder.ImportOptions{Name: "x", Version: "1"})
	require.ErrorIs(t, err, broken)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = b.ImportDisk(ctx, bytes.NewReader(whole), imagebuilder.ImportOptions{Name: "x", Version: "1"})
	require.ErrorIs(t, err, context.Canceled)
	empty(t, filepath.Join(dir, "tmp"))
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A package that says it is a disk, and did not come by ImportDisk, is looked at
// no less: when its image is built.
func TestPackagedDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir)
	raw := disk(t, "x")
	backed := filepath.Join(t.TempDir(), "backed")
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", backed)
	pack := func(manifest, content string) (fleet.Package, error) {
		src := t.TempDir()
		require.NoError(t, os.Mkdir(filepath.Join(src, "sysroot"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(src, "package.manifest"), []byte(manifest), 0o600))
		body, err := os.ReadFile(content)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(src, "sysroot", "disk.qcow2"), body, 0o644))
		return b.ImportDir(context.Background(), src, imagebuilder.ImportOptions{})
	}
	manifest := `{"Name": "d", "Version": "1", "Kernel": "disk"}`
	p, err := pack(manifest, backed)
	require.NoError(t, err)
	_, err = b.Ensure(context.Background(), p)
	require.ErrorContains(t, err, "backing file")
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	p, err = pack(manifest, raw)
	require.NoError(t, err)
	_, err = b.Ensure(context.Background(), p)
	require.ErrorContains(t, err, "no qcow2 image")
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	empty(t, filepath.Join(dir, "tmp"))
	empty(t, filepath.Join(dir, "images"))
	_, err = pack(`{"Name": "d", "Version": "1", "Kernel": "disk", "Persist": ["/x"]}`, raw)
	require.ErrorContains(t, err, "all persists")

	src := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(src, "package.manifest"), []byte(manifest), 0o600))
	_, err = b.ImportDir(context.Background(), src, imagebuilder.ImportOptions{Force: true})
	require.ErrorContains(t, err, "the package is no disk")
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
}

func TestUEFI(t *testing.T) {
	t.Parallel()
	raw := disk(t, "\x00")
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{0xee}, 450) // a protective MBR without a program
	require.NoError(t, errors.Join(err, f.Close()))
	_, files := built(t, open(t, t.TempDir()), as(t, raw, export.QCOW2), imagebuilder.ImportOptions{FileName: "x.qcow2"})
	require.True(t, files.UEFI)
}

// A volume is an overlay over one disk, made once, and again where that was cut.
func TestFormatVolume(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir())
	ctx := context.Background()
	raw := disk(t, "one")
	_, files := built(t, b, as(t, raw, export.QCOW2), imagebuilder.ImportOptions{FileName: "one.qcow2"})
	_, same := built(t, b, as(t, raw, export.QCOW2), imagebuilder.ImportOptions{FileName: "one.qcow2", Version: "2", Overlay: overlay(t, `{"Ports": [80]}`)})
	_, other := built(t, b, as(t, disk(t, "two"), export.QCOW2), imagebuilder.ImportOptions{FileName: "two.qcow2"})
	volume := func(size int64) *os.File {
		f, err := os.Create(filepath.Join(t.TempDir(), "volume"))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
		require.NoError(t, f.Truncate(size))
		return f
	}
	f := volume(32 << 20)
	require.NoError(t, b.FormatVolume(ctx, files.ID, []string{"/"}, f))
	fresh, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	require.Len(t, fresh, 32<<20, "it stays as large as it is")
	write := func(base string) {
		qemuImg(t, "bench", "-q", "--image-opts", "-w", "-c", "100", "-d", "1", "-s", "65536", "--pattern=7", over(f.Name(), base))
	}
	write(files.DiskPath)
	used, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	require.NotEqual(t, fresh, used)
	for _, image := range []fleet.ImageID{files.ID, same.ID} {
		require.NoError(t, b.FormatVolume(ctx, image, []string{"/"}, f))
		after, err := os.ReadFile(f.Name())
		require.NoError(t, err)
		require.True(t, bytes.Equal(used, after), "what is there stays")
	}
	err = b.FormatVolume(ctx, other.ID, nil, f)
	require.ErrorContains(t, err, "another disk")
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))

	// Cut before the header: begun again, also over another disk.
	_, err = f.WriteAt(make([]byte, 4096), 0)
	require.NoError(t, err)
	require.NoError(t, b.FormatVolume(ctx, other.ID, nil, f))
	out, err := exec.Command("qemu-img", "compare", "--image-opts", over(f.Name(), other.DiskPath), "driver=raw,file.driver=file,file.filename="+other.DiskPath).CombinedOutput()
	require.NoError(t, err, "%s", out)
	qemuImg(t, "check", "-q", "--image-opts", over(f.Name(), other.DiskPath))

	// A larger volume is a longer disk, and what was written stays.
	write(other.DiskPath)
	for _, size := range []int64{40 << 20, 40 << 20, 64 << 20} {
		require.NoError(t, f.Truncate(size))
		require.NoError(t, b.FormatVolume(ctx, other.ID, nil, f))
		out, err := exec.Command("qemu-img", "info", "--output=json", "-f", "qcow2", f.Name()).Output()
		require.NoError(t, err)
		var info struct {
			Size int64 `json:"virtual-size"`
		}
		require.NoError(t, json.Unmarshal(out, &info))
		require.Equal(t, map[int64]int64{40 << 20: 31 << 20, 64 << 20: 55 << 20}[size], info.Size)
	}
	qemuImg(t, "check", "-q", "--image-opts", over(f.Name(), other.DiskPath))

	foreign := volume(32 << 20)
	_, err = foreign.WriteAt([]byte("somebody's"), 0)
	require.NoError(t, err)
	err = b.FormatVolume(ctx, files.ID, nil, foreign)
	require.ErrorContains(t, err, "left as it is")
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	err = b.FormatVolume(ctx, files.ID, nil, volume(20<<20))
	require.ErrorContains(t, err, "--disk 29MiB or more")
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
}

func over(overlay, base string) string {
	return "driver=qcow2,file.driver=file,file.filename=" + overlay + ",backing.driver=raw,backing.file.driver=file,backing.file.filename=" + base
}

// The seed tells the guest what clouds tell theirs.
func TestSpecialise(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir())
	_, files := built(t, b, as(t, disk(t, "one"), export.QCOW2), imagebuilder.ImportOptions{FileName: "one.qcow2"})
	dir := t.TempDir()
	value := "a 'b' \"c\" $d `e` \\f\nEND\n{{ g }}"
	tenant := fleet.Tenant{Hostname: "acme", Env: map[string]string{"PLAIN": "x", "ODD": value}, Network: fleet.GuestNetwork{
		Address: "10.77.0.5/16", Gateway: "10.77.0.1", DNS: []string{"10.77.0.1"}, MAC: "52:54:00:00:00:07",
	}}
	for range 2 { // it replaces its own
		got, err := b.Specialise(context.Background(), files.ID, tenant, dir)
		require.NoError(t, err)
		require.Equal(t, fleet.TenantFiles{ConfigPath: filepath.Join(dir, "seed.img")}, got)
	}
	info, err := os.Stat(filepath.Join(dir, "seed.img"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.LessOrEqual(t, info.Size(), int64(64<<10))
	seed := readISO(t, filepath.Join(dir, "seed.img"))
	require.JSONEq(t, `{"instance-id": "dormouse-acme", "local-hostname": "acme"}`, seed["META-DATA.;1"])
	require.JSONEq(t, `{"version": 2, "ethernets": {"eth0": {"match": {"macaddress": "52:54:00:00:00:07"}, "set-name": "eth0", "addresses": ["10.77.0.5/16"],
		"routes": [{"to": "0.0.0.0/0", "via": "10.77.0.1"}], "nameservers": {"addresses": ["10.77.0.1"]}}}}`, seed["NETWORK-CONFIG.;1"])
	head, body, _ := strings.Cut(seed["USER-DATA.;1"], "\n")
	require.Equal(t, "#cloud-config", head)
	var user struct{ Bootcmd []string }
	require.NoError(t, json.Unmarshal([]byte(body), &user))
	require.Len(t, user.Bootcmd, 1)

	// A shell, as cloud-init has one run it, and then reads the file back.
	root := t.TempDir()
	script := strings.ReplaceAll(user.Bootcmd[0], "/etc/dormouse", root+"/etc/dormouse")
	script += "\n. " + root + "/etc/dormouse/environment\nprintf '%s|%s' \"$PLAIN\" \"$ODD\"\n"
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "x|"+value, string(out))
	info, err = os.Stat(filepath.Join(root, "etc/dormouse/environment"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	for name, bad := range map[string]fleet.Tenant{
		"Name": {Env: map[string]string{"a b": "x"}}, "Zero": {Env: map[string]string{"A": "\x00"}}, "Large": {Env: map[string]string{"A": strings.Repeat("x", 600<<10)}},
		"Address": {Network: fleet.GuestNetwork{Address: "10.0.0.1"}}, "Gateway": {Network: fleet.GuestNetwork{Address: "10.0.0.1/8", Gateway: "x"}}, "DNS": {Network: fleet.GuestNetwork{DNS: []string{"x\n"}}},
	} {
		_, err := b.Specialise(context.Background(), files.ID, bad, t.TempDir())
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%s: %v", name, err)
	}
	got, err := b.Specialise(context.Background(), files.ID, fleet.Tenant{Hostname: "acme"}, t.TempDir())
	require.NoError(t, err)
	require.Contains(t, readISO(t, got.ConfigPath)["NETWORK-CONFIG.;1"], `"dhcp4":true`)
}
