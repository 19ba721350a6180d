package fat32

import (
	"context"
	"encoding/binary"
)

// writeHead writes the boot sector and FSInfo, and the copies of both.
func (v *volume) writeHead(context.Context) error {
	boot, info := v.bootSector(), v.infoSector()
	for _, s := range []struct {
		number  int64
		content []byte
	}{{0, boot}, {infoSector, info}, {backupSector, boot}, {backupSector + infoSector, info}} {
		if _, err := v.w.WriteAt(s.content, v.off+s.number*sectorSize); err != nil {
			return err
		}
	}
	return nil
}

func (v *volume) bootSector() []byte {
	b := make([]byte, sectorSize)
	le := binary.LittleEndian
	copy(b, "\xeb\x58\x90DORMOUSE") // a jump over the parameters, and who made it
	le.PutUint16(b[11:], sectorSize)
	b[13] = 1 // sectors of a cluster
	le.PutUint16(b[14:], reserved)
	b[16] = tables
	b[21] = 0xf8                                   // a fixed disk
	le.PutUint16(b[24:], 63)                       // geometry for the BIOS, which nobody asks for any more
	le.PutUint16(b[26:], 255)                      //
	le.PutUint32(b[28:], uint32(v.off/sectorSize)) // sectors before the volume
	le.PutUint32(b[32:], uint32(v.size()/sectorSize))
	le.PutUint32(b[36:], uint32(v.table))
	le.PutUint32(b[44:], firstCluster) // the root directory's
	le.PutUint16(b[48:], infoSector)
	le.PutUint16(b[50:], backupSector)
	b[64], b[66] = 0x80, 0x29 // drive number; the next three fields are there
	le.PutUint32(b[67:], v.o.ID)
	label, _ := labelName(v.o.Label) // plan has checked it
	copy(b[71:], label[:])
	copy(b[82:], "FAT32   ")
	copy(b[90:], "\xf4\xeb\xfd") // whoever boots it by BIOS: hlt, again and again
	b[510], b[511] = 0x55, 0xaa
	return b
}

func (v *volume) infoSector() []byte {
	b := make([]byte, sectorSize)
	le := binary.LittleEndian
	copy(b, "RRaA")
	copy(b[484:], "rrAa")
	le.PutUint32(b[488:], uint32(v.clusters-v.used))
	next := uint32(firstCluster + v.used) // where to look for a free one
	if v.used == v.clusters {
		next = 0xffffffff // unknown
	}
	le.PutUint32(b[492:], next)
	b[510], b[511] = 0x55, 0xaa
	return b
}

// Entries of an allocation table.
const (
	endOfChain = 0x0fffffff
	mediaEntry = 0x0ffffff8
)

// writeTables writes both allocation tables up to the last cluster in use: after
// that they are zeros.
func (v *volume) writeTables(ctx context.Context) error {
	var piece []byte
	var written int64
	flush := func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		for t := range int64(tables) {
			if _, err := v.w.WriteAt(piece, v.off+(reserved+t*v.table)*sectorSize+written); err != nil {
				return err
			}
		}
		written += int64(len(piece))
		piece = piece[:0]
		return nil
	}
	add := func(entry uint32) error {
		piece = binary.LittleEndian.AppendUint32(piece, entry)
		if len(piece) < 64<<10 {
			return nil
		}
		return flush()
	}
	if err := add(mediaEntry); err != nil {
		return err
	}
	if err := add(endOfChain); err != nil { // also: it was unmounted cleanly, without errors
		return err
	}
	for _, n := range v.nodes {
		for i := range n.count {
			entry := uint32(n.first + i + 1)
			if i == n.count-1 {
				entry = endOfChain
			}
			if err := add(entry); err != nil {
				return err
			}
		}
	}
	return flush()
}

const entrySize = 32

// Attributes of a directory's entry.
const (
	attrLabel     = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20
)

// dosEpoch is 1980-01-01, the first day that the format can write.
const dosEpoch = 1<<5 | 1

func directoryEntry(name [11]byte, attr byte, cluster, size int64) (e [entrySize]byte) {
	le := binary.LittleEndian
	copy(e[:], name[:])
	e[11] = attr
	le.PutUint16(e[16:], dosEpoch) // made
	le.PutUint16(e[18:], dosEpoch) // read
	le.PutUint16(e[20:], uint16(cluster>>16))
	le.PutUint16(e[24:], dosEpoch) // written
	le.PutUint16(e[26:], uint16(cluster))
	le.PutUint32(e[28:], uint32(size))
	return e
}

// entries are a directory's: of the root the label, of others themselves and
// their parent, and then the children.
func (v *volume) entries(d *node) [][entrySize]byte {
	var out [][entrySize]byte
	switch {
	case d.parent == nil && v.o.Label == "":
	case d.parent == nil:
		label, _ := labelName(v.o.Label) // plan has checked it
		out = append(out, directoryEntry(label, attrLabel, 0, 0))
	default:
		var above int64 // the root is written as 0
		if d.parent.parent != nil {
			above = d.parent.first
		}
		out = append(out,
			directoryEntry([11]byte([]byte(".          ")), attrDirectory, d.first, 0),
			directoryEntry([11]byte([]byte("..         ")), attrDirectory, above, 0))
	}
	for _, c := range d.children {
		if c.dir {
			out = append(out, directoryEntry(c.name, attrDirectory, c.first, 0))
		} else {
			out = append(out, directoryEntry(c.name, attrArchive, c.first, c.file.Size))
		}
	}
	return out
}
