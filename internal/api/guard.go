package api

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// CheckListen refuses an address that others than this machine could reach:
// until there are tokens, whoever reaches the API may do everything. The
// address is host:port; its host is localhost or a loopback address.
func CheckListen(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("checking the listen address %q: give host:port, such as 127.0.0.1:8075: %w", addr, err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("checking the listen address %q: the port must be a number from 0 to 65535", addr)
	}
	if !loopback(host) {
		return fmt.Errorf("checking the listen address %q: the API has no tokens yet, so that it listens on this machine only: "+
			"give 127.0.0.1:%s, and reach it from elsewhere through a tunnel such as ssh -L", addr, port)
	}
	return nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// guard keeps the pages of a browser on this machine out: those that reach
// here under a name of their own (DNS rebinding), and writes from other origins.
type guard struct {
	origin *http.CrossOriginProtection
}

func newGuard() guard { return guard{origin: http.NewCrossOriginProtection()} }

func (g guard) check(r *http.Request) error {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if !loopback(host) {
		return httpProblem(http.StatusMisdirectedRequest,
			"this API answers to localhost and loopback addresses only, not to %s", printable(r.Host))
	}
	if err := g.origin.Check(r); err != nil {
		return httpProblem(http.StatusForbidden, "a page of another origin may not change anything here")
	}
	return nil
}
