package wire

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSlowHeads(t *testing.T) {
	t.Parallel()
	_, gateway := serve(t, Options{Handler: newRoute(""), HeaderTimeout: 50 * time.Millisecond, IdleTimeout: patience})
	require.Empty(t, ask(t, gateway, ""), "not a byte")
	client, r := dial(t, gateway)
	send(t, client, "GET / HTTP/1.1\r\n")
	drip := make(chan struct{})
	go func() { // a byte now and then does not help
		defer close(drip)
		for {
			if _, err := client.Write([]byte("X")); err != nil {
				return
			}
			runtime.Gosched()
			time.Sleep(time.Millisecond)
		}
	}()
	response, _ := readResponse(t, r, "GET")
	require.Equal(t, 408, response.StatusCode)
	client.Close()
	<-drip
}

func TestIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	_, gateway := serve(t, Options{Handler: newRoute(instance(t, answers(simpleAnswer))), IdleTimeout: 50 * time.Millisecond, HeaderTimeout: patience})
	client, r := dial(t, gateway)
	send(t, client, simpleGet)
	readResponse(t, r, "GET")
	_, err := r.ReadByte()
	require.ErrorIs(t, err, io.EOF)
}

// Neither a client nor an instance that does not read holds anything for ever.
func TestStalls(t *testing.T) {
	t.Parallel()
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		_, _ = readLines(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		_, _ = io.Copy(conn, zeros{})
	}))
	_, gateway := serve(t, Options{Handler: h, StallTimeout: 50 * time.Millisecond})
	client, _ := dial(t, gateway)
	send(t, client, simpleGet)
	require.ErrorIs(t, h.end(t).err, ErrSlow)

	deaf := make(chan struct{})
	defer close(deaf)
	h = newRoute(instance(t, func(int, net.Conn, *bufio.Reader) { <-deaf }))
	_, gateway = serve(t, Options{Handler: h, StallTimeout: 50 * time.Millisecond, AnswerTimeout: 200 * time.Millisecond})
	client, r := dial(t, gateway)
	go func() {
		_, _ = io.WriteString(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
		_, _ = io.CopyN(client, zeros{}, 100000000)
	}()
	response, _ := readResponse(t, r, "POST")
	require.Equal(t, 504, response.StatusCode)
}

func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	address := instance(t, answers(simpleAnswer))
	for want, o := range map[int]Options{429: {MaxConnsPerClient: 2}, 503: {MaxConns: 2}} {
		o.Handler = newRoute(address)
		_, gateway := serve(t, o)
		first, r := dial(t, gateway)
		second, r2 := dial(t, gateway)
		for client, reader := range map[io.Writer]*bufio.Reader{first: r, second: r2} {
			send(t, client, simpleGet)
			readResponse(t, reader, "GET")
		}
		_, third := dial(t, gateway)
		response, _ := readResponse(t, third, "GET")
		require.Equal(t, want, response.StatusCode)
		require.NotEmpty(t, response.Header.Get("Retry-After"))
		require.NoError(t, first.Close())
		require.Eventually(t, func() bool {
			client, r := dial(t, gateway)
			send(t, client, simpleGet)
			response, err := http.ReadResponse(r, nil)
			_ = client.Close()
			return err == nil && response.StatusCode == 200
		}, patience, time.Millisecond)
	}
	require.Equal(t, sourceOf(netip.MustParseAddr("2001:db8::1")), sourceOf(netip.MustParseAddr("2001:db8::2:0:0:1")))
	require.NotEqual(t, sourceOf(netip.MustParseAddr("2001:db8::1")), sourceOf(netip.MustParseAddr("2001:db8:0:1::1")))
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	asked, goOn := make(chan struct{}, 2), make(chan struct{})
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		for {
			if _, err := readLines(r); err != nil {
				return
			}
			asked <- struct{}{}
			<-goOn
			if _, err := io.WriteString(conn, simpleAnswer); err != nil {
				return
			}
		}
	}))
	s, gateway := serve(t, Options{Handler: h})
	_, idle := dial(t, gateway)
	busy, r := dial(t, gateway)
	send(t, busy, simpleGet)
	<-asked
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(t.Context()) }()
	_, err := idle.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	select {
	case <-down:
		require.Fail(t, "an exchange is under way")
	default:
	}
	close(goOn)
	response, body := readResponse(t, r, "GET")
	require.Equal(t, "hi", body)
	require.True(t, response.Close)
	require.NoError(t, <-down)
	_, err = net.Dial("tcp4", gateway)
	require.Error(t, err)
	require.ErrorIs(t, s.Serve(&net.TCPListener{}), http.ErrServerClosed)

	hang := newRoute(instance(t, func(_ int, _ net.Conn, r *bufio.Reader) {
		_, _ = readLines(r)
		asked <- struct{}{}
		_, _ = r.ReadByte()
	}))
	s, gateway = serve(t, Options{Handler: hang})
	busy, _ = dial(t, gateway)
	send(t, busy, simpleGet)
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.Canceled)
	require.Error(t, hang.end(t).err)
}

func TestPanics(t *testing.T) {
	t.Parallel()
	h := newRoute(instance(t, answers(simpleAnswer)))
	h.enter = func(_ context.Context, head *Head) (*Pass, *Answer) {
		if head.Target == "/panic" {
			panic("a handler's fault")
		}
		return h.next(), nil
	}
	told := make(chan any, 1)
	_, gateway := serve(t, Options{Handler: h, Panicked: func(v any) { told <- v }})
	require.Empty(t, ask(t, gateway, "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n"))
	require.Equal(t, "a handler's fault", <-told)
	require.Contains(t, ask(t, gateway, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), "200 OK")
}

// Connections that wait for their next request hold no buffers.
func TestIdleConnectionsCostLittle(t *testing.T) {
	const conns = 1000
	h := newRoute(instance(t, answers(simpleAnswer)))
	h.ended = make(chan ending, conns)
	_, gateway := serve(t, Options{Handler: h})
	open := func() net.Conn {
		client, r := dial(t, gateway)
		send(t, client, "GET / HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("x", 1000)+"\r\n\r\n")
		readResponse(t, r, "GET")
		return client
	}
	open()
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // the second empties pools
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := inUse()
	for range conns {
		open()
	}
	each := (inUse() - before) / conns
	fmt.Printf("%d bytes each, with the client's side of this test\n", each)
	require.Less(t, each, uint64(14<<10), "of which 4 KiB are the client's reader")
}
