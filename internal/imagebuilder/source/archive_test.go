package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestArchiveRefused(t *testing.T) {
	t.Parallel()
	many := app()
	for i := range 60 {
		many = append(many, file(fmt.Sprintf("f%d", i), ""))
	}
	deep := app(file("sysroot/"+strings.Repeat("d/", 80)+"f", ""))
	for name, c := range map[string]struct {
		members []member
		says    string
	}{
		"DotDot":             {app(file("../x", "")), ".. in its name"},
		"DotDotInside":       {app(file("a/../../x", "")), ".. in its name"},
		"Absolute":           {app(file("/etc/passwd", "")), "absolute name"},
		"NotUTF8":            {app(file("a\xff", "")), "not UTF-8"},
		"LongName":           {app(file(strings.Repeat("x", 256), "")), "shorten it"},
		"RelativeLinkOut":    {app(symlink("sysroot/a", "../outside")), "outside of the package"},
		"LinkOutThroughLink": {app(dir("sysroot/d"), symlink("sysroot/d/up", ".."), symlink("sysroot/a", "d/up/../x")), "outside of the package"},
		"AbsoluteLinkOut":    {app(symlink("sysroot/a", "/../x")), "outside of the package"},
		"LinkOutOfPackage":   {app(symlink("a", "../x")), "outside of the package"},
		"HardLinkOut":        {app(hardLink("sysroot/a", "../../etc/passwd")), "points outside of the package"},
		"HardLinkAbsolute":   {app(hardLink("sysroot/a", "/etc/passwd")), "points outside of the package"},
		"HardLinkToNothing":  {app(hardLink("sysroot/a", "sysroot/b")), "does not hold"},
		"HardLinkToItself":   {app(hardLink("sysroot/a", "sysroot/a")), "does not hold"},
		"HardLinkToDir":      {app(hardLink("sysroot/a", "sysroot/bin"), dir("sysroot/bin")), "the directory"},
		"Device":             {app(member{name: "sysroot/null", kind: tar.TypeChar}), "is a device"},
		"BlockDevice":        {app(member{name: "sysroot/sda", kind: tar.TypeBlock}), "is a device"},
		"Fifo":               {app(member{name: "sysroot/p", kind: tar.TypeFifo}), "named pipe"},
		"DuplicateManifest":  {append(app(), file(ManifestName, minimal)), "manifest package.manifest twice"},
		"DuplicateMember":    {app(file("a", "1"), file("a", "2")), "twice"},
		"DuplicateSpelling":  {app(file("a", "1"), file("./a", "2")), "twice"},
		"BelowFile":          {app(file("a", ""), file("a/b", "")), "is no directory"},
		"BelowLink":          {app(symlink("a", "sysroot"), file("a/b", "")), "is no directory"},
		"TooManyMembers":     {many, "more than 50 files"},
		"TooManyImpliedDirs": {deep, "more than 50 files"},
		"NoManifest":         {[]member{file("x", "")}, "has no package.manifest"},
		"TwoTopDirectories":  {[]member{file("a/"+ManifestName, minimal), file("b/x", "")}, "has no package.manifest"},
		"ManifestIsLink":     {[]member{symlink(ManifestName, "m"), file("m", minimal)}, "no regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := readWith(t, archiveOf(t, c.members), Options{Limits: Limits{Members: 50}})
			requireInvalid(t, err, c.says)
		})
	}
}

func TestDamagedArchive(t *testing.T) {
	t.Parallel()
	raw := tarOf(t, app(file("sysroot/data", strings.Repeat("0123456789", 10_000))), nil)
	whole := gzipOf(t, raw, gzip.BestSpeed)

	t.Run("EveryCut", func(t *testing.T) {
		t.Parallel()
		for cut := 0; cut < len(whole); cut += 37 {
			_, err := readWith(t, whole[:cut], Options{})
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "cut at %d: %v", cut, err)
		}
	})
	t.Run("CutBeforeCompression", func(t *testing.T) {
		t.Parallel()
		// The end is gone, and every block before: also at members' ends, where a tar reader sees nothing wrong.
		for cut := len(raw) - 1024; cut > 0; cut -= 512 {
			_, err := readWith(t, gzipOf(t, raw[:cut], gzip.BestSpeed), Options{})
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "cut at %d: %v", cut, err)
		}
	})
	t.Run("Checksum", func(t *testing.T) {
		t.Parallel()
		bad := bytes.Clone(whole)
		bad[len(bad)-8] ^= 1
		_, err := readWith(t, bad, Options{})
		requireInvalid(t, err, "damaged archive")
	})
	t.Run("SomethingBehind", func(t *testing.T) {
		t.Parallel()
		_, err := readWith(t, gzipOf(t, append(bytes.Clone(raw), "more"...), gzip.BestSpeed), Options{})
		requireInvalid(t, err, "behind the archive's end")
	})
	t.Run("ConnectionLost", func(t *testing.T) {
		t.Parallel()
		lost := errors.New("connection reset")
		r := io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), iotest.ErrReader(lost))
		_, err := ReadArchive(context.Background(), r, Options{SpoolDir: t.TempDir()})
		require.ErrorIs(t, err, lost)
		require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
	})
	t.Run("Cancelled", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := ReadArchive(ctx, bytes.NewReader(whole), Options{SpoolDir: t.TempDir()})
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestSizesBounded(t *testing.T) {
	t.Parallel()
	small := Limits{Bytes: 1 << 20}
	t.Run("GzipBomb", func(t *testing.T) {
		t.Parallel()
		_, err := readWith(t, archiveOf(t, app(file("z", strings.Repeat("\x00", 2<<20)))), Options{Limits: small})
		requireInvalid(t, err, "more than 1 MiB unpacked")
	})
	t.Run("EndlessZeros", func(t *testing.T) {
		t.Parallel()
		raw := append(tarOf(t, app(), nil), make([]byte, 2<<20)...)
		_, err := readWith(t, gzipOf(t, raw, gzip.BestSpeed), Options{Limits: small})
		requireInvalid(t, err, "unpacked")
	})
	t.Run("HeaderBomb", func(t *testing.T) {
		t.Parallel()
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := range 4000 {
			require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": fmt.Sprint(i)}}))
		}
		require.NoError(t, w.Close())
		_, err := readWith(t, gzipOf(t, b.Bytes(), gzip.BestSpeed), Options{Limits: small})
		requireInvalid(t, err, "unpacked")
	})
	t.Run("SparseBomb", func(t *testing.T) {
		t.Parallel()
		// An old GNU sparse header: a hole of 8 TiB in a member without data.
		block := make([]byte, 512)
		copy(block, "sysroot/hole")
		copy(block[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00")
		block[156] = tar.TypeGNUSparse
		copy(block[257:], "ustar  \x00")
		put := func(at int, n uint64) {
			for i := 11; i > 0; i-- {
				block[at+i], n = byte(n), n>>8
			}
			block[at] = 0x80
		}
		put(386, 8<<40) // one fragment, empty, at the end
		put(398, 0)
		put(483, 8<<40)
		copy(block[148:], "        ")
		sum := 0
		for _, c := range block {
			sum += int(c)
		}
		copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
		raw := append(block, tarOf(t, app(), nil)...)
		_, err := readWith(t, gzipOf(t, raw, gzip.BestSpeed), Options{})
		requireInvalid(t, err, "more than 4096 MiB unpacked")
	})
	t.Run("HardLinkBomb", func(t *testing.T) {
		t.Parallel()
		members := app(file("sysroot/f", strings.Repeat("x", 600<<10)), hardLink("sysroot/g", "sysroot/f"))
		_, err := readWith(t, archiveOf(t, members), Options{Limits: small})
		requireInvalid(t, err, "more than 1 MiB unpacked")
	})
	t.Run("DirsBomb", func(t *testing.T) {
		t.Parallel()
		members := with(`{"Name":"a","Version":"1","Program":"/bin/app","Files":[],"Dirs":["d"],"MapDirs":{"d":"/1","d/":"/2","d//":"/3"}}`,
			file("sysroot/bin/app", elfBytes), file("d/f", strings.Repeat("x", 300<<10)))
		_, err := readWith(t, archiveOf(t, members), Options{Limits: small})
		requireInvalid(t, err, "more than 1 MiB unpacked")
	})
	t.Run("Names", func(t *testing.T) {
		t.Parallel()
		_, err := readWith(t, archiveOf(t, app(symlink("a", strings.Repeat("x", 2000)))), Options{Limits: Limits{NameBytes: 1000}})
		requireInvalid(t, err, "the names in the package")
	})
	t.Run("Manifest", func(t *testing.T) {
		t.Parallel()
		_, err := readWith(t, archiveOf(t, app()), Options{Limits: Limits{ManifestBytes: 10}})
		requireInvalid(t, err, "package.manifest has")
	})
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	require.NoError(t, err)
	defer full.Close()
	c := newCollector(&spool{f: full}, Limits{}.withDefaults())
	_, err = c.store(context.Background(), strings.NewReader("content"), 7)
	require.Equal(t, fleet.KindCapacity, fleet.KindOf(err))
	require.ErrorContains(t, err, "the disk is full")
}

func TestArchiveAccepted(t *testing.T) {
	t.Parallel()
	p := mustRead(t, app(
		dir("./"),
		symlink("sysroot/lib", "usr/lib"), symlink("sysroot/usr/lib/up", "../../bin/app"), symlink("sysroot/abs", "/bin/app"),
		symlink("sysroot/dangling", "/nowhere"), symlink("sysroot/loop", "loop"),
		hardLink("sysroot/bin/second", "sysroot/bin/first"), hardLink("sysroot/bin/first", "sysroot/bin/app"),
		member{name: "sysroot/bin/su", body: elfBytes, mode: 0o4755},
	))
	require.Equal(t, "app", p.Name)
	for _, name := range []string{"/bin/second", "/lib/up", "/abs"} {
		r, err := p.Tree.Open(name)
		require.NoError(t, err, name)
		body, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, elfBytes, string(body), name)
	}
	e, err := p.Tree.Lookup("/bin/su")
	require.NoError(t, err)
	require.Equal(t, uint32(0o4755), e.Mode)
	_, err = p.Tree.Lookup("/loop")
	require.ErrorIs(t, err, errTooFar)
	names, err := p.Tree.ReadDir("/bin")
	require.NoError(t, err)
	require.Equal(t, []string{"app", "first", "second", "su"}, names)
}
