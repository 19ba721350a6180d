package ramfile

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// Options say how files are packed and unpacked.
type Options struct {
	// Key encrypts: KeyBytes random bytes. nil does not, and the file is then only
	// guarded against accidents.
	Key []byte
	// Level is how hard Pack compresses: 1 (also where 0) is the fastest, 4 the smallest.
	Level int
	// Parallel is how many chunks are worked on at once; 0 is one per core.
	Parallel int
	// MaxRAM and MaxState bound what Unpack and Verify believe, in bytes.
	MaxRAM, MaxState int64
}

// Pack writes ram and state, from their beginnings to their ends, to dst, which
// then holds nothing else. Nobody may write to them meanwhile. Their file offsets
// move. When it fails, dst is unusable.
func Pack(ctx context.Context, dst, ram, state *os.File, o Options) (Info, error) {
	info, err := pack(ctx, dst, ram, state, o)
	if err != nil {
		return Info{}, fmt.Errorf("packing memory: %w", err)
	}
	return info, nil
}

func pack(ctx context.Context, dst, ram, state *os.File, o Options) (Info, error) {
	h := header{}
	var err error
	if h.ram, err = sizeOf(ram); err != nil {
		return Info{}, err
	}
	if h.state, err = sizeOf(state); err != nil {
		return Info{}, err
	}
	if o.Key != nil {
		h.flags = flagKeyed
	}
	if _, err := rand.Read(h.salt[:]); err != nil {
		return Info{}, err
	}
	s, err := newSeal(o.Key, h)
	if err != nil {
		return Info{}, err
	}
	if o.Level < 0 || o.Level > int(zstd.SpeedBestCompression) {
		return Info{}, fmt.Errorf("level %d is not between 1 and %d", o.Level, int(zstd.SpeedBestCompression))
	}
	// The tags are sums already.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(o.workers()), zstd.WithEncoderCRC(false),
		zstd.WithEncoderLevel(zstd.EncoderLevel(max(o.Level, int(zstd.SpeedFastest)))), zstd.WithWindowSize(chunkBytes))
	if err != nil {
		return Info{}, err
	}
	defer encoder.Close()
	if err := dst.Truncate(0); err != nil {
		return Info{}, err
	}
	if _, err := dst.WriteAt(h.encode(), 0); err != nil {
		return Info{}, err
	}
	nRAM, nState := h.chunks()
	table := make([]entry, nRAM+nState)
	var end, data atomic.Int64
	end.Store(int64(headerBytes))
	err = each(ctx, o.workers(), int64(len(table)), func() func(int64) error {
		plain, packed := make([]byte, plainBytes), make([]byte, 0, sealedBytes)
		return func(index int64) error {
			ofState, offset, length := h.place(index)
			file := ram
			if ofState {
				file = state
			}
			n, err := readPages(file, offset, length, plain)
			if n == 0 || err != nil {
				return err
			}
			data.Add(int64(n))
			packed = s.sealChunk(index, encoder.EncodeAll(plain[:bitmapBytes+n], packed[:0]))
			if len(packed) > sealedBytes {
				return errors.New("a chunk has become larger than any may be")
			}
			at := end.Add(int64(len(packed))) - int64(len(packed))
			table[index] = entry{offset: uint64(at), length: uint32(len(packed))}
			_, err = dst.WriteAt(packed, at)
			return err
		}
	})
	if err != nil {
		return Info{}, err
	}
	tail := s.sealTable(encodeTable(table))
	if _, err := dst.WriteAt(tail, end.Load()); err != nil {
		return Info{}, err
	}
	return Info{RAM: int64(h.ram), State: int64(h.state), Data: data.Load(), Packed: end.Load() + int64(len(tail)), Keyed: o.Key != nil}, nil
}

func sizeOf(f *os.File) (uint64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxBytes {
		return 0, fmt.Errorf("%s is no regular file that can be packed", info.Name())
	}
	return uint64(info.Size()), nil
}

// readPages reads a chunk, at most chunkBytes, into plain: the bitmap, then the
// pages that are other than zero, of n bytes together.
func readPages(f *os.File, offset, length int64, plain []byte) (n int, err error) {
	// A file system that knows no holes calls everything data.
	next, err := unix.Seek(int(f.Fd()), offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && next >= offset+length {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("looking for data: %w", err)
	}
	bitmap, pages := plain[:bitmapBytes], plain[bitmapBytes:bitmapBytes+int(length)]
	clear(bitmap)
	if _, err := f.ReadAt(pages, offset); err != nil {
		return 0, err
	}
	for i := 0; i*pageBytes < len(pages); i++ {
		page := pages[i*pageBytes : min((i+1)*pageBytes, len(pages))]
		if isZero(page) {
			continue
		}
		bitmap[i/8] |= 1 << (i % 8)
		n += copy(pages[n:], page)
	}
	return n, nil
}

// isZero compares each byte with the one before.
func isZero(b []byte) bool { return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }

// Allocated returns how much of the disk a file takes, in bytes.
func Allocated(f *os.File) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("looking how much %s takes: %w", f.Name(), err)
	}
	return st.Blocks * 512, nil
}
