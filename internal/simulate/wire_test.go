package simulate

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// wire is one connection of the store to Postgres, seen message by message
// (PostgreSQL documentation, "Message Formats"). A request is answered whole
// before the Write that completes it returns.
type wire struct {
	net.Conn
	lane       *lane
	fromServer *bufio.Reader
	// request gathers what was written, answer what is to be read.
	request, answer []byte
	started         bool
	// status is the transaction's: I is none, T within, E failed.
	status byte
	// told is the time that the session was given last.
	told int64
	pid  atomic.Uint32
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

func newWire(l *lane, server net.Conn) *wire {
	return &wire{Conn: server, lane: l, fromServer: bufio.NewReaderSize(server, 16<<10), verdict: make(chan verdict, 1)}
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

// startUp passes the start of a session through.
func (w *wire) startUp() {
	if len(w.request) < 4 || len(w.request) < int(binary.BigEndian.Uint32(w.request)) {
		return
	}
	w.started = true
	if w.lane.down.Load() {
		w.broken.Store(true)
		w.answer = fatal("57P03", "the database system is starting up")
	} else {
		w.forward(w.request, true)
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
		case 'S', 'X':
			return statement, true
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
	w.forward(w.withTime(), v == pass)
	if v == cutAfter {
		w.breakOff()
	}
}

// withTime tells the session the time before a request outside of a transaction,
// in one write with it; it returns what is still to be sent.
func (w *wire) withTime() []byte {
	now := w.lane.now.Load()
	if w.status != 'I' || now == w.told {
		return w.request
	}
	w.told = now
	text := "SET " + timeSetting + " = '" + time.UnixMicro(now).UTC().Format("2006-01-02 15:04:05.000000Z") + "'\x00"
	if _, err := w.Conn.Write(append(message('Q', []byte(text)), w.request...)); err != nil {
		w.broken.Store(true)
	}
	w.receive(false)
	return nil
}

// forward sends a request and receives the answer to it.
func (w *wire) forward(request []byte, keep bool) {
	if len(request) > 0 {
		if _, err := w.Conn.Write(request); err != nil {
			w.broken.Store(true)
			return
		}
	}
	w.receive(keep)
	if w.broken.Load() && keep { // meanwhile
		w.answer = w.answer[:0]
		w.breakOff()
	}
}

// receive reads the server's messages until it is ready for the next request.
func (w *wire) receive(keep bool) {
	if keep {
		w.answer = w.answer[:0]
	}
	for {
		head, err := w.fromServer.Peek(5)
		if err != nil {
			w.broken.Store(true)
			return
		}
		kind := head[0]
		whole := make([]byte, 1+int(binary.BigEndian.Uint32(head[1:])))
		if _, err := io.ReadFull(w.fromServer, whole); err != nil {
			w.broken.Store(true)
			return
		}
		if keep {
			w.answer = append(w.answer, whole...)
		}
		switch kind {
		case 'K':
			w.pid.Store(binary.BigEndian.Uint32(whole[5:]))
		case 'Z':
			w.status = whole[5]
			return
		}
	}
}

// breakOff breaks the connection. A transaction is rolled back first, so that its locks
// are gone when the client learns of it.
func (w *wire) breakOff() {
	w.broken.Store(true)
	if w.status == 'T' || w.status == 'E' {
		if _, err := w.Conn.Write(message('Q', []byte("ROLLBACK\x00"))); err == nil {
			w.receive(false)
		}
	}
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.lane.forget(w)
	return w.Conn.Close()
}

func message(kind byte, body []byte) []byte {
	m := append([]byte{kind}, binary.BigEndian.AppendUint32(nil, uint32(len(body)+4))...)
	return append(m, body...)
}

// fatal is an error that ends a session.
func fatal(code, text string) []byte {
	return message('E', fmt.Appendf(nil, "SFATAL\x00VFATAL\x00C%s\x00M%s\x00\x00", code, text))
}
