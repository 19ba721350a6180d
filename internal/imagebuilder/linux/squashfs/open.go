package squashfs

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"

	"dormouse/internal/fleet"
)

const (
	superblockSize = 96
	metadataSize   = 8192
	noFragment     = 0xffffffff
	compressorLZ4  = 5
	// maxTarget is the longest target of a link, in bytes: Linux' PATH_MAX.
	maxTarget = 4096
	// maxInodes bounds what a file can claim to hold: packages hold far fewer.
	maxInodes = 1 << 23
	// Caches, in blocks: entries lie near one another, and are read in nearly the order in which they lie.
	metadataCache = 64
	fragmentCache = 4
)

// Reader reads one squashfs file. It is not safe for concurrent use.
type Reader struct {
	r         io.ReaderAt
	end       int64 // of what the file says that it uses
	inodes    uint32
	blockSize uint32
	fragments uint32
	root      uint64 // a reference
	// Where the tables begin, in bytes.
	inodeTable, directoryTable, fragmentTable int64

	metadata, fragment cache
}

// Open reads the superblock of the file with that many bytes. What is no squashfs
// file of the kind in the package's description is KindPermanent.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	var b [superblockSize]byte
	if _, err := r.ReadAt(b[:], 0); err != nil || string(b[:4]) != "hsqs" {
		return nil, damaged("it is no squashfs file")
	}
	le := binary.LittleEndian
	s := &Reader{
		r: r, inodes: le.Uint32(b[4:]), blockSize: le.Uint32(b[12:]), fragments: le.Uint32(b[16:]), root: le.Uint64(b[32:]),
		metadata: newCache(metadataCache), fragment: newCache(fragmentCache),
	}
	if major, minor, compressor := le.Uint16(b[28:]), le.Uint16(b[30:]), le.Uint16(b[20:]); major != 4 || minor != 0 || compressor != compressorLZ4 {
		return nil, damaged("it is squashfs %d.%d with compressor %d, where images have 4.0 with lz4 (5)", major, minor, compressor)
	}
	if log := le.Uint16(b[22:]); log < 12 || log > 20 || s.blockSize != 1<<log {
		return nil, damaged("it has blocks of %d bytes", s.blockSize)
	}
	if s.inodes > maxInodes {
		return nil, damaged("it says that it has %d entries", s.inodes)
	}
	used := le.Uint64(b[40:])
	if used > uint64(size) {
		return nil, damaged("it is cut off: %d of its %d bytes are there", size, used)
	}
	s.end = int64(used)
	for at, table := range map[int]*int64{64: &s.inodeTable, 72: &s.directoryTable, 80: &s.fragmentTable} {
		v := le.Uint64(b[at:])
		// Without fragments there is no table of them.
		if v >= used && (at != 80 || s.fragments != 0) {
			return nil, damaged("a table lies behind its end")
		}
		*table = int64(min(v, used))
	}
	return s, nil
}

func damaged(format string, args ...any) error {
	return fleet.Failure(fleet.ReasonImageBuild, "reading the image's root: it is damaged: "+format+": remove the image and have it built again", args...)
}

// read fills b from a place in the file.
func (s *Reader) read(b []byte, at int64) error {
	if at < 0 || at > s.end-int64(len(b)) {
		return damaged("something lies behind its end")
	}
	if _, err := s.r.ReadAt(b, at); err != nil {
		return fmt.Errorf("reading the image's root: %w", err)
	}
	return nil
}

// block reads a block that takes stored bytes in the file and is at most most bytes long.
func (s *Reader) block(at int64, stored int, packed bool, most int) ([]byte, error) {
	if stored == 0 || stored > most {
		return nil, damaged("a block of %d bytes is stored as %d", most, stored)
	}
	raw := make([]byte, stored)
	if err := s.read(raw, at); err != nil || !packed {
		return raw, err
	}
	out := make([]byte, most)
	n, err := lz4.UncompressBlock(raw, out)
	if err != nil {
		return nil, damaged("a block at %d does not unpack: %w", at, err)
	}
	return out[:n], nil
}

// metadataBlock reads the block of inodes, directories or table entries that
// begins there, and says where the next one begins.
func (s *Reader) metadataBlock(at int64) (b []byte, next int64, err error) {
	if c, ok := s.metadata.get(at); ok {
		return c.content, c.next, nil
	}
	var head [2]byte
	if err := s.read(head[:], at); err != nil {
		return nil, 0, err
	}
	v := binary.LittleEndian.Uint16(head[:])
	stored := int(v &^ 0x8000)
	if b, err = s.block(at+2, stored, v&0x8000 == 0, metadataSize); err != nil {
		return nil, 0, err
	}
	next = at + 2 + int64(stored)
	s.metadata.put(at, cached{b, next})
	return b, next, nil
}

// cursor reads metadata from a place on, over the ends of blocks.
type cursor struct {
	s    *Reader
	next int64
	rest []byte
}

// cursorAt begins offset bytes into the block that lies at block.
func (s *Reader) cursorAt(block int64, offset int) (*cursor, error) {
	b, next, err := s.metadataBlock(block)
	if err != nil {
		return nil, err
	}
	if offset > len(b) {
		return nil, damaged("a reference leads behind a block")
	}
	return &cursor{s, next, b[offset:]}, nil
}

// take returns the next n bytes, which the caller has bounded.
func (c *cursor) take(n int) ([]byte, error) {
	out := make([]byte, 0, n)
	for {
		k := min(n-len(out), len(c.rest))
		out = append(out, c.rest[:k]...)
		c.rest = c.rest[k:]
		if len(out) == n {
			return out, nil
		}
		b, next, err := c.s.metadataBlock(c.next)
		if err != nil {
			return nil, err
		}
		if len(b) == 0 {
			return nil, damaged("a block of metadata is empty")
		}
		c.rest, c.next = b, next
	}
}

// cached is a block in memory.
type cached struct {
	content []byte
	next    int64 // where the next one lies in the file
}

// cache keeps the blocks that came last.
type cache struct {
	blocks map[int64]cached
	order  []int64
	most   int
}

func newCache(most int) cache { return cache{blocks: map[int64]cached{}, most: most} }

func (c *cache) get(at int64) (cached, bool) {
	b, ok := c.blocks[at]
	return b, ok
}

func (c *cache) put(at int64, b cached) {
	if len(c.order) == c.most {
		delete(c.blocks, c.order[0])
		c.order = c.order[1:]
	}
	c.blocks[at] = b
	c.order = append(c.order, at)
}
