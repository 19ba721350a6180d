package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"dormouse/internal/fleet"
)

// Listen opens what Serve is to listen on: a loopback address and a port (0: a
// free one), or unix: and the path of a socket, which is for this user alone. A socket that
// a killed process left is taken over. Errors: KindInvalid for an address that others
// could reach, KindUnavailable.
func Listen(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenUnix(path)
	}
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fleet.Errorf(fleet.KindInvalid, "listening on %q: want a loopback address and a port, or unix:PATH: there is no authentication", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fleet.Errorf(fleet.KindUnavailable, "listening for the simulator: %w: stop what listens there, or choose another address", err)
	}
	return l, nil
}

func listenUnix(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if conn, refused := net.DialTimeout("unix", path, time.Second); refused == nil {
			_ = conn.Close()
		} else if errors.Is(refused, syscall.ECONNREFUSED) && os.Remove(path) == nil {
			l, err = net.Listen("unix", path)
		}
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.KindUnavailable, "listening for the simulator: %w: stop what listens there, or choose another path", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("keeping the simulator's socket to this user: %w", err), l.Close())
	}
	return l, nil
}

// URL is what a client of this machine is given to reach the listener.
func URL(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return "http://" + l.Addr().String()
}

// Serve answers calls until ctx ends, then lets those under way end for a
// moment, and closes the listener. The simulator stays open: see Close.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stopped := make(chan struct{})
	end := context.AfterFunc(ctx, func() {
		defer close(stopped)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(last) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(l)
	if end() {
		return fmt.Errorf("serving the simulator: %w", err) // it ended by itself
	}
	<-stopped
	return nil
}
