package wire

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
)

// bufferSize is what one read takes at most.
const bufferSize = 32 << 10

// buffers are lent to streams while something is in them.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() []byte {
	if p, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return p[:]
	}
	return make([]byte, bufferSize)
}

// put takes a buffer back; one that has grown is left to the collector.
func (b *buffers) put(p []byte) {
	if len(p) == bufferSize {
		b.pool.Put((*[bufferSize]byte)(p))
	}
}

// stream reads from a connection. While it waits with nothing read it holds no
// buffer, so that idle connections cost little.
type stream struct {
	conn    net.Conn
	raw     syscall.RawConn // nil where the connection is not a socket (TLS)
	buffers *buffers
	buf     []byte // nil: nothing is buffered
	r, w    int
	first   [1]byte

	read func(fd uintptr) bool // readOnce, bound once
	n    int                   // what it read
	err  error
}

func (s *stream) init(conn net.Conn, b *buffers) {
	s.conn, s.buffers = conn, b
	if socket, ok := conn.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			s.raw = raw
			s.read = s.readOnce
		}
	}
}

// unread gives back what somebody else has read; it fits a buffer.
func (s *stream) unread(p []byte) {
	if len(p) > 0 {
		s.buf = s.buffers.get()
		s.r, s.w = 0, copy(s.buf, p)
	}
}

func (s *stream) buffered() []byte { return s.buf[s.r:s.w] }

func (s *stream) release() {
	if s.buf != nil {
		s.buffers.put(s.buf)
		s.buf, s.r, s.w = nil, 0, 0
	}
}

func (s *stream) readOnce(fd uintptr) bool {
	buf := s.buffers.get()
	n, err := syscall.Read(int(fd), buf)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), buf)
	}
	if n > 0 && err == nil {
		s.buf, s.n, s.err = buf, n, nil
		return true
	}
	s.buffers.put(buf)
	if err == syscall.EAGAIN {
		return false
	}
	s.n, s.err = 0, err
	if err == nil {
		s.err = io.EOF
	}
	return true
}

var errFull = errors.New("more than the buffer may hold")

// fill reads more, behind what is buffered; the buffer may grow up to a limit.
// Slices of what was buffered before are no longer valid.
func (s *stream) fill(limit int) error {
	if s.r == s.w {
		s.r, s.w = 0, 0
		if s.raw != nil {
			s.release()
			// Others go first: meanwhile something may arrive, which saves a
			// read in vain and the wait after it.
			runtime.Gosched()
			if err := s.raw.Read(s.read); err != nil {
				return err
			}
			s.w = s.n
			return s.err
		}
	}
	switch {
	case s.buf == nil:
		s.buf = s.buffers.get()
	case s.w-s.r >= limit:
		return errFull
	case s.r > 0 && s.w == len(s.buf):
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
	case s.w == len(s.buf):
		grown := make([]byte, min(2*len(s.buf), max(limit, len(s.buf)+1)))
		copy(grown, s.buf)
		s.buffers.put(s.buf)
		s.buf = grown
	}
	n, err := s.conn.Read(s.buf[s.w:])
	s.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// await waits for the first bytes of something, without a buffer where that can be.
func (s *stream) await() error {
	if s.raw != nil {
		return s.fill(bufferSize)
	}
	s.release()
	if _, err := io.ReadFull(s.conn, s.first[:]); err != nil {
		return err
	}
	s.buf = s.buffers.get()
	s.w = copy(s.buf, s.first[:])
	return nil
}

// readHead returns a whole head, which stays buffered until the next fill.
// began is called once the first bytes are there and more are missing.
func (s *stream) readHead(limit int, began func()) ([]byte, error) {
	looked := 0
	for {
		p := s.buffered()
		if len(p) > 0 {
			end, next := headEnd(p, looked)
			if end > limit {
				return nil, errFull
			}
			if end > 0 {
				s.r += end
				return p[:end], nil
			}
			looked = next
			if began != nil {
				began()
				began = nil
			}
		}
		if err := s.fill(limit); err != nil {
			return nil, err
		}
	}
}
