package tfs

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// State says how a log goes on: what an Appender needs besides the names.
type State struct {
	// ExtentStart and ExtentSectors are the log's last extent.
	ExtentStart   int64 `json:"extent_start"`
	ExtentSectors int64 `json:"extent_sectors"`
	// End is where the log ends, in bytes from the beginning of the file system.
	End int64 `json:"end"`
	// NextSector is the first of the free sectors at the end.
	NextSector int64 `json:"next_sector"`
	// NextIndex is the next index of the dictionary.
	NextIndex uint64 `json:"next_index"`

	names map[string]uint64
	root  *node
}

// RootIndex is the index of the root tuple in every log.
const RootIndex = 1

// Sectors is how long the file system must be at least.
func (s *State) Sectors() int64 { return s.NextSector }

// Directory returns the index of the tuple of a directory's children, to which an
// Appender can add; false if there is none such, or the state was not just written.
func (s *State) Directory(path string) (uint64, bool) {
	at := s.root
	for name := range strings.SplitSeq(path, "/") {
		if at == nil {
			return 0, false
		}
		if name != "" {
			at = at.children[name]
		}
	}
	return cmp.Or(at, &node{}).index, at != nil && at.kind == nodeDir
}

// nameRow is the length of a row of the names' file: 8 bytes of the SHA-256 of
// a name, 4 bytes of its index, big-endian, in ascending order.
const nameRow = 12

func nameKey(name string) [8]byte {
	sum := sha256.Sum256([]byte(name))
	return [8]byte(sum[:8])
}

// Names returns the dictionary's names in the form that OpenNames reads.
func (s *State) Names() ([]byte, error) {
	rows := make([][nameRow]byte, 0, len(s.names))
	for name, index := range s.names {
		if index > 1<<32-1 {
			return nil, errors.New("the log has too many entries")
		}
		var row [nameRow]byte
		key := nameKey(name)
		copy(row[:], key[:])
		binary.BigEndian.PutUint32(row[8:], uint32(index))
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b [nameRow]byte) int { return bytes.Compare(a[:], b[:]) })
	out := make([]byte, 0, len(rows)*nameRow)
	for i, row := range rows {
		if i > 0 && bytes.Equal(rows[i-1][:8], row[:8]) {
			return nil, errors.New("two names have the same key: rename one of the files")
		}
		out = append(out, row[:]...)
	}
	return out, nil
}

// Names looks names up in what State.Names returned. It reads a small one as a
// whole, and of a large one what it needs.
type Names struct {
	r    io.ReaderAt
	rows int64
	all  []byte
}

// smallNames is up to where one read is faster than a search by many.
const smallNames = 1 << 20

// OpenNames returns the names in the first size bytes of r.
func OpenNames(r io.ReaderAt, size int64) *Names { return &Names{r: r, rows: size / nameRow} }

func (n *Names) row(i int64) (row [nameRow]byte, err error) {
	if n.all == nil && n.rows*nameRow <= smallNames {
		n.all = make([]byte, n.rows*nameRow)
		if _, err := n.r.ReadAt(n.all, 0); err != nil && !errors.Is(err, io.EOF) {
			return row, err
		}
	}
	if n.all != nil {
		return [nameRow]byte(n.all[i*nameRow:]), nil
	}
	_, err = n.r.ReadAt(row[:], i*nameRow)
	return row, err
}

func (n *Names) lookup(name string) (uint64, bool, error) {
	key := nameKey(name)
	low, high := int64(0), n.rows
	for low < high {
		middle := low + (high-low)/2
		row, err := n.row(middle)
		if err != nil {
			return 0, false, fmt.Errorf("reading the names of the log: %w", err)
		}
		switch bytes.Compare(row[:8], key[:]) {
		case 0:
			return uint64(binary.BigEndian.Uint32(row[8:])), true, nil
		case -1:
			low = middle + 1
		default:
			high = middle
		}
	}
	return 0, false, nil
}

// Patch is a change of a file system: whole sectors at an offset in bytes.
type Patch struct {
	Offset int64
	Data   []byte
}

// Appender adds to a log. Nothing is written: what has to be is returned by Patches.
type Appender struct {
	state   State
	base    io.ReaderAt
	encoder *encoder
	log     *logWriter
	patches []Patch
	// sectors is how long the file system is.
	sectors int64
}

// NewAppender begins to add to the log of the file system in the first sectors of base.
func NewAppender(s State, names *Names, base io.ReaderAt, sectors int64) (*Appender, error) {
	a := &Appender{state: s, base: base, sectors: sectors}
	a.encoder = &encoder{next: s.NextIndex, names: map[string]uint64{}, known: names.lookup}
	a.log = &logWriter{w: a, allocate: a.allocate, current: logExtent{s.ExtentStart, s.ExtentSectors}}
	inExtent := s.End - s.ExtentStart*SectorSize
	if s.ExtentStart < 1 || s.ExtentSectors < 1 || inExtent < 0 || inExtent >= a.log.current.bytes() {
		return nil, fmt.Errorf("%w: the log's end lies outside of its last extent", ErrDamaged)
	}
	a.log.from = inExtent / SectorSize * SectorSize
	sector := make([]byte, SectorSize)
	if _, err := base.ReadAt(sector, s.ExtentStart*SectorSize+a.log.from); err != nil {
		return nil, fmt.Errorf("reading the end of the log: %w", err)
	}
	end := inExtent - a.log.from
	if sector[end] != recordEnd {
		return nil, fmt.Errorf("%w: the log does not end where it was left", ErrDamaged)
	}
	sector[end] = recordSegment // as the kernel does when it goes on
	a.log.buf = sector[:end+1]
	return a, nil
}

// Set changes attributes of the tuple of that index; nil takes one away.
func (a *Appender) Set(index uint64, attrs ...Attr) error {
	a.encoder.buf = a.encoder.buf[:0]
	a.encoder.update(index, len(attrs))
	if err := a.encoder.attrs(attrs, 0); err != nil {
		return err
	}
	return a.log.record(a.encoder.buf)
}

// File stores content behind what the file system holds, and returns the tuple
// that describes it.
func (a *Appender) File(content []byte) (*Tuple, error) {
	n := sectorsOf(int64(len(content)))
	x, err := a.allocate(n)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		padded := make([]byte, n*SectorSize)
		copy(padded, content)
		a.patches = append(a.patches, Patch{x.start * SectorSize, padded})
	}
	return fileTuple(int64(len(content)), x.start), nil
}

// Patches ends the log and returns what has to be written.
func (a *Appender) Patches() ([]Patch, error) {
	if _, err := a.log.finish(); err != nil {
		return nil, err
	}
	return a.patches, nil
}

func (a *Appender) allocate(sectors int64) (logExtent, error) {
	if a.state.NextSector+sectors > a.sectors {
		return logExtent{}, fmt.Errorf("the file system of %d sectors has no room for %d more", a.sectors, sectors)
	}
	a.state.NextSector += sectors
	return logExtent{a.state.NextSector - sectors, sectors}, nil
}

// WriteAt implements io.WriterAt for the log: it keeps a patch.
func (a *Appender) WriteAt(p []byte, off int64) (int, error) {
	a.patches = append(a.patches, Patch{off, bytes.Clone(p)})
	return len(p), nil
}
