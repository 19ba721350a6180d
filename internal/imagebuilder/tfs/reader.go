package tfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// FS is a file system that was read. It reads contents from where it was opened.
type FS struct {
	// Version is 5, or 4 for the old encoding.
	Version int
	// Label and UUID are what the volume can be mounted by.
	Label string
	UUID  [16]byte
	// Root is the root tuple, which holds the tree and the kernel's manifest.
	Root *Tuple

	r       io.ReaderAt
	sectors int64
	log     []logExtent
	end     int64 // where the log ends, in bytes
	dict    []any
}

// maxLog bounds the log in bytes; each value takes some memory.
const maxLog = 128 << 20

// Open reads the log of the file system in the first size bytes of r. The error
// wraps ErrDamaged where the content is at fault.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	f := &FS{r: r, sectors: size / SectorSize}
	l := &logReader{fs: f}
	if err := l.read(); err != nil {
		return nil, fmt.Errorf("reading a TFS: %w", err)
	}
	f.dict = l.d.dict
	if len(l.d.dict) == 0 {
		f.Root = &Tuple{}
		return f, nil
	}
	root, ok := l.d.dict[0].(*Tuple)
	if !ok {
		return nil, fmt.Errorf("reading a TFS: %w", damaged("its root is no tuple"))
	}
	f.Root = root
	return f, nil
}

// Probe tells whether a disk whose first sector is given is a volume: a TFS
// without a partition table before it.
func Probe(sector []byte) bool { return bytes.HasPrefix(sector, []byte(magic)) }

type logReader struct {
	fs    *FS
	d     decoder
	total int64
	// staged are the pieces of a value that goes on in the next extent, of which want more bytes are to come.
	staged []byte
	want   uint64
}

// frame is a cursor in an extent.
type frame struct{ in []byte }

func (f *frame) byte() (byte, error) {
	if len(f.in) == 0 {
		return 0, damaged("an extent of the log has no end")
	}
	b := f.in[0]
	f.in = f.in[1:]
	return b, nil
}

func (f *frame) varint() (uint64, error) {
	var n uint64
	for {
		b, err := f.byte()
		if err != nil {
			return 0, err
		}
		if n>>57 != 0 {
			return 0, damaged("a number has more than 64 bits")
		}
		n = n<<7 | uint64(b&0x7f)
		if b&0x80 == 0 {
			return n, nil
		}
	}
}

func (f *frame) bytes(n uint64) ([]byte, error) {
	if n > uint64(len(f.in)) {
		return nil, damaged("a record of %d bytes reaches beyond its extent", n)
	}
	b := f.in[:n]
	f.in = f.in[n:]
	return b, nil
}

func (l *logReader) read() error {
	next := &logExtent{0, 1}
	for next != nil {
		x := *next
		if x.start < 0 || x.sectors < 1 || x.start > l.fs.sectors || x.sectors > l.fs.sectors-x.start {
			return damaged("an extent of the log at sector %d of %d sectors lies beyond the end", x.start, x.sectors)
		}
		for _, other := range l.fs.log {
			if x.start < other.start+other.sectors && other.start < x.start+x.sectors {
				return damaged("extents of the log overlap at sector %d", x.start)
			}
		}
		if l.total += x.bytes(); l.total > maxLog || len(l.fs.log) >= maxLog/(LogSectors*SectorSize) {
			return damaged("the log has more than %d MiB", maxLog>>20)
		}
		l.fs.log = append(l.fs.log, x)
		buf := make([]byte, x.bytes())
		if _, err := l.fs.r.ReadAt(buf, x.start*SectorSize); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the log: %w", err)
		}
		var err error
		if next, err = l.extent(&frame{buf}, x); err != nil {
			return err
		}
	}
	if l.want > 0 {
		return damaged("the log ends within a record")
	}
	return nil
}

// extent reads one extent and returns the next one.
func (l *logReader) extent(f *frame, x logExtent) (*logExtent, error) {
	old, err := l.head(f, x)
	if err != nil {
		return nil, err
	}
	for {
		kind, err := f.byte()
		if err != nil {
			return nil, err
		}
		switch kind {
		case recordEnd:
			l.fs.end = (x.start+x.sectors)*SectorSize - int64(len(f.in)) - 1
			return nil, nil
		case recordSegment:
		case recordLink:
			start, err := f.varint()
			if err != nil {
				return nil, err
			}
			sectors, err := f.varint()
			if err != nil {
				return nil, err
			}
			if start > 1<<50 || sectors > 1<<50 {
				return nil, damaged("the log goes on at sector %d", start)
			}
			return &logExtent{int64(start), int64(sectors)}, nil
		case recordTuple, recordMore:
			if err := l.record(f, kind, old); err != nil {
				return nil, err
			}
		default:
			return nil, damaged("the log has a record of the unknown type %d", kind)
		}
	}
}

func (l *logReader) head(f *frame, x logExtent) (old bool, err error) {
	if got, err := f.bytes(uint64(len(magic))); err != nil || string(got) != magic {
		return false, damaged("sector %d holds no extent of a log", x.start)
	}
	v, err := f.varint()
	if err != nil {
		return false, err
	}
	if v != version && v != oldVersion {
		return false, damaged("it has the version %d; %d and %d can be read", v, oldVersion, version)
	}
	if _, err := f.varint(); err != nil { // its length, which the kernel takes from the link
		return false, err
	}
	if x.start > 0 {
		return v == oldVersion, nil
	}
	l.fs.Version = int(v)
	uuid, err := f.bytes(uuidLen)
	if err != nil {
		return false, err
	}
	copy(l.fs.UUID[:], uuid)
	end := bytes.IndexByte(f.in, 0)
	if end < 0 || end >= labelLen {
		return false, damaged("its label does not end")
	}
	l.fs.Label = string(f.in[:end])
	f.in = f.in[end+1:]
	return v == oldVersion, nil
}

func (l *logReader) record(f *frame, kind byte, old bool) error {
	total := l.want
	if kind == recordTuple {
		if l.want > 0 {
			return damaged("a record of the log begins within another")
		}
		var err error
		if total, err = f.varint(); err != nil {
			return err
		}
	}
	n, err := f.varint()
	if err != nil {
		return err
	}
	if n > total || total > maxLog {
		return damaged("a record has %d bytes of %d", n, total)
	}
	piece, err := f.bytes(n)
	if err != nil {
		return err
	}
	if kind == recordTuple && n == total {
		return l.d.record(piece, old)
	}
	l.staged = append(l.staged, piece...)
	if l.want = total - n; l.want > 0 {
		return nil
	}
	whole := l.staged
	l.staged = nil
	return l.d.record(whole, old)
}
