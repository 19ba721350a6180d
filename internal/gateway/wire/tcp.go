package wire

import (
	"fmt"
	"net"
)

// ServeTCP passes the connections of a listener on as they are, until Shutdown: the
// Handler is asked with the port alone. It returns http.ErrServerClosed then. An
// Answer, and Failed, have no place here: such a connection is closed.
func (s *Server) ServeTCP(l net.Listener, port int) error {
	return s.accept(l, func(a arrival) {
		life := &life{client: a.Conn, raw: rawConn(a.Conn)}
		if !s.lives.add(life) {
			return
		}
		defer s.lives.remove(life)
		life.waits.Store(true)
		pass, _ := s.o.Handler.Enter(life, &Head{Client: a.client, Port: port})
		if pass == nil {
			return
		}
		err := errFailed // where what follows panics
		if done := pass.Done; done != nil {
			defer func() { done(0, err) }()
		}
		err = s.passTCP(a, life, pass)
	}, closeUnanswered)
}

func (s *Server) passTCP(a arrival, life *life, p *Pass) error {
	life.watch(p.Break)
	k, err := s.dial(life, p)
	if err != nil {
		return fmt.Errorf("connecting to the instance: %w", err)
	}
	defer k.conn.Close()
	life.waits.Store(false)
	if err := life.attach(k); err != nil {
		return err
	}
	if p.ProxyHeader != 0 {
		header, err := proxyHeader(p.ProxyHeader, a.client, a.LocalAddr())
		if err == nil {
			_, err = s.send(k, header)
		}
		if err != nil {
			life.detach()
			return fmt.Errorf("sending the PROXY header: %w", err)
		}
	}
	var client stream
	client.init(a.Conn, &s.buffers)
	client.unread(a.before)
	err = s.tunnel(life, &client, k, p)
	client.release()
	k.release()
	if cause := life.detach(); cause != nil && err != nil {
		err = cause
	}
	return err
}
