package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/guest"
)

func TestParseModuleOrder(t *testing.T) {
	t.Parallel()
	got, err := parseModuleOrder("virtio.ko boot\next4.ko volume\n")
	require.NoError(t, err)
	require.Equal(t, []module{{"virtio.ko", phaseBoot}, {"ext4.ko", phaseVolume}}, got)
	got, err = parseModuleOrder("")
	require.NoError(t, err, "a kernel may have everything built in")
	require.Empty(t, got)
	for _, bad := range []string{"virtio.ko", "../x.ko boot", " boot"} {
		_, err := parseModuleOrder(bad)
		require.Error(t, err, bad)
	}
}

func TestDisksAndPortsAreFoundByName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	write("block/loop0/serial", "dm-root")
	write("block/vda/size", "8")
	write("block/vdb/serial", "dm-config\n")
	write("block/vdc/serial", "dm-root")
	write("ports/vport0p1/name", "other\n")
	write("ports/vport0p2/name", "dormouse.0\n")
	require.Equal(t, "vdc", diskBySerial(dir+"/block", guest.DiskRoot))
	require.Equal(t, "vdb", diskBySerial(dir+"/block", guest.DiskConfig))
	require.Empty(t, diskBySerial(dir+"/block", guest.DiskVolume))
	require.Empty(t, diskBySerial(dir+"/none", guest.DiskRoot))
	require.Equal(t, "vport0p2", portByName(dir+"/ports", guest.ChannelPort))
}

func TestCheckConfig(t *testing.T) {
	t.Parallel()
	good := webConfig()
	require.NoError(t, checkConfig(good))
	for name, change := range map[string]func(*guest.Config){
		"RelativeProgram": func(c *guest.Config) { c.Program = "program" },
		"NoPolicy":        func(c *guest.Config) { c.Restart = "" },
		"RelativeDir":     func(c *guest.Config) { c.Dir = "x" },
		"PersistRoot":     func(c *guest.Config) { c.Persist = []string{"/x/.."} },
	} {
		c := good
		change(&c)
		require.Error(t, checkConfig(c), name)
	}
	require.Equal(t, 10*time.Second, stopTimeout(guest.Config{}))
	require.Equal(t, time.Second, stopTimeout(guest.Config{StopTimeout: time.Second}))
	require.ElementsMatch(t, []string{"PATH=/x", "HOME=/"}, environment(guest.Config{Env: map[string]string{"PATH": "/x"}}, nil))
	require.Contains(t, environment(guest.Config{}, &guest.User{UID: 7, Home: "/home/x"}), "HOME=/home/x")
}

func TestPersistPathsAndNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"/a", "/a/b"}, persistPaths([]string{"/a/b/", "/a", "/a//b"}))
	require.Equal(t, "var%2Flib%2Fx%25", escapeName("/var/lib/x%"))
	require.NotEqual(t, escapeName("/a/b"), escapeName("/a%2Fb"))
	require.True(t, within("/a/b", "/a"))
	require.False(t, within("/ab", "/a"))
}

func TestCopyDirKeepsWhatMatters(t *testing.T) {
	t.Parallel()
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	require.NoError(t, os.MkdirAll(from+"/deep/er", 0o755))
	require.NoError(t, os.WriteFile(from+"/deep/file", []byte("content"), 0o640))
	require.NoError(t, os.Symlink("../nowhere", from+"/deep/link"))
	require.NoError(t, syscall.Mkfifo(from+"/pipe", 0o600))
	require.NoError(t, os.Chmod(from+"/deep/er", 0o755|os.ModeSetgid))
	old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	require.NoError(t, os.Chtimes(from+"/deep/file", old, old))
	require.NoError(t, os.Chmod(from+"/deep", 0o555))
	_, err := copyDirOnto(from, to)
	require.NoError(t, err)
	content, err := os.ReadFile(to + "/deep/file")
	require.NoError(t, err)
	require.Equal(t, "content", string(content))
	for _, name := range []string{"", "/deep", "/deep/er", "/deep/file"} {
		a, err := os.Stat(from + name)
		require.NoError(t, err)
		b, err := os.Stat(to + name)
		require.NoError(t, err)
		require.Equal(t, a.Mode(), b.Mode(), name)
		require.WithinDuration(t, a.ModTime(), b.ModTime(), time.Microsecond, name)
	}
	target, err := os.Readlink(to + "/deep/link")
	require.NoError(t, err)
	require.Equal(t, "../nowhere", target)
	require.NoFileExists(t, to+"/pipe")
	_, err = copyDirOnto(from, to)
	require.ErrorIs(t, err, os.ErrExist)
}

func TestNameFiles(t *testing.T) {
	t.Parallel()
	files := nameFiles(webConfig())
	require.Equal(t, "workspace\n", files["hostname"])
	require.Contains(t, files["hosts"], "10.0.2.15\tworkspace\n")
	require.Equal(t, "nameserver 10.0.2.3\n", files["resolv.conf"])
}

func TestCheckProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(content), mode))
		return file
	}
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, checkProgram(self, "/", 3))
	require.NoError(t, checkProgram(write("relative", "#! self -x\n", 0o755), filepath.Dir(makeLink(t, dir, self)), 3))
	foreign := "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 11) + "\xb7" + strings.Repeat("\x00", 100)
	for want, file := range map[string]string{
		"no such file":         filepath.Join(dir, "none"),
		"not executable":       write("mode", "x", 0o644),
		"not a file":           dir,
		"empty":                write("empty", "", 0o755),
		"neither an ELF":       write("text", "hello", 0o755),
		"another machine":      write("foreign", foreign, 0o755),
		"names no interpreter": write("bare", "#!\n", 0o755),
		"interpreter /gone":    write("script", "#!/gone -x\n", 0o755),
		"go on for too long":   write("loop", "#!"+filepath.Join(dir, "loop")+"\n", 0o755),
	} {
		require.ErrorContains(t, checkProgram(file, dir, 3), want)
	}
}

func makeLink(t *testing.T, dir, target string) string {
	t.Helper()
	link := filepath.Join(dir, "self")
	require.NoError(t, os.Symlink(target, link))
	return link
}

func TestNetlinkMessages(t *testing.T) {
	t.Parallel()
	mac, err := parseMAC("02:00:00:00:00:0a")
	require.NoError(t, err)
	require.Equal(t, []byte{2, 0, 0, 0, 0, 10}, mac)
	for _, bad := range []string{"", "02:00:00:00:00", "02-00-00-00-00-0a", "zz:00:00:00:00:00"} {
		_, err := parseMAC(bad)
		require.Error(t, err, bad)
	}
	for name, body := range map[string][]byte{
		"link":    linkMessage(2, true, mac),
		"address": addressMessage(2, netip.MustParsePrefix("10.0.2.15/24")),
		"route6":  defaultRoute(2, netip.MustParseAddr("fe80::1"), true),
	} {
		require.Zero(t, len(body)%4, name)
		parsed, err := syscall.ParseNetlinkMessage(netlinkMessage(syscall.RTM_NEWLINK, 0, 7, body))
		require.NoError(t, err, name)
		require.Len(t, parsed, 1)
		require.Equal(t, body, parsed[0].Data)
	}
	require.Equal(t, byte(24), addressMessage(2, netip.MustParsePrefix("10.0.2.15/24"))[1])
	require.Equal(t, 8+32, len(entropyRequest(make([]byte, 32))))
}
