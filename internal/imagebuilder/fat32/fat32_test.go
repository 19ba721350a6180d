package fat32

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// tool runs one of dosfstools and mtools, which don't know this package.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "MTOOLS_SKIP_CHECK=0"}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v (install dosfstools and mtools): %s", name, args, out)
	return string(out)
}

func file(path, content string) File {
	return File{Path: path, Size: int64(len(content)), Content: strings.NewReader(content)}
}

func noise(seed uint64, size int) string {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, size+8)
	for len(b) < size {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
	}
	return string(b[:size])
}

// write writes a volume into a new file and returns its name.
func write(t *testing.T, off int64, files []File, o Options) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "volume"))
	require.NoError(t, err)
	defer f.Close()
	want, err := Size(files)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(off+want))
	size, err := Write(context.Background(), f, off, files, o)
	require.NoError(t, err)
	require.Equal(t, want, size)
	info, err := f.Stat()
	require.NoError(t, err)
	require.Equal(t, off+want, info.Size(), "nothing is written behind the volume")
	return f.Name()
}

// check has the volume checked and each file read back by tools that are not ours.
// labels is 1 where there is a label, which fsck.fat counts as a file.
func check(t *testing.T, volume string, labels int, content map[string]string) {
	t.Helper()
	said := tool(t, "fsck.fat", "-n", "-v", volume)
	require.NotContains(t, said, "differ")
	require.Contains(t, said, fmt.Sprintf("%d files, ", len(directories(content))+len(content)+labels))
	out := t.TempDir()
	for path, want := range content {
		to := filepath.Join(out, "file")
		tool(t, "mcopy", "-n", "-o", "-i", volume, "::/"+path, to)
		got, err := os.ReadFile(to)
		require.NoError(t, err)
		require.True(t, bytes.Equal([]byte(want), got), "%s has another content", path)
	}
}

func directories(content map[string]string) map[string]bool {
	dirs := map[string]bool{}
	for path := range content {
		for d := filepath.Dir(path); d != "."; d = filepath.Dir(d) {
			dirs[d] = true
		}
	}
	return dirs
}

func TestWrite(t *testing.T) {
	t.Parallel()
	content := map[string]string{
		"EFI/BOOT/BOOTX64.EFI": noise(1, 700_001), "EFI/DORMOUSE/A": "x", "EMPTY": "", "STARTUP.NSH": noise(2, 512), "EFI/BOOT/~1.{}": noise(3, 513),
	}
	// More names than one cluster of a directory holds.
	for i := range 40 {
		content[fmt.Sprintf("MANY/F%d.TXT", i)] = fmt.Sprint(i)
	}
	var files []File
	for path, body := range content {
		files = append(files, file(path, body))
	}
	volume := write(t, 0, files, Options{Label: "EFI SYSTEM", ID: 0x1234abcd})
	info, err := os.Stat(volume)
	require.NoError(t, err)
	require.Equal(t, int64(67_276*512), info.Size(), "the smallest volume that all firmware takes for FAT32")
	check(t, volume, 1, content)
	listing := tool(t, "mdir", "-i", volume, "::/")
	require.Contains(t, listing, "EFI SYSTEM")
	require.Contains(t, listing, "1234-ABCD")
	require.Contains(t, tool(t, "minfo", "-i", volume), "hidden sectors: 0")
}

// A volume inside of a disk says where it lies, and leaves what is around it alone.
func TestWriteAtAnOffset(t *testing.T) {
	t.Parallel()
	const off = 2048 * 512
	disk := write(t, off, []File{file("EFI/BOOT/BOOTX64.EFI", "loader")}, Options{})
	all, err := os.ReadFile(disk)
	require.NoError(t, err)
	require.Equal(t, make([]byte, off), all[:off])
	require.Equal(t, uint32(2048), binary.LittleEndian.Uint32(all[off+28:]))
	cut := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.WriteFile(cut, all[off:], 0o600))
	check(t, cut, 0, map[string]string{"EFI/BOOT/BOOTX64.EFI": "loader"})
}

func TestWriteNothing(t *testing.T) {
	t.Parallel()
	check(t, write(t, 0, nil, Options{}), 0, nil)
	check(t, write(t, 0, nil, Options{Label: "A B"}), 1, nil)
}

func TestVolumeGrowsWithItsFiles(t *testing.T) {
	t.Parallel()
	for _, size := range []int{minClusters*512 - 512*4, minClusters*512 - 512*3, minClusters*512 - 512*2, 60 << 20} {
		big := noise(uint64(size), size)
		check(t, write(t, 0, []File{file("EFI/BOOT/BIG.EFI", big)}, Options{}), 0, map[string]string{"EFI/BOOT/BIG.EFI": big})
	}
}

// The bytes are the same in whatever order the files come, and for ever: firmware
// that boots a disk does not care, but images are named by what is in them.
func TestWriteReproducible(t *testing.T) {
	t.Parallel()
	a, b, c := "EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/GRUB.CFG", "Z"
	sum := func(names ...string) string {
		var files []File
		for _, n := range names {
			files = append(files, file(n, noise(uint64(len(n)), 9999)))
		}
		body, err := os.ReadFile(write(t, 512, files, Options{Label: "DORMOUSE", ID: 7}))
		require.NoError(t, err)
		return fmt.Sprintf("%x", sha256.Sum256(body))
	}
	require.Equal(t, sum(a, b, c), sum(c, b, a))
	require.Equal(t, "c1ac495913b06431e15b4ec525c08cadbfc70f3a124c104d91eb126f3ee6fae4", sum(b, a, c))
}

func TestRefused(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("D/", 16) + "F"
	for name, c := range map[string]struct {
		files []File
		label string
		says  string
	}{
		"LowerCase":     {files: []File{file("efi/A", "")}, says: "8.3"},
		"Long":          {files: []File{file("EFI/LONGERTHAN8", "")}, says: "8.3"},
		"LongEnding":    {files: []File{file("A.JSON", "")}, says: "8.3"},
		"TwoDots":       {files: []File{file("A.B.C", "")}, says: "8.3"},
		"DotOnly":       {files: []File{file("A.", "")}, says: "8.3"},
		"Hidden":        {files: []File{file(".A", "")}, says: "8.3"},
		"Absolute":      {files: []File{file("/EFI/A", "")}, says: "8.3"},
		"Above":         {files: []File{file("../A", "")}, says: "8.3"},
		"Empty":         {files: []File{file("", "")}, says: "8.3"},
		"Directory":     {files: []File{file("EFI/", "")}, says: "8.3"},
		"Twice":         {files: []File{file("A", ""), file("A", "")}, says: "twice"},
		"FileAndDir":    {files: []File{file("A", ""), file("A/B", "")}, says: "twice"},
		"DirAndFile":    {files: []File{file("A/B", ""), file("A", "")}, says: "twice"},
		"Deep":          {files: []File{file(deep, "")}, says: "too deep"},
		"TooLarge":      {files: []File{{Path: "A", Size: 1 << 32}}, says: "at most 4294967295"},
		"NegativeSize":  {files: []File{{Path: "A", Size: -1}}, says: "-1 bytes"},
		"TooMany":       {files: make([]File, maxFiles+1), says: "1025 files"},
		"LongLabel":     {label: "MORE THAN 11", says: "label"},
		"LowLabel":      {label: "efi", says: "label"},
		"TrailingBlank": {label: "EFI ", says: "label"},
	} {
		_, err := Write(context.Background(), nil, 0, c.files, Options{Label: c.label})
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), name)
		require.ErrorContains(t, err, c.says, name)
	}
	// Together more than cluster numbers reach.
	var many []File
	for i := range 40 {
		many = append(many, File{Path: fmt.Sprintf("F%d", i), Size: maxFileSize})
	}
	_, err := Size(many)
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	for _, off := range []int64{-512, 1, 1 << 41} {
		_, err := Write(context.Background(), nil, off, nil, Options{})
		require.ErrorContains(t, err, "can't begin at")
	}
}

// failing takes that many writes.
type failing struct {
	left int
	err  error
}

func (f *failing) WriteAt(p []byte, _ int64) (int, error) {
	if f.left--; f.left < 0 {
		return 0, f.err
	}
	return len(p), nil
}

func TestWriteFails(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left")
	for left := range 10 {
		_, err := Write(context.Background(), &failing{left, full}, 0, []File{file("A/B", "content")}, Options{})
		if left < 9 {
			require.ErrorIs(t, err, full, "write %d", left)
		} else {
			require.NoError(t, err)
		}
	}
	sink := &failing{left: 1 << 30}
	_, err := Write(context.Background(), sink, 0, []File{{Path: "A", Size: 4, Content: strings.NewReader("abc")}}, Options{})
	require.ErrorContains(t, err, "adding A: it has fewer than the 4 bytes")
	_, err = Write(context.Background(), sink, 0, []File{{Path: "A", Size: 2, Content: strings.NewReader("abc")}}, Options{})
	require.ErrorContains(t, err, "adding A: it has more than the 2 bytes")
	broken := errors.New("broken")
	_, err = Write(context.Background(), sink, 0, []File{{Path: "A", Size: 2, Content: io.MultiReader(strings.NewReader("a"), errReader{broken})}}, Options{})
	require.ErrorIs(t, err, broken)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Write(ctx, sink, 0, []File{file("A", "abc")}, Options{})
	require.ErrorIs(t, err, context.Canceled)
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }
