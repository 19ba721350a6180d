package elfdeps

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"dormouse/internal/fleet"
)

// Bounds on the symbols of one file: browsers have some 100,000.
const (
	maxSymbols = 1 << 20
	symbolSize = 24 // of Elf64_Sym
)

// Imports returns the names of the dynamic symbols that the ELF file at name
// takes from elsewhere, sorted and each once, without versions; nil for a
// static program, of which nothing can be told. What a file imports it need not
// call. Errors are fleet.Errors of KindInvalid.
func Imports(tree Tree, name string) ([]string, error) {
	r, err := tree.Open(name)
	if err != nil {
		return nil, fleet.Errorf(fleet.KindInvalid, "reading the symbols: %w", err)
	}
	names, err := readImports(r, r.Size())
	if err != nil {
		return nil, fleet.Errorf(fleet.KindInvalid, "%s is %w: build or pack it anew", name, err)
	}
	return names, nil
}

func readImports(r io.ReaderAt, size int64) (names []string, err error) {
	defer func() {
		if p := recover(); p != nil {
			names, err = nil, fmt.Errorf("no readable ELF file: %v", p)
		}
	}()
	if f, err := readELF(r, size); err != nil || !f.dynamic { // which checks all that is common
		return nil, err
	}
	e, err := elf.NewFile(withoutSections{r})
	if err != nil {
		return nil, fmt.Errorf("no readable ELF file: %w", err)
	}
	d, err := dynamicTags(e)
	if err != nil {
		return nil, err
	}
	if d[elf.DT_SYMTAB] == 0 || d[elf.DT_STRTAB] == 0 {
		return nil, nil
	}
	count, err := symbolCount(e, d)
	if err != nil || count == 0 {
		return nil, err
	}
	strtab, err := stringTable(e, d[elf.DT_STRTAB], d[elf.DT_STRSZ])
	if err != nil {
		return nil, err
	}
	table, err := loaded(e, d[elf.DT_SYMTAB], count*symbolSize)
	if err != nil {
		return nil, err
	}
	for ; len(table) >= symbolSize; table = table[symbolSize:] {
		at, section := binary.LittleEndian.Uint32(table), elf.SectionIndex(binary.LittleEndian.Uint16(table[6:]))
		if section != elf.SHN_UNDEF || at == 0 {
			continue
		}
		if name, err := stringAt(strtab, uint64(at)); err == nil && name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// dynamicTags returns the dynamic segment's values by tag; of several of one tag the last.
func dynamicTags(e *elf.File) (map[elf.DynTag]uint64, error) {
	d := map[elf.DynTag]uint64{}
	for _, p := range e.Progs {
		if p.Type != elf.PT_DYNAMIC {
			continue
		}
		buf := make([]byte, min(p.Filesz, maxDynamic)/16*16)
		if n, err := p.ReadAt(buf, 0); n < len(buf) {
			return nil, fmt.Errorf("a truncated ELF file: reading its dynamic segment: %w", err)
		}
		for ; len(buf) >= 16; buf = buf[16:] {
			tag := elf.DynTag(binary.LittleEndian.Uint64(buf))
			if tag == elf.DT_NULL {
				break
			}
			d[tag] = binary.LittleEndian.Uint64(buf[8:])
		}
	}
	return d, nil
}

// symbolCount tells how many symbols there are, which no tag says. The old hash
// table has it. The GNU one tells from where on symbols are defined here; where none
// is, it says 1, and then the names' table follows the symbols' (both as binutils and lld lay files out).
func symbolCount(e *elf.File, d map[elf.DynTag]uint64) (uint64, error) {
	count := uint64(0)
	if at, ok := d[elf.DT_HASH]; ok {
		head, err := loaded(e, at, 8)
		if err != nil {
			return 0, err
		}
		count = uint64(binary.LittleEndian.Uint32(head[4:]))
	} else if at, ok := d[elf.DT_GNU_HASH]; ok {
		head, err := loaded(e, at, 8)
		if err != nil {
			return 0, err
		}
		if count = uint64(binary.LittleEndian.Uint32(head[4:])); count <= 1 {
			count = (max(d[elf.DT_STRTAB], d[elf.DT_SYMTAB]) - d[elf.DT_SYMTAB]) / symbolSize
		}
	}
	if count > maxSymbols {
		return 0, fmt.Errorf("no readable ELF file: it claims %d symbols", count)
	}
	return count, nil
}

// loaded reads n bytes at a virtual address, through the segment that loads it.
func loaded(e *elf.File, addr, n uint64) ([]byte, error) {
	for _, p := range e.Progs {
		if p.Type != elf.PT_LOAD || addr < p.Vaddr || addr-p.Vaddr >= p.Filesz || n > p.Filesz-(addr-p.Vaddr) {
			continue
		}
		buf := make([]byte, n)
		if got, err := p.ReadAt(buf, int64(addr-p.Vaddr)); got < len(buf) {
			return nil, fmt.Errorf("a truncated ELF file: reading its symbols: %w", err)
		}
		return buf, nil
	}
	return nil, errors.New("no readable ELF file: no segment holds its symbols")
}
