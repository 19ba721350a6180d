package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"time"
)

// conn is a client's connection of HTTP/1.1.
type conn struct {
	life
	s    *Server
	net  net.Conn
	in   stream
	head Head
	// client is the address as the instance is told it.
	client string
	work   *work // nil between two requests

	// closes: the connection ends after this answer. lingers: the client may
	// still be sending, so that closing at once could cost it the answer.
	closes, lingers bool
	chunks          bool // the answer is sent in chunks
}

// work is what one request needs, lent to connections while they have one.
type work struct {
	req     request
	x       exchange
	rest    bodyStream
	request []byte
	out     []byte
}

// bodyStream is a body of HTTP/1.1 as a source.
type bodyStream struct {
	body
	in *stream
}

func (b *bodyStream) next(limit int, wait bool) ([]byte, error) {
	return b.body.next(b.in, limit, wait)
}
func (b *bodyStream) ended() bool      { return b.kind == bodyLength && b.left == 0 }
func (b *bodyStream) trailer() []field { return b.body.trailer }

func (s *Server) newConn(a arrival, tls bool) *conn {
	c := &conn{s: s, net: a.Conn, client: a.client.Addr().WithZone("").String()}
	c.life.client, c.life.raw = a.Conn, rawConn(a.Conn)
	c.in.init(a.Conn, &s.buffers)
	c.in.unread(a.before)
	c.head = Head{Client: a.client, TLS: tls, Header: c.header}
	c.idle.Store(true)
	return c
}

func (c *conn) header(name string) string {
	if equalFold([]byte(name), "host") {
		return c.head.Host
	}
	return lookUp(c.work.req.fields, name)
}

// serve answers requests until the connection ends.
func (c *conn) serve() {
	defer c.in.release()
	wait := c.s.o.HeaderTimeout
	for first := true; !c.closes; first = false {
		head, err := c.readHead(wait)
		if err != nil {
			c.refuse(err)
			break
		}
		if first && c.s.o.H2C && string(head) == h2Preface && !c.head.TLS {
			c.serveHTTP2()
			return
		}
		c.work = c.s.takeWork()
		c.one(head)
		c.s.giveWork(c.work)
		c.work = nil
		c.closes = c.closes || c.ended()
		wait = c.s.o.IdleTimeout
	}
	if c.lingers {
		c.linger()
	}
}

// h2Preface is how a connection of HTTP/2 begins, up to what would end a head.
const h2Preface = "PRI * HTTP/2.0\r\n\r\n"

// serveHTTP2 hands the connection over, with what has been read of it.
func (c *conn) serveHTTP2() {
	nc := newWatched(arrival{Conn: c.net, client: c.head.Client, before: append([]byte(h2Preface), c.in.buffered()...)})
	c.in.release()
	c.s.h2.hand(nc)
	nc.wait()
}

// readHead waits for a request.
func (c *conn) readHead(wait time.Duration) ([]byte, error) {
	for range 2 {
		// An empty line before a request is skipped (RFC 9112, 2.2).
		if p := c.in.buffered(); len(p) > 1 && p[0] == '\r' && p[1] == '\n' {
			c.in.r += 2
		}
		if len(c.in.buffered()) == 0 {
			c.idle.Store(true)
			if c.s.lives.closing.Load() {
				return nil, io.EOF
			}
			c.rd.set(c.s.lives.after(wait))
			err := c.in.await()
			rung := c.rd.stop()
			c.idle.Store(false)
			if err != nil || rung {
				return nil, io.EOF
			}
		}
	}
	head, err := c.in.readHead(c.s.o.MaxHead, func() { c.rd.set(c.s.lives.after(c.s.o.HeaderTimeout)) })
	if c.rd.stop() {
		return nil, &syntaxError{status: 408, reason: "the head of the request took too long"}
	}
	if err == errFull {
		return nil, &syntaxError{status: 431, reason: "the head of the request is too long"}
	}
	return head, err
}

// refuse answers what was not understood; the connection ends then.
func (c *conn) refuse(err error) {
	var syntax *syntaxError
	if !errors.As(err, &syntax) || c.ended() {
		return
	}
	c.closes, c.lingers = true, true
	c.send(refusal(syntax).appendTo(nil, time.Now(), "Connection: close\r\n", false))
}

// one answers one request.
func (c *conn) one(head []byte) {
	w := c.work
	if err := w.req.parse(head, c.s.o.MaxFields); err != nil {
		c.refuse(err)
		return
	}
	whole := !w.req.chunked && w.req.length <= int64(len(c.in.buffered()))
	if !whole {
		// What is read next overwrites the buffer.
		if err := w.req.parse(bytes.Clone(head), c.s.o.MaxFields); err != nil {
			c.refuse(err)
			return
		}
	}
	c.closes = !w.req.keepAlive()
	c.head.Size = len(head)
	setString(&c.head.Method, w.req.method)
	setString(&c.head.Target, w.req.target)
	setString(&c.head.Host, w.req.host)
	c.waits.Store(true)
	pass, answer := c.s.o.Handler.Enter(c, &c.head)
	c.waits.Store(false)
	if pass == nil {
		c.skipBody(whole)
		if answer != nil && !c.ended() {
			c.answer(answer)
		} else {
			c.closes = true
		}
		return
	}
	c.pass(pass, whole)
}

// pass lets the request through.
func (c *conn) pass(pass *Pass, whole bool) {
	w := c.work
	w.request = w.req.appendTo(w.request[:0], c.client, c.head.TLS)
	w.out = w.out[:0]
	w.x = exchange{s: c.s, life: &c.life, head: &c.head, front: c, pass: pass, method: c.head.Method, request: w.request,
		upgrade: w.req.upgrade != nil, res: response{fields: w.x.res.fields[:0]}}
	if whole {
		if w.req.length > 0 {
			n := int(w.req.length)
			w.request = append(w.request, c.in.buffered()[:n]...)
			c.in.r += n
			w.x.request, w.x.bodyLen = w.request, n
		}
	} else {
		w.rest = bodyStream{in: &c.in, body: body{kind: bodyLength, left: w.req.length, maxFields: c.s.o.MaxFields}}
		if w.req.chunked {
			w.rest.body.kind, w.rest.body.left = bodyChunked, 0
		}
		w.x.rest, w.x.chunked = &w.rest, w.req.chunked
	}
	done := pass.Done
	err := errFailed // where what follows panics
	defer func() {
		if done != nil {
			done(w.x.status, err)
		}
	}()
	err = w.x.run()
	switch {
	case err == nil:
	case w.x.cut: // an answer that is not whole must not look so
		c.closes = true
		c.reset()
	case w.x.status == 0:
		c.closes = true
	}
}

var errFailed = errors.New("the gateway failed")

// skipBody drops a small body of a request that goes nowhere; a client that sends more has to connect again.
func (c *conn) skipBody(whole bool) {
	switch {
	case whole && c.work.req.length > 0:
		c.in.r += int(c.work.req.length)
	case !whole:
		c.closes, c.lingers = true, true
	}
}

func (c *conn) connection() string {
	switch {
	case c.closes:
		return "Connection: close\r\n"
	case c.work.req.minor == 0:
		return "Connection: keep-alive\r\n"
	}
	return ""
}

// send writes to the client.
func (c *conn) send(p []byte) error {
	c.wr.set(c.s.lives.after(c.s.o.StallTimeout))
	_, err := c.net.Write(p)
	if c.wr.stop() {
		return ErrSlow
	}
	if err != nil {
		return ErrClientGone
	}
	return nil
}

// reset ends the connection so that the client sees that something is missing.
func (c *conn) reset() {
	c.lingers = false
	if tcp, ok := socket(c.net).(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
		_ = tcp.Close() // TLS, too, could say that this is the end
	}
}

// linger closes one side and reads what still comes, for a moment: closing with
// something unread would reset the connection, and the answer could be lost.
func (c *conn) linger() {
	if half, ok := c.net.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		return
	}
	_ = c.net.SetReadDeadline(time.Time{})
	c.rd.set(c.s.lives.after(lingerTime))
	for range lingerReads {
		c.in.r = c.in.w
		if c.in.fill(bufferSize) != nil {
			return
		}
	}
}

const (
	lingerTime  = 2 * time.Second
	lingerReads = 32
)

// setString changes a string only where it differs, which saves most requests an allocation.
func setString(s *string, p []byte) {
	if *s != string(p) {
		*s = string(p)
	}
}
