package wire

import (
	"strconv"
	"time"
)

// What a front does, on a connection of HTTP/1.1.

func (c *conn) inform(r *response) error {
	if c.work.req.minor == 0 {
		return nil
	}
	c.work.out = append(r.appendLine(c.work.out), "\r\n"...)
	return c.flush()
}

func (c *conn) begin(r *response, kind bodyKind) error {
	c.chunks = false
	c.closes = c.closes || c.s.lives.closing.Load()
	if c.work.req.expect && c.work.x.up != nil && !c.work.x.up.taken.Load() {
		// It need not send the body now, so that nobody knows what comes next.
		c.closes = true
	}
	if kind == bodyChunked || kind == bodyToEnd {
		c.chunks = c.work.req.minor == 1
		c.closes = c.closes || !c.chunks
	}
	p := r.appendLine(c.work.out)
	switch {
	case c.chunks:
		p = append(p, "Transfer-Encoding: chunked\r\n"...)
		for i := range r.fields {
			if f := &r.fields[i]; f.kind == kindTrailer {
				p = appendField(p, f.name, f.value)
			}
		}
	case r.length >= 0 && r.status != 204 && (kind == bodyLength || kind == bodyNone):
		p = append(p, "Content-Length: "...)
		p = strconv.AppendInt(p, r.length, 10)
		p = append(p, "\r\n"...)
	}
	p = append(p, c.connection()...)
	c.work.out = append(p, "\r\n"...)
	c.work.x.cut = true
	return nil
}

func (c *conn) write(p []byte) error {
	if n := len(c.work.out); n > 0 && n+len(p) > bufferSize {
		if err := c.flush(); err != nil {
			return err
		}
	}
	switch {
	case c.chunks:
		c.work.out = appendChunk(c.work.out, p)
	case len(c.work.out) == 0 && len(p) >= bufferSize/4:
		return c.send(p)
	default:
		c.work.out = append(c.work.out, p...)
	}
	return nil
}

func (c *conn) flush() error {
	if len(c.work.out) == 0 {
		return nil
	}
	err := c.send(c.work.out)
	c.work.out = c.work.out[:0]
	return err
}

func (c *conn) end(trailer []field) error {
	if c.chunks {
		c.work.out = appendEnd(c.work.out, trailer)
	}
	if err := c.flush(); err != nil {
		return err
	}
	c.work.x.cut = false
	return nil
}

func (c *conn) answer(a *Answer) {
	c.closes = c.closes || c.s.lives.closing.Load() || c.ended()
	c.work.out = a.appendTo(c.work.out[:0], time.Now(), c.connection(), c.head.Method == "HEAD")
	if c.flush() != nil {
		c.closes = true
	}
}

func (c *conn) unread() {
	c.closes, c.lingers = true, true
	_ = c.net.SetReadDeadline(past)
}
