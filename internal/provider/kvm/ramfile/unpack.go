package ramfile

import (
	"context"
	"fmt"
	"math/bits"
	"os"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// Unpack writes to ram and state what was packed into src; what they held before
// is gone. Options.MaxRAM and MaxState bound their sizes. A file that is not
// whole is ErrDamaged; ram and state are unusable after any error.
func Unpack(ctx context.Context, src, ram, state *os.File, o Options) (Info, error) {
	info, err := unpack(ctx, src, o, func(h header) (func(bool, int64, []byte) error, error) {
		for f, size := range map[*os.File]uint64{ram: h.ram, state: h.state} {
			if err := f.Truncate(0); err != nil {
				return nil, err
			}
			if err := f.Truncate(int64(size)); err != nil {
				return nil, err
			}
		}
		return func(ofState bool, offset int64, b []byte) error {
			f := ram
			if ofState {
				f = state
			}
			_, err := f.WriteAt(b, offset)
			return err
		}, nil
	})
	if err != nil {
		return Info{}, fmt.Errorf("unpacking memory: %w", err)
	}
	return info, nil
}

// Verify reads all of src as Unpack does, and writes nothing.
func Verify(ctx context.Context, src *os.File, o Options) (Info, error) {
	info, err := unpack(ctx, src, o, func(header) (func(bool, int64, []byte) error, error) {
		return func(bool, int64, []byte) error { return nil }, nil
	})
	if err != nil {
		return Info{}, fmt.Errorf("verifying packed memory: %w", err)
	}
	return info, nil
}

// unpack hands out all that is other than zero.
func unpack(ctx context.Context, src *os.File, o Options, begin func(header) (func(ofState bool, offset int64, b []byte) error, error)) (Info, error) {
	p, err := open(src, o)
	if err != nil {
		return Info{}, err
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(o.workers()), zstd.IgnoreChecksum(true), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(plainBytes), zstd.WithDecoderMaxWindow(2*chunkBytes))
	if err != nil {
		return Info{}, err
	}
	defer decoder.Close()
	write, err := begin(p.header)
	if err != nil {
		return Info{}, err
	}
	var data atomic.Int64
	err = each(ctx, o.workers(), int64(len(p.table)), func() func(int64) error {
		plain, packed := make([]byte, 0, plainBytes), make([]byte, sealedBytes)
		return func(index int64) error {
			e := p.table[index]
			if e.length == 0 {
				return nil
			}
			b := packed[:e.length]
			if err := readAt(src, b, int64(e.offset)); err != nil {
				return err
			}
			b, err := p.seal.openChunk(index, b)
			if err != nil {
				return err
			}
			if plain, err = decoder.DecodeAll(b, plain[:0]); err != nil {
				return fmt.Errorf("%w: chunk %d: %w", ErrDamaged, index, err)
			}
			ofState, offset, length := p.header.place(index)
			n, err := writePages(plain, length, func(at int64, b []byte) error { return write(ofState, offset+at, b) })
			data.Add(n)
			return err
		}
	})
	if err != nil {
		return Info{}, err
	}
	h := p.header
	return Info{RAM: int64(h.ram), State: int64(h.state), Data: data.Load(), Packed: p.size, Keyed: o.Key != nil}, nil
}

// writePages hands out the pages of a chunk of that length, neighbours together.
func writePages(plain []byte, length int64, write func(at int64, b []byte) error) (n int64, err error) {
	if len(plain) < bitmapBytes {
		return 0, fmt.Errorf("%w: a chunk has %d bytes", ErrDamaged, len(plain))
	}
	bitmap, pages := plain[:bitmapBytes], plain[bitmapBytes:]
	if want := pagesLength(bitmap, length); want != int64(len(pages)) {
		return 0, fmt.Errorf("%w: a chunk has %d bytes of pages, its bitmap tells of %d", ErrDamaged, len(pages), want)
	}
	isSet := func(i int64) bool { return i*pageBytes < length && bitmap[i/8]&(1<<(i%8)) != 0 }
	for i := int64(0); i*pageBytes < length; i++ {
		if !isSet(i) {
			continue
		}
		first := i
		for isSet(i + 1) {
			i++
		}
		at := first * pageBytes
		run := min((i+1)*pageBytes, length) - at
		if err := write(at, pages[n:n+run]); err != nil {
			return n, err
		}
		n += run
	}
	return n, nil
}

// pagesLength is how long the pages of a bitmap are: the last of a file may be
// short. -1 where the bitmap tells of a page after the chunk's end.
func pagesLength(bitmap []byte, length int64) int64 {
	count := int64(0)
	for _, b := range bitmap {
		count += int64(bits.OnesCount8(b))
	}
	pages := (length + pageBytes - 1) / pageBytes
	for i := pages; i < bitmapBytes*8; i++ {
		if bitmap[i/8]&(1<<(i%8)) != 0 {
			return -1
		}
	}
	total := count * pageBytes
	if last := pages - 1; bitmap[last/8]&(1<<(last%8)) != 0 {
		total -= pages*pageBytes - length
	}
	return total
}
