// Command passthrough is the gateway's engine and nothing else: every request goes
// to one address. With -compare it measures itself against nginx as a reverse
// proxy, on one core, in pairs: it runs nginx and wrk, which must be installed,
// and prints lines of a name, a value and a unit.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"dormouse/internal/gateway/wire"
)

// handler lets every request through.
type handler struct{ pass wire.Pass }

func (h *handler) Enter(context.Context, *wire.Head) (*wire.Pass, *wire.Answer) { return &h.pass, nil }

func (h *handler) Failed(_ context.Context, _ *wire.Head, _ *wire.Pass, err error) *wire.Answer {
	return &wire.Answer{Status: http.StatusBadGateway, Body: []byte(err.Error() + "\n")}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "where to serve")
	to := flag.String("to", "127.0.0.1:8081", "where requests go")
	compare := flag.Bool("compare", false, "measure against nginx")
	c := comparison{}
	flag.IntVar(&c.pairs, "pairs", 30, "how many pairs are measured")
	flag.IntVar(&c.seconds, "seconds", 2, "how long each half of a pair takes")
	flag.IntVar(&c.conns, "conns", 50, "how many connections ask")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *compare {
		err = c.run(ctx)
	} else {
		err = serve(ctx, *listen, *to)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "passthrough:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, listen, to string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	h := &handler{wire.Pass{Key: to, Address: to, Meter: new(wire.Meter)}}
	s := wire.New(wire.Options{Handler: h, H2C: true, Dial: new(net.Dialer).DialContext})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		return s.Shutdown(context.Background())
	}
}
