// Command passthrough is the gateway's engine and nothing else: every request
// goes to one address. Its speed is compared with that of other proxies.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"

	"dormouse/internal/gateway/wire"
)

type handler struct{ pass wire.Pass }

func (h *handler) Enter(context.Context, *wire.Head) (*wire.Pass, *wire.Answer) { return &h.pass, nil }

func (h *handler) Failed(_ context.Context, _ *wire.Head, _ *wire.Pass, err error) *wire.Answer {
	return &wire.Answer{Status: http.StatusBadGateway, Body: []byte(err.Error() + "\n")}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:18092", "where to serve")
	to := flag.String("to", "127.0.0.1:18090", "where requests go")
	debug := flag.String("pprof", "", "where to serve profiles")
	flag.Parse()
	if *debug != "" {
		mux := http.NewServeMux()
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/allocs", pprof.Index)
		go func() { _ = http.ListenAndServe(*debug, mux) }()
	}
	l, err := net.Listen("tcp", *listen)
	if err == nil {
		err = wire.New(wire.Options{H2C: true, Handler: &handler{wire.Pass{Key: "one", Address: *to, Meter: new(wire.Meter)}}, Dial: new(net.Dialer).DialContext}).Serve(l)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
