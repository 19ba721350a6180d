package export_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
	"dormouse/internal/imagebuilder/linux"
)

func sum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	require.NoError(t, err)
	return fmt.Sprintf("%x", h.Sum(nil))
}

// writerInput names, in the environment, what TestMain of another process writes a disk from.
const writerInput = "DORMOUSE_TEST_DISK"

// TestDiskWriter is no test but the other process of TestDiskReproducible.
func TestDiskWriter(t *testing.T) {
	t.Parallel()
	var in struct {
		Path  string
		Input linux.DiskInput
	}
	body := os.Getenv(writerInput)
	if body == "" {
		t.Skip("it is run by TestDiskReproducible")
	}
	require.NoError(t, json.Unmarshal([]byte(body), &in))
	require.NoError(t, linux.WriteDisk(context.Background(), in.Path, in.Input))
}

func TestDiskReproducible(t *testing.T) {
	t.Parallel()
	e := exampleDisk(t)
	other := filepath.Join(t.TempDir(), "other.raw")
	body, err := json.Marshal(map[string]any{"Path": other, "Input": e.input})
	require.NoError(t, err)
	cmd := exec.Command("sh", "-c", `umask 0077; exec "$0" -test.run='^TestDiskWriter$'`, os.Args[0])
	cmd.Env = append(os.Environ(), writerInput+"="+string(body), "TZ=Pacific/Chatham", "LC_ALL=tr_TR.UTF-8", "LANG=tr_TR.UTF-8", "HOME=/", "SOURCE_DATE_EPOCH=1234567")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, sum(t, e.disk), sum(t, other))

	// The clock has gone on by less than the file system's unit, perhaps: its times are looked at.
	f, err := os.Open(other)
	require.NoError(t, err)
	defer f.Close()
	super := make([]byte, 1024)
	_, err = f.ReadAt(super, startOf(t, other, "dormouse-volume")+1024)
	require.NoError(t, err)
	require.Equal(t, []byte{0x53, 0xef}, super[0x38:0x3a], "the volume is expected there")
	for name, at := range map[string]int{"mounted": 0x2c, "written": 0x30, "checked": 0x40, "made": 0x108} {
		require.LessOrEqual(t, binary.LittleEndian.Uint32(super[at:]), uint32(1), name)
	}

	var stat syscall.Stat_t
	require.NoError(t, syscall.Stat(other, &stat))
	require.Equal(t, int64(2<<30), stat.Size, "a whole number of GiB")
	require.Less(t, stat.Blocks*512, int64(64<<20), "the file is sparse")
}

func TestDiskWithoutVolume(t *testing.T) {
	t.Parallel()
	e := exampleDisk(t)
	e.input.Package.Manifest.Persist = nil
	path := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, linux.WriteDisk(context.Background(), path, e.input))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, int64(1<<30), info.Size())
	out, err := exec.Command("/sbin/sfdisk", "--dump", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "dormouse-config")
	require.NotContains(t, string(out), "dormouse-volume")
	require.Equal(t, guest.Config{
		Hostname: "workspace", Program: "/workspace", Restart: "always", Ports: []int{8080}, Network: guest.Network{DHCP: true},
	}, configOf(t, path))

	// Another configuration may want a volume where the package does not.
	mine := guest.Config{Hostname: "mine", Program: "/workspace", Persist: []string{"/data"}, Restart: "never"}
	e.input.Config = &mine
	path = filepath.Join(t.TempDir(), "disk")
	require.NoError(t, linux.WriteDisk(context.Background(), path, e.input))
	require.Equal(t, mine, configOf(t, path))
	out, err = exec.Command("/sbin/sfdisk", "--dump", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "dormouse-volume")
}

// startOf is where, in bytes, the partition with a name begins.
func startOf(t *testing.T, disk, partition string) int64 {
	t.Helper()
	out, err := exec.Command("/sbin/sfdisk", "--dump", disk).CombinedOutput()
	require.NoError(t, err, "%s", out)
	start := regexp.MustCompile(`start= *(\d+).*name="` + partition + `"`).FindSubmatch(out)
	require.NotNil(t, start, "%s", out)
	sector, err := strconv.ParseInt(string(start[1]), 10, 64)
	require.NoError(t, err)
	return sector * 512
}

// configOf is what the guest of a disk is told.
func configOf(t *testing.T, disk string) guest.Config {
	t.Helper()
	f, err := os.Open(disk)
	require.NoError(t, err)
	defer f.Close()
	c, err := guest.DecodeConfig(io.NewSectionReader(f, startOf(t, disk, "dormouse-config"), 2<<20))
	require.NoError(t, err)
	return c
}

func TestDiskRefused(t *testing.T) {
	t.Parallel()
	e := exampleDisk(t)
	odd := filepath.Join(t.TempDir(), "odd")
	require.NoError(t, os.WriteFile(odd, bytes.Repeat([]byte("x"), 1024), 0o600))
	for name, c := range map[string]struct {
		change func(*linux.DiskInput)
		kind   fleet.ErrorKind
		says   string
	}{
		"NoRoot":      {func(in *linux.DiskInput) { in.RootPath = odd + "x" }, fleet.KindUnavailable, "image's root"},
		"RootIsDir":   {func(in *linux.DiskInput) { in.RootPath = "/" }, fleet.KindUnavailable, "no regular file"},
		"Relative":    {func(in *linux.DiskInput) { in.RootPath = "x" }, fleet.KindUnavailable, "no absolute path"},
		"NoKernel":    {func(in *linux.DiskInput) { in.Kernel.VmlinuzPath = odd + "x" }, fleet.KindUnavailable, "fetch-kernel.sh"},
		"NoStub":      {func(in *linux.DiskInput) { in.Kernel.StubPath = odd + "x" }, fleet.KindUnavailable, "fetch-efi-stub.sh"},
		"NoInitrd":    {func(in *linux.DiskInput) { in.Kernel.InitrdPath = odd + "x" }, fleet.KindUnavailable, "initrd"},
		"OddKernel":   {func(in *linux.DiskInput) { in.Kernel.VmlinuzPath = odd }, fleet.KindInvalid, "CONFIG_EFI_STUB"},
		"OddStub":     {func(in *linux.DiskInput) { in.Kernel.StubPath = odd }, fleet.KindInvalid, "systemd-boot-efi"},
		"SmallVolume": {func(in *linux.DiskInput) { in.VolumeMiB = 1 }, fleet.KindInvalid, "16 to"},
		"LargeVolume": {func(in *linux.DiskInput) { in.VolumeMiB = 1 << 30 }, fleet.KindInvalid, "16 to"},
		"LargeEnv": {func(in *linux.DiskInput) {
			in.Package.Manifest.Env = map[string]string{"A": strings.Repeat("x", 2<<20)}
		}, fleet.KindInvalid, "shorter environment"},
	} {
		in := e.input
		c.change(&in)
		path := filepath.Join(t.TempDir(), "disk")
		err := linux.WriteDisk(context.Background(), path, in)
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, c.kind, fleet.KindOf(err), name)
		require.NoFileExists(t, path, name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	path := filepath.Join(t.TempDir(), "disk")
	require.ErrorIs(t, linux.WriteDisk(ctx, path, e.input), context.Canceled)
	require.NoFileExists(t, path)
	// What is there already stays.
	require.ErrorIs(t, linux.WriteDisk(context.Background(), odd, e.input), os.ErrExist)
	require.FileExists(t, odd)
}
