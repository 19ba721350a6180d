package gateway

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"

	"dormouse/internal/gateway/wire"
)

type passKey struct{}

func (g *Gateway) proxy() http.Handler {
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			r.Out.URL.Host = r.In.Context().Value(passKey{}).(*wire.Pass).Address
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			r.Out.Header.Del("X-Real-Ip")
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, g.o.DialTimeout)
				defer cancel()
				return g.o.Dial(ctx, network, address)
			},
			ResponseHeaderTimeout: g.o.AnswerTimeout, DisableCompression: true, DisableKeepAlives: true,
		},
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
				return
			}
			write(w, g.Failed(r.Context(), headOf(r), r.Context().Value(passKey{}).(*wire.Pass), err))
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pass, answer := g.Enter(r.Context(), headOf(r))
		if answer != nil {
			write(w, answer)
			return
		}
		rec := &recorder{ResponseWriter: w}
		ctx, cancel := context.WithCancel(context.WithValue(r.Context(), passKey{}, pass))
		defer cancel()
		go func() {
			select {
			case <-pass.Break:
				cancel()
			case <-ctx.Done():
			}
		}()
		defer func() { pass.Done(rec.status, nil) }()
		p.ServeHTTP(rec, r.WithContext(ctx))
	})
}

func headOf(r *http.Request) *wire.Head {
	client, _ := netip.ParseAddrPort(r.RemoteAddr)
	return &wire.Head{Method: r.Method, Target: r.RequestURI, Host: r.Host, Client: client, TLS: r.TLS != nil, Header: r.Header.Get}
}

func write(w http.ResponseWriter, a *wire.Answer) {
	for k, v := range a.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body)
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status < 200 && r.status != http.StatusSwitchingProtocols {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.status = http.StatusSwitchingProtocols
	}
	return conn, buffered, err
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
