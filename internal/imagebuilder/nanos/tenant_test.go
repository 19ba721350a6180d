package nanos

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/tfs"
)

func allocated(t testing.TB, paths ...string) (bytes int64) {
	t.Helper()
	for _, p := range paths {
		info, err := os.Stat(p)
		require.NoError(t, err)
		bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	return bytes
}

// tenantRoot reads a tenant's root file system and configuration.
func tenantRoot(t testing.TB, image string, files fleet.TenantFiles) (root, config *tfs.FS) {
	t.Helper()
	open := func(path string) (*os.File, int64) {
		f, err := os.Open(path)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
		info, err := f.Stat()
		require.NoError(t, err)
		return f, info.Size()
	}
	overlay, _ := open(files.OverlayPath)
	disk, _ := open(filepath.Join(image, diskName))
	d, err := OpenTenantDisk(overlay, disk)
	require.NoError(t, err)
	root, err = OpenRoot(d, d.Size())
	require.NoError(t, err)
	_, err = root.Verify()
	require.NoError(t, err)
	volume, size := open(files.ConfigPath)
	config, err = tfs.Open(volume, size)
	require.NoError(t, err)
	_, err = config.Verify()
	require.NoError(t, err)
	return root, config
}

func text(t testing.TB, f *tfs.FS, path string) string {
	t.Helper()
	e, err := f.Lookup(path)
	require.NoError(t, err)
	r, err := f.Content(e)
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}

func TestSpecialise(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: fakeRelease(t)})
	image := mustBuild(t, k, app(t))
	dir := t.TempDir()
	// What lies there is replaced, and never written through.
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("mine"), 0o644))
	require.NoError(t, os.Symlink(victim, filepath.Join(dir, overlayName)))
	for _, env := range []map[string]string{{"NEW": "1", "seed": "a name that a file has"}, {"A": "2", "LARGE": strings.Repeat("x", 100_000)}, {}} {
		files, err := k.Specialise(context.Background(), image, fleet.Tenant{
			Hostname: "one", Args: []string{"-x"}, Env: env, Persist: []string{"/data"},
			Network: fleet.GuestNetwork{Address: "10.0.0.5/22", Gateway: "10.0.0.1", DNS: []string{"10.0.0.2", "10.0.0.3"}},
		}, dir)
		require.NoError(t, err)
		root, config := tenantRoot(t, image, files)
		require.Equal(t, env, root.Root.Map("environment"))
		require.Equal(t, []string{"/bin/app", "-x"}, root.Root.Strings("arguments"))
		require.Equal(t, map[string]string{"ipaddr": "10.0.0.5", "netmask": "255.255.252.0", "gateway": "10.0.0.1"}, root.Root.Map("en1"))
		require.Equal(t, "one\n", text(t, root, "etc/hostname"))
		require.Equal(t, "me\n", text(t, root, "etc/passwd"))
		require.Equal(t, configLabel, config.Label)
		require.Equal(t, hosts+"10.0.0.5 one\n", text(t, config, "hosts"))
		require.Equal(t, "nameserver 10.0.0.2\nnameserver 10.0.0.3\n", text(t, config, "resolv.conf"))
		for _, path := range []string{files.OverlayPath, files.ConfigPath} {
			info, err := os.Lstat(path)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode())
		}
		if len(env["LARGE"]) == 0 {
			require.LessOrEqual(t, allocated(t, files.OverlayPath, files.ConfigPath), int64(64<<10))
		}
	}
	mine, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "mine", string(mine))

	// Of a tenant that says nothing the package's own is kept; with IPv6.
	files, err := k.Specialise(context.Background(), image, fleet.Tenant{Network: fleet.GuestNetwork{Address: "fd00::5/64"}}, t.TempDir())
	require.NoError(t, err)
	root, _ := tenantRoot(t, image, files)
	require.Equal(t, []string{"/bin/app", "-v"}, root.Root.Strings("arguments"))
	require.Equal(t, map[string]string{"ip6addr": "fd00::5"}, root.Root.Map("en1"))
	require.Equal(t, "app\n", text(t, root, "etc/hostname"))
}

func TestSpecialiseRefused(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: fakeRelease(t)})
	image := mustBuild(t, k, app(t))
	for name, c := range map[string]struct {
		tenant fleet.Tenant
		field  string
	}{
		"EnvName":  {fleet.Tenant{Env: map[string]string{"A=B": "secret"}}, "env"},
		"EnvLarge": {fleet.Tenant{Env: map[string]string{"A": strings.Repeat("secret", 30_000)}}, "env"},
		"Arg":      {fleet.Tenant{Args: []string{"a\x00"}}, "args"},
		"Hostname": {fleet.Tenant{Hostname: "a b"}, "hostname"},
		"Persist":  {fleet.Tenant{Persist: []string{"/other"}}, "persist"},
		"Address":  {fleet.Tenant{Network: fleet.GuestNetwork{Address: "10.0.0.1"}}, "network.address"},
		"Prefix6":  {fleet.Tenant{Network: fleet.GuestNetwork{Address: "fd00::1/48"}}, "network.address"},
		"Gateway":  {fleet.Tenant{Network: fleet.GuestNetwork{Address: "10.0.0.1/8", Gateway: "fd00::1"}}, "network.gateway"},
		"DNS":      {fleet.Tenant{Network: fleet.GuestNetwork{DNS: []string{"a\nb"}}}, "network.dns"},
	} {
		dir := t.TempDir()
		_, err := k.Specialise(context.Background(), image, c.tenant, dir)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), name)
		var typed *fleet.Error
		require.ErrorAs(t, err, &typed, name)
		require.Equal(t, c.field, typed.Field, name)
		require.NotContains(t, err.Error(), "secret", name)
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left, name)
	}
	_, err := k.Specialise(context.Background(), t.TempDir(), fleet.Tenant{}, t.TempDir())
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))

	// An image whose log is not what the record says.
	disk, err := os.OpenFile(filepath.Join(image, diskName), os.O_RDWR, 0)
	require.NoError(t, err)
	b, err := readBuild(image)
	require.NoError(t, err)
	_, err = disk.WriteAt([]byte{9}, b.RootOffset+b.Log.End)
	require.NoError(t, err)
	require.NoError(t, disk.Close())
	dir := t.TempDir()
	_, err = k.Specialise(context.Background(), image, fleet.Tenant{}, dir)
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func volume(t testing.TB, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "volume"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	require.NoError(t, f.Truncate(size))
	return f
}

func TestFormatVolume(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: fakeRelease(t)})
	image := mustBuild(t, k, app(t))
	persist := []string{"/data", "/var/lib/app"}
	v := volume(t, 8<<20+100)
	// One that was cut short is begun again, over what is there.
	_, err := v.WriteAt([]byte(formatting+"and what came after"), 0)
	require.NoError(t, err)
	_, err = v.WriteAt(bytes.Repeat([]byte("junk"), 1<<20), 512)
	require.NoError(t, err)
	require.NoError(t, k.FormatVolume(context.Background(), image, persist, v))
	f, err := tfs.Open(v, 8<<20)
	require.NoError(t, err)
	require.Equal(t, dataLabel, f.Label)
	require.Equal(t, "seed\n", text(t, f, "data/seed"))
	require.Equal(t, "x\n", text(t, f, "var/lib/app/deep/x"))
	e, err := f.Lookup("var/lib/app/l")
	require.NoError(t, err)
	require.Equal(t, "deep/x", e.Target)

	// What is there is left, whatever the image has become.
	before, err := os.ReadFile(v.Name())
	require.NoError(t, err)
	require.NoError(t, k.FormatVolume(context.Background(), t.TempDir(), persist, v))
	after, err := os.ReadFile(v.Name())
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after))
}

// A later release persists more than the one that the volume was made for.
func TestFormatVolumeExtends(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: fakeRelease(t)})
	image := mustBuild(t, k, app(t))
	v := volume(t, 8<<20)
	require.NoError(t, k.FormatVolume(context.Background(), image, []string{"/var/lib/app"}, v))
	open := func() *tfs.FS {
		f, err := tfs.Open(v, 8<<20)
		require.NoError(t, err)
		_, err = f.Verify()
		require.NoError(t, err)
		return f
	}
	_, err := open().Lookup("data")
	require.Error(t, err)
	require.NoError(t, k.FormatVolume(context.Background(), image, []string{"/data", "/var/lib/app"}, v))
	require.Equal(t, "seed\n", text(t, open(), "data/seed"))
	require.Equal(t, "x\n", text(t, open(), "var/lib/app/deep/x"))

	large := mustBuild(t, k, pack(t, `{"Name":"app","Version":"2","Program":"/bin/app","Persist":["/srv"]}`,
		map[string]string{"sysroot/bin/app": "\x7fELF", "sysroot/srv/large": strings.Repeat("x", 7<<20)}))
	err = k.FormatVolume(context.Background(), large, []string{"/srv"}, v)
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	require.ErrorContains(t, err, "make it larger")
	_, err = open().Lookup("srv")
	require.Error(t, err, "what could not be added whole is not added at all")
}

func TestFormatVolumeRefused(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: fakeRelease(t)})
	image := mustBuild(t, k, pack(t, manifest, map[string]string{"sysroot/bin/app": "\x7fELF", "sysroot/data/large": strings.Repeat("x", 4<<20)}))
	other := func(t testing.TB, label string) []byte {
		v := volume(t, 0)
		w, err := tfs.NewWriter(v, tfs.Options{Label: label})
		require.NoError(t, err)
		_, err = w.Finish()
		require.NoError(t, err)
		b, err := os.ReadFile(v.Name())
		require.NoError(t, err)
		return b
	}
	for name, c := range map[string]struct {
		size   int64
		at     int64
		holds  []byte
		kind   fleet.ErrorKind
		says   string
		mended bool
	}{
		"Ext4":       {16 << 20, 1024 + 0x38, []byte{0x53, 0xef}, fleet.KindConflict, "another kernel", false},
		"AtEnd":      {16 << 20, 16<<20 - 512, []byte("EFI PART"), fleet.KindConflict, "another kernel", false},
		"OtherLabel": {16 << 20, 0, other(t, "theirs"), fleet.KindConflict, `"theirs"`, false},
		"DamagedTFS": {16 << 20, 0, []byte("NVMTFS\x05\x01"), fleet.KindConflict, "can't be read", false},
		"Tiny":       {1 << 20, 0, nil, fleet.KindInvalid, "2 MiB", false},
		"NoRoom":     {4 << 20, 0, nil, fleet.KindInvalid, "make it larger", true},
	} {
		v := volume(t, c.size)
		_, err := v.WriteAt(c.holds, c.at)
		require.NoError(t, err)
		before, err := os.ReadFile(v.Name())
		require.NoError(t, err)
		err = k.FormatVolume(context.Background(), image, []string{"/data"}, v)
		require.Equal(t, c.kind, fleet.KindOf(err), "%s: %v", name, err)
		require.ErrorContains(t, err, c.says, name)
		after, err := os.ReadFile(v.Name())
		require.NoError(t, err)
		if c.mended { // begun, and begun again once it is larger
			require.NoError(t, v.Truncate(16<<20))
			require.NoError(t, k.FormatVolume(context.Background(), image, []string{"/data"}, v))
			continue
		}
		require.True(t, bytes.Equal(before, after), name)
	}
}

func TestReadExit(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: fakeRelease(t)})
	disk, l, _ := openDisk(t, mustBuild(t, k, app(t)))
	whole, err := io.ReadAll(disk)
	require.NoError(t, err)
	_, ok, err := ReadExit(bytes.NewReader(whole), int64(len(whole)))
	require.NoError(t, err)
	require.False(t, ok)
	area := append([]byte(klogMagic), make([]byte, 12)...)
	binary.LittleEndian.PutUint64(area[4:], 99)
	binary.LittleEndian.PutUint32(area[12:], 0xffffffff)
	copy(whole[l.klog:], append(area, "the end\n\x00older"...))
	exit, ok, err := ReadExit(bytes.NewReader(whole), int64(len(whole)))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, Exit{Code: -1, BootID: 99, Log: []byte("the end\n")}, exit)
	for _, short := range [][]byte{nil, whole[:500], whole[:600]} {
		_, _, err := ReadExit(bytes.NewReader(short), int64(len(short)))
		require.Error(t, err)
	}
	_, _, err = ReadTenantExit(bytes.NewReader([]byte("QFI")), bytes.NewReader(whole))
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
}
