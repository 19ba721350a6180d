package source

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"dormouse/internal/fleet"
)

const (
	// patience is how long a registry may send nothing.
	patience  = 30 * time.Second
	maxAnswer = maxOCIManifest // of a registry, layers apart
)

// carefulTransport refuses plain HTTP but to loopback, bounds answers, and
// gives up on one that stops coming.
type carefulTransport struct {
	inner interface {
		http.RoundTripper
		CloseIdleConnections()
	}
	loopback bool // the registry itself is loopback's
	blobs    int64
	patience time.Duration
}

func newTransport(limits Limits) *carefulTransport {
	inner := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: patience}).DialContext, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: patience, ResponseHeaderTimeout: patience,
	}
	return &carefulTransport{inner: inner, blobs: limits.Bytes, patience: patience}
}

// RoundTrip implements http.RoundTripper.
func (t *carefulTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !(t.loopback && isLoopback(r.URL.Host)) {
		return nil, fleet.InvalidField("oci", "%s would be asked by plain http, which is done with registries of this machine only: give the registry a certificate, or send the image as an archive", r.URL.Host)
	}
	ctx, cancel := context.WithCancel(r.Context())
	answer, err := t.inner.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	limit := int64(maxAnswer)
	if !strings.Contains(answer.Header.Get("Content-Type"), "json") && !strings.Contains(r.URL.Path, "/manifests/") {
		limit = t.blobs
	}
	body := &patientBody{body: answer.Body, host: r.URL.Host, patience: t.patience, cancel: cancel}
	body.timer = time.AfterFunc(t.patience, func() { body.stalled.Store(true); cancel() })
	body.timer.Stop()
	body.bounded = &boundedReader{r: answer.Body, left: limit + 1}
	answer.Body = body
	return answer, nil
}

// patientBody is a body that ends with an error when nothing comes for a while.
type patientBody struct {
	body     io.Closer
	bounded  *boundedReader
	host     string
	patience time.Duration
	timer    *time.Timer
	stalled  atomic.Bool
	cancel   context.CancelFunc
}

// Read implements io.Reader.
func (b *patientBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.patience)
	n, err := b.bounded.Read(p)
	b.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) && b.stalled.Load() {
		err = fleet.Errorf(fleet.KindUnavailable, "the registry %s sent nothing for %s: try again later: %w", b.host, b.patience, err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *patientBody) Close() error {
	b.timer.Stop()
	err := b.body.Close()
	b.cancel()
	return err
}

// isLoopback tells whether HOST or HOST:PORT is this machine.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
