package ramfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	magic   = "DMRAMFIL"
	version = 1
	// flagKeyed: sealed by the caller's key.
	flagKeyed = 1

	pageBytes   = 4 << 10
	chunkBytes  = 1 << 20
	bitmapBytes = chunkBytes / pageBytes / 8
	plainBytes  = bitmapBytes + chunkBytes
	// sealedBytes is more than what zstd makes of a chunk that can't be compressed, and the tag.
	sealedBytes = plainBytes + plainBytes>>8 + 1<<10

	saltBytes   = 32
	headerBytes = len(magic) + 4 + 4 + 8 + 8 + saltBytes
	entryBytes  = 8 + 4
	// maxBytes bounds either size, so that no sum of them overflows.
	maxBytes = 1 << 50
)

// ErrDamaged: the file is none of this package, was cut off or altered, or is
// sealed by another key than the one given.
var ErrDamaged = errors.New("the packed file is damaged, or sealed by another key")

// Info tells what a packed file holds. All sizes are in bytes.
type Info struct {
	// RAM and State are the sizes of the files that were packed.
	RAM, State int64
	// Data is how much of them is other than zero, by pages of 4 KiB.
	Data int64
	// Packed is the size of the packed file.
	Packed int64
	// Keyed: it is encrypted by the caller's key.
	Keyed bool
}

// header is what stands first in a file.
type header struct {
	flags      uint32
	ram, state uint64
	salt       [saltBytes]byte
}

func (h header) encode() []byte {
	b := append(make([]byte, 0, headerBytes), magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, h.flags)
	b = binary.LittleEndian.AppendUint64(b, h.ram)
	b = binary.LittleEndian.AppendUint64(b, h.state)
	return append(b, h.salt[:]...)
}

func decodeHeader(b []byte) (header, error) {
	h := header{}
	if !bytes.HasPrefix(b, []byte(magic)) {
		return h, fmt.Errorf("%w: it does not begin with %q", ErrDamaged, magic)
	}
	b = b[len(magic):]
	if v := binary.LittleEndian.Uint32(b); v != version {
		return h, fmt.Errorf("%w: it has version %d of the format, this reads %d", ErrDamaged, v, version)
	}
	h.flags = binary.LittleEndian.Uint32(b[4:])
	h.ram = binary.LittleEndian.Uint64(b[8:])
	h.state = binary.LittleEndian.Uint64(b[16:])
	copy(h.salt[:], b[24:])
	if h.flags&^flagKeyed != 0 {
		return h, fmt.Errorf("%w: it has unknown flags %#x", ErrDamaged, h.flags)
	}
	return h, nil
}

// chunks returns how many the memory and the state have.
func (h header) chunks() (ram, state int64) {
	count := func(n uint64) int64 { return int64((n + chunkBytes - 1) / chunkBytes) }
	return count(h.ram), count(h.state)
}

// place tells where a chunk lies in its file, and how long it is there.
func (h header) place(index int64) (ofState bool, offset, length int64) {
	size := int64(h.ram)
	if ram, _ := h.chunks(); index >= ram {
		ofState, index, size = true, index-ram, int64(h.state)
	}
	offset = index * chunkBytes
	return ofState, offset, min(chunkBytes, size-offset)
}

// entry tells where a chunk lies in the packed file.
type entry struct {
	offset uint64
	length uint32
}

func encodeTable(table []entry) []byte {
	b := make([]byte, 0, len(table)*entryBytes+tagBytes)
	for _, e := range table {
		b = binary.LittleEndian.AppendUint64(b, e.offset)
		b = binary.LittleEndian.AppendUint32(b, e.length)
	}
	return b
}

func decodeTable(b []byte) []entry {
	table := make([]entry, len(b)/entryBytes)
	for i := range table {
		table[i].offset = binary.LittleEndian.Uint64(b[i*entryBytes:])
		table[i].length = binary.LittleEndian.Uint32(b[i*entryBytes+8:])
	}
	return table
}

// packed is a file that was opened: its header and table are in order.
type packed struct {
	file   *os.File
	size   int64
	header header
	table  []entry
	seal   *seal
}

// open reads what stands around the chunks, within the caller's limits.
func open(src *os.File, o Options) (*packed, error) {
	info, err := src.Stat()
	if err != nil {
		return nil, err
	}
	head := make([]byte, headerBytes)
	if err := readAt(src, head, 0); err != nil {
		return nil, err
	}
	p := &packed{file: src, size: info.Size()}
	if p.header, err = decodeHeader(head); err != nil {
		return nil, err
	}
	h := p.header
	if h.ram > uint64(max(0, min(o.MaxRAM, maxBytes))) || h.state > uint64(max(0, min(o.MaxState, maxBytes))) {
		return nil, fmt.Errorf("%w: it tells of %d bytes of memory and %d of state, of at most %d and %d", ErrDamaged, h.ram, h.state, o.MaxRAM, o.MaxState)
	}
	if keyed := h.flags&flagKeyed != 0; keyed != (o.Key != nil) {
		return nil, fmt.Errorf("%w: encrypted is %t, and a key was given is %t", ErrDamaged, keyed, o.Key != nil)
	}
	if p.seal, err = newSeal(o.Key, h); err != nil {
		return nil, err
	}
	ram, state := h.chunks()
	length := (ram+state)*entryBytes + tagBytes
	start := p.size - length
	if start < int64(headerBytes) {
		return nil, fmt.Errorf("%w: %d bytes are too short for its table", ErrDamaged, p.size)
	}
	table := make([]byte, length)
	if err := readAt(src, table, start); err != nil {
		return nil, err
	}
	if table, err = p.seal.checkTable(table); err != nil {
		return nil, err
	}
	p.table = decodeTable(table)
	return p, p.checkTable(start)
}

// checkTable wants every chunk between header and table, and nothing else there.
func (p *packed) checkTable(start int64) error {
	sum := int64(headerBytes)
	for i, e := range p.table {
		if e.length > sealedBytes || e.offset > uint64(start) || int64(e.offset)+int64(e.length) > start {
			return fmt.Errorf("%w: chunk %d has %d bytes at %d", ErrDamaged, i, e.length, e.offset)
		}
		sum += int64(e.length)
	}
	if sum != start {
		return fmt.Errorf("%w: its chunks end at %d, its table begins at %d", ErrDamaged, sum, start)
	}
	return nil
}

// readAt fills the buffer; a file that ends before is damaged.
func readAt(f *os.File, b []byte, offset int64) error {
	_, err := f.ReadAt(b, offset)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends early", ErrDamaged)
	}
	return err
}
