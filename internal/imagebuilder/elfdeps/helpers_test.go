package elfdeps

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// memTree is a tree of files without links.
type memTree map[string][]byte

func (m memTree) Open(name string) (*io.SectionReader, error) {
	body, ok := m[path.Clean(name)]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NewSectionReader(bytes.NewReader(body), 0, int64(len(body))), nil
}

func (m memTree) ReadDir(name string) ([]string, error) {
	var names []string
	for p := range m {
		if path.Dir(p) == path.Clean(name) {
			names = append(names, path.Base(p))
		}
	}
	slices.Sort(names)
	return names, nil
}

// object describes an ELF file that binary makes.
type testELF struct {
	kind    elf.Type
	machine elf.Machine
	class   elf.Class
	osabi   elf.OSABI
	interp  string
	needed  []string
	rpath   string
	runpath string
	noEntry bool
	strings []string // what else the string table holds
}

func program(interp string, needed ...string) testELF {
	return testELF{kind: elf.ET_DYN, interp: interp, needed: needed}
}

func library(needed ...string) testELF {
	return testELF{kind: elf.ET_DYN, needed: needed, noEntry: true}
}

// binary returns a 64-bit little-endian ELF file with what the loader reads
// (ELF-64 Object File Format, version 1.5): header, program headers, interp,
// dynamic segment and string table, all in one loaded segment, no sections.
func (o testELF) binary() []byte {
	if o.machine == 0 {
		o.machine = elf.EM_X86_64
	}
	if o.class == 0 {
		o.class = elf.ELFCLASS64
	}
	const base, headers = 0x10000, 64 + 3*56
	strtab := "\x00"
	var dynamic []uint64
	add := func(tag elf.DynTag, s string) {
		dynamic = append(dynamic, uint64(tag), uint64(len(strtab)))
		strtab += s + "\x00"
	}
	for _, n := range o.needed {
		add(elf.DT_NEEDED, n)
	}
	if o.rpath != "" {
		add(elf.DT_RPATH, o.rpath)
	}
	if o.runpath != "" {
		add(elf.DT_RUNPATH, o.runpath)
	}
	for _, s := range o.strings {
		strtab += s + "\x00"
	}
	interp := o.interp + "\x00"
	interpAt := uint64(headers)
	strtabAt := interpAt + uint64(len(interp))
	dynamicAt := (strtabAt + uint64(len(strtab)) + 15) / 16 * 16
	dynamic = append(dynamic, uint64(elf.DT_STRTAB), base+strtabAt, uint64(elf.DT_STRSZ), uint64(len(strtab)), 0, 0)
	end := dynamicAt + uint64(len(dynamic))*8

	progs := []elf.Prog64{{Type: uint32(elf.PT_LOAD), Vaddr: base, Filesz: end, Memsz: end}}
	if o.interp != "" {
		progs = append(progs, elf.Prog64{Type: uint32(elf.PT_INTERP), Off: interpAt, Vaddr: base + interpAt, Filesz: uint64(len(interp)), Memsz: uint64(len(interp))})
	}
	if len(dynamic) > 6 {
		progs = append(progs, elf.Prog64{Type: uint32(elf.PT_DYNAMIC), Off: dynamicAt, Vaddr: base + dynamicAt, Filesz: end - dynamicAt, Memsz: end - dynamicAt})
	}
	h := elf.Header64{Type: uint16(o.kind), Machine: uint16(o.machine), Version: 1, Entry: base, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: uint16(len(progs))}
	copy(h.Ident[:], elf.ELFMAG+string([]byte{byte(o.class), byte(elf.ELFDATA2LSB), 1, byte(o.osabi)}))
	if o.noEntry {
		h.Entry = 0
	}
	var b bytes.Buffer
	write := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err) // into memory: can't happen
		}
	}
	write(h)
	write(progs)
	b.Write(make([]byte, headers-b.Len()))
	b.WriteString(interp + strtab)
	b.Write(make([]byte, int(dynamicAt)-b.Len()))
	write(dynamic)
	return b.Bytes()
}

const (
	glibcLoader = "/lib64/ld-linux-x86-64.so.2"
	muslLoader  = "/lib/ld-musl-x86_64.so.1"
	multiarch   = "/usr/lib/x86_64-linux-gnu/"
)

// glibcTree has a loader and a libc.so.6, and the given files.
func glibcTree(files map[string][]byte) memTree {
	t := memTree{glibcLoader: testELF{kind: elf.ET_DYN}.binary(), multiarch + "libc.so.6": library("ld-linux-x86-64.so.2").binary()}
	for name, body := range files {
		t[name] = body
	}
	return t
}

func muslTree(files map[string][]byte) memTree {
	t := memTree{muslLoader: testELF{kind: elf.ET_DYN}.binary()}
	for name, body := range files {
		t[name] = body
	}
	return t
}

func truncate(b []byte, n int) []byte { return b[:min(n, len(b))] }

func repeat(s string, n int) []string { return strings.Split(strings.Repeat(s+",", n), ",")[:n] }
