package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
)

// tunnel sends the head of a 101, and moves bytes until both sides have ended.
func (c *conn) tunnel(r *response, k *kept, p *Pass) error {
	c.closes = true
	out := r.appendLine(c.work.out)
	out = append(out, "Connection: Upgrade\r\nUpgrade: "...)
	out = append(out, r.upgrade...)
	c.work.out = append(out, "\r\n\r\n"...)
	if err := c.flush(); err != nil {
		return err
	}
	return c.s.tunnel(&c.life, &c.in, k, p)
}

// oneWay is one direction of a tunnel.
type oneWay struct {
	s        *Server
	from, to *stream
	rd, wr   *alarm // of from and to
	moved    func(int)
	// half: the other direction has ended, so that this one may not be silent for long.
	half  atomic.Bool
	other *oneWay
}

// tunnel moves bytes between a client and an instance until both have ended. Once
// one has, the other has to say something within each IdleTimeout.
func (s *Server) tunnel(l *life, client *stream, k *kept, p *Pass) error {
	in := &oneWay{s: s, from: client, to: &k.stream, rd: &l.rd, wr: &k.wr, moved: func(n int) { p.moved(s, n, 0) }}
	out := &oneWay{s: s, from: &k.stream, to: client, rd: &k.rd, wr: &l.wr, moved: func(n int) { p.moved(s, 0, n) }, other: in}
	in.other = out
	up := make(chan error, 1)
	go func() { up <- in.run() }()
	err := out.run()
	if other := <-up; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		err = other
	}
	return err
}

// run ends both directions where it fails.
func (w *oneWay) run() error {
	err := w.pump()
	w.from.release()
	if err == nil {
		err = w.closeWrite()
	}
	if err != nil {
		interrupt(w.from.conn)
		interrupt(w.to.conn)
		return err
	}
	w.other.half.Store(true)
	w.other.rd.set(w.s.lives.after(w.s.o.IdleTimeout))
	return nil
}

func (w *oneWay) closeWrite() error {
	if half, ok := w.to.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return io.EOF // there is no half of it
}

func (w *oneWay) pump() error {
	for {
		if p := w.from.buffered(); len(p) > 0 {
			w.wr.set(w.s.lives.after(w.s.o.StallTimeout))
			_, err := w.to.conn.Write(p)
			if w.wr.stop() {
				return ErrSlow
			}
			if err != nil {
				return err
			}
			w.moved(len(p))
			w.from.r = w.from.w
			if len(p) == bufferSize && !w.half.Load() {
				if err := w.splice(); err != nil {
					return ignoreEOF(err)
				}
			}
		}
		if w.half.Load() {
			w.rd.set(w.s.lives.after(w.s.o.IdleTimeout))
		}
		err := w.from.fill(bufferSize)
		if w.half.Load() && w.rd.stop() {
			return ErrSlow
		}
		if err != nil {
			return ignoreEOF(err)
		}
	}
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// spliceSize is what is moved at once where much arrives. It is counted once all of
// it has gone.
const spliceSize = 256 << 10

// splice has the kernel move bytes, where both sides are sockets.
func (w *oneWay) splice() error {
	from, ok := w.from.conn.(*net.TCPConn)
	to, both := w.to.conn.(*net.TCPConn)
	if !ok || !both {
		return nil
	}
	n, err := to.ReadFrom(&io.LimitedReader{R: from, N: spliceSize})
	w.moved(int(n))
	if err == nil && n < spliceSize {
		err = io.EOF
	}
	return err
}
