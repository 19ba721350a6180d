package wire

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// poll asks a socket for what has happened to it, without reading and without waiting.
type poll struct {
	fds  [1]unix.PollFd
	call func(fd uintptr) // once, bound once
	hit  bool
}

func (p *poll) once(fd uintptr) {
	p.fds[0].Fd = int32(fd)
	n, err := unix.Poll(p.fds[:], 0)
	for err == unix.EINTR {
		n, err = unix.Poll(p.fds[:], 0)
	}
	p.hit = err != nil || n > 0 // errors and hang-ups are always told
}

// ready reports whether one of some events has happened, or the connection is gone.
func (p *poll) ready(raw syscall.RawConn, events int16) bool {
	if p.call == nil {
		p.call = p.once
	}
	p.fds[0].Events, p.fds[0].Revents = events, 0
	return raw.Control(p.call) != nil || p.hit
}

// socket returns what is below TLS and the PROXY protocol.
func socket(conn net.Conn) net.Conn {
	for {
		switch c := conn.(type) {
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		case interface{ Raw() net.Conn }:
			conn = c.Raw()
		default:
			return conn
		}
	}
}

func rawConn(conn net.Conn) syscall.RawConn {
	c, ok := socket(conn).(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
