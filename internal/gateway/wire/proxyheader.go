package wire

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

// arrival is a client's connection as it was accepted.
type arrival struct {
	net.Conn
	client netip.AddrPort
	before []byte // what has been read of it already
}

// arrive finds out who the client is: the peer, or, with a peer that is trusted, whom its PROXY
// header names. Such a peer must send one: nobody can tell a header from a client's words.
func (s *Server) arrive(nc net.Conn) (arrival, error) {
	a := arrival{Conn: nc, client: addrPort(nc.RemoteAddr())}
	if !s.trusts(a.client.Addr()) {
		return a, nil
	}
	r := bufio.NewReader(nc)
	if err := nc.SetReadDeadline(time.Now().Add(s.o.HeaderTimeout)); err != nil {
		return a, err
	}
	header, err := proxyproto.Read(r)
	if err != nil {
		return a, err
	}
	if err := nc.SetReadDeadline(time.Time{}); err != nil {
		return a, err
	}
	a.before, err = r.Peek(r.Buffered())
	if err != nil || header.Command.IsLocal() { // the peer's own connection, a health check
		return a, err
	}
	source, _, ok := header.TCPAddrs()
	if !ok {
		return a, errors.New("the PROXY header names no client of TCP")
	}
	a.client = addrPort(source)
	return a, nil
}

func (s *Server) trusts(a netip.Addr) bool {
	for _, p := range s.o.ProxyFrom {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// proxyHeader is what an instance is told of a client, by the version of the protocol.
func proxyHeader(version byte, client netip.AddrPort, local net.Addr) ([]byte, error) {
	return proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(client), local).Format()
}
