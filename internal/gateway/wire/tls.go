package wire

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// ServeTLS is Serve for clients that speak TLS, with HTTP/2 for those that ask for it.
// The configuration says which certificates are shown; it is not changed.
func (s *Server) ServeTLS(l net.Listener, config *tls.Config) error {
	config = config.Clone()
	// Others stay behind: the challenge of ACME, which ends with the handshake.
	config.NextProtos = append([]string{"h2", "http/1.1"}, slices.DeleteFunc(slices.Clone(config.NextProtos), func(p string) bool {
		return p == "h2" || p == "http/1.1"
	})...)
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	return s.accept(l, func(a arrival) {
		watched := newWatched(a)
		conn := tls.Server(watched, config)
		ctx, cancel := context.WithTimeout(context.Background(), s.o.HandshakeTimeout)
		err := conn.HandshakeContext(ctx)
		cancel()
		if err != nil {
			return
		}
		switch conn.ConnectionState().NegotiatedProtocol {
		case "h2":
			s.h2.hand(conn)
			watched.wait()
		case "http/1.1", "":
			s.serveHTTP1(arrival{Conn: conn, client: a.client}, true)
			_ = conn.Close()
		}
	}, closeUnanswered)
}

// watchedConn tells when it is closed, and who its client is.
type watchedConn struct {
	arrival
	once   sync.Once
	closed chan struct{}
}

func newWatched(a arrival) *watchedConn { return &watchedConn{arrival: a, closed: make(chan struct{})} }

func (c *watchedConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.client) }

func (c *watchedConn) NetConn() net.Conn { return c.Conn }

func (c *watchedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return net.ErrClosed
}

func (c *watchedConn) Read(p []byte) (int, error) {
	if len(c.before) > 0 {
		n := copy(p, c.before)
		c.before = c.before[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *watchedConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *watchedConn) wait() { <-c.closed }

// h2front hands connections that speak HTTP/2 to net/http.
type h2front struct {
	server *http.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	begin  sync.Once
}

func newH2(s *Server) *h2front {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &h2front{conns: make(chan net.Conn), closed: make(chan struct{}), server: &http.Server{
		Handler:        http.HandlerFunc(s.serveStream),
		Protocols:      protocols,
		IdleTimeout:    s.o.IdleTimeout,
		MaxHeaderBytes: s.o.MaxHead,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 128, SendPingTimeout: 30 * time.Second,
			PingTimeout: 15 * time.Second, WriteByteTimeout: s.o.StallTimeout},
		// What a client does wrong is nothing to log; what a Handler does goes to Panicked.
		ErrorLog: log.New(io.Discard, "", 0),
	}}
}

// hand gives net/http a connection, which it closes in the end.
func (f *h2front) hand(nc net.Conn) {
	f.begin.Do(func() { go func() { _ = f.server.Serve(f) }() }) // ends with Shutdown
	select {
	case f.conns <- nc:
	case <-f.closed:
		_ = nc.Close()
	}
}

// Accept, Close and Addr make it the listener of its server.
func (f *h2front) Accept() (net.Conn, error) {
	select {
	case nc := <-f.conns:
		return nc, nil
	case <-f.closed:
		return nil, net.ErrClosed
	}
}

func (f *h2front) Close() error {
	f.once.Do(func() { close(f.closed) })
	return nil
}

func (f *h2front) Addr() net.Addr { return &net.TCPAddr{} }

// shutdown lets what is under way end, until ctx ends.
func (f *h2front) shutdown(ctx context.Context) {
	_ = f.Close()
	if f.server.Shutdown(ctx) != nil {
		_ = f.server.Close()
	}
}
