package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// endTime is how long what is in flight may take to end when the gateway does.
const endTime = 5 * time.Second

// Serve serves HTTP on listeners, and plain TCP on the ports that routes ask
// for, until ctx ends or a listener fails. What is in flight then has 5 s to
// end. It keeps the book and reports activity meanwhile. It closes the
// listeners, leaves nothing running, and can be called once.
func (g *Gateway) Serve(ctx context.Context, listeners ...net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{Handler: g.proxy(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	failed := make(chan error, len(listeners))
	var serving sync.WaitGroup
	for _, l := range listeners {
		serving.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
				cancel()
			}
		})
	}
	serving.Go(func() { g.ports.keepOpen(ctx, func(net.Listener, int) {}) })
	stop := g.keep()
	<-ctx.Done()
	last, ended := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer ended()
	if server.Shutdown(last) != nil {
		_ = server.Close()
	}
	serving.Wait()
	stop()
	close(failed)
	return <-failed
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
