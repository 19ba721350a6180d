package store

import (
	"context"
	"net"
	"time"
)

// answerTimeout bounds the wait for each piece of an answer of the database.
// No statement of ours takes as long, waits for locks included.
const answerTimeout = 20 * time.Second

// dialer opens connections that end when the database falls silent: stopped,
// or its machine gone without a word. When a statement's context ends, lib/pq
// asks the server to cancel it and then waits for the server's word without a
// limit, so that a context alone bounds nothing here.
type dialer struct {
	net.Dialer
	// answer is answerTimeout, but in tests.
	answer time.Duration
	// dial takes the place of the net.Dialer; may be nil.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Dial implements pq.Dialer.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout implements pq.Dialer.
func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext implements pq.DialerContext.
func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	dial := d.dial
	if dial == nil {
		dial = d.Dialer.DialContext
	}
	conn, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return boundedConn{conn, d.answer}, nil
}

// boundedConn fails a read or a write that takes longer than limit. A
// connection at rest is not read from, and may rest for ever.
type boundedConn struct {
	net.Conn
	limit time.Duration
}

// Read implements net.Conn.
func (c boundedConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write implements net.Conn.
func (c boundedConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
