package simulate

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
)

// wire is one connection of the store to Postgres, seen message by message
// (PostgreSQL documentation, "Message Formats"). A request is answered whole
// before the Write that completes it returns.
type wire struct {
	net.Conn
	lane    *lane
	session *session
	names   statements
	// request gathers what was written, answer what is to be read.
	request, answer []byte
	started         bool
	// verdict says what becomes of the statement that is parked.
	verdict chan verdict
	// broken: the client reads nothing more.
	broken atomic.Bool
}

// verdict is what becomes of a parked statement.
type verdict int

const (
	pass verdict = iota
	// cutBefore: the connection breaks and the statement is not run.
	cutBefore
	// cutAfter: the statement is run and its answer is lost with the connection.
	cutAfter
)

const timeSetting = "dormouse.simulated_now"

func newWire(l *lane, s *session) *wire {
	return &wire{Conn: s, lane: l, session: s, names: statements{}, verdict: make(chan verdict, 1)}
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	w.request = append(w.request, p...)
	if !w.started {
		w.startUp()
		return len(p), nil
	}
	statement, complete := w.parse()
	if complete && !w.broken.Load() {
		w.handle(statement)
	}
	if complete {
		w.request = w.request[:0]
	}
	return len(p), nil
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.answer) == 0 {
		return 0, io.EOF // the connection is broken: there is nothing else that one could wait for
	}
	n := copy(p, w.answer)
	w.answer = w.answer[n:]
	return n, nil
}

// startUp answers the start of a connection. The first one starts its session.
func (w *wire) startUp() {
	if len(w.request) < 4 || len(w.request) < int(binary.BigEndian.Uint32(w.request)) {
		return
	}
	w.started = true
	switch s := w.session; {
	case w.lane.down.Load():
		w.broken.Store(true)
		w.answer = fatal("57P03", "the database system is starting up")
	case s.hello == nil:
		s.hello = s.send(w.request, nil)
		w.answer = bytes.Clone(s.hello)
	default:
		w.answer = bytes.Clone(s.hello)
	}
	w.request = w.request[:0]
}

// parse tells whether what was written so far is a request that waits for an
// answer. statement is empty where nothing is run by it (a preparation, BEGIN).
func (w *wire) parse() (statement string, complete bool) {
	for at := 0; at+5 <= len(w.request); {
		end := at + 1 + int(binary.BigEndian.Uint32(w.request[at+1:]))
		if end > len(w.request) {
			return "", false
		}
		switch w.request[at] {
		case 'B':
			statement = "statement"
		case 'Q':
			switch text := string(bytes.TrimRight(w.request[at+5:end], "\x00;")); text {
			case "COMMIT", "ROLLBACK":
				return text, true
			}
			return "", true // BEGIN
		case 'S':
			return statement, true
		case 'X': // the connection ends; the session does not
			w.broken.Store(true)
			return "", true
		}
		at = end
	}
	return "", false
}

// handle runs a request, when its turn comes.
func (w *wire) handle(statement string) {
	v := pass
	if statement != "" && w.lane.step.Load() {
		w.lane.events <- event{wire: w, statement: statement}
		v = <-w.verdict
	}
	if v == cutBefore {
		w.breakOff()
		return
	}
	w.forward()
	if v == cutAfter {
		w.breakOff()
	}
}

// forward sends a request and receives the answer to it.
func (w *wire) forward() {
	s := w.session
	request, before, fresh := w.names.rename(s, w.request)
	request, extra := s.withTime(request, w.lane.now.Load())
	if extra > 0 {
		s.send(request, nil)
		w.answer = s.receive(append(w.answer[:0], before...))
	} else {
		w.answer = s.send(request, append(w.answer[:0], before...))
	}
	if len(w.answer) > len(before) && w.answer[len(before)] == '1' {
		fresh()
	}
	switch {
	case s.lost:
		w.broken.Store(true)
	case w.broken.Load(): // meanwhile; what was under way was cancelled, and that may come late
		w.breakOff()
		s.lost = true
	}
}

// breakOff breaks the connection. A transaction is rolled back first, so that its locks
// are gone when the client learns of it.
func (w *wire) breakOff() {
	w.broken.Store(true)
	w.answer = nil
	w.session.rollBack()
}

// Close implements net.Conn.
func (w *wire) Close() error { return w.lane.forget(w) }
