package lossy

import (
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// partBytes is how finely it is noted what of a file was written.
const partBytes = 64 << 10

// parts are what of a file was written since it was synced.
type parts struct {
	mu sync.Mutex
	// all: its size or its holes have changed too.
	all   bool
	these map[int64]bool
}

// add notes a write.
func (p *parts) add(at, size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.these == nil {
		p.these = map[int64]bool{}
	}
	for n := at / partBytes; n*partBytes < at+size; n++ {
		p.these[n] = true
	}
}

func (p *parts) addAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = true
}

// take returns what was noted, and forgets it.
func (p *parts) take() (all bool, these map[int64]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all, these = p.all, p.these
	p.all, p.these = false, nil
	return all, these
}

// keepParts brings what was written to what is kept. Needs n.syncing.
func (n *inode) keepParts() (err error) {
	all, these := n.unsynced.take()
	defer func() {
		if err != nil {
			n.unsynced.addAll()
		}
	}()
	if all {
		return copyContent(n.keptContent, n.content)
	}
	if len(these) == 0 {
		return nil
	}
	info, err := n.content.Stat()
	if err != nil {
		return err
	}
	if err := n.keptContent.Truncate(info.Size()); err != nil {
		return err
	}
	buffer := make([]byte, partBytes)
	for part := range these {
		size, err := n.content.ReadAt(buffer, part*partBytes)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := n.keptContent.WriteAt(buffer[:size], part*partBytes); err != nil {
			return err
		}
	}
	return nil
}

// copyContent makes one file like another: the same size, data and holes.
func copyContent(to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if err := to.Truncate(size); err != nil {
		return err
	}
	buffer := make([]byte, partBytes)
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data, err = size, nil
		}
		if err != nil {
			return err
		}
		if data > at {
			if err := unix.Fallocate(int(to.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, data-at); err != nil {
				return err
			}
		}
		if data == size {
			return nil
		}
		end, err := unix.Seek(int(from.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at = data; at < end; {
			part := buffer[:min(int64(len(buffer)), end-at)]
			if _, err := from.ReadAt(part, at); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if _, err := to.WriteAt(part, at); err != nil {
				return err
			}
			at += int64(len(part))
		}
	}
	return nil
}
