package nanos

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/qcow2"
)

// Exit is what the kernel wrote to its disk when the program ended otherwise than with 0.
type Exit struct {
	// Code is the program's exit code; a signal's is what the kernel makes of it.
	Code int
	// BootID tells boots apart.
	BootID uint64
	// Log is the end of the kernel's log, the program's output with it: at most 4 KiB.
	Log []byte
}

const (
	klogMagic = "KLOG"
	klogHead  = 16 // magic, boot ID (8 bytes), exit code (4 bytes)
)

// ReadExit reads the last words from a whole disk of which size bytes are there (src/kernel/log.c). ok is
// false where no program has failed on it. The guest wrote this: it is no evidence against it.
func ReadExit(disk io.ReaderAt, size int64) (exit Exit, ok bool, err error) {
	l, err := readLayout(disk, size)
	if err != nil {
		return Exit{}, false, err
	}
	area := make([]byte, klogBytes)
	if _, err := io.ReadFull(io.NewSectionReader(disk, l.klog, klogBytes), area); err != nil {
		return Exit{}, false, fmt.Errorf("reading the kernel's last words: %w", err)
	}
	if !bytes.HasPrefix(area, []byte(klogMagic)) {
		return Exit{}, false, nil
	}
	log, _, _ := bytes.Cut(area[klogHead:], []byte{0})
	return Exit{Code: int(int32(binary.LittleEndian.Uint32(area[12:]))), BootID: binary.LittleEndian.Uint64(area[4:]), Log: log}, true, nil
}

// ReadTenantExit is ReadExit for a tenant's overlay over the image's disk. The
// machine must be off.
func ReadTenantExit(overlay, disk io.ReaderAt) (Exit, bool, error) {
	d, err := OpenTenantDisk(overlay, disk)
	if err != nil {
		return Exit{}, false, err
	}
	return ReadExit(d, d.Size())
}

// OpenTenantDisk returns a tenant's disk as its guest left it. A damaged overlay is KindPermanent.
func OpenTenantDisk(overlay, disk io.ReaderAt) (*qcow2.Disk, error) {
	d, err := qcow2.Open(overlay, disk)
	if err != nil {
		return nil, fleet.Errorf(fleet.KindPermanent, "reading the tenant's disk: %w", err)
	}
	return d, nil
}
