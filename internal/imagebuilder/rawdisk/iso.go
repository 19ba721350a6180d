package rawdisk

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
)

// isoFile is a file at the top of a volume.
type isoFile struct {
	// name has letters, digits and dashes, at most 28.
	name string
	body []byte
}

const (
	isoSector = 2048
	// Where things lie, in sectors: the first 16 are the system's own.
	isoVolume   = 16
	isoEnd      = 17
	isoTableLE  = 18
	isoTableBE  = 19
	isoRoot     = 20
	isoContents = 21
)

// isoImage is an ISO 9660 volume (ECMA-119) with those files, few enough for a
// directory of one sector. Names are upper-case there, as the standard has them, with
// dashes, which it has not and all that read it take; Linux shows them in
// lower case. It has no boot sector, so that nothing takes it for a disk with partitions.
func isoImage(label string, files []isoFile) []byte {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b isoFile) int { return cmp.Compare(strings.ToUpper(a.name), strings.ToUpper(b.name)) })
	root := append(isoRecord("\x00", isoRoot, isoSector, true), isoRecord("\x01", isoRoot, isoSector, true)...)
	var contents []byte
	for _, f := range files {
		at := isoContents + len(contents)/isoSector
		root = append(root, isoRecord(strings.ToUpper(f.name)+".;1", at, len(f.body), false)...)
		contents = append(contents, f.body...)
		contents = append(contents, make([]byte, (isoSector-len(f.body)%isoSector)%isoSector)...)
	}
	image := make([]byte, isoContents*isoSector, isoContents*isoSector+len(contents))
	sector := func(n int) []byte { return image[n*isoSector : (n+1)*isoSector] }
	isoDescribe(sector(isoVolume), label, isoContents+len(contents)/isoSector)
	copy(sector(isoEnd), "\xffCD001\x01")
	table := []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	binary.LittleEndian.PutUint32(table[2:], isoRoot)
	binary.LittleEndian.PutUint16(table[6:], 1)
	copy(sector(isoTableLE), table)
	binary.BigEndian.PutUint32(table[2:], isoRoot)
	binary.BigEndian.PutUint16(table[6:], 1)
	copy(sector(isoTableBE), table)
	copy(sector(isoRoot), root)
	return append(image, contents...)
}

// isoDescribe writes the primary volume descriptor (8.4).
func isoDescribe(b []byte, label string, sectors int) {
	copy(b, "\x01CD001\x01")
	spaces := func(from, to int) { copy(b[from:to], bytes.Repeat([]byte{' '}, to-from)) }
	spaces(8, 72)
	copy(b[40:72], label)
	both32(b[80:], sectors)
	both16(b[120:], 1) // volumes of the set, and which one this is
	both16(b[124:], 1)
	both16(b[128:], isoSector)
	both32(b[132:], 10) // bytes of the path table
	binary.LittleEndian.PutUint32(b[140:], isoTableLE)
	binary.BigEndian.PutUint32(b[148:], isoTableBE)
	copy(b[156:], isoRecord("\x00", isoRoot, isoSector, true))
	spaces(190, 813)
	for _, at := range []int{813, 830, 847, 864} { // times: none are said
		copy(b[at:], strings.Repeat("0", 16))
	}
	b[881] = 1
}

// isoRecord is an entry of a directory (9.1).
func isoRecord(name string, sector, size int, dir bool) []byte {
	b := make([]byte, (33+len(name)+1)/2*2)
	b[0] = byte(len(b))
	both32(b[2:], sector)
	both32(b[10:], size)
	b[18], b[19], b[20] = 80, 1, 1 // 1980-01-01
	if dir {
		b[25] = 2
	}
	both16(b[28:], 1)
	b[32] = byte(len(name))
	copy(b[33:], name)
	return b
}

func both16(b []byte, v int) {
	binary.LittleEndian.PutUint16(b, uint16(v))
	binary.BigEndian.PutUint16(b[2:], uint16(v))
}

func both32(b []byte, v int) {
	binary.LittleEndian.PutUint32(b, uint32(v))
	binary.BigEndian.PutUint32(b[4:], uint32(v))
}
