package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Patch is what differs from the base: bytes at an offset of the disk.
type Patch struct {
	Offset int64
	Data   []byte
}

// File is what an overlay is written to; os.File is one.
type File interface {
	io.WriterAt
	Truncate(size int64) error
}

const clusterSize = 1 << ClusterBits

// Create writes to f, which must be empty, an overlay of size bytes over base,
// which may be shorter: beyond its end the disk is zero. Of two patches of one place
// the later counts.
func Create(f File, size int64, base io.ReaderAt, patches []Patch) error {
	return CreateLayout(f, Layout{Size: size}, base, patches)
}

// Layout says what an overlay is to be like.
type Layout struct {
	// Size is the disk's, in bytes.
	Size int64
	// Room is how large Grow can make the disk, in bytes; 0 is Size.
	Room int64
	// Mark are a few bytes of the caller's that are kept in the header, at most
	// MaxMark: Mark returns them, QEMU passes over them and preserves them.
	Mark []byte
}

// CreateLayout does as Create does, with a layout.
func CreateLayout(f File, l Layout, base io.ReaderAt, patches []Patch) error {
	size, room, mark := l.Size, max(l.Size, l.Room), l.Mark
	if len(mark) > MaxMark || l.Room > MaxSize {
		return fmt.Errorf("a mark of %d bytes and room for %d: at most %d and %d fit", len(mark), l.Room, MaxMark, int64(MaxSize))
	}
	if size <= 0 || size > MaxSize || size%512 != 0 {
		return fmt.Errorf("a disk of %d bytes: use a multiple of 512 up to %d", size, int64(MaxSize))
	}
	data, err := patched(size, base, patches)
	if err != nil {
		return err
	}
	order := slices.Sorted(maps.Keys(data))
	const perTable = clusterSize / 8
	l1Entries := clusters(room, clusterSize*perTable)
	var tables []int64 // the second level's tables that are needed, by index in the first
	for _, c := range order {
		if t := c / perTable; len(tables) == 0 || tables[len(tables)-1] != t {
			tables = append(tables, t)
		}
	}
	// Header, table of reference counts, its blocks, first level, second level, data.
	const perBlock = clusterSize / 2
	l1Clusters := clusters(8*l1Entries, clusterSize)
	rest := 2 + l1Clusters + int64(len(tables)+len(order))
	blocks := int64(1)
	for blocks*perBlock < rest+blocks {
		blocks++
	}
	if blocks > clusterSize/8 {
		return fmt.Errorf("the overlay would have %d clusters: that is too much", rest)
	}
	l1At, l2At := 2+blocks, 2+blocks+l1Clusters
	dataAt := l2At + int64(len(tables))
	total := rest + blocks
	if err := f.Truncate(total * clusterSize); err != nil {
		return err
	}
	w := &writer{f: f}
	var head bytes.Buffer
	if err := binary.Write(&head, binary.BigEndian, header{
		Magic: [4]byte([]byte(magic)), Version: version, ClusterBits: ClusterBits, Size: uint64(size), L1Size: uint32(l1Entries), L1Offset: uint64(l1At * clusterSize),
		RefcountOffset: clusterSize, RefcountClusters: 1, RefcountOrder: 4, Length: headerLength,
	}); err != nil {
		return err
	}
	if len(mark) > 0 {
		head.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, markType), uint32(len(mark))))
		head.Write(mark)
	}
	w.write(head.Bytes(), 0) // the zeros that follow end the list of extensions
	counts := make([]byte, 2*total)
	for i := range total {
		binary.BigEndian.PutUint16(counts[2*i:], 1)
	}
	blockEntries := make([]uint64, blocks)
	for i := range blocks {
		blockEntries[i] = uint64((2 + i) * clusterSize)
	}
	w.entries(blockEntries, clusterSize)
	w.write(counts, 2*clusterSize)
	for i, t := range tables {
		w.entries([]uint64{uint64((l2At+int64(i))*clusterSize) | copiedFlag}, l1At*clusterSize+8*t)
	}
	for i, c := range order {
		at := (dataAt + int64(i)) * clusterSize
		table, _ := slices.BinarySearch(tables, c/perTable)
		w.entries([]uint64{uint64(at) | copiedFlag}, (l2At+int64(table))*clusterSize+8*(c%perTable))
		w.write(data[c], at)
	}
	return w.err
}

// patched returns the clusters that differ, whole.
func patched(size int64, base io.ReaderAt, patches []Patch) (map[int64][]byte, error) {
	data := map[int64][]byte{}
	for _, p := range patches {
		if p.Offset < 0 || p.Offset > size || int64(len(p.Data)) > size-p.Offset {
			return nil, fmt.Errorf("a change at %d of %d bytes lies beyond the disk's end at %d", p.Offset, len(p.Data), size)
		}
		for rest, at := p.Data, p.Offset; len(rest) > 0; {
			c := at / clusterSize
			if data[c] == nil {
				data[c] = make([]byte, clusterSize)
				if _, err := base.ReadAt(data[c], c*clusterSize); err != nil && !errors.Is(err, io.EOF) {
					return nil, fmt.Errorf("reading the base: %w", err)
				}
			}
			n := copy(data[c][at%clusterSize:], rest)
			rest, at = rest[n:], at+int64(n)
		}
	}
	return data, nil
}

// writer keeps the first error.
type writer struct {
	f   io.WriterAt
	err error
}

func (w *writer) write(b []byte, off int64) {
	if w.err == nil {
		_, w.err = w.f.WriteAt(b, off)
	}
}

func (w *writer) entries(values []uint64, off int64) {
	b := make([]byte, 8*len(values))
	putUint64s(b, values)
	w.write(b, off)
}
