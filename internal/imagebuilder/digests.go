package imagebuilder

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"sync"
	"syscall"
)

// Digests remembers the SHA-256 of files as long as they do not change, under
// all of their names: a kernel that a thousand images link to is read once. The
// zero value is ready; it is safe for concurrent use.
type Digests struct {
	mu   sync.Mutex
	sums map[fileState]string
}

// fileState tells a file, and whether it has been written to.
type fileState struct {
	device, inode uint64
	size          int64
	modified      syscall.Timespec
}

// maxDigests is how many are remembered; then all are forgotten.
const maxDigests = 4096

// File returns the lower-case hex digest of a file's content.
func (d *Digests) File(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return hashOf(f)
	}
	state := fileState{uint64(st.Dev), st.Ino, st.Size, st.Mtim}
	d.mu.Lock()
	sum, ok := d.sums[state]
	d.mu.Unlock()
	if ok {
		return sum, nil
	}
	if sum, err = hashOf(f); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sums == nil || len(d.sums) >= maxDigests {
		d.sums = map[fileState]string{}
	}
	d.sums[state] = sum
	return sum, nil
}

func hashOf(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 256<<10)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
