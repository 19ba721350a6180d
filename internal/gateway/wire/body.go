package wire

import (
	"bytes"
	"errors"
	"io"
	"math"
)

// bodyKind is how a body's end is known.
type bodyKind uint8

const (
	bodyNone bodyKind = iota
	bodyLength
	bodyChunked
	bodyToEnd // the connection's end is the body's
)

// maxChunkLine bounds the line before a chunk, with extensions.
const maxChunkLine = 1024

// maxTrailer bounds a trailer in bytes.
const maxTrailer = 16 << 10

// body reads the body of a message from a stream, without its framing.
type body struct {
	kind      bodyKind
	left      int64 // of the body, or of a chunk
	inChunk   bool
	maxFields int
	// trailer is complete at the end; its fields have buffers of their own.
	trailer []field
}

var (
	// errMore says that the rest has not arrived.
	errMore = errors.New("more has to be read")
	errCut  = errors.New("the body was cut off")
)

// next returns some of the body, at most so many bytes, which is valid until the
// next call; io.EOF at the end. It reads from the connection only where wait
// is set, and returns errMore otherwise.
func (b *body) next(s *stream, limit int, wait bool) ([]byte, error) {
	for {
		p, err := b.take(s, limit)
		if err != errMore || !wait {
			return p, err
		}
		if err := s.fill(bufferSize); err != nil {
			switch {
			case err == io.EOF && b.kind == bodyToEnd:
				return nil, io.EOF
			case err == io.EOF:
				return nil, errCut
			}
			return nil, err
		}
	}
}

// take returns some of what is buffered.
func (b *body) take(s *stream, limit int) ([]byte, error) {
	switch b.kind {
	case bodyNone:
		return nil, io.EOF
	case bodyLength:
		if b.left == 0 {
			return nil, io.EOF
		}
	case bodyToEnd:
		b.left = math.MaxInt64
	case bodyChunked:
		if err := b.chunk(s); err != nil {
			return nil, err
		}
	}
	n := int(min(b.left, int64(s.w-s.r), int64(limit)))
	if n == 0 {
		return nil, errMore
	}
	p := s.buf[s.r : s.r+n]
	s.r += n
	b.left -= int64(n)
	return p, nil
}

// chunk makes left the rest of a chunk that is not empty.
func (b *body) chunk(s *stream) error {
	if b.left > 0 {
		return nil
	}
	if b.inChunk {
		p := s.buffered()
		if len(p) > 0 && p[0] != '\r' || len(p) > 1 && p[1] != '\n' {
			return malformed("a chunk is longer than it says")
		}
		if len(p) < 2 {
			return errMore
		}
		s.r += 2
		b.inChunk = false
	}
	p := s.buffered()
	i := bytes.IndexByte(p, '\n')
	if i < 0 {
		if len(p) > maxChunkLine {
			return malformed("the line before a chunk is too long")
		}
		return errMore
	}
	line, _, err := cutLine(p)
	if err != nil {
		return err
	}
	size, err := parseChunkLine(line)
	if err != nil {
		return err
	}
	if size > 0 {
		s.r += i + 1
		b.left, b.inChunk = size, true
		return nil
	}
	return b.readTrailer(s, p[i-1:], i+1)
}

// parseChunkLine reads a chunk's size; extensions are dropped.
func parseChunkLine(line []byte) (int64, error) {
	if len(line) > maxChunkLine {
		return 0, malformed("the line before a chunk is too long")
	}
	digits, extension, _ := bytes.Cut(line, []byte{';'})
	if len(digits) == 0 || len(digits) > 15 || badInValue(extension) {
		return 0, malformed("not the size of a chunk")
	}
	var size int64
	for _, c := range digits {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, malformed("not the size of a chunk")
		}
		size = size<<4 | int64(c)
	}
	return size, nil
}

// readTrailer reads what follows the last chunk, whose line ends in p's first two
// bytes and takes so many of the stream.
func (b *body) readTrailer(s *stream, p []byte, line int) error {
	end, _ := headEnd(p, 0)
	switch {
	case end > maxTrailer || end < 0 && len(p) > maxTrailer:
		return &syntaxError{status: 431, reason: "the trailer is too long"}
	case end < 0:
		return errMore
	}
	// p[2:end] are the lines up to the empty one.
	fields, err := parseFields(bytes.Clone(p[2:end]), nil, b.maxFields)
	if err != nil {
		return err
	}
	for _, f := range fields {
		// Nothing that frames, routes or authenticates comes late (RFC 9110, 6.5.1).
		if f.kind == kindOther {
			b.trailer = append(b.trailer, f)
		}
	}
	s.r += line + end - 2
	b.kind = bodyNone
	return io.EOF
}

const hexDigits = "0123456789abcdef"

// appendChunk frames a piece of a body.
func appendChunk(p, piece []byte) []byte {
	p = appendChunkLine(p, len(piece))
	p = append(p, piece...)
	return append(p, "\r\n"...)
}

func appendChunkLine(p []byte, n int) []byte {
	shift := 28
	for shift > 0 && n>>shift == 0 {
		shift -= 4
	}
	for ; shift >= 0; shift -= 4 {
		p = append(p, hexDigits[n>>shift&15])
	}
	return append(p, "\r\n"...)
}

// appendEnd ends a chunked body.
func appendEnd(p []byte, trailer []field) []byte {
	p = append(p, "0\r\n"...)
	for _, f := range trailer {
		p = appendField(p, f.name, f.value)
	}
	return append(p, "\r\n"...)
}
