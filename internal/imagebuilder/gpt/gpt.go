package gpt

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"dormouse/internal/fleet"
)

// Alignment is where partitions begin and how their sizes are rounded, in bytes.
const Alignment = 1 << 20

const (
	sectorSize   = 512
	entrySize    = 128
	entryCount   = 128 // the least that the specification allows
	entrySectors = entryCount * entrySize / sectorSize
	headerSize   = 92
	maxName      = 36 // of UTF-16
	maxSize      = 1 << 50
)

// GUID is a globally unique identifier as text has it: its first byte is that of
// the first two digits. On disk its first three fields are little-endian.
type GUID [16]byte

// Types of partition.
var (
	// ESP is an EFI system partition.
	ESP = GUID{0xc1, 0x2a, 0x73, 0x28, 0xf8, 0x1f, 0x11, 0xd2, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
	// LinuxData is a file system of Linux', or anything else of its own.
	LinuxData = GUID{0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}
)

// Derive returns a GUID that depends on nothing but the words: one of version 8
// (RFC 9562), which is for that.
func Derive(words ...string) GUID {
	h := sha256.New()
	for _, w := range words {
		fmt.Fprintf(h, "%d:%s", len(w), w)
	}
	g := GUID(h.Sum(nil)[:16])
	g[6] = g[6]&0x0f | 0x80
	g[8] = g[8]&0x3f | 0x80
	return g
}

// String returns the GUID as 8-4-4-4-12 lower-case hexadecimal digits.
func (g GUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[0:4], g[4:6], g[6:8], g[8:10], g[10:16])
}

// onDisk is the GUID in the specification's mixed order.
func (g GUID) onDisk() []byte {
	return []byte{g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]}
}

// Partition is one partition. Offset and Size are in bytes and multiples of Alignment.
type Partition struct {
	Type, ID GUID
	// Name has at most 36 characters.
	Name         string
	Offset, Size int64
}

// Lay places partitions behind one another, each Size rounded up, and returns the
// smallest size of a disk for them. Their Offsets are set.
func Lay(partitions []Partition) (int64, error) {
	at := int64(Alignment)
	for i := range partitions {
		p := &partitions[i]
		if p.Size < 1 || p.Size > maxSize {
			return 0, fleet.Errorf(fleet.KindInvalid, "laying the disk out: the partition %s can't have %d bytes", p.Name, p.Size)
		}
		p.Offset, p.Size = at, (p.Size+Alignment-1)/Alignment*Alignment
		at += p.Size
	}
	return at + Alignment, nil // the second copy of the table needs 33 sectors
}

// Write writes the tables of a disk of that size, in bytes, with that ID. The
// partitions must lie as Lay places them, in any order, without overlap.
func Write(w io.WriterAt, size int64, id GUID, partitions []Partition) error {
	if err := check(size, partitions); err != nil {
		return err
	}
	entries := make([]byte, entryCount*entrySize)
	for i, p := range partitions {
		copy(entries[i*entrySize:], entry(p))
	}
	last := size/sectorSize - 1
	primary := header(1, last, 2, last, id, entries)
	backup := header(last, 1, last-entrySectors, last, id, entries)
	for _, part := range []struct {
		sector  int64
		content []byte
	}{{0, protectiveMBR(last)}, {2, entries}, {1, primary}, {last - entrySectors, entries}, {last, backup}} {
		if _, err := w.WriteAt(part.content, part.sector*sectorSize); err != nil {
			return fmt.Errorf("writing the partition table: %w", err)
		}
	}
	return nil
}

func check(size int64, partitions []Partition) error {
	invalid := func(format string, args ...any) error {
		return fleet.Errorf(fleet.KindInvalid, "writing the partition table: "+format, args...)
	}
	if size%sectorSize != 0 || size < 2*Alignment || size > maxSize {
		return invalid("a disk can't have %d bytes", size)
	}
	if len(partitions) > entryCount {
		return invalid("%d partitions are more than %d", len(partitions), entryCount)
	}
	for i, p := range partitions {
		switch {
		case p.Offset < Alignment || p.Size < Alignment || p.Offset%Alignment != 0 || p.Size%Alignment != 0 || p.Size > maxSize || p.Offset > maxSize:
			return invalid("the partition %s (%d bytes at %d) is not aligned", p.Name, p.Size, p.Offset)
		case p.Offset+p.Size > size-(entrySectors+1)*sectorSize:
			return invalid("the partition %s ends behind the disk", p.Name)
		case len(utf16.Encode([]rune(p.Name))) > maxName:
			return invalid("the partition's name %q has more than %d characters", p.Name, maxName)
		}
		for _, q := range partitions[:i] {
			if p.Offset < q.Offset+q.Size && q.Offset < p.Offset+p.Size {
				return invalid("the partitions %s and %s overlap", q.Name, p.Name)
			}
		}
	}
	return nil
}

func entry(p Partition) []byte {
	b := append(p.Type.onDisk(), p.ID.onDisk()...)
	b = binary.LittleEndian.AppendUint64(b, uint64(p.Offset/sectorSize))
	b = binary.LittleEndian.AppendUint64(b, uint64((p.Offset+p.Size)/sectorSize-1)) // the last, itself included
	b = binary.LittleEndian.AppendUint64(b, 0)                                      // no attributes
	for _, c := range utf16.Encode([]rune(p.Name)) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

// header is one sector: the table's header at sector mine, whose other copy lies
// at sector other and whose entries at sector at.
func header(mine, other, at, last int64, id GUID, entries []byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, sectorSize)
	b = append(b, "EFI PART"...)
	b = le.AppendUint32(b, 0x00010000) // revision 1.0
	b = le.AppendUint32(b, headerSize)
	b = le.AppendUint64(b, 0) // its own checksum, below, and four reserved bytes
	b = le.AppendUint64(b, uint64(mine))
	b = le.AppendUint64(b, uint64(other))
	b = le.AppendUint64(b, 2+entrySectors)              // the first sector for partitions
	b = le.AppendUint64(b, uint64(last-entrySectors-1)) // the last one
	b = append(b, id.onDisk()...)
	b = le.AppendUint64(b, uint64(at))
	b = le.AppendUint32(b, entryCount)
	b = le.AppendUint32(b, entrySize)
	b = le.AppendUint32(b, crc32.ChecksumIEEE(entries))
	le.PutUint32(b[16:], crc32.ChecksumIEEE(b))
	return append(b, bytes.Repeat([]byte{0}, sectorSize-len(b))...)
}

// protectiveMBR tells tools that know no GPT that all of the disk is taken.
func protectiveMBR(last int64) []byte {
	b := make([]byte, sectorSize)
	copy(b[446:], []byte{0, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(b[454:], 1)
	binary.LittleEndian.PutUint32(b[458:], uint32(min(last, 1<<32-1)))
	b[510], b[511] = 0x55, 0xaa
	return b
}
