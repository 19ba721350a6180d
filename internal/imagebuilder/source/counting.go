package source

import (
	"io"
	"sync/atomic"
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case Directory:
		return "directory"
	case File:
		return "file"
	case Symlink:
		return "symlink"
	}
	return "unknown"
}

// Bytes is the sum of the lengths of all files.
func (t *Tree) Bytes() (n int64) {
	for _, e := range t.entries {
		if e.Kind == File {
			n += e.Size
		}
	}
	return n
}

// Counting returns the same tree, which adds what is read of its contents to n.
func (t *Tree) Counting(n *atomic.Int64) *Tree {
	return &Tree{entries: t.entries, sorted: t.sorted, data: countingReaderAt{t.data, n}}
}

type countingReaderAt struct {
	r io.ReaderAt
	n *atomic.Int64
}

func (c countingReaderAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.n.Add(int64(n))
	return n, err
}
