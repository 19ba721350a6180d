package elfdeps

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// hashKind is how a test's file tells how many symbols it has.
type hashKind int

const (
	oldHash hashKind = iota
	gnuHash          // the defined ones come last
	gnuHashOfNone
)

// symbolELF is a file with dynamic symbols: imports, and those that it defines itself.
func symbolELF(t testing.TB, kind hashKind, imports, defined []string) []byte {
	t.Helper()
	const base, head = 0x10000, 64 + 2*56
	strtab := "\x00"
	symbols := []elf.Sym64{{}}
	for i, n := range append(slices.Clone(imports), defined...) {
		s := elf.Sym64{Name: uint32(len(strtab)), Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC)}
		if i >= len(imports) {
			s.Shndx, s.Value = 1, base
		}
		symbols = append(symbols, s)
		strtab += n + "\x00"
	}
	hash := []uint32{1, uint32(len(symbols)), 0}
	hashTag := elf.DT_HASH
	if kind != oldHash {
		hashTag, hash[1] = elf.DT_GNU_HASH, uint32(1+len(imports))
	}
	if kind == gnuHashOfNone {
		hash[1] = 1
	}
	symbolsAt := uint64(head)
	strtabAt := symbolsAt + uint64(len(symbols))*symbolSize
	hashAt := (strtabAt + uint64(len(strtab)) + 7) / 8 * 8
	dynamicAt := hashAt + 16
	dynamic := []uint64{uint64(elf.DT_SYMTAB), base + symbolsAt, uint64(elf.DT_STRTAB), base + strtabAt, uint64(elf.DT_STRSZ), uint64(len(strtab)), uint64(hashTag), base + hashAt, 0, 0}
	end := dynamicAt + uint64(len(dynamic))*8
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: base, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	out := make([]byte, end)
	for _, part := range []struct {
		at uint64
		v  any
	}{{0, h}, {64, []elf.Prog64{{Type: uint32(elf.PT_LOAD), Vaddr: base, Filesz: end, Memsz: end}, {Type: uint32(elf.PT_DYNAMIC), Off: dynamicAt, Vaddr: base + dynamicAt, Filesz: end - dynamicAt, Memsz: end - dynamicAt}}},
		{symbolsAt, symbols}, {strtabAt, []byte(strtab)}, {hashAt, hash}, {dynamicAt, dynamic}} {
		var b bytes.Buffer
		require.NoError(t, binary.Write(&b, binary.LittleEndian, part.v))
		copy(out[part.at:], b.Bytes())
	}
	return out
}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, kind := range []hashKind{oldHash, gnuHash} {
		got, err := Imports(memTree{"/p": symbolELF(t, kind, []string{"fork", "abort", "fork"}, []string{"main", "execve"})}, "/p")
		require.NoError(t, err)
		require.Equal(t, []string{"abort", "fork"}, got)
	}
	got, err := Imports(memTree{"/p": symbolELF(t, gnuHashOfNone, []string{"fork", "abort"}, nil)}, "/p")
	require.NoError(t, err)
	require.Equal(t, []string{"abort", "fork"}, got)
	got, err = Imports(memTree{"/p": testELF{kind: elf.ET_EXEC}.binary()}, "/p")
	require.NoError(t, err)
	require.Empty(t, got)
	_, err = Imports(memTree{}, "/p")
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
}

// The program that runs this test was linked by another linker than ours.
func TestImportsOfRealFile(t *testing.T) {
	t.Parallel()
	const name = "/bin/sh"
	body, err := os.ReadFile(name)
	if err != nil {
		t.Skip("there is no /bin/sh here:", err)
	}
	e, err := elf.NewFile(bytes.NewReader(body))
	require.NoError(t, err)
	if e.Machine != elf.EM_X86_64 {
		t.Skip("/bin/sh is not for x86-64:", e.Machine)
	}
	symbols, err := e.ImportedSymbols()
	if err != nil {
		t.Skip("/bin/sh is static:", err)
	}
	var want []string
	for _, s := range symbols {
		want = append(want, s.Name)
	}
	slices.Sort(want)
	got, err := Imports(memTree{name: body}, name)
	require.NoError(t, err)
	for _, n := range slices.Compact(want) {
		require.Contains(t, got, n)
	}
}

func TestImportsRefused(t *testing.T) {
	t.Parallel()
	whole := symbolELF(t, oldHash, []string{"fork"}, nil)
	many := bytes.Clone(whole)
	binary.LittleEndian.PutUint32(many[bytes.Index(many, []byte{1, 0, 0, 0, 2, 0, 0, 0})+4:], 1<<30)
	for name, body := range map[string][]byte{"Truncated": whole[:len(whole)-30], "TooMany": many, "NoELF": []byte("x")} {
		_, err := Imports(memTree{"/p": body}, "/p")
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), name)
	}
}

// FuzzImports: whatever the bytes, reading ends, within bounds and without a panic.
func FuzzImports(f *testing.F) {
	for _, kind := range []hashKind{oldHash, gnuHash, gnuHashOfNone} {
		f.Add(symbolELF(f, kind, []string{"fork", "a"}, []string{"main"}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		names, err := Imports(memTree{"/p": b}, "/p")
		if err != nil {
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
		}
		require.LessOrEqual(t, len(names), maxSymbols)
	})
}
