package wire

import (
	"context"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"
)

// Head is the beginning of a request, as a Handler sees it. It is valid during
// the call of Enter only.
type Head struct {
	// Method, Target (path and query as they came) and Host; Host is empty for plain TCP.
	Method, Target, Host string
	// Client is who asks: the peer, or whom a trusted PROXY protocol header names.
	Client netip.AddrPort
	// TLS: the client speaks TLS to us.
	TLS bool
	// Size is what the head takes, in bytes; 0 for plain TCP.
	Size int
	// Port is the gateway's port of plain TCP; 0 for HTTP.
	Port int
	// Header returns the first value of a field, "" where there is none; nil for plain TCP.
	Header func(name string) string
}

// Handler decides about requests and connections. Its methods are called concurrently.
type Handler interface {
	// Enter says where a request goes, or (with a nil Pass) what is answered
	// instead. It may wait, for as long as ctx lives, which ends with the client's connection.
	Enter(ctx context.Context, h *Head) (*Pass, *Answer)
	// Failed says what a client is answered whose instance did not answer. It is
	// called only where nothing of an answer has been sent.
	Failed(ctx context.Context, h *Head, p *Pass, err error) *Answer
}

// Pass lets one request, or one connection of plain TCP, through.
type Pass struct {
	// Key names the instance in one run of it: connections that were kept are used
	// again only under the same key. Address is host:port as the dialler takes it.
	Key, Address string
	// ProxyHeader is the version (1 or 2) of the PROXY protocol's header that an
	// instance of plain TCP is sent first, so that it knows the client; 0 for none.
	ProxyHeader byte
	// Meter counts; it is shared by all passes of an installation.
	Meter *Meter
	// Break is closed when what is still open of it must end.
	Break <-chan struct{}
	// Answered may be nil; it is called once, when the instance has begun to answer:
	// with the head of its final answer, before any of it is sent on.
	Answered func()
	// Done is called once, when the exchange has ended; Status is 0 where the
	// client was gone before an answer, or for plain TCP.
	Done func(status int, err error)
}

// Meter counts what moves. Its fields are written with atomic operations.
type Meter struct {
	In, Out atomic.Int64
	// LastNano is when the last byte moved, as Unix time in nanoseconds.
	LastNano atomic.Int64
}

// Moved adds bytes that came from a client and went to it.
func (m *Meter) Moved(in, out int64, at time.Time) {
	if in > 0 {
		m.In.Add(in)
	}
	if out > 0 {
		m.Out.Add(out)
	}
	m.LastNano.Store(at.UnixNano())
}

// Answer is an answer of the gateway's own.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}
