package diskimport

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
)

const (
	vmdkSector = 512
	// maxDescriptor bounds a descriptor, in bytes; QEMU's own bound is far below.
	maxDescriptor = 1 << 20
	// maxSectors keeps a capacity in bytes within 63 bits.
	maxSectors = 1 << 53
)

// lookVMDK reads the header of a sparse extent and the descriptor in it (VMware's
// Virtual Disk Format 5.0) and returns the disk's size. The disk must be this one file.
func lookVMDK(r io.ReaderAt, fileSize int64) (int64, error) {
	var head [512]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return 0, invalid("the vmdk is cut off")
	}
	le := binary.LittleEndian
	if version := le.Uint32(head[4:]); version < 1 || version > 3 {
		return 0, invalid("it is a vmdk of version %d: 1 to 3 are known", version)
	}
	capacity := le.Uint64(head[12:])
	// QEMU takes a file with no capacity for one that only describes others.
	if capacity == 0 || capacity > maxSectors {
		return 0, invalid("the vmdk is damaged or only describes other files: convert it with `qemu-img convert -O qcow2`")
	}
	if le.Uint64(head[56:]) == gdAtEnd {
		if err := checkFooter(r, fileSize, head[:]); err != nil {
			return 0, err
		}
	}
	at, length := le.Uint64(head[28:]), le.Uint64(head[36:])
	if at == 0 || length == 0 || length > maxDescriptor/vmdkSector || at > uint64(fileSize)/vmdkSector {
		return 0, invalid("the vmdk has no descriptor in it: convert it with `qemu-img convert -O qcow2`")
	}
	// QEMU reads that many sectors, whatever the header says.
	descriptor := make([]byte, max(length, 20)*vmdkSector)
	if n, err := r.ReadAt(descriptor, int64(at)*vmdkSector); err != nil && n == 0 {
		return 0, invalid("the vmdk is cut off")
	}
	descriptor, _, _ = bytes.Cut(descriptor, []byte{0})
	return int64(capacity) * vmdkSector, checkDescriptor(string(descriptor))
}

// gdAtEnd says that the header which counts is a second one at the end of the file
// (a stream-optimised disk is written before its tables are known).
const gdAtEnd = 1<<64 - 1

// checkFooter refuses a file whose second header, by which QEMU goes, is another disk's.
func checkFooter(r io.ReaderAt, fileSize int64, head []byte) error {
	var footer [512]byte
	if fileSize%vmdkSector != 0 || fileSize < 4*vmdkSector {
		return invalid("the vmdk is cut off")
	}
	// Before it lies its marker, behind it the marker of the end.
	if _, err := r.ReadAt(footer[:], fileSize-2*vmdkSector); err != nil {
		return invalid("the vmdk is cut off")
	}
	// Magic, version and flags, and the capacity, are at 0 to 20; the directory's place is to differ.
	if !bytes.Equal(footer[:20], head[:20]) || binary.LittleEndian.Uint64(footer[56:]) == gdAtEnd {
		return invalid("the vmdk is cut off or damaged: its end does not fit its beginning")
	}
	return nil
}

// checkDescriptor refuses what leads to other files: a parent, and extents
// besides the one that the file itself is.
func checkDescriptor(text string) error {
	// Wherever it stands: tools search for the word.
	if strings.Contains(strings.ToLower(text), "parentfilenamehint") {
		return invalid("the vmdk has a parent: make it whole with `qemu-img convert -O qcow2`")
	}
	extents, kind, parent := 0, "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			value = strings.Trim(strings.TrimSpace(value), `"`)
			switch strings.ToLower(strings.TrimSpace(key)) {
			case "createtype":
				kind = value
			case "parentcid":
				parent = value
			}
			continue
		}
		switch access, _, _ := strings.Cut(line, " "); access {
		case "RW", "RDONLY", "NOACCESS":
			extents++
		}
	}
	switch {
	case !strings.EqualFold(parent, "ffffffff"):
		return invalid("the vmdk has a parent: make it whole with `qemu-img convert -O qcow2`")
	case kind != "monolithicSparse" && kind != "streamOptimized":
		return invalid("the vmdk is of the kind %q, whose content lies in other files: convert it with `qemu-img convert -O qcow2`", kind)
	case extents != 1:
		return invalid("the vmdk has %d extents, each a file: convert it with `qemu-img convert -O qcow2`", extents)
	}
	return nil
}
