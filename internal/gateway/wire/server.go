package wire

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Server moves HTTP/1.1 between clients and the instances that its Handler
// names. Its methods may be called concurrently. One that has served must be closed, by Shutdown.
type Server struct {
	o       Options
	lives   lives
	store   store
	buffers buffers
	work    sync.Pool
	h2      *h2front

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     int
	clients   map[netip.Addr]int
}

// New returns a server; it does nothing until it serves.
func New(o Options) *Server {
	o.fill()
	s := &Server{o: o, store: store{keys: make(map[string][]*kept)}, listeners: make(map[net.Listener]struct{}),
		clients: make(map[netip.Addr]int)}
	s.h2 = newH2(s)
	s.lives.tick = o.tick()
	s.lives.stop = make(chan struct{})
	s.lives.now.Store(time.Now().UnixNano())
	return s
}

// workSize is the least of a work's buffers: most heads and answers fit.
const workSize = 4 << 10

func (s *Server) takeWork() *work {
	if w, ok := s.work.Get().(*work); ok {
		return w
	}
	return &work{request: make([]byte, 0, workSize), out: make([]byte, 0, workSize), req: request{fields: make([]field, 0, 32)}}
}

func (s *Server) giveWork(w *work) {
	if cap(w.request) > bufferSize || cap(w.out) > 2*bufferSize {
		return
	}
	w.x, w.rest = exchange{res: response{fields: w.x.res.fields[:0]}}, bodyStream{}
	s.work.Put(w)
}

// Serve answers the connections of a listener until Shutdown, and then returns
// http.ErrServerClosed. The listener is closed in any case.
func (s *Server) Serve(l net.Listener) error {
	return s.accept(l, func(a arrival) { s.serveHTTP1(a, false) }, answerRefused)
}

func (s *Server) serveHTTP1(a arrival, tls bool) {
	c := s.newConn(a, tls)
	if s.lives.add(&c.life) {
		defer s.lives.remove(&c.life)
		c.serve()
	}
}

// accept calls serve for each connection, in a goroutine of its own, and refuse for those too many.
func (s *Server) accept(l net.Listener, serve func(arrival), refuse func(net.Conn, *Answer)) error {
	defer l.Close()
	if !s.listen(l) {
		return http.ErrServerClosed
	}
	defer s.unlisten(l)
	s.lives.start(s.tidy)
	var pause time.Duration
	for {
		nc, err := l.Accept()
		if err != nil {
			var temporary interface{ Temporary() bool }
			switch {
			case s.lives.closing.Load():
				return http.ErrServerClosed
			case errors.As(err, &temporary) && temporary.Temporary():
				// Out of descriptors, most likely: some are given back soon.
				pause = min(max(2*pause, 5*time.Millisecond), time.Second)
				time.Sleep(pause)
				continue
			}
			return err
		}
		pause = 0
		go s.serveConn(nc, serve, refuse)
	}
}

func (s *Server) serveConn(nc net.Conn, serve func(arrival), refuse func(net.Conn, *Answer)) {
	defer nc.Close()
	defer func() {
		if v := recover(); v != nil {
			if s.o.Panicked == nil {
				panic(v)
			}
			s.o.Panicked(v)
		}
	}()
	a, err := s.arrive(nc)
	if err != nil {
		return
	}
	if refused := s.enter(a.client.Addr()); refused != nil {
		refuse(nc, refused)
		return
	}
	defer s.leave(a.client.Addr())
	serve(a)
}

// answerRefused tells a client of HTTP why it is not served.
func answerRefused(nc net.Conn, a *Answer) {
	_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = nc.Write(a.appendTo(nil, time.Now(), "Connection: close\r\n", false))
}

// closeUnanswered is answerRefused for clients that would not understand.
func closeUnanswered(net.Conn, *Answer) {}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// source is what counts as one client: an address, or a network of IPv6 as one customer has it.
func sourceOf(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// enter counts a connection; it returns what is answered to one too many.
func (s *Server) enter(a netip.Addr) *Answer {
	a = sourceOf(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	var e *syntaxError
	switch {
	case s.conns >= s.o.MaxConns:
		e = &syntaxError{status: 503, reason: "too many connections"}
	case s.clients[a] >= s.o.MaxConnsPerClient:
		e = &syntaxError{status: 429, reason: "too many connections from one address"}
	default:
		s.conns++
		s.clients[a]++
		return nil
	}
	answer := refusal(e)
	answer.Header.Set("Retry-After", "5")
	return answer
}

func (s *Server) leave(a netip.Addr) {
	a = sourceOf(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
	if s.clients[a]--; s.clients[a] == 0 {
		delete(s.clients, a)
	}
}

func (s *Server) listen(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lives.closing.Load() {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) unlisten(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// Shutdown closes the listeners and what is idle, and waits until all exchanges
// have ended. Once ctx ends it breaks off what is left, and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	empty := s.lives.close()
	s.mu.Lock()
	for l := range s.listeners {
		_ = l.Close()
	}
	s.mu.Unlock()
	s.h2.shutdown(ctx)
	var err error
	select {
	case <-empty:
	case <-ctx.Done():
		err = ctx.Err()
		s.lives.endAll(errClosed)
		<-empty
	}
	s.lives.end()
	s.store.drop("", maxTime)
	return err
}
