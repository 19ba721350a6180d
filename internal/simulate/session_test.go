package simulate

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// session is one with Postgres. It outlives the connection that it serves: a new
// one costs Postgres a process and the planning of every statement anew, which
// is half of the work of a seed in which connections break all the time.
type session struct {
	net.Conn
	from *bufio.Reader
	// hello is the server's answer to the start-up.
	hello []byte
	// status is the transaction's: I is none, T within, E failed.
	status byte
	// told is the time that it was given last.
	told int64
	pid  uint32
	// prepared are the names of the statements that it has, by what was asked to be prepared.
	prepared map[string]string
	names    int
	// lost: it can't be used any more.
	lost bool
}

func newSession(server net.Conn) *session {
	return &session{Conn: server, from: bufio.NewReaderSize(server, 16<<10), prepared: map[string]string{}}
}

// send sends what is a whole request, and returns its answer in a buffer that is the caller's.
func (s *session) send(request, answer []byte) []byte {
	if _, err := s.Write(request); err != nil {
		s.lost = true
		return answer
	}
	return s.receive(answer)
}

// receive adds the server's messages to answer until it is ready for the next request.
func (s *session) receive(answer []byte) []byte {
	for {
		head, err := s.from.Peek(5)
		if err != nil {
			s.lost = true
			return answer
		}
		kind, at, size := head[0], len(answer), 1+int(binary.BigEndian.Uint32(head[1:]))
		answer = append(answer, make([]byte, size)...)
		whole := answer[at:]
		if _, err := io.ReadFull(s.from, whole); err != nil {
			s.lost = true
			return answer
		}
		switch kind {
		case 'K':
			s.pid = binary.BigEndian.Uint32(whole[5:])
		case 'Z':
			s.status = whole[5]
			return answer
		}
	}
}

// rollBack ends a transaction, so that its locks are gone.
func (s *session) rollBack() {
	if s.status == 'T' || s.status == 'E' {
		s.send(message('Q', []byte("ROLLBACK\x00")), nil)
	}
}

// withTime puts the time before a request that comes outside of a transaction,
// and tells how many answers of the server are to be left out.
func (s *session) withTime(request []byte, now int64) (with []byte, extra int) {
	if s.status != 'I' || now == s.told {
		return request, 0
	}
	s.told = now
	text := "SET " + timeSetting + " = '" + time.UnixMicro(now).UTC().Format("2006-01-02 15:04:05.000000Z") + "'\x00"
	return append(message('Q', []byte(text)), request...), 1
}

// statements are the names that a connection has given to statements of its session.
type statements map[string]string

// rename puts the session's names of statements in the place of the connection's.
// A statement that the session has is not prepared again, and none is forgotten;
// before is what the server would have answered to that. fresh is what will
// be prepared if the answer says so.
func (n statements) rename(s *session, request []byte) (renamed, before []byte, fresh func()) {
	fresh = func() {}
	for at := 0; at+5 <= len(request); {
		end := at + 1 + int(binary.BigEndian.Uint32(request[at+1:]))
		kind, body := request[at], request[at+5:end]
		m := request[at:end]
		switch kind {
		case 'P':
			if name, rest := cutString(body); name != "" {
				text := string(rest)
				have, known := s.prepared[text]
				if known {
					m, before = nil, append(before, message('1', nil)...)
				} else {
					s.names++
					have = fmt.Sprintf("s%d", s.names)
					m = message('P', append([]byte(have+"\x00"), rest...))
					fresh = func() { s.prepared[text] = have }
				}
				n[name] = have
			}
		case 'B':
			portal, rest := cutString(body)
			if name, rest := cutString(rest); name != "" {
				m = message('B', append([]byte(portal+"\x00"+n[name]+"\x00"), rest...))
			}
		case 'D', 'C':
			if name, _ := cutString(body[1:]); body[0] == 'S' && name != "" {
				if m = message(kind, append([]byte{'S'}, n[name]+"\x00"...)); kind == 'C' {
					m, before = nil, append(before, message('3', nil)...)
				}
			}
		}
		renamed, at = append(renamed, m...), end
	}
	return renamed, before, fresh
}

// cutString cuts a text that ends with a zero.
func cutString(b []byte) (text string, rest []byte) {
	before, after, _ := bytes.Cut(b, []byte{0})
	return string(before), after
}

func message(kind byte, body []byte) []byte {
	m := append([]byte{kind}, binary.BigEndian.AppendUint32(nil, uint32(len(body)+4))...)
	return append(m, body...)
}

// fatal is an error that ends a session.
func fatal(code, text string) []byte {
	return message('E', fmt.Appendf(nil, "SFATAL\x00VFATAL\x00C%s\x00M%s\x00\x00", code, text))
}
