package wire

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// Options of a Server. What is zero takes the value named beside it.
type Options struct {
	Handler Handler
	// Dial connects to an instance, at the address of a Pass.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// H2C: without TLS, too, HTTP/2 is spoken with clients that begin with its preface (RFC 9113, 3.3).
	H2C bool
	// ProxyFrom lists peers that say with the PROXY protocol (version 1 or 2) who the
	// client is. They must; what others send of the kind is not looked at.
	ProxyFrom []netip.Prefix
	// Panicked is told what a call of the Handler panicked with, which costs the client its
	// connection; without it, the process ends.
	Panicked func(value any)

	// DialTimeout bounds a connection's setup: 5 s.
	DialTimeout time.Duration
	// AnswerTimeout bounds the wait for the head of an answer, from when the
	// whole request has been sent: 60 s. Bodies may take as long as they take.
	AnswerTimeout time.Duration
	// HeaderTimeout bounds the arrival of a request's head: 10 s.
	HeaderTimeout time.Duration
	// HandshakeTimeout bounds that of TLS, in which a certificate may have to be got first: 30 s.
	HandshakeTimeout time.Duration
	// IdleTimeout bounds the time between two requests, between two pieces of a
	// request's body, and the silence of one half of a tunnel once the other has ended: 2 min.
	IdleTimeout time.Duration
	// StallTimeout bounds a write that makes no progress, to either side: 1 min.
	StallTimeout time.Duration

	// MaxHead bounds the head of a request or an answer, in bytes: 64 KiB.
	MaxHead int
	// MaxFields bounds its fields, and those of a trailer: 128.
	MaxFields int
	// MaxConns bounds clients' connections in all: 20,000; one more is answered 503 and closed.
	MaxConns int
	// MaxConnsPerClient bounds those of one address (of one /64 with IPv6): 1,000;
	// one more is answered 429 and closed.
	MaxConnsPerClient int

	// MaxKept bounds kept connections to instances in all: 4,096; MaxKeptPerKey
	// those under one key: 128. They are closed after KeepFor without use: 30 s.
	MaxKept, MaxKeptPerKey int
	KeepFor                time.Duration
}

func orElse[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}

func (o *Options) fill() {
	orElse(&o.DialTimeout, 5*time.Second)
	orElse(&o.AnswerTimeout, time.Minute)
	orElse(&o.HeaderTimeout, 10*time.Second)
	orElse(&o.HandshakeTimeout, 30*time.Second)
	orElse(&o.IdleTimeout, 2*time.Minute)
	orElse(&o.StallTimeout, time.Minute)
	orElse(&o.MaxHead, 64<<10)
	orElse(&o.MaxFields, 128)
	orElse(&o.MaxConns, 20000)
	orElse(&o.MaxConnsPerClient, 1000)
	orElse(&o.MaxKept, 4096)
	orElse(&o.MaxKeptPerKey, 128)
	orElse(&o.KeepFor, 30*time.Second)
}

// tick is how often time is looked at: often enough for the shortest limit.
func (o *Options) tick() time.Duration {
	shortest := min(o.AnswerTimeout, o.HeaderTimeout, o.IdleTimeout, o.StallTimeout, o.KeepFor)
	return min(max(shortest/4, 5*time.Millisecond), 200*time.Millisecond)
}
