package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
)

// interpreterOf returns what a program needs to run: the dynamic linker of an
// ELF file, the interpreter of a script, or "" where it needs none. An ELF file
// for another machine, and what is neither, is an error.
func interpreterOf(f io.ReaderAt, head []byte) (string, error) {
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		fields := bytes.Fields(line)
		if len(fields) == 0 {
			return "", errors.New("its first line names no interpreter")
		}
		return string(fields[0]), nil
	}
	if len(head) < 64 || !bytes.HasPrefix(head, []byte("\x7fELF")) {
		return "", errors.New("it is neither an ELF file nor a script")
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if head[elfData] == elfBigEndian {
		order = binary.BigEndian
	}
	machine := order.Uint16(head[18:])
	if machine != thisMachine() || head[elfClass] != elf64 {
		return "", fmt.Errorf("it is for another machine (%s), this one is %s", machineName(machine), machineName(thisMachine()))
	}
	// Program headers of ELF64: offset at 32, size of one at 54, number at 56.
	at, size, count := order.Uint64(head[32:]), uint64(order.Uint16(head[54:])), uint64(order.Uint16(head[56:]))
	if size < 56 {
		return "", nil
	}
	for i := range count {
		var ph [56]byte
		if _, err := f.ReadAt(ph[:], int64(at+i*size)); err != nil {
			return "", errors.New("its program headers are cut off")
		}
		if order.Uint32(ph[:]) != ptInterp {
			continue
		}
		name := make([]byte, min(order.Uint64(ph[32:]), 4096))
		if _, err := f.ReadAt(name, int64(order.Uint64(ph[8:]))); err != nil {
			return "", errors.New("the name of its interpreter is cut off")
		}
		return string(bytes.TrimRight(name, "\x00")), nil
	}
	return "", nil
}

// What is needed of elf(5): package debug/elf would bring decompressors and DWARF along.
const (
	elfClass     = 4 // Index of EI_CLASS.
	elfData      = 5 // Index of EI_DATA.
	elf64        = 2
	elfBigEndian = 2
	ptInterp     = 3
	emX8664      = 62
	emAArch64    = 183
)

func thisMachine() uint16 {
	if runtime.GOARCH == "arm64" {
		return emAArch64
	}
	return emX8664
}

func machineName(m uint16) string {
	switch m {
	case 3:
		return "i386"
	case 40:
		return "ARM"
	case emX8664:
		return "x86-64"
	case emAArch64:
		return "AArch64"
	case 243:
		return "RISC-V"
	default:
		return fmt.Sprintf("ELF machine %d", m)
	}
}
