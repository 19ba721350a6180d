// Package uki writes unified kernel images: one EFI program that holds a kernel,
// its initrd and its command line, so that firmware boots all three as one file.
//
// The program is a stub, systemd's (systemd-stub(7), linuxx64.efi.stub), to which
// sections are appended: .osrel, .cmdline, .initrd, .linux, as the UAPI group's "Unified Kernel
// Image" specification has it. The other way, the EFI stub that every kernel has
// in itself, takes its command line and initrd from what starts it, and firmware
// that starts \EFI\BOOT\BOOTX64.EFI gives it none.
//
// The format is Microsoft's "PE Format". The same input gives the same bytes. The
// image is not signed: firmware with Secure Boot on refuses it.
package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"dormouse/internal/fleet"
)

// Section is what is appended to the stub.
type Section struct {
	// Name begins with a dot and has at most 8 characters.
	Name string
	// Size is Content's length in bytes, at least 1. Another length is an error of the reader's.
	Size    int64
	Content io.Reader
}

const (
	// maxStub bounds the stub, in bytes: real ones have 70 to 200 KiB.
	maxStub = 16 << 20
	// maxImage keeps addresses in an image within 31 bits.
	maxImage = 1 << 31
	// readOnlyData: initialised data (0x40) that is read (0x40000000).
	readOnlyData = 0x40000040

	sectionHeaderSize = 40
	// Places in the optional header, which are the same in PE32 and PE32+.
	atInitialisedData = 8
	atImageSize       = 56
	atChecksum        = 64
)

// Build returns the image of the stub with those sections, in their order, and
// its size. Contents are read as the image is. A stub that is none is KindInvalid.
func Build(stub []byte, sections []Section) (io.Reader, int64, error) {
	s, err := readStub(stub)
	if err != nil {
		return nil, 0, fleet.Errorf(fleet.KindInvalid, "reading the EFI stub: %w: give linuxx64.efi.stub of the package systemd-boot-efi", err)
	}
	head := bytes.Clone(stub)
	parts := []io.Reader{nil}
	fileEnd, memoryEnd := align(int64(len(stub)), s.fileAlignment), s.memoryEnd
	parts = append(parts, zeros(fileEnd-int64(len(stub))))
	var added int64
	for i, sec := range sections {
		if len(sec.Name) < 2 || len(sec.Name) > 8 || sec.Name[0] != '.' || sec.Size < 1 || sec.Size > maxImage {
			return nil, 0, fmt.Errorf("adding the section %q to a kernel image: its name or its size (%d) is wrong", sec.Name, sec.Size)
		}
		raw, memory := align(sec.Size, s.fileAlignment), align(memoryEnd, s.sectionAlignment)
		header := make([]byte, sectionHeaderSize)
		copy(header, sec.Name)
		for at, v := range map[int]int64{8: sec.Size, 12: memory, 16: raw, 20: fileEnd, 36: readOnlyData} {
			binary.LittleEndian.PutUint32(header[at:], uint32(v))
		}
		at := s.tableEnd + int64(i)*sectionHeaderSize
		if at+sectionHeaderSize > s.headersEnd {
			return nil, 0, fleet.Errorf(fleet.KindInvalid, "reading the EFI stub: its head has no room for %d more sections: give another version of systemd's", len(sections))
		}
		copy(head[at:], header)
		parts = append(parts, &exact{r: sec.Content, left: sec.Size, name: sec.Name}, zeros(raw-sec.Size))
		fileEnd, memoryEnd, added = fileEnd+raw, memory+sec.Size, added+raw
		if fileEnd > maxImage || memoryEnd > maxImage {
			return nil, 0, fleet.Errorf(fleet.KindInvalid, "the kernel, its initrd and its command line have more than %d MiB together", maxImage>>20)
		}
	}
	le := binary.LittleEndian
	le.PutUint16(head[s.coff+2:], uint16(s.sections+len(sections)))
	le.PutUint32(head[s.optional+atInitialisedData:], s.initialised+uint32(added))
	le.PutUint32(head[s.optional+atImageSize:], uint32(align(memoryEnd, s.sectionAlignment)))
	// Firmware checks no checksum, and this one would need the image to be read twice.
	le.PutUint32(head[s.optional+atChecksum:], 0)
	parts[0] = bytes.NewReader(head)
	return io.MultiReader(parts...), fileEnd, nil
}

// layout is what of a stub matters here. Places are in bytes from its beginning.
type layout struct {
	coff, optional       int64
	tableEnd, headersEnd int64
	sections             int
	memoryEnd            int64
	initialised          uint32

	fileAlignment, sectionAlignment int64
}

func readStub(stub []byte) (l layout, err error) {
	if len(stub) > maxStub {
		return l, fmt.Errorf("it has more than %d MiB", maxStub>>20)
	}
	f, err := pe.NewFile(bytes.NewReader(stub))
	if err != nil {
		return l, fmt.Errorf("it is no EFI program: %w", err)
	}
	o, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || o.Subsystem != pe.IMAGE_SUBSYSTEM_EFI_APPLICATION {
		return l, errors.New("it is no EFI program of 64 bits")
	}
	if sd := f.Section(".sdmagic"); sd == nil && f.Section(".sbat") == nil {
		return l, errors.New("it is another EFI program than systemd's stub")
	}
	if f.Section(".linux") != nil {
		return l, errors.New("it holds a kernel already")
	}
	if len(o.DataDirectory) > pe.IMAGE_DIRECTORY_ENTRY_SECURITY && o.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY].Size != 0 {
		return l, errors.New("it is signed, and would not be any more")
	}
	l.coff = int64(binary.LittleEndian.Uint32(stub[0x3c:])) + 4
	l.optional = l.coff + 20
	l.sections = len(f.Sections)
	l.tableEnd = l.optional + int64(f.SizeOfOptionalHeader) + int64(l.sections)*sectionHeaderSize
	l.fileAlignment, l.sectionAlignment = int64(o.FileAlignment), int64(o.SectionAlignment)
	l.initialised = o.SizeOfInitializedData
	// What the head says, and what really is there before the first section.
	l.headersEnd = min(int64(o.SizeOfHeaders), int64(len(stub)))
	for _, s := range f.Sections {
		if s.Size != 0 {
			l.headersEnd = min(l.headersEnd, int64(s.Offset))
		}
		l.memoryEnd = max(l.memoryEnd, int64(s.VirtualAddress)+int64(max(s.VirtualSize, s.Size)))
	}
	if l.tableEnd > int64(len(stub)) || !powerOfTwo(l.fileAlignment) || !powerOfTwo(l.sectionAlignment) || l.memoryEnd > maxImage {
		return l, errors.New("its head contradicts itself")
	}
	return l, nil
}

func powerOfTwo(v int64) bool { return v >= 1 && v <= 1<<16 && v&(v-1) == 0 }

func align(v, to int64) int64 { return (v + to - 1) / to * to }

func zeros(n int64) io.Reader { return bytes.NewReader(make([]byte, n)) }

// exact reads what was said to be there, no less and no more.
type exact struct {
	r    io.Reader
	left int64
	name string
}

// Read implements io.Reader.
func (e *exact) Read(p []byte) (int, error) {
	if e.left == 0 {
		if n, err := io.ReadFull(e.r, make([]byte, 1)); n != 0 {
			return 0, fmt.Errorf("the section %s has more bytes than were said", e.name)
		} else if !errors.Is(err, io.EOF) {
			return 0, err
		}
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	if errors.Is(err, io.EOF) {
		if err = nil; e.left > 0 {
			err = fmt.Errorf("the section %s has %d bytes fewer than were said", e.name, e.left)
		}
	}
	return n, err
}
