package squashfs

import (
	"encoding/binary"
	"io"
	"math"
	"strings"

	"dormouse/internal/imagebuilder/source"
)

// Types of inode: the second is of those with more in them.
const (
	typeDirectory, typeLongDirectory = 1, 8
	typeFile, typeLongFile           = 2, 9
	typeSymlink, typeLongSymlink     = 3, 10
)

// inode is what an entry is.
type inode struct {
	kind   source.Kind
	mode   uint32
	size   int64 // of a file's content, or a directory's listing
	target string
	// start is where a file's blocks begin, or in its table a directory's listing.
	start  int64
	offset int // of a directory's listing or of a file's end in its block
	// fragment is the block that holds a file's end with other files'; noFragment where there is none.
	fragment uint32
	// blocks reads the sizes of a file's blocks.
	blocks *cursor
}

// inode reads the inode that a reference leads to: a place in the table of inodes, and one in the block there.
func (s *Reader) inode(ref uint64) (inode, error) {
	var n inode
	c, err := s.cursorAt(s.inodeTable+int64(ref>>16&math.MaxUint32), int(ref&0xffff))
	if err != nil {
		return n, err
	}
	head, err := c.take(16)
	if err != nil {
		return n, err
	}
	le := binary.LittleEndian
	n.mode = uint32(le.Uint16(head[2:]) & 0o7777)
	switch kind := le.Uint16(head); kind {
	case typeDirectory, typeLongDirectory:
		return n, n.readDirectory(c, kind)
	case typeFile, typeLongFile:
		return n, n.readFile(c, kind)
	case typeSymlink, typeLongSymlink:
		return n, n.readSymlink(c)
	default:
		return n, damaged("it holds an inode of type %d, and images have directories, files and links only", kind)
	}
}

func (n *inode) readDirectory(c *cursor, kind uint16) error {
	n.kind = source.Directory
	le := binary.LittleEndian
	var listing uint32
	if kind == typeDirectory {
		b, err := c.take(16)
		if err != nil {
			return err
		}
		n.start, listing, n.offset = int64(le.Uint32(b)), uint32(le.Uint16(b[8:])), int(le.Uint16(b[10:]))
	} else {
		b, err := c.take(24)
		if err != nil {
			return err
		}
		listing, n.start, n.offset = le.Uint32(b[4:]), int64(le.Uint32(b[8:])), int(le.Uint16(b[18:]))
	}
	// The size counts three bytes for . and .., which are not there.
	if listing < 3 {
		return damaged("a directory has a listing of %d bytes", listing)
	}
	n.size = int64(listing) - 3
	return nil
}

func (n *inode) readFile(c *cursor, kind uint16) error {
	n.kind, n.blocks = source.File, c
	le := binary.LittleEndian
	var start, size uint64
	if kind == typeFile {
		b, err := c.take(16)
		if err != nil {
			return err
		}
		start, n.fragment, n.offset, size = uint64(le.Uint32(b)), le.Uint32(b[4:]), int(le.Uint32(b[8:])), uint64(le.Uint32(b[12:]))
	} else {
		b, err := c.take(40)
		if err != nil {
			return err
		}
		start, size, n.fragment, n.offset = le.Uint64(b), le.Uint64(b[8:]), le.Uint32(b[28:]), int(le.Uint32(b[32:]))
	}
	if start > math.MaxInt64 || size > math.MaxInt64 {
		return damaged("a file has %d bytes", size)
	}
	n.start, n.size = int64(start), int64(size)
	return nil
}

func (n *inode) readSymlink(c *cursor) error {
	n.kind = source.Symlink
	b, err := c.take(8)
	if err != nil {
		return err
	}
	size := binary.LittleEndian.Uint32(b[4:])
	if size == 0 || size > maxTarget {
		return damaged("a link has a target of %d bytes", size)
	}
	target, err := c.take(int(size))
	n.target, n.size = string(target), 0
	return err
}

// child is an entry of a directory.
type child struct {
	name string
	ref  uint64
}

// children reads a directory's listing, of at most limit entries.
func (s *Reader) children(d inode, limit int) ([]child, error) {
	if d.size == 0 {
		return nil, nil
	}
	c, err := s.cursorAt(s.directoryTable+d.start, d.offset)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	var all []child
	for left := d.size; left > 0; {
		head, err := c.take(12)
		if err != nil {
			return nil, err
		}
		left -= 12
		block := uint64(le.Uint32(head[4:]))
		for range uint64(le.Uint32(head)) + 1 {
			e, err := c.take(8)
			if err != nil {
				return nil, err
			}
			name, err := c.take(int(le.Uint16(e[6:])) + 1)
			if err != nil {
				return nil, err
			}
			left -= 8 + int64(len(name))
			if left < 0 || len(all) >= limit {
				return nil, damaged("a directory has more entries than there are")
			}
			if n := string(name); n == "." || n == ".." || strings.ContainsAny(n, "/\x00") {
				return nil, damaged("a directory has an entry named %q", n)
			}
			all = append(all, child{string(name), block<<16 | uint64(le.Uint16(e))})
		}
	}
	return all, nil
}

// content reads a file's bytes.
type content struct {
	s     *Reader
	n     inode
	at    int64 // where the next block lies in the file
	left  int64
	chunk []byte
	err   error
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	if len(c.chunk) == 0 && c.err == nil {
		c.chunk, c.err = c.advance()
	}
	if c.err != nil {
		return 0, c.err
	}
	n := copy(p, c.chunk)
	c.chunk = c.chunk[n:]
	return n, nil
}

// advance returns the next block's content.
func (c *content) advance() ([]byte, error) {
	if c.left == 0 {
		return nil, io.EOF
	}
	want := min(c.left, int64(c.s.blockSize))
	c.left -= want
	if want < int64(c.s.blockSize) && c.n.fragment != noFragment {
		return c.s.tail(c.n, want)
	}
	size, err := c.n.blocks.take(4)
	if err != nil {
		return nil, err
	}
	v := binary.LittleEndian.Uint32(size)
	const unpacked = 1 << 24
	stored := v &^ unpacked
	if stored == 0 {
		return make([]byte, want), nil // a hole
	}
	b, err := c.s.block(c.at, int(min(stored, math.MaxInt32)), v&unpacked == 0, int(c.s.blockSize))
	if err != nil {
		return nil, err
	}
	c.at += int64(stored)
	if int64(len(b)) != want {
		return nil, damaged("a block has %d bytes where a file has %d", len(b), want)
	}
	return b, nil
}

// tail returns the end of a file out of the block that it shares with others.
func (s *Reader) tail(n inode, want int64) ([]byte, error) {
	if n.fragment >= s.fragments {
		return nil, damaged("a file's end lies in a block that is not there")
	}
	// The table is a list of the places of its blocks, each of 512 entries of 16 bytes.
	var place [8]byte
	if err := s.read(place[:], s.fragmentTable+int64(n.fragment/512)*8); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	c, err := s.cursorAt(int64(le.Uint64(place[:])&math.MaxInt64), int(n.fragment%512)*16)
	if err != nil {
		return nil, err
	}
	e, err := c.take(16)
	if err != nil {
		return nil, err
	}
	at, size := int64(le.Uint64(e)&math.MaxInt64), le.Uint32(e[8:])
	b, ok := s.fragment.get(at)
	if !ok {
		const unpacked = 1 << 24
		if b.content, err = s.block(at, int(min(size&^unpacked, math.MaxInt32)), size&unpacked == 0, int(s.blockSize)); err != nil {
			return nil, err
		}
		s.fragment.put(at, b)
	}
	if n.offset < 0 || int64(n.offset)+want > int64(len(b.content)) {
		return nil, damaged("a file's end lies behind its block")
	}
	return b.content[n.offset : int64(n.offset)+want], nil
}
