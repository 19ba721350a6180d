package tfs

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// golden is a volume that was mounted by a real kernel, less its UUID: one file
// tenant.conf of 12 bytes.
const (
	goldenHead = "4E564D544653 05 01 00000000000000000000000000000000 636667 00 05 01 08 01"
	goldenLog  = "4E564D544653 05 08 02 53 53" +
		"91 88 08 6368696C6472656E" + // a tuple of one: children
		"91 88 0B 74656E616E742E636F6E66" + // tenant.conf
		"92 88 0A 66696C656C656E677468 B0 0C" + // filelength 12
		"87 657874656E7473 91 81 30" + // extents, 0
		"93 86 6C656E677468 B0 01 86 6F6666736574 B0 09 88 09 616C6C6F6361746564 B0 01" + // length 1, offset 9, allocated 1
		"01"
)

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

func goldenVolume(t testing.TB) *memory {
	t.Helper()
	m := &memory{}
	for off, b := range map[int64][]byte{0: fromHex(t, goldenHead), SectorSize: fromHex(t, goldenLog), 9 * SectorSize: []byte("name=tenant\n")} {
		_, err := m.WriteAt(b, off)
		require.NoError(t, err)
	}
	m.truncate(5120)
	return m
}

func TestGoldenRead(t *testing.T) {
	t.Parallel()
	f := read(t, goldenVolume(t))
	require.Equal(t, "cfg", f.Label)
	require.Equal(t, []string{"1  0 ", "2 tenant.conf 12 "}, list(t, f))
	require.Equal(t, "name=tenant\n", body(t, f, "tenant.conf"))
}

func TestGoldenWritten(t *testing.T) {
	t.Parallel()
	m := &memory{}
	w, err := NewWriter(m, Options{Label: "cfg", LogSectors: 8})
	require.NoError(t, err)
	require.NoError(t, w.File("tenant.conf", 12, strings.NewReader("name=tenant\n")))
	s, err := w.Finish()
	require.NoError(t, err)
	require.EqualValues(t, 10, s.Sectors())
	want := goldenVolume(t)
	f := read(t, m)
	copy(want.b[8:], f.UUID[:])
	require.Equal(t, hex.Dump(want.b), hex.Dump(m.b))
}

// The old encoding by hand, as OPS writes it: numbers are strings, a vector is a tuple.
func TestReadVersion4(t *testing.T) {
	t.Parallel()
	record := "C2 88 6368696C6472656E C1 81 61 C2 8A 66696C656C656E677468 81 33" + // children, a, filelength 3
		"87 657874656E7473 C1 81 30 C3 86 6C656E677468 81 31 86 6F6666736574 81 39 89 616C6C6F6361746564 81 31" +
		"89 617267756D656E7473 C2 09 82 2F61 81 31 81 78" // arguments: 0 (entry 9) is /a, 1 is x
	value := fromHex(t, record)
	m := &memory{}
	log := append(fromHex(t, "4E564D544653 04 08 02"), byte(len(value)>>7)|0x80, byte(len(value)&0x7f), byte(len(value)>>7)|0x80, byte(len(value)&0x7f))
	for off, b := range map[int64][]byte{0: fromHex(t, strings.Replace(goldenHead, "05", "04", 1)), SectorSize: append(append(log, value...), recordEnd), 9 * SectorSize: []byte("abc")} {
		_, err := m.WriteAt(b, off)
		require.NoError(t, err)
	}
	m.truncate(5120)
	f := read(t, m)
	require.Equal(t, 4, f.Version)
	require.Equal(t, "abc", body(t, f, "a"))
	require.Equal(t, []string{"/a", "x"}, f.Root.Strings("arguments"))
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	attrs := []Attr{
		{"arguments", []Value{"/bin/app", "-v"}}, {"environment", NewTuple(Attr{"A", "1"}, Attr{"B", ""})}, {"program", "/bin/app"},
		{"flag", Null{}}, {"number", int64(-300)}, {"big", int64(1) << 62}, {"none", []Value{}},
	}
	m, s := sample(t, Options{Label: "root"}, 0, attrs...)
	f := read(t, m)
	require.Equal(t, "root", f.Label)
	require.Equal(t, []string{
		"1  0 ", "1 etc 0 ", "2 etc/empty 0 ", "2 etc/hosts 10 ", "3 lib 0 usr/lib", "1 usr 0 ", "1 usr/lib 0 ", "2 usr/lib/big 1500000 ",
		"1 var 0 ", "1 var/lib 0 ", "1 var/lib/empty 0 ",
	}, list(t, f))
	require.Equal(t, "127.0.0.1\n", body(t, f, "etc/hosts"))
	require.Equal(t, strings.Repeat("0123456789", 150_000), body(t, f, "usr/lib/big"))
	require.Empty(t, body(t, f, "etc/empty"))
	require.Equal(t, []string{"/bin/app", "-v"}, f.Root.Strings("arguments"))
	require.Equal(t, map[string]string{"A": "1", "B": ""}, f.Root.Map("environment"))
	require.Equal(t, []any{Null{}, int64(-300), int64(1) << 62, []Value{}}, []any{f.Root.Get("flag"), f.Root.Get("number"), f.Root.Get("big"), f.Root.Get("none")})
	used, err := f.Verify()
	require.NoError(t, err)
	require.Equal(t, s.Sectors(), used)
	_, err = f.Lookup("etc/none")
	require.ErrorIs(t, err, fs.ErrNotExist)

	again, _ := sample(t, Options{Label: "root"}, 0, attrs...)
	require.True(t, bytes.Equal(m.b, again.b), "equal input gives equal bytes")
}

// 25,000 files need more than one extent of the log.
func TestLogOverExtents(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{}, {LogSectors: 1}, {LogSectors: 8}} {
		m, _ := sample(t, o, 25_000)
		f := read(t, m)
		require.Len(t, list(t, f), 25_000+11+11)
		require.Greater(t, len(f.log), 2)
		require.Equal(t, "body", body(t, f, "many/9/24999"))
	}
}

func TestRefusedByWriter(t *testing.T) {
	t.Parallel()
	_, err := NewWriter(&memory{}, Options{Label: strings.Repeat("x", 32)})
	require.ErrorContains(t, err, "31 bytes")
	w, err := NewWriter(&memory{}, Options{})
	require.NoError(t, err)
	require.ErrorIs(t, w.File("a", 5, strings.NewReader("abc")), io.ErrUnexpectedEOF)
	for path, says := range map[string]string{"../x": "no name", "a": "already", "a/b": "no directory", "": "no name", "x/./y": "no name", strings.Repeat("n", 256): "no name"} {
		require.ErrorContains(t, w.File(path, 0, strings.NewReader("")), says, path)
	}
	require.ErrorContains(t, w.Symlink("l", ""), "0 bytes")
	_, err = w.Finish(Attr{"children", "x"})
	require.ErrorContains(t, err, "twice")
}

// Numbers at the edges of their forms.
func TestNumbers(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{0: "00", 127: "7f", 128: "8100", 16383: "ff7f", 16384: "818000", 1<<64 - 1: "81ffffffffffffffff7f"} {
		b := appendVarint(nil, n)
		require.Equal(t, want, hex.EncodeToString(b))
		got, err := (&frame{b}).varint()
		require.NoError(t, err)
		require.Equal(t, n, got)
	}
	for _, n := range []uint64{0, 1, 7, 8, 127, 1023, 1024, 1 << 31, 1<<64 - 1} {
		d := &decoder{in: appendHeader(nil, true, typeString, n)}
		immediate, kind, got, err := d.header()
		require.NoError(t, err)
		require.True(t, immediate)
		require.EqualValues(t, typeString, kind)
		require.Equal(t, n, got)
		require.Empty(t, d.in)
	}
	_, err := (&frame{bytes.Repeat([]byte{0xff}, 11)}).varint()
	require.ErrorIs(t, err, ErrDamaged)
}

func TestAppend(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"Small": 20, "AcrossSectors": 3000, "NewExtent": 500_000, "LargerThanAnExtent": 1_300_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, s := sample(t, Options{}, 100, Attr{"environment", NewTuple(Attr{"A", "1"})}, Attr{"program", "/a"})
			names, err := s.Names()
			require.NoError(t, err)
			etc, ok := s.Directory("etc")
			require.True(t, ok)
			base := bytes.Clone(m.b)
			m.truncate(int64(len(m.b)) + 4<<20)
			a, err := NewAppender(*s, OpenNames(bytes.NewReader(names), int64(len(names))), m, int64(len(m.b))/SectorSize)
			require.NoError(t, err)
			value := strings.Repeat("v", size)
			require.NoError(t, a.Set(RootIndex, Attr{"environment", NewTuple(Attr{"many", value}, Attr{"NEW", "2"}, Attr{"A", "3"})}, Attr{"program", nil}))
			file, err := a.File([]byte("tenant\n"))
			require.NoError(t, err)
			require.NoError(t, a.Set(etc, Attr{"hostname", file}, Attr{"NEW", NewTuple(Attr{"children", NewTuple()})}))
			patches, err := a.Patches()
			require.NoError(t, err)
			for _, p := range patches {
				require.Zero(t, p.Offset%SectorSize)
				require.Zero(t, len(p.Data)%SectorSize)
				_, err := m.WriteAt(p.Data, p.Offset)
				require.NoError(t, err)
			}
			require.Equal(t, base[:s.End], m.b[:s.End], "what was there stays")
			f := read(t, m)
			require.Equal(t, map[string]string{"many": value, "NEW": "2", "A": "3"}, f.Root.Map("environment"))
			require.Nil(t, f.Root.Get("program"))
			require.Equal(t, "tenant\n", body(t, f, "etc/hostname"))
			require.Equal(t, "127.0.0.1\n", body(t, f, "etc/hosts"))
			_, err = NewAppender(*s, nil, m, int64(len(m.b))/SectorSize)
			require.ErrorContains(t, err, "does not end where it was left")
		})
	}
}

func TestAppendWithoutRoom(t *testing.T) {
	t.Parallel()
	m, s := sample(t, Options{}, 0)
	names, err := s.Names()
	require.NoError(t, err)
	a, err := NewAppender(*s, OpenNames(bytes.NewReader(names), int64(len(names))), m, s.Sectors())
	require.NoError(t, err)
	_, err = a.File([]byte("x"))
	require.ErrorContains(t, err, "no room")
	require.ErrorContains(t, a.Set(RootIndex, Attr{"a", strings.Repeat("x", 600_000)}), "no room")
}

func TestDamaged(t *testing.T) {
	t.Parallel()
	head := func(rest string) []byte {
		m := goldenVolume(t)
		copy(m.b[SectorSize:], append(fromHex(t, "4E564D544653 05 08 "+rest), recordEnd))
		return m.b
	}
	overlap := bytes.Replace(goldenVolume(t).b, fromHex(t, "6F6666736574 B0 09"), fromHex(t, "6F6666736574 B0 05"), 1)
	for name, c := range map[string]struct {
		volume []byte
		says   string
	}{
		"Empty":         {nil, "beyond the end"},
		"NoMagic":       {make([]byte, 4096), "no extent"},
		"Version":       {bytes.Replace(goldenVolume(t).b, []byte(magic+"\x05\x01"), []byte(magic+"\x06\x01"), 1), "version 6"},
		"LinkBeyond":    {goldenVolume(t).b[:2048], "beyond the end"},
		"LinkCircle":    {head("05 00 01"), "overlap"},
		"Unknown":       {head("09"), "unknown type 9"},
		"Cut":           {head("02 03 03 91 88 08"), "cut short"},
		"NoTuple":       {head("02 02 02 C1 61"), "no tuple"},
		"Trailing":      {head("02 02 02 90 90"), "follow"},
		"Reference":     {head("02 03 03 11 05 90"), "not there yet"},
		"NotATuple":     {head("02 07 07 91 81 61 11 02 81 62"), "no tuple"},
		"NameIsTuple":   {head("02 03 03 91 01 80"), "no name"},
		"LongName":      {head("02 0A 0A 91 88 FF FF FF FF FF FF FF 7F"), "cut short"},
		"Within":        {head("02 20 01 91 02 01 01 90"), "within another"},
		"Unfinished":    {head("02 20 01 91"), "within a record"},
		"Overlap":       {overlap, "belongs to"},
		"BeyondFile":    {bytes.Replace(goldenVolume(t).b, fromHex(t, "6F6666736574 B0 09"), fromHex(t, "6F6666736574 B0 0A"), 1), "beyond the end"},
		"DirectoryLoop": {head("02 0E 0E 91 88 08 6368696C6472656E 11 01 81"), "cut short"},
	} {
		f, err := Open(bytes.NewReader(c.volume), int64(len(c.volume)))
		if err == nil {
			_, err = f.Verify()
		}
		require.ErrorIs(t, err, ErrDamaged, name)
		require.ErrorContains(t, err, c.says, name)
	}
	// A directory that holds itself.
	loop := head("02 11 11 91 88 08 6368696C6472656E 91 81 61 10 01 0000"[:len("02 11 11 91 88 08 6368696C6472656E 91 81 61 10 01")])
	copy(loop[SectorSize+8:], []byte{recordTuple, 16, 16})
	f, err := Open(bytes.NewReader(loop), int64(len(loop)))
	require.NoError(t, err)
	_, err = f.Entries()
	require.ErrorContains(t, err, "more than one place")
}

// failing fails when it is read at all.
type failing struct{ error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.error }

func TestReadFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken disk")
	_, err := Open(failing{broken}, 4096)
	require.ErrorIs(t, err, broken)
	require.NotErrorIs(t, err, ErrDamaged)
}

// So many names that they are searched where they lie.
func TestManyNames(t *testing.T) {
	t.Parallel()
	s := &State{names: map[string]uint64{}}
	for i := range 100_000 {
		s.names[fmt.Sprint("name", i)] = uint64(i + 1)
	}
	raw, err := s.Names()
	require.NoError(t, err)
	require.Greater(t, len(raw), smallNames)
	names := OpenNames(bytes.NewReader(raw), int64(len(raw)))
	for i := 0; i < 100_000; i += 997 {
		index, ok, err := names.lookup(fmt.Sprint("name", i))
		require.NoError(t, err)
		require.True(t, ok)
		require.EqualValues(t, i+1, index)
		_, ok, err = names.lookup(fmt.Sprint("other", i))
		require.NoError(t, err)
		require.False(t, ok)
	}
	_, _, err = OpenNames(failing{errors.New("broken disk")}, int64(len(raw))).lookup("name1")
	require.ErrorContains(t, err, "broken disk")
	_, ok, err := OpenNames(bytes.NewReader(nil), 0).lookup("name1")
	require.NoError(t, err)
	require.False(t, ok)
}
