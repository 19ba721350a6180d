package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"dormouse/internal/gateway/wire"
)

// endTime is how long what is in flight may take to end when the gateway does.
const endTime = 5 * time.Second

// Listener is where the gateway takes HTTP.
type Listener struct {
	net.Listener
	// TLS says which certificates are shown; nil is plain HTTP.
	TLS *tls.Config
}

// Serve serves HTTP on listeners, and plain TCP on the ports that routes ask
// for, until ctx ends or a listener fails. What is in flight then has 5 s to
// end. It keeps the book and reports activity meanwhile. It closes the
// listeners, leaves nothing running, and can be called once.
func (g *Gateway) Serve(ctx context.Context, listeners ...Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	engine := g.o.Engine
	engine.Handler, engine.Dial, engine.Panicked = g, g.o.Dial, g.panicked
	server := wire.New(engine)
	g.server.Store(server)
	failed := make(chan error, len(listeners))
	var serving sync.WaitGroup
	for _, l := range listeners {
		serving.Go(func() {
			if err := serveHTTP(server, l); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
				cancel()
			}
		})
	}
	serving.Go(func() {
		g.ports.keepOpen(ctx, func(l net.Listener, port int) {
			serving.Go(func() { g.ports.ended(l, port, server.ServeTCP(l, port)) })
		})
	})
	stop := g.keep()
	<-ctx.Done()
	last, ended := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer ended()
	_ = server.Shutdown(last) // it has broken off what did not end
	serving.Wait()
	stop()
	close(failed)
	return <-failed
}

func serveHTTP(server *wire.Server, l Listener) error {
	if l.TLS != nil {
		return server.ServeTLS(l.Listener, l.TLS)
	}
	return server.Serve(l.Listener)
}

func (g *Gateway) panicked(fault any) {
	g.log.WithField("fault", fault).Error("a connection ended by a fault")
}

// keep starts what keeps the book and reports; stop ends it, and all wakes.
func (g *Gateway) keep() (stop func()) {
	ctx, cancel := context.WithCancel(g.life)
	var keeping sync.WaitGroup
	keeping.Go(func() { g.book.keepLoaded(ctx) })
	keeping.Go(func() { g.book.keepFresh(ctx) })
	keeping.Go(func() { g.book.keepWritten(ctx) })
	keeping.Go(func() { g.keepReporting(ctx) })
	return func() {
		cancel()
		keeping.Wait()
		g.end()
		g.wakes.Wait()
	}
}
