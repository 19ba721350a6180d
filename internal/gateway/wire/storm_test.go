package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stormInstance answers in one of many ways, by chance.
func stormInstance(_ int, conn net.Conn, r *bufio.Reader) {
	for {
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		chance := rand.IntN(10)
		if chance > 0 { // or else the answer overtakes the body
			_, err = io.Copy(io.Discard, request.Body)
		}
		switch {
		case err != nil, chance == 1:
			return
		case chance == 2:
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
			return
		case chance == 3:
			_, _ = io.WriteString(conn, simpleAnswer)
			return // without having said so
		case chance == 4:
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", 100000, strings.Repeat("x", 100000))
		case chance == 5 && request.Header.Get("Upgrade") != "":
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
			_, _ = io.Copy(conn, r)
			return
		default:
			_, err = io.WriteString(conn, simpleAnswer)
		}
		if err != nil {
			return
		}
	}
}

// stormClient does one of many things on a connection of HTTP/1.1, by chance.
func stormClient(address string) {
	conn, err := net.Dial("tcp4", address)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(conn)
	for range 5 {
		request := simpleGet
		switch rand.IntN(6) {
		case 0:
			request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n" + strings.Repeat("x", 50000)
		case 1:
			request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
		case 2:
			request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello"
		}
		sent := request
		if rand.IntN(5) == 0 {
			sent = request[:rand.IntN(len(request))]
		}
		if _, err := io.WriteString(conn, sent); err != nil || len(sent) < len(request) || rand.IntN(5) == 0 {
			return // leaves in the middle
		}
		response, err := http.ReadResponse(r, nil)
		if err != nil || response.StatusCode == 101 {
			return
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			return
		}
	}
}

// Whatever clients, instances and hosts do, in whatever order: each pass is done
// exactly once, and nothing is left behind.
func TestStorm(t *testing.T) {
	t.Parallel()
	address := instance(t, stormInstance)
	var passes, dones, doubles atomic.Int64
	h := newRoute(address)
	h.enter = func(ctx context.Context, _ *Head) (*Pass, *Answer) {
		switch rand.IntN(10) {
		case 0:
			return nil, &Answer{Status: 503, Body: []byte("asleep")}
		case 1: // a wake
			select {
			case <-ctx.Done():
				return nil, nil
			case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond):
			}
		}
		passes.Add(1)
		p := &Pass{Key: fmt.Sprint(rand.IntN(3)), Address: address, Meter: h.pass.Meter}
		if rand.IntN(3) == 0 {
			broken := make(chan struct{})
			p.Break = broken
			time.AfterFunc(time.Duration(rand.IntN(20))*time.Millisecond, func() { close(broken) })
		}
		var once atomic.Bool
		p.Done = func(int, error) {
			if dones.Add(1); !once.CompareAndSwap(false, true) {
				doubles.Add(1)
			}
		}
		return p, nil
	}
	o := Options{Handler: h, Dial: new(net.Dialer).DialContext, H2C: true, HeaderTimeout: 50 * time.Millisecond, AnswerTimeout: time.Second,
		StallTimeout: time.Second, MaxKeptPerKey: 3, KeepFor: 20 * time.Millisecond}
	s := New(o)
	cert, roots := certificate(t)
	plain, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	secure, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	var serving, running sync.WaitGroup
	serving.Go(func() { _ = s.Serve(plain) })
	serving.Go(func() { _ = s.ServeTLS(secure, &tls.Config{Certificates: []tls.Certificate{cert}}) })
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "a"}}
	client := &http.Client{Transport: transport, Timeout: patience}
	for range 20 {
		running.Go(func() {
			for range 30 {
				stormClient(plain.Addr().String())
			}
		})
	}
	for range 10 {
		running.Go(func() {
			for range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(100))*time.Millisecond)
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+secure.Addr().String(), io.LimitReader(zeros{}, int64(rand.IntN(100000))))
				if err == nil {
					if response, err := client.Do(r); err == nil {
						_, _ = io.Copy(io.Discard, response.Body)
						_ = response.Body.Close()
					}
				}
				cancel()
			}
		})
	}
	running.Wait()
	transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, s.Shutdown(ctx))
	serving.Wait()
	require.Positive(t, passes.Load())
	require.Equal(t, passes.Load(), dones.Load())
	require.Zero(t, doubles.Load())
	require.Empty(t, s.lives.list)
	require.Zero(t, s.store.total)
	require.Eventually(t, func() bool { // the last goroutines count themselves out
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.conns == 0 && len(s.clients) == 0 && len(s.listeners) == 0
	}, patience, time.Millisecond)
}
