package tfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Options say what file system a Writer makes.
type Options struct {
	// Label is what the kernel mounts the volume by; at most 31 bytes.
	Label string
	// LogSectors is the length of the log's first extent; 0 is LogSectors. A small
	// one makes a small volume. What does not fit goes into further extents.
	LogSectors int64
	// Sectors is how long the file system will be: files that leave no room for the
	// kernel to write are ErrNoRoom. 0: it may become as long as it gets.
	Sectors int64
	// BeforeHead is called before the first sector is written, which makes a file
	// system of what is there: where that must not happen too early, it syncs.
	BeforeHead func() error
}

// Writer makes a file system. What lay in the sectors between its files and
// beyond is left, and never read.
type Writer struct {
	w    io.WriterAt
	o    Options
	root *node
	next int64 // the first sector that is free
	buf  []byte

	extends *FS   // what is extended; nil for a new file system
	limit   int64 // the sector before which files must end; 0: there is none
}

type nodeKind uint8

const (
	nodeDir nodeKind = iota
	nodeFile
	nodeLink
)

type node struct {
	kind     nodeKind
	children map[string]*node
	size     int64
	sector   int64
	target   string
	index    uint64 // of the tuple of a directory's children, once it is written
	old      bool   // it is there already
}

// copyBuffer is how much of a file is held in memory.
const copyBuffer = 1 << 20

// NewWriter begins a file system at offset 0 of w.
func NewWriter(w io.WriterAt, o Options) (*Writer, error) {
	if len(o.Label) >= labelLen || strings.ContainsRune(o.Label, 0) {
		return nil, fmt.Errorf("the label %q has more than %d bytes, or a zero in it", o.Label, labelLen-1)
	}
	if o.LogSectors == 0 {
		o.LogSectors = LogSectors
	}
	if o.LogSectors < 1 || o.LogSectors > 1<<20 {
		return nil, fmt.Errorf("a log extent of %d sectors: use 1 to %d", o.LogSectors, 1<<20)
	}
	out := &Writer{w: w, o: o, root: newDir(), next: 1 + o.LogSectors}
	if o.Sectors > 0 {
		out.limit = o.Sectors - writeReserve
	}
	return out, nil
}

func newDir() *node { return &node{kind: nodeDir, children: map[string]*node{}} }

// Dir makes a directory, and its parents where they are missing. Paths are
// relative to the root, slash-separated and clean; "" is the root.
func (w *Writer) Dir(path string) error {
	_, err := w.dir(path)
	return err
}

// Symlink makes a symbolic link. The parent is made where it is missing.
func (w *Writer) Symlink(path, target string) error {
	if target == "" || len(target) > maxPath {
		return fmt.Errorf("writing the link %s: its target has %d bytes", path, len(target))
	}
	return w.put(path, &node{kind: nodeLink, target: target})
}

// File copies size bytes from r and makes a file of them. The parent is made
// where it is missing. A reader that ends sooner is io.ErrUnexpectedEOF.
func (w *Writer) File(path string, size int64, r io.Reader) error {
	sectors := sectorsOf(size)
	if w.limit > 0 && w.next+sectors > w.limit {
		return fmt.Errorf("writing the file %s: %w", path, ErrNoRoom)
	}
	n := &node{kind: nodeFile, size: size, sector: w.next}
	if err := w.put(path, n); err != nil {
		return err
	}
	if err := w.copy(r, size); err != nil {
		return fmt.Errorf("writing the file %s: %w", path, err)
	}
	w.next += sectors
	return nil
}

func sectorsOf(size int64) int64 { return (size + SectorSize - 1) / SectorSize }

func (w *Writer) copy(r io.Reader, size int64) error {
	if w.buf == nil {
		w.buf = make([]byte, copyBuffer)
	}
	for at := w.next * SectorSize; size > 0; {
		n := int(min(size, copyBuffer))
		if _, err := io.ReadFull(r, w.buf[:n]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		size -= int64(n)
		padded := int(sectorsOf(int64(n)) * SectorSize)
		clear(w.buf[n:padded])
		if _, err := w.w.WriteAt(w.buf[:padded], at); err != nil {
			return err
		}
		at += int64(padded)
	}
	return nil
}

func (w *Writer) dir(path string) (*node, error) {
	at := w.root
	if path == "" {
		return at, nil
	}
	for name := range strings.SplitSeq(path, "/") {
		next := at.children[name]
		if next == nil {
			if err := checkName(name); err != nil {
				return nil, fmt.Errorf("making the directory %s: %w", path, err)
			}
			next = newDir()
			at.children[name] = next
		}
		if next.kind != nodeDir {
			return nil, fmt.Errorf("making the directory %s: %s is no directory", path, name)
		}
		at = next
	}
	return at, nil
}

func (w *Writer) put(path string, n *node) error {
	i := strings.LastIndexByte(path, '/')
	at, err := w.dir(path[:max(i, 0)])
	if err != nil {
		return err
	}
	name := path[i+1:]
	if err := checkName(name); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if at.children[name] != nil {
		return fmt.Errorf("writing %s: it is there already", path)
	}
	at.children[name] = n
	return nil
}

const (
	maxName = 255
	maxPath = 4095
)

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is no name of a file", name)
	}
	return nil
}

// Finish writes the log: the root tuple, of the tree and attrs, of which none
// may be named children. The UUID is derived from the content of the log, so that
// equal input gives equal bytes.
func (w *Writer) Finish(attrs ...Attr) (*State, error) {
	e := newEncoder()
	attrs = append(slices.Clone(attrs), Attr{Name: childrenName})
	sortAttrs(attrs)
	e.tuple(len(attrs))
	for i, a := range attrs {
		if i > 0 && attrs[i-1].Name == a.Name {
			return nil, fmt.Errorf("the root's attribute %s is given twice", a.Name)
		}
		if err := e.name(a.Name); err != nil {
			return nil, err
		}
		err := error(nil)
		if a.Name == childrenName {
			err = w.root.encodeChildren(e, 0)
		} else {
			err = e.value(a.Value, 0)
		}
		if err != nil {
			return nil, fmt.Errorf("writing the root's attribute %s: %w", a.Name, err)
		}
	}
	first := logExtent{1, w.o.LogSectors}
	sum := sha256.Sum256(append([]byte(w.o.Label+"\x00"), e.buf...))
	head := append([]byte(magic), version, 1)
	head = append(head, sum[:uuidLen]...)
	head = append(append(head, w.o.Label...), 0, recordLink)
	head = append(appendVarint(appendVarint(head, uint64(first.start)), uint64(first.sectors)), recordEnd)
	l := &logWriter{w: w.w, allocate: func(sectors int64) (logExtent, error) {
		if w.limit > 0 && w.next+sectors > w.limit {
			return logExtent{}, ErrNoRoom
		}
		w.next += sectors
		return logExtent{w.next - sectors, sectors}, nil
	}}
	l.begin(first)
	if err := l.record(e.buf); err != nil {
		return nil, fmt.Errorf("writing the log: %w", err)
	}
	end, err := l.finish()
	if err != nil {
		return nil, fmt.Errorf("writing the log: %w", err)
	}
	if w.o.BeforeHead != nil {
		if err := w.o.BeforeHead(); err != nil {
			return nil, err
		}
	}
	if _, err := w.w.WriteAt(append(head, make([]byte, SectorSize-len(head))...), 0); err != nil {
		return nil, fmt.Errorf("writing the log: %w", err)
	}
	return &State{
		ExtentStart: l.current.start, ExtentSectors: l.current.sectors, End: end, NextSector: w.next, NextIndex: e.next,
		names: e.names, root: w.root,
	}, nil
}

// Names of attributes (src/fs/fs.c, src/fs/tfs.c).
const (
	childrenName  = "children"
	targetName    = "linktarget"
	lengthName    = "filelength"
	extentsName   = "extents"
	exLengthName  = "length"
	exOffsetName  = "offset"
	exAllocName   = "allocated"
	exUninitName  = "uninited"
	maxFileExtent = 1 << 20 // extents of one file
)

// encode writes the value of an entry of a directory that is depth levels down.
func (n *node) encode(e *encoder, depth int) error {
	if n.kind != nodeDir {
		return e.value(n.value(), 0)
	}
	e.tuple(1)
	if err := e.name(childrenName); err != nil {
		return err
	}
	return n.encodeChildren(e, depth+1)
}

func (n *node) encodeChildren(e *encoder, depth int) error {
	if depth > maxNesting/2 {
		return errors.New("directories are nested too deeply")
	}
	n.index = e.tuple(len(n.children))
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		if err := e.name(name); err != nil {
			return err
		}
		child := n.children[name]
		if err := child.encode(e, depth); err != nil {
			return err
		}
	}
	return nil
}

// value is the tuple of a file or link.
func (n *node) value() *Tuple {
	if n.kind == nodeLink {
		return NewTuple(Attr{targetName, n.target})
	}
	return fileTuple(n.size, n.sector)
}

// fileTuple describes a file whose content lies in one piece.
func fileTuple(size, sector int64) *Tuple {
	extents := NewTuple()
	if size > 0 {
		extents.set(strconv.Itoa(0), NewTuple(Attr{exLengthName, sectorsOf(size)}, Attr{exOffsetName, sector}, Attr{exAllocName, sectorsOf(size)}))
	}
	return NewTuple(Attr{lengthName, size}, Attr{extentsName, extents})
}
