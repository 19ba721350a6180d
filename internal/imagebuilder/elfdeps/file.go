package elfdeps

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds on what is believed of an ELF file.
const (
	maxProgs   = 512
	maxDynamic = 1 << 20
	maxStrings = 16 << 20
	maxNeeded  = 4096
	maxString  = 4096
	maxPaths   = 256 // directories in DT_RPATH and DT_RUNPATH together
)

// file is what matters of an ELF file for loading it.
type file struct {
	class   elf.Class
	machine elf.Machine
	data    elf.Data
	osabi   elf.OSABI
	kind    elf.Type
	entry   uint64
	interp  string
	needed  []string
	rpath   []string
	runpath []string
	dynamic bool
	// mentions are those of wantedNames that its dynamic string table holds: names
	// of functions that it imports or exports, and of versions.
	mentions map[string]bool
}

// readELF reads what the loader would read. Errors say what is wrong with the file.
func readELF(r io.ReaderAt, size int64) (f *file, err error) {
	defer func() {
		if p := recover(); p != nil {
			f, err = nil, fmt.Errorf("no readable ELF file: %v", p)
		}
	}()
	var ident [64]byte
	if n, err := r.ReadAt(ident[:], 0); n < 20 || (err != nil && !errors.Is(err, io.EOF)) {
		return nil, errors.New("no ELF file: it is too short")
	}
	if string(ident[:4]) != elf.ELFMAG {
		return nil, errors.New("no ELF file: the magic number is missing")
	}
	f = &file{class: elf.Class(ident[elf.EI_CLASS]), data: elf.Data(ident[elf.EI_DATA]), osabi: elf.OSABI(ident[elf.EI_OSABI])}
	order := binary.ByteOrder(binary.LittleEndian)
	if f.data == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	f.machine = elf.Machine(order.Uint16(ident[18:]))
	if !f.native() {
		return f, nil // the caller says which machine; the rest doesn't matter
	}
	if order.Uint16(ident[56:]) > maxProgs {
		return nil, fmt.Errorf("no readable ELF file: it claims %d program headers", order.Uint16(ident[56:]))
	}
	e, err := elf.NewFile(withoutSections{r})
	if err != nil {
		return nil, fmt.Errorf("no readable ELF file: %w", err)
	}
	f.kind, f.entry = e.Type, e.Entry
	for _, p := range e.Progs {
		switch p.Type {
		case elf.PT_LOAD:
			if p.Filesz > 0 && (p.Off > uint64(size) || p.Filesz > uint64(size)-p.Off) {
				return nil, errors.New("a truncated ELF file: a segment lies beyond its end")
			}
		case elf.PT_INTERP:
			if f.interp, err = readInterp(p); err != nil {
				return nil, err
			}
		case elf.PT_DYNAMIC:
			if f.dynamic {
				return nil, errors.New("no readable ELF file: it has two dynamic segments")
			}
			f.dynamic = true
			if err := f.readDynamic(e, p); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

func (f *file) native() bool {
	return f.class == elf.ELFCLASS64 && f.data == elf.ELFDATA2LSB && f.machine == elf.EM_X86_64 && (f.osabi == elf.ELFOSABI_NONE || f.osabi == elf.ELFOSABI_LINUX)
}

func readInterp(p *elf.Prog) (string, error) {
	if p.Filesz < 2 || p.Filesz > maxString {
		return "", fmt.Errorf("no readable ELF file: the path of its loader has %d bytes", p.Filesz)
	}
	buf := make([]byte, p.Filesz)
	if _, err := p.ReadAt(buf, 0); err != nil {
		return "", fmt.Errorf("a truncated ELF file: reading the path of its loader: %w", err)
	}
	path, _, _ := strings.Cut(string(buf), "\x00")
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("the path of its loader is %q, which is not absolute", path)
	}
	return path, nil
}

// readDynamic reads the dynamic segment as the loader does, not through sections.
func (f *file) readDynamic(e *elf.File, p *elf.Prog) error {
	if p.Filesz > maxDynamic {
		return fmt.Errorf("no readable ELF file: its dynamic segment has %d bytes", p.Filesz)
	}
	buf := make([]byte, p.Filesz/16*16)
	if _, err := p.ReadAt(buf, 0); err != nil && len(buf) > 0 {
		return fmt.Errorf("a truncated ELF file: reading its dynamic segment: %w", err)
	}
	var table, length uint64
	type ref struct {
		tag    elf.DynTag
		offset uint64
	}
	var refs []ref
	for ; len(buf) >= 16; buf = buf[16:] {
		tag, value := elf.DynTag(binary.LittleEndian.Uint64(buf)), binary.LittleEndian.Uint64(buf[8:])
		if tag == elf.DT_NULL {
			break
		}
		switch tag {
		case elf.DT_STRTAB:
			table = value
		case elf.DT_STRSZ:
			length = value
		case elf.DT_NEEDED, elf.DT_RPATH, elf.DT_RUNPATH:
			if refs = append(refs, ref{tag, value}); len(refs) > maxNeeded {
				return fmt.Errorf("no readable ELF file: it needs more than %d libraries", maxNeeded)
			}
		}
	}
	if len(refs) == 0 {
		return nil
	}
	strtab, err := stringTable(e, table, length)
	if err != nil {
		return err
	}
	f.mentions = map[string]bool{}
	for _, name := range wantedNames() {
		f.mentions[name] = bytes.Contains(strtab, []byte(name+"\x00"))
	}
	for _, ref := range refs {
		s, err := stringAt(strtab, ref.offset)
		if err != nil {
			return err
		}
		switch ref.tag {
		case elf.DT_NEEDED:
			f.needed = append(f.needed, s)
		case elf.DT_RPATH:
			f.rpath = append(f.rpath, strings.Split(s, ":")...)
		case elf.DT_RUNPATH:
			f.runpath = append(f.runpath, strings.Split(s, ":")...)
		}
		if len(f.rpath)+len(f.runpath) > maxPaths {
			return fmt.Errorf("no readable ELF file: it names more than %d directories to look for libraries in", maxPaths)
		}
	}
	return nil
}

// stringTable reads the table at a virtual address, through the segment that loads it.
func stringTable(e *elf.File, addr, length uint64) ([]byte, error) {
	if length == 0 || length > maxStrings {
		return nil, fmt.Errorf("no readable ELF file: its string table has %d bytes", length)
	}
	for _, p := range e.Progs {
		if p.Type != elf.PT_LOAD || addr < p.Vaddr || addr-p.Vaddr >= p.Filesz || length > p.Filesz-(addr-p.Vaddr) {
			continue
		}
		buf := make([]byte, length)
		if _, err := p.ReadAt(buf, int64(addr-p.Vaddr)); err != nil {
			return nil, fmt.Errorf("a truncated ELF file: reading its string table: %w", err)
		}
		return buf, nil
	}
	return nil, errors.New("no readable ELF file: no segment holds its string table")
}

func stringAt(table []byte, offset uint64) (string, error) {
	if offset >= uint64(len(table)) {
		return "", errors.New("no readable ELF file: a name lies beyond its string table")
	}
	rest := table[offset:]
	end := bytes.IndexByte(rest, 0)
	if end < 0 || end > maxString {
		return "", errors.New("no readable ELF file: a name in it does not end")
	}
	return string(rest[:end]), nil
}

// withoutSections hides a 64-bit ELF file's section headers from debug/elf:
// the loader has no use for them, stripped files may have broken ones, and
// parsing them is most of what a hostile file could attack.
type withoutSections struct{ r io.ReaderAt }

func (w withoutSections) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.r.ReadAt(p, off)
	for _, hidden := range [][2]int64{{0x28, 0x30}, {0x3c, 0x40}} { // e_shoff; e_shnum and e_shstrndx
		for at := max(hidden[0], off); at < min(hidden[1], off+int64(n)); at++ {
			p[at-off] = 0
		}
	}
	return n, err
}

// foreign says what the file is for, where that is not Linux on x86-64.
func (f *file) foreign() string {
	machine := map[elf.Machine]string{
		elf.EM_X86_64: "x86-64", elf.EM_386: "x86 (32 bits)", elf.EM_AARCH64: "ARM aarch64", elf.EM_ARM: "ARM (32 bits)", elf.EM_RISCV: "RISC-V",
		elf.EM_PPC64: "PowerPC 64", elf.EM_S390: "IBM S/390", elf.EM_MIPS: "MIPS", elf.EM_LOONGARCH: "LoongArch",
	}[f.machine]
	if machine == "" {
		machine = f.machine.String()
	}
	switch {
	case f.machine == elf.EM_X86_64 && f.class == elf.ELFCLASS32:
		return "x86-64 in its 32-bit form (x32)"
	case f.machine == elf.EM_X86_64 && f.class == elf.ELFCLASS64:
		return fmt.Sprintf("another system than Linux (%s)", f.osabi)
	}
	return machine
}
