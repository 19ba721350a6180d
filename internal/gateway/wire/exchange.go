package wire

import (
	"errors"
	"fmt"
	"io"
)

// front is the client's side of an exchange.
type front interface {
	// inform sends an answer of 1xx.
	inform(r *response) error
	// begin sends the head of an answer with a body of some kind; it may hold it back, as write may.
	begin(r *response, kind bodyKind) error
	write(p []byte) error
	// flush sends what was held back.
	flush() error
	// end ends the answer.
	end(trailer []field) error
	// answer sends one of the gateway's own.
	answer(a *Answer)
	// tunnel sends the head of a 101, and then moves bytes until both sides have ended.
	tunnel(r *response, k *kept, p *Pass) error
	// unread makes what waits for the rest of the request's body give up.
	unread()
}

// source is the rest of a request's body; see body.next.
type source interface {
	next(limit int, wait bool) ([]byte, error)
	// ended: what next has returned is the last, by its length.
	ended() bool
	trailer() []field
}

// exchange is one request on its way to an instance, and the answer to it.
type exchange struct {
	s      *Server
	life   *life
	head   *Head
	front  front
	pass   *Pass
	method string
	// request is the head as the instance gets it, with the body where that has arrived.
	request []byte
	bodyLen int // of the body in request
	// rest is what follows of the body; nil where nothing does. It is framed as chunks if chunked.
	rest    source
	chunked bool
	upgrade bool
	// status is that of the answer, once some of it may have been sent.
	status int
	res    response
	up     *upload
	taken  bool // all of rest has been read
	// cut: an answer has begun and not ended.
	cut bool
}

// run makes the exchange. The error is nil where the client has a whole answer of the instance.
func (x *exchange) run() error {
	x.life.waits.Store(x.rest == nil)
	x.life.watch(x.pass.Break)
	defer func() {
		x.life.waits.Store(false)
		x.life.watch(nil)
	}()
	for again := false; ; {
		k, err := x.s.connect(x.life, x.pass, again)
		if err == nil {
			again, err = x.over(k)
		} else {
			again = false
		}
		switch {
		case err == nil:
			return nil
		case again:
			continue
		}
		x.failed(err)
		return err
	}
}

// failed answers, where nothing has been answered and there is somebody to answer.
func (x *exchange) failed(err error) {
	if x.status != 0 {
		return
	}
	x.life.mu.Lock()
	cause := x.life.cause
	x.life.mu.Unlock()
	var syntax *syntaxError
	var a *Answer
	switch {
	case errors.As(cause, &syntax): // the client's
		a = refusal(syntax)
	case cause == nil || cause == ErrBroken:
		a = x.s.o.Handler.Failed(x.life, x.head, x.pass, err)
	}
	if x.rest != nil && !x.taken {
		x.front.unread()
	}
	if a != nil {
		x.status = a.Status
		x.life.revive()
		x.front.answer(a)
	}
}

// over uses one connection. again: nothing of the request can have been
// processed, so that it may be sent once more.
func (x *exchange) over(k *kept) (again bool, err error) {
	if err := x.life.attach(k); err != nil {
		_ = k.conn.Close()
		return false, err
	}
	reuse := false
	defer func() {
		reuse = x.stopUpload(k) && reuse
		cause := x.life.detach()
		switch {
		case err != nil && cause != nil:
			err, again = cause, false
		case reuse && cause == nil:
			x.s.keep(k)
			return
		}
		k.release()
		_ = k.conn.Close()
	}()
	n, err := x.s.send(k, x.request)
	if err != nil {
		return k.used && (n == 0 || x.replayable()) && err != ErrSlow, fmt.Errorf("sending the request: %w", err)
	}
	x.pass.moved(x.s, x.bodyLen, 0)
	if x.rest != nil {
		x.startUpload(k)
	} else {
		k.rd.set(x.s.lives.after(x.s.o.AnswerTimeout))
	}
	again, err = x.readHead(k)
	if err != nil {
		return again, fmt.Errorf("waiting for an answer: %w", err)
	}
	if x.res.status == 101 {
		if !x.upgrade {
			return false, errors.New("an answer of 101 to a request without Upgrade")
		}
		x.status = 101
		x.pass.answered()
		x.life.waits.Store(false)
		return false, x.front.tunnel(&x.res, k, x.pass)
	}
	x.status = x.res.status
	x.pass.answered()
	reuse, err = x.relay(k)
	return false, err
}

func (x *exchange) replayable() bool { return x.rest == nil && x.bodyLen == 0 && safe(x.method) }

// readHead reads the head of the final answer, and passes on those before it.
func (x *exchange) readHead(k *kept) (again bool, err error) {
	for informed := 0; ; informed++ {
		head, err := k.readHead(x.s.o.MaxHead, nil)
		if err != nil {
			if x.answered(k) {
				return false, ErrSlow
			}
			untouched := informed == 0 && len(k.buffered()) == 0
			return untouched && k.used && x.replayable(), err
		}
		if err := x.res.parse(head, x.s.o.MaxFields); err != nil {
			x.answered(k)
			return false, err
		}
		if x.res.status >= 200 || x.res.status == 101 {
			if x.answered(k) {
				return false, ErrSlow
			}
			return false, nil
		}
		if informed == 16 {
			return false, errors.New("too many answers of 1xx")
		}
		if err := x.front.inform(&x.res); err != nil {
			return false, err
		}
	}
}

// relay passes the answer on. reuse: its end is known, and the connection can carry another exchange.
func (x *exchange) relay(k *kept) (reuse bool, err error) {
	b := body{maxFields: x.s.o.MaxFields}
	switch {
	case x.res.bodyless(x.method):
	case x.res.chunked:
		b.kind = bodyChunked
	case x.res.length >= 0:
		b.kind, b.left = bodyLength, x.res.length
	default:
		b.kind = bodyToEnd
	}
	kind, closes := b.kind, x.res.close
	if err := x.front.begin(&x.res, kind); err != nil {
		return false, err
	}
	for {
		p, err := b.next(&k.stream, bufferSize, false)
		if err == errMore {
			if err := x.front.flush(); err != nil {
				return false, err
			}
			p, err = b.next(&k.stream, bufferSize, true)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return false, fmt.Errorf("reading the answer: %w", err)
		}
		if err := x.front.write(p); err != nil {
			return false, err
		}
		x.pass.moved(x.s, 0, len(p))
	}
	if err := x.front.end(b.trailer); err != nil {
		return false, err
	}
	return !closes && kind != bodyToEnd && len(k.buffered()) == 0, nil
}

// send writes to an instance.
func (s *Server) send(k *kept, p []byte) (int, error) {
	k.wr.set(s.lives.after(s.o.StallTimeout))
	n, err := k.conn.Write(p)
	if k.wr.stop() {
		return n, ErrSlow
	}
	return n, err
}

func (p *Pass) answered() {
	if p.Answered != nil {
		p.Answered()
	}
}

// moved counts bytes of bodies.
func (p *Pass) moved(s *Server, in, out int) {
	if p.Meter != nil && in+out > 0 {
		p.Meter.Moved(int64(in), int64(out), s.lives.time())
	}
}
