package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"dormouse/internal/fleet"
)

// retryPortsAfter is how often a port is tried again that could not be opened.
const retryPortsAfter = 30 * time.Second

// ports keeps a TCP port of the gateway's own open for each port of a route here.
type ports struct {
	g       *Gateway
	changed chan struct{}

	mu    sync.Mutex
	owner map[int]claim
	open  map[int][]net.Listener
	wrong map[int]PortError
}

// claim is who a port belongs to, and the host name by which that is looked up.
type claim struct {
	id   fleet.InstallationID
	host string
}

// PortError is a port that is not served as a route asks for.
type PortError struct {
	Port           int
	InstallationID fleet.InstallationID
	Err            error
}

func newPorts(g *Gateway) *ports {
	return &ports{g: g, changed: make(chan struct{}, 1), owner: make(map[int]claim), open: make(map[int][]net.Listener), wrong: make(map[int]PortError)}
}

// PortErrors returns the ports that are not served as routes ask for, in order.
func (g *Gateway) PortErrors() []PortError {
	g.ports.mu.Lock()
	defer g.ports.mu.Unlock()
	return slices.SortedFunc(maps.Values(g.ports.wrong), func(a, b PortError) int { return cmp.Compare(a.Port, b.Port) })
}

// host returns the name under which the installation of a port is found; "" for
// a port of nobody.
func (p *ports) host(port int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.owner[port].host
}

// claims returns who wants which port, the oldest installation (IDs sort by age)
// before others, and an error for each of these.
func (b *book) claims() (map[int]claim, map[int]PortError) {
	b.mu.RLock()
	entries := slices.Collect(maps.Values(b.byID))
	b.mu.RUnlock()
	slices.SortFunc(entries, func(x, y *entry) int { return cmp.Compare(x.route.InstallationID, y.route.InstallationID) })
	claims, wrong := make(map[int]claim), make(map[int]PortError)
	for _, e := range entries {
		if !e.here || leaving(e.route.State) {
			continue
		}
		id := e.route.InstallationID
		for _, port := range e.route.Ports {
			switch other, taken := claims[port.Gateway]; {
			case port.Gateway < 1 || port.Gateway > 65535:
				wrong[port.Gateway] = PortError{port.Gateway, id, errors.New("there is no such port")}
			case taken && other.id != id:
				wrong[port.Gateway] = PortError{port.Gateway, id, fmt.Errorf("installation %s has this port: choose another", other.id)}
			default:
				claims[port.Gateway] = claim{id, b.hosts(e.route)[0]}
			}
		}
	}
	return claims, wrong
}

// reconcile opens and closes what the book asks for. serve is called with each
// new listener, and returns at once.
func (p *ports) reconcile(serve func(l net.Listener, port int)) {
	claims, wrong := p.g.book.claims()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owner = claims
	for port, listeners := range p.open {
		if _, ok := claims[port]; !ok {
			closeAll(listeners)
			delete(p.open, port)
		}
	}
	for port, c := range claims {
		if p.open[port] != nil {
			continue
		}
		listeners, err := listenAll(p.g.o.PortHosts, port)
		if err != nil {
			wrong[port] = PortError{port, c.id, err}
			continue
		}
		p.open[port] = listeners
		for _, l := range listeners {
			serve(l, port)
		}
	}
	for port, e := range wrong {
		if old, ok := p.wrong[port]; !ok || old.Err.Error() != e.Err.Error() {
			p.g.log.WithError(e.Err).WithField("installation", e.InstallationID).Warnf("TCP port %d is not served", port)
		}
	}
	p.wrong = wrong
}

// ended forgets the listeners of a port of which one has failed: they are opened
// again with the next look.
func (p *ports) ended(l net.Listener, port int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Contains(p.open[port], l) && !errors.Is(err, http.ErrServerClosed) {
		closeAll(p.open[port])
		delete(p.open, port)
		p.g.log.WithError(err).Warnf("TCP port %d was closed: it is opened again in a while", port)
	}
}

func listenAll(hosts []string, port int) ([]net.Listener, error) {
	var all []net.Listener
	for _, host := range hosts {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close() // nothing is lost with it
	}
}

// keepOpen reconciles when the book has changed, until ctx ends. Then all
// are closed.
func (p *ports) keepOpen(ctx context.Context, serve func(l net.Listener, port int)) {
	if len(p.g.o.PortHosts) == 0 {
		return
	}
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for port, listeners := range p.open {
			closeAll(listeners)
			delete(p.open, port)
		}
	}()
	retry := time.NewTicker(retryPortsAfter)
	defer retry.Stop()
	for {
		p.reconcile(serve)
		select {
		case <-p.changed:
		case <-retry.C:
		case <-ctx.Done():
			return
		}
	}
}
