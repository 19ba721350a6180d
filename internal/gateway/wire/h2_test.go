package wire

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// certificate makes one for the name a.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// serveTLS is serve with TLS.
func serveTLS(t *testing.T, o Options) (address string, roots *x509.CertPool) {
	t.Helper()
	o.Dial = new(net.Dialer).DialContext
	s := New(o)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	cert, roots := certificate(t)
	served := make(chan error, 1)
	go func() { served <- s.ServeTLS(l, &tls.Config{Certificates: []tls.Certificate{cert}}) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return l.Addr().String(), roots
}

// clients returns one of each kind that speaks HTTP/2 (and, last, HTTP/1.1 over
// TLS) with a gateway, and the scheme.
func clients(t *testing.T, o Options) map[string]*http.Client {
	t.Helper()
	o.H2C = true
	_, plain := serve(t, o)
	secure, roots := serveTLS(t, o)
	kinds := make(map[string]*http.Client)
	for name, address := range map[string]string{"h2c": plain, "h2": secure, "https": secure} {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(name == "https")
		protocols.SetHTTP2(name == "h2")
		protocols.SetUnencryptedHTTP2(name == "h2c")
		transport := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "a"},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			}}
		t.Cleanup(transport.CloseIdleConnections)
		kinds[name] = &http.Client{Transport: transport}
	}
	return kinds
}

func scheme(kind string) string {
	if kind == "h2c" {
		return "http"
	}
	return "https"
}

func TestOtherFronts(t *testing.T) {
	t.Parallel()
	h := newRoute(instance(t, echo))
	for kind, client := range clients(t, Options{Handler: h}) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, scheme(kind)+"://a/p?q", strings.NewReader("body"))
		require.NoError(t, err)
		r.Header.Set("X-Forwarded-For", "1.2.3.4")
		r.Header.Set("User-Agent", "me")
		response, err := client.Do(r)
		require.NoError(t, err, kind)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err, kind)
		require.Equal(t, kind != "https", response.ProtoMajor == 2, kind)
		for _, line := range []string{"POST /p?q HTTP/1.1\r\nHost: a\r\n", "User-Agent: me\r\n", "Content-Length: 4\r\n",
			"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: " + scheme(kind) + "\r\n"} {
			require.Contains(t, string(body), line, kind)
		}
		require.True(t, strings.HasSuffix(string(body), "|body"), kind)
		require.NotContains(t, string(body), "1.2.3.4", kind)
		require.Equal(t, ending{200, nil}, h.end(t), kind)
	}
}

func TestOtherFrontsStream(t *testing.T) {
	t.Parallel()
	h := newRoute(instance(t, digest))
	for kind, client := range clients(t, Options{Handler: h}) {
		const size = 3 << 20
		body := io.LimitReader(zeros{}, size) // of a length that is not said
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, scheme(kind)+"://a/", struct{ io.Reader }{body})
		require.NoError(t, err)
		r.Trailer = http.Header{"T": {"end"}}
		response, err := client.Do(r)
		require.NoError(t, err, kind)
		answer, err := io.ReadAll(response.Body)
		require.NoError(t, err, kind)
		require.True(t, strings.HasPrefix(string(answer), fmt.Sprint(size)), "%s: %s", kind, answer)
		require.True(t, strings.HasSuffix(string(answer), " end"), "%s: %s", kind, answer)
	}
	next := make(chan struct{})
	h = newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		if _, err := readLines(r); err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nKeep-Alive: x\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n")
		for range 3 {
			_, _ = io.WriteString(conn, "5\r\nevent\r\n")
			<-next
		}
		_, _ = io.WriteString(conn, "0\r\nT: end\r\n\r\n")
	}))
	for kind, client := range clients(t, Options{Handler: h}) {
		response, err := client.Get(scheme(kind) + "://a/")
		require.NoError(t, err, kind)
		require.Empty(t, response.Header["Content-Type"], kind)
		require.Empty(t, response.Header["Keep-Alive"], kind)
		require.Empty(t, response.Header["Link"], kind)
		for range 3 {
			event := make([]byte, 5)
			_, err := io.ReadFull(response.Body, event)
			require.NoError(t, err, kind)
			next <- struct{}{}
		}
		_, err = response.Body.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, kind)
		require.Equal(t, "end", response.Trailer.Get("T"), kind)
	}
}

func TestOtherFrontsFail(t *testing.T) {
	t.Parallel()
	began, closed := make(chan struct{}, 10), make(chan struct{}, 10)
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		head, err := readLines(r)
		switch {
		case err != nil:
		case strings.HasPrefix(head, "GET /cut "):
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi")
		case strings.HasPrefix(head, "GET /hang "):
			began <- struct{}{}
			_, _ = r.ReadByte()
			closed <- struct{}{}
		case strings.HasPrefix(head, "POST /early "):
			_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
		}
	}))
	h.enter = func(_ context.Context, head *Head) (*Pass, *Answer) {
		switch head.Target {
		case "/own":
			return nil, &Answer{Status: 503, Header: http.Header{"Retry-After": {"5"}, "Connection": {"close"}}, Body: []byte("own " + head.Header("host"))}
		case "/panic":
			panic("a handler's fault")
		}
		return h.next(), nil
	}
	told := make(chan any, 10)
	for kind, client := range clients(t, Options{Handler: h, Panicked: func(v any) { told <- v }, HeaderTimeout: 200 * time.Millisecond}) {
		response, err := client.Get(scheme(kind) + "://a/own")
		require.NoError(t, err, kind)
		body, _ := io.ReadAll(response.Body)
		require.Equal(t, "own a", string(body), kind)
		require.Equal(t, "5", response.Header.Get("Retry-After"), kind)
		response, err = client.Get(scheme(kind) + "://a/none")
		require.NoError(t, err, kind)
		require.Equal(t, 502, response.StatusCode, kind)
		require.Equal(t, 502, h.end(t).status, kind)
		response, err = client.Get(scheme(kind) + "://a/cut")
		if err == nil {
			_, err = io.ReadAll(response.Body)
		}
		require.Error(t, err, kind)
		require.Error(t, h.end(t).err, kind)
		_, err = client.Get(scheme(kind) + "://a/panic")
		require.Error(t, err, kind)
		require.Equal(t, "a handler's fault", <-told, kind)
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme(kind)+"://a/hang", nil)
		require.NoError(t, err)
		go func() { <-began; cancel() }()
		_, err = client.Do(r)
		require.True(t, errors.Is(err, context.Canceled), kind)
		<-closed
		require.ErrorIs(t, h.end(t).err, ErrClientGone, kind)
		response, err = client.Post(scheme(kind)+"://a/early", "", io.LimitReader(zeros{}, 100<<20))
		if err == nil { // a client may take the end of the connection for an error
			require.Equal(t, 413, response.StatusCode, kind)
		}
		require.Equal(t, 413, h.end(t).status, kind)
	}
}

func TestWebSocketsOverTLS(t *testing.T) {
	t.Parallel()
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		if _, err := readLines(r); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
			_, _ = io.Copy(conn, r)
			_, _ = io.WriteString(conn, "bye")
		}
	}))
	address, roots := serveTLS(t, Options{Handler: h})
	conn, err := tls.Dial("tcp4", address, &tls.Config{RootCAs: roots, ServerName: "a"})
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	send(t, conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello")
	require.NoError(t, conn.CloseWrite())
	all, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(all), "\r\n\r\nhellobye"), string(all))
	require.Equal(t, ending{101, nil}, h.end(t))
}
