package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// stubWith is an EFI program with the sections .text and .sbat, whose head has
// room for that many more.
func stubWith(room int, change func(coff, optional []byte)) []byte {
	le := binary.LittleEndian
	const peAt, optionalSize = 0x80, 240
	head := (peAt + 4 + 20 + optionalSize + (2+room)*sectionHeaderSize + 0x1ff) &^ 0x1ff
	if room < 2 {
		head = peAt + 4 + 20 + optionalSize + (2+room)*sectionHeaderSize
	}
	b := make([]byte, head)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], peAt)
	copy(b[peAt:], "PE\x00\x00")
	coff, optional := b[peAt+4:], b[peAt+24:]
	le.PutUint16(coff, pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(coff[2:], 2)
	le.PutUint16(coff[16:], optionalSize)
	le.PutUint16(optional, 0x20b)
	le.PutUint32(optional[8:], 0x200)
	le.PutUint32(optional[32:], 0x1000) // of sections
	le.PutUint32(optional[36:], 0x200)  // of the file
	le.PutUint32(optional[56:], 0x3000)
	le.PutUint32(optional[60:], uint32(head))
	le.PutUint32(optional[64:], 0xbad)
	le.PutUint16(optional[68:], pe.IMAGE_SUBSYSTEM_EFI_APPLICATION)
	le.PutUint32(optional[108:], 16)
	for i, name := range []string{".text", ".sbat"} {
		s := optional[optionalSize+i*sectionHeaderSize:]
		copy(s, name)
		le.PutUint32(s[8:], 0x11)
		le.PutUint32(s[12:], uint32(0x1000*(i+1)))
		le.PutUint32(s[16:], 0x200)
		le.PutUint32(s[20:], uint32(head+i*0x200))
	}
	if change != nil {
		change(coff, optional)
	}
	b = append(b, bytes.Repeat([]byte{0xcc}, 0x200)...)
	return append(b, bytes.Repeat([]byte{0xdd}, 0x1ff)...) // not a multiple of the alignment
}

func section(name, content string) Section {
	return Section{Name: name, Size: int64(len(content)), Content: strings.NewReader(content)}
}

func TestBuild(t *testing.T) {
	t.Parallel()
	stub := stubWith(4, func(_, _ []byte) {})
	want := map[string]string{".cmdline": "quiet", ".initrd": strings.Repeat("i", 0x1000), ".linux": strings.Repeat("k", 70_001)}
	r, size, err := Build(stub, []Section{section(".cmdline", want[".cmdline"]), section(".initrd", want[".initrd"]), section(".linux", want[".linux"])})
	require.NoError(t, err)
	image, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, size, int64(len(image)))
	f, err := pe.NewFile(bytes.NewReader(image))
	require.NoError(t, err)
	require.Len(t, f.Sections, 5)
	o := f.OptionalHeader.(*pe.OptionalHeader64)
	end := uint32(0)
	for _, s := range f.Sections {
		require.GreaterOrEqual(t, s.VirtualAddress, end, s.Name)
		require.Zero(t, s.VirtualAddress%o.SectionAlignment, s.Name)
		if s.Name != ".text" && s.Name != ".sbat" {
			require.Zero(t, s.Offset%o.FileAlignment, s.Name)
			require.Zero(t, s.Size%o.FileAlignment, s.Name)
			data, err := s.Data()
			require.NoError(t, err)
			require.Equal(t, want[s.Name], string(data[:s.VirtualSize]), s.Name)
			require.Equal(t, make([]byte, len(data)-int(s.VirtualSize)), data[s.VirtualSize:], s.Name)
		}
		end = s.VirtualAddress + max(s.VirtualSize, s.Size)
	}
	require.Equal(t, (f.Sections[4].VirtualAddress+f.Sections[4].VirtualSize+0xfff)&^0xfff, o.SizeOfImage)
	require.Zero(t, o.CheckSum)
	require.Equal(t, uint32(0x200+0x200+0x1000+70_144), o.SizeOfInitializedData)
	// What the stub holds is as it was, its head apart.
	require.Equal(t, stub[0x400:], image[0x400:len(stub)])
	require.Equal(t, stubWith(4, nil), stub, "the caller's stub is not changed")
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		stub     []byte
		sections []Section
		says     string
		kind     fleet.ErrorKind
	}{
		"NoStub":    {stub: []byte("hello"), says: "no EFI program"},
		"Empty":     {stub: nil, says: "no EFI program"},
		"NotEFI":    {stub: stubWith(4, func(_, o []byte) { le.PutUint16(o[68:], 3) }), says: "no EFI program of 64"},
		"Another":   {stub: bytes.Replace(stubWith(4, nil), []byte(".sbat"), []byte(".sbut"), 1), says: "another EFI program"},
		"HasKernel": {stub: bytes.Replace(stubWith(4, nil), []byte(".text\x00"), []byte(".linux"), 1), says: "holds a kernel"},
		"Signed":    {stub: stubWith(4, func(_, o []byte) { le.PutUint32(o[112+4*8+4:], 8) }), says: "signed"},
		"Alignment": {stub: stubWith(4, func(_, o []byte) { le.PutUint32(o[32:], 3) }), says: "contradicts"},
		"FarAway":   {stub: stubWith(4, func(_, o []byte) { le.PutUint32(o[240+12:], 0xfffff000) }), says: "contradicts"},
		"NoRoom":    {stub: stubWith(1, nil), sections: []Section{section(".a", "a"), section(".b", "b")}, says: "no room"},
		"TooLarge":  {stub: stubWith(4, nil), sections: []Section{{Name: ".a", Size: maxImage}}, says: "2048 MiB"},
		"LongName":  {stub: stubWith(4, nil), sections: []Section{section(".longernam", "x")}, says: "name", kind: fleet.KindInternal},
		"NoContent": {stub: stubWith(4, nil), sections: []Section{section(".a", "")}, says: "size", kind: fleet.KindInternal},
	} {
		if c.kind == "" {
			c.kind = fleet.KindInvalid
		}
		_, _, err := Build(c.stub, c.sections)
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, c.kind, fleet.KindOf(err), name)
	}
	for says, s := range map[string]Section{
		"more bytes":      {Name: ".a", Size: 2, Content: strings.NewReader("abc")},
		"2 bytes fewer":   {Name: ".a", Size: 5, Content: strings.NewReader("abc")},
		"the disk is odd": {Name: ".a", Size: 5, Content: io.MultiReader(strings.NewReader("ab"), brokenReader{})},
	} {
		r, _, err := Build(stubWith(4, nil), []Section{s})
		require.NoError(t, err)
		_, err = io.ReadAll(r)
		require.ErrorContains(t, err, says)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the disk is odd") }

func FuzzBuild(f *testing.F) {
	f.Add(stubWith(4, nil))
	f.Add(stubWith(1, nil))
	f.Fuzz(func(t *testing.T, stub []byte) {
		r, size, err := Build(stub, []Section{section(".a", "content")})
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, r)
		require.NoError(t, err)
		require.Equal(t, size, n)
	})
}
