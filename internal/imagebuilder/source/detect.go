package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds what a zstd stream may have us keep in memory (RFC 8878
// recommends that decoders take 8 MiB, as zstd -19 needs; only its --long and --ultra go beyond).
const maxWindow = 64 << 20

// stream is an input with what compressed it taken away.
type stream struct {
	r     *bufio.Reader
	close func()
}

// decompressed looks at the first bytes of r. Errors of r come back as from readError.
func decompressed(r io.Reader) (*stream, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, readError(err)
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		zr, err := gzip.NewReader(in)
		if err != nil {
			return nil, readError(err)
		}
		return &stream{r: bufio.NewReaderSize(zr, 64<<10), close: func() {}}, nil
	case bytes.Equal(head, []byte("\x28\xb5\x2f\xfd")):
		from := &rememberingReader{r: in}
		zr, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, readError(err)
		}
		return &stream{r: bufio.NewReaderSize(zstdReader{zr, from}, 64<<10), close: zr.Close}, nil
	}
	return &stream{r: in, close: func() {}}, nil
}

// rememberingReader remembers why reading ended.
type rememberingReader struct {
	r   io.Reader
	err error
}

func (m *rememberingReader) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil {
		m.err = err
	}
	return n, err
}

// zstdReader tells a damaged stream, which has many errors, from a failed input.
type zstdReader struct {
	r    io.Reader
	from *rememberingReader
}

func (z zstdReader) Read(p []byte) (int, error) {
	n, err := z.r.Read(p)
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return n, err
	}
	if z.from.err != nil && !errors.Is(z.from.err, io.EOF) {
		return n, z.from.err
	}
	return n, invalid("the package is a damaged archive, pack it anew: %w", err)
}

// isTar tells whether a stream begins as a tar does: with a header whose
// checksum is right, or with the zeros of an empty archive.
func isTar(head []byte) bool {
	if len(head) < 512 {
		return false
	}
	_, err := tar.NewReader(bytes.NewReader(head[:512])).Next()
	return err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
