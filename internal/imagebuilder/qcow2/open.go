package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Disk is a disk of two layers, for reading. It is safe for concurrent use if
// the layers are.
type Disk struct {
	overlay, base io.ReaderAt
	size          int64
	bits          uint
	l1Size        int64
	l1Offset      int64
}

// Open returns the disk that the overlay is over base. Both must stay as they
// are while it is read. What the format has and this package has not is an error that wraps ErrDamaged.
func Open(overlay, base io.ReaderAt) (*Disk, error) {
	buf := make([]byte, headerLength)
	if _, err := overlay.ReadAt(buf, 0); err != nil {
		if errors.Is(err, io.EOF) {
			err = ErrDamaged
		}
		return nil, fmt.Errorf("reading the overlay's header: %w", err)
	}
	var h header
	if err := binary.Read(bytes.NewReader(buf), binary.BigEndian, &h); err != nil {
		return nil, err
	}
	why := ""
	switch {
	case string(h.Magic[:]) != magic || h.Version != version || h.Length < headerLength:
		why = "no qcow2 file of version 3"
	case h.BackingOffset != 0:
		why = "it names a file below it"
	case h.ClusterBits < 9 || h.ClusterBits > 21:
		why = fmt.Sprintf("clusters of 2^%d bytes", h.ClusterBits)
	case h.Crypt != 0:
		why = "it is encrypted"
	case h.Incompatible&^incompatDirty != 0:
		why = fmt.Sprintf("unknown features %#x", h.Incompatible)
	case h.Size > MaxSize || h.L1Size > 32<<20/8 || h.L1Offset > 1<<50 || h.L1Offset%512 != 0:
		why = "its tables lie beyond what can be"
	}
	d := &Disk{overlay: overlay, base: base, size: int64(h.Size), bits: uint(h.ClusterBits), l1Size: int64(h.L1Size), l1Offset: int64(h.L1Offset)}
	if why == "" && d.l1Size < clusters(d.size, 1<<(2*d.bits-3)) {
		why = "its first table is too short"
	}
	if why != "" {
		return nil, fmt.Errorf("reading the overlay's header: %w: %s", ErrDamaged, why)
	}
	return d, nil
}

// Size is the disk's length in bytes.
func (d *Disk) Size() int64 { return d.size }

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("reading a disk at a negative offset")
	}
	read := 0
	for read < len(p) && off < d.size {
		within := off & (1<<d.bits - 1)
		n := min(int64(len(p)-read), 1<<d.bits-within, d.size-off)
		if err := d.cluster(p[read:read+int(n)], off>>d.bits, within); err != nil {
			return read, err
		}
		read, off = read+int(n), off+n
	}
	if read < len(p) {
		return read, io.EOF
	}
	return read, nil
}

// cluster reads a part of one cluster.
func (d *Disk) cluster(p []byte, index, within int64) error {
	perTable := int64(1) << (d.bits - 3)
	l2, err := d.entry(d.l1Offset + 8*(index/perTable))
	if err != nil {
		return err
	}
	entry := uint64(0)
	if l2&offsetMask != 0 {
		if entry, err = d.entry(int64(l2&offsetMask) + 8*(index%perTable)); err != nil {
			return err
		}
	}
	switch {
	case entry&compressedFlag != 0:
		return fmt.Errorf("reading the overlay: %w: a compressed cluster", ErrDamaged)
	case entry&zeroFlag != 0:
		clear(p)
		return nil
	case entry&offsetMask == 0:
		return readPadded(d.base, p, index<<d.bits+within)
	}
	at := int64(entry & offsetMask)
	if at&(1<<d.bits-1) != 0 {
		return fmt.Errorf("reading the overlay: %w: a cluster begins at %d", ErrDamaged, at)
	}
	return readPadded(d.overlay, p, at+within)
}

func (d *Disk) entry(at int64) (uint64, error) {
	var b [8]byte
	if n, err := d.overlay.ReadAt(b[:], at); n < len(b) {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: a table lies beyond the end", ErrDamaged)
		}
		return 0, fmt.Errorf("reading the overlay: %w", err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// readPadded reads zeros beyond the end: QEMU leaves a file's last cluster short.
func readPadded(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n < len(p) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading a disk: %w", err)
	}
	clear(p[n:])
	return nil
}
