package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Grow makes the disk of an overlay that nobody has open size bytes long, a
// multiple of 512, within the Room that it was made with; what is new reads as
// the base does there. One that is as long already stays as it is. It is one write
// of eight bytes: cut anywhere, the disk has one size or the other.
func Grow(overlay interface {
	io.ReaderAt
	io.WriterAt
}, size int64) error {
	d, err := Open(overlay, zeros{})
	if err != nil {
		return err
	}
	if size <= d.size {
		return nil
	}
	if size%512 != 0 || d.l1Size < clusters(size, 1<<(2*d.bits-3)) {
		return fmt.Errorf("growing the overlay to %d bytes: it was not made with room for that", size)
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(size))
	_, err = overlay.WriteAt(b[:], 24)
	return err
}
