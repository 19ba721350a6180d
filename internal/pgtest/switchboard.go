package pgtest

import (
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Switchboard is the address of a database that may be moved to another server,
// as a name or a virtual address is in a failover. Sessions that are open stay.
type Switchboard struct {
	t        testing.TB
	listener net.Listener
	to       atomic.Pointer[string] // a socket's path

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// NewSwitchboard makes one that leads to the server of a URL of ours.
func NewSwitchboard(t testing.TB, at string) *Switchboard {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal("opening the switchboard:", err)
	}
	b := &Switchboard{t: t, listener: l, conns: map[net.Conn]bool{}}
	b.Point(at)
	t.Cleanup(func() { _ = l.Close(); b.Cut() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go b.serve(c)
		}
	}()
	return b
}

// Point has new sessions go to another server.
func (b *Switchboard) Point(at string) {
	socket := filepath.Join(b.parse(at).Query().Get("host"), ".s.PGSQL.5432")
	b.to.Store(&socket)
}

// Addr is where the switchboard listens.
func (b *Switchboard) Addr() net.Addr { return b.listener.Addr() }

// URL is the database's, by way of the switchboard.
func (b *Switchboard) URL(at string) string {
	u := b.parse(at)
	u.Host, u.RawQuery = b.listener.Addr().String(), "sslmode=disable"
	return u.String()
}

func (b *Switchboard) parse(at string) *url.URL {
	u, err := url.Parse(at)
	if err != nil {
		b.t.Fatal("reading a URL:", err)
	}
	return u
}

func (b *Switchboard) serve(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("unix", *b.to.Load())
	if err != nil {
		return
	}
	defer out.Close()
	b.mu.Lock()
	b.conns[in] = true
	b.mu.Unlock()
	go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
	_, _ = io.Copy(in, out)
}

// Cut ends all sessions.
func (b *Switchboard) Cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		_ = c.Close()
	}
	clear(b.conns)
}
