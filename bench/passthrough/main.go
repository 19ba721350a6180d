// Command passthrough is the gateway and nothing else: every request goes to one
// address, by way of the one installation that it knows. With -compare it measures itself against nginx as a reverse
// proxy, on one core, in pairs: it runs nginx and wrk, which must be installed,
// and prints lines of a name, a value and a unit.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway"
	"dormouse/internal/gateway/wire"
)

// hostName is where the one installation is reached.
const hostName = "acme.localhost"

// routes knows one installation, which serves.
type routes struct{ address string }

// Route implements gateway.Routes.
func (r routes) Route(context.Context, string) (gateway.Route, error) {
	return gateway.Route{InstallationID: "acme", Name: "acme", State: fleet.StateStable, InstanceID: "machine", Address: r.address}, nil
}

// All implements gateway.Routes.
func (r routes) All(ctx context.Context, _ string) ([]gateway.Route, string, error) {
	route, err := r.Route(ctx, "")
	return []gateway.Route{route}, "", err
}

// Here implements gateway.Local: the machine is on this host, as it is in a provisioner.
func (r routes) Here(fleet.InstanceID) (gateway.Here, bool) {
	return gateway.Here{Serves: true, Run: "1", Endpoints: []fleet.Endpoint{{Port: 80, Protocol: fleet.ProtocolHTTP, Address: r.address}}}, true
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
	r := routes{to}
	g := gateway.New(gateway.Options{Routes: r, Local: r, Dial: new(net.Dialer).DialContext, Engine: wire.Options{H2C: true}})
	return g.Serve(ctx, gateway.Listener{Listener: l})
}
