package wire

import (
	"io"
	"sync/atomic"
	"time"
)

// upload sends the rest of a request's body while the answer is waited for.
type upload struct {
	done     chan struct{}
	complete bool // to be read after done
	// answered: the head of an answer is there, or will not come.
	answered atomic.Bool
	// stopped: the answer has ended, and the rest is not wanted.
	stopped atomic.Bool
	// taken: the client has sent all of it.
	taken atomic.Bool
}

// lastWords is what an upload has left, once the answer has ended, to send what
// the client has sent. An answer often overtakes the news that all has been sent.
const lastWords = 100 * time.Millisecond

func (x *exchange) startUpload(k *kept) {
	x.up = &upload{done: make(chan struct{})}
	go x.upload(k, x.up)
}

func (x *exchange) upload(k *kept, up *upload) {
	defer close(up.done)
	client, err := x.copyBody(k, up)
	switch {
	case up.stopped.Load():
	case client && err != nil:
		// Nobody must take what has arrived for the whole.
		x.life.end(err)
	case err == ErrSlow:
		k.rd.set(1) // now
	default:
		// What an instance does not take does not keep it from answering.
		up.complete = err == nil
		x.life.waits.Store(true)
		k.rd.set(x.s.lives.after(x.s.o.AnswerTimeout))
	}
	if up.answered.Load() {
		k.rd.stop()
	}
}

// answered stops the wait for an answer, and reports whether it was too long.
func (x *exchange) answered(k *kept) (late bool) {
	if x.up != nil {
		x.up.answered.Store(true)
	}
	return k.rd.stop()
}

// copyBody sends the rest of a body. client: the error is the client's.
func (x *exchange) copyBody(k *kept, up *upload) (client bool, err error) {
	var frame chunker
	if x.chunked {
		frame = chunker{gathered: x.s.buffers.get(), framed: x.s.buffers.get()}
		defer func() { x.s.buffers.put(frame.gathered); x.s.buffers.put(frame.framed) }()
	}
	for {
		x.life.rd.set(x.s.lives.after(x.s.o.IdleTimeout))
		p, err := x.rest.next(maxPiece, true)
		if x.life.rd.stop() {
			return true, ErrSlow
		}
		switch {
		case err == io.EOF && x.chunked:
			up.taken.Store(true)
			_, err = x.s.send(k, appendEnd(frame.framed[:0], x.rest.trailer()))
			return false, err
		case err == io.EOF:
			return false, nil
		case err != nil:
			return true, clientError(err)
		}
		if x.rest.ended() {
			up.taken.Store(true)
		}
		n := len(p)
		if x.chunked {
			p, n = frame.next(p, x.rest)
		}
		if _, err := x.s.send(k, p); err != nil {
			return false, err
		}
		x.pass.moved(x.s, n, 0)
	}
}

// maxPiece is what is read of a body at once: a buffer, with room for the frame of a chunk.
const maxPiece = bufferSize - 64

// chunker makes one chunk of a piece and what has arrived behind it: a body in
// chunks of a byte must not cost a write for each.
type chunker struct{ gathered, framed []byte }

// next returns a chunk, and how many bytes of the body are in it.
func (c *chunker) next(first []byte, rest source) (chunk []byte, n int) {
	n = copy(c.gathered, first)
	for n < maxPiece {
		p, err := rest.next(maxPiece-n, false)
		if err != nil {
			break // comes again
		}
		n += copy(c.gathered[n:], p)
	}
	return appendChunk(c.framed[:0], c.gathered[:n]), n
}

// clientError tells a malformed body from a client that left in its middle.
func clientError(err error) error {
	if _, ok := err.(*syntaxError); ok {
		return err
	}
	return ErrClientGone
}

// stopUpload ends an upload that the answer has overtaken. complete: the instance
// has got all of the request.
func (x *exchange) stopUpload(k *kept) (complete bool) {
	if x.up == nil {
		return true
	}
	switch {
	case x.up.over():
	case x.up.taken.Load():
		last := time.AfterFunc(lastWords, func() { _ = k.conn.SetWriteDeadline(past) })
		<-x.up.done
		last.Stop()
	default:
		x.up.stopped.Store(true)
		_ = k.conn.Close()
		x.front.unread()
		<-x.up.done
	}
	complete, x.taken = x.up.complete, x.up.taken.Load()
	if !x.taken {
		x.front.unread()
	}
	x.up = nil
	return complete
}

func (u *upload) over() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}
