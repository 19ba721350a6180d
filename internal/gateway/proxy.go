package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
)

// routeKey is where a request's context holds its Route.
type routeKey struct{}

func routeOf(r *http.Request) Route {
	route, _ := r.Context().Value(routeKey{}).(Route)
	return route
}

func newTransport(o Options) *http.Transport {
	return &http.Transport{
		// No Proxy: an instance is never reached through one.
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
			defer cancel()
			return o.Dial(ctx, network, address)
		},
		ResponseHeaderTimeout: o.AnswerTimeout,
		// What the instance sent is what the client gets.
		DisableCompression:  true,
		MaxIdleConns:        1024,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     30 * time.Second,
		// The head of an answer; Go's default of 10 MiB is too much for each of
		// many tenants.
		MaxResponseHeaderBytes: 256 << 10,
	}
}

// rewrite points a request at its instance. The reverse proxy has removed what
// the client sent as Forwarded and X-Forwarded-*; the Host header stays.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme = "http"
	r.Out.URL.Host = routeOf(r.In).Address
	// As it came: the instance alone interprets it.
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	r.Out.Header.Del("X-Real-Ip")
	r.SetXForwarded()
}

// backendFailed answers where the instance did not.
func (g *Gateway) backendFailed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // the client is gone
	}
	route := routeOf(r)
	// It may have gone to sleep, or away, since its route was looked up.
	if now, err := g.routes.again(r.Context(), route.Name); err == nil {
		if why := unavailable(now); why != nil {
			why.write(w, r)
			return
		}
		route = now
	}
	g.log.WithError(err).WithFields(logrus.Fields{"installation": route.Name, "state": route.State}).Warn("instance did not answer")
	why := &refusal{status: http.StatusBadGateway, title: "The workspace does not answer",
		detail: "Its machine runs, but the program in it refused the connection or broke it off.", retryAfter: 2 * time.Second}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		why.status, why.detail = http.StatusGatewayTimeout, "Its machine did not answer in time."
	}
	if route.State != fleet.StateStable {
		// Work on it is the likely cause.
		if doing, ok := inWords(route.State); ok {
			why.status, why.title, why.detail = http.StatusServiceUnavailable, "This workspace "+doing.words, ""
			why.retryAfter = doing.retryAfter
		}
	}
	why.write(w, r)
}
