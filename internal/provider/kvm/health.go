package kvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"dormouse/internal/fleet"
)

const (
	// probeTimeout bounds a probe where the manifest says nothing.
	probeTimeout = 2 * time.Second
	// observeTimeout bounds the probe that an Observe waits for.
	observeTimeout = 1500 * time.Millisecond
	// probeFresh is how long the last answer is as good as a new one.
	probeFresh = time.Second
	// The pauses between probes until the first good answer.
	firstProbePause = 20 * time.Millisecond
	maxProbePause   = time.Second
)

// dialer dials an instance's endpoint.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// probe asks once whether the program serves; nil is yes. limit bounds it
// further than the manifest does; 0 does not.
func probe(ctx context.Context, dial dialer, health fleet.Health, endpoints map[int]string, limit time.Duration) error {
	if health.Type == fleet.HealthNone || health.Type == "" {
		return nil
	}
	timeout := health.Timeout
	if timeout <= 0 {
		timeout = probeTimeout
	}
	if limit > 0 {
		timeout = min(timeout, limit)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	address, ok := endpoints[health.Port]
	if !ok {
		return fmt.Errorf("the health check names port %d, which the package does not list", health.Port)
	}
	var err error
	if health.Type == fleet.HealthHTTP {
		err = probeHTTP(ctx, dial, address, health)
	} else {
		var conn net.Conn
		if conn, err = dial(ctx, "tcp", address); err == nil {
			err = conn.Close()
		}
	}
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("no answer on port %d within %s", health.Port, timeout)
	}
	return err
}

func probeHTTP(ctx context.Context, dial dialer, address string, health fleet.Health) error {
	transport := &http.Transport{
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
		DialContext:            func(ctx context.Context, network, _ string) (net.Conn, error) { return dial(ctx, network, address) },
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	path := health.Path
	if path == "" || path[0] != '/' {
		path = "/" + path
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", health.Port, path), nil)
	if err != nil {
		return fmt.Errorf("the health check's path is of no use: %w", err)
	}
	request.Header.Set("User-Agent", "dormouse-health")
	answer, err := client.Do(request)
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause // without the URL, which names no address of the guest's
		}
		return err
	}
	_, _ = io.CopyN(io.Discard, answer.Body, 4096)
	if err := answer.Body.Close(); err != nil {
		return err
	}
	if answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("GET %s on port %d answered %s", path, health.Port, answer.Status)
	}
	return nil
}
