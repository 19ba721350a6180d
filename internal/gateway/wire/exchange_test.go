package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	simpleGet    = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	simpleAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
)

func TestKeepsConnectionsToInstances(t *testing.T) {
	t.Parallel()
	var conns atomic.Int32
	count := func(n int, conn net.Conn, r *bufio.Reader) {
		conns.Add(1)
		answers(simpleAnswer)(n, conn, r)
	}
	h := newRoute(instance(t, count))
	s, gateway := serve(t, Options{Handler: h})
	client, r := dial(t, gateway)
	for range 5 {
		send(t, client, simpleGet)
		_, body := readResponse(t, r, "GET")
		require.Equal(t, "hi", body)
		require.Equal(t, ending{200, nil}, h.end(t))
	}
	require.EqualValues(t, 1, conns.Load())
	s.CloseIdle("another")
	s.CloseIdle("instance")
	send(t, client, simpleGet)
	readResponse(t, r, "GET")
	require.EqualValues(t, 2, conns.Load())
}

// A kept connection that turns out dead costs a request nothing that can be sent
// again, and is found out before one that can't be.
func TestKeptConnectionsThatDie(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]string{
		"get": simpleGet, "post": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
	} {
		gone := make(chan struct{}, 10)
		h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
			_, _ = http.ReadRequest(r)
			_, _ = io.WriteString(conn, simpleAnswer)
			conn.Close()
			gone <- struct{}{}
		}))
		_, gateway := serve(t, Options{Handler: h})
		client, r := dial(t, gateway)
		for range 3 {
			send(t, client, request)
			response, body := readResponse(t, r, "GET")
			require.Equal(t, 200, response.StatusCode, name)
			require.Equal(t, "hi", body, name)
			<-gone
		}
	}
}

// Only what can't have been processed is sent again.
func TestSendsAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		request string
		want    int
		seen    int32
	}{
		"get":            {simpleGet, 200, 3},
		"post":           {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 502, 2},
		"empty post":     {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 502, 2},
		"get and a body": {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 502, 2},
	} {
		var seen atomic.Int32
		h := newRoute(instance(t, func(n int, conn net.Conn, r *bufio.Reader) {
			for i := 0; ; i++ {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				seen.Add(1)
				if n == 0 && i == 1 {
					return // takes the second request of its first connection, and dies
				}
				_, _ = io.WriteString(conn, simpleAnswer)
			}
		}))
		_, gateway := serve(t, Options{Handler: h})
		client, r := dial(t, gateway)
		send(t, client, simpleGet)
		readResponse(t, r, "GET")
		send(t, client, test.request)
		response, _ := readResponse(t, r, "GET")
		require.Equal(t, test.want, response.StatusCode, name)
		require.Equal(t, test.seen, seen.Load(), name)
	}
	// A new connection that dies is no reason to try again.
	var seen atomic.Int32
	h := newRoute(instance(t, func(_ int, _ net.Conn, r *bufio.Reader) { _, _ = http.ReadRequest(r); seen.Add(1) }))
	_, gateway := serve(t, Options{Handler: h})
	client, r := dial(t, gateway)
	send(t, client, simpleGet)
	response, _ := readResponse(t, r, "GET")
	require.Equal(t, 502, response.StatusCode)
	require.EqualValues(t, 1, seen.Load())
}

func TestInstancesThatHang(t *testing.T) {
	t.Parallel()
	hang := func(_ int, _ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) }
	h := newRoute(instance(t, hang))
	_, gateway := serve(t, Options{Handler: h, AnswerTimeout: 50 * time.Millisecond})
	client, r := dial(t, gateway)
	for _, request := range []string{simpleGet, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", simpleGet} {
		send(t, client, request)
		response, _ := readResponse(t, r, "GET")
		require.Equal(t, 504, response.StatusCode)
		require.Equal(t, 504, h.end(t).status)
		require.False(t, response.Close, "the client's connection is in step")
	}
	wait := func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	_, gateway = serve(t, Options{Handler: h, Dial: wait, DialTimeout: 20 * time.Millisecond})
	client, r = dial(t, gateway)
	send(t, client, simpleGet)
	response, _ := readResponse(t, r, "GET")
	require.Equal(t, 504, response.StatusCode)
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }
	_, gateway = serve(t, Options{Handler: h, Dial: refuse})
	client, r = dial(t, gateway)
	send(t, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nnot all of it")
	response, _ = readResponse(t, r, "POST")
	require.Equal(t, 502, response.StatusCode)
	require.True(t, response.Close, "the rest of the body would be taken for a request")
}

func TestAnswersOfTheHandler(t *testing.T) {
	t.Parallel()
	h := newRoute("")
	h.enter = func(_ context.Context, head *Head) (*Pass, *Answer) {
		a := &Answer{Status: 503, Header: http.Header{"Retry-After": {"5"}, "Content-Length": {"77"}, "X": {"a\r\nb"}},
			Body: []byte(head.Method + " " + head.Target + " " + head.Host + " " + head.Header("user-agent") + head.Header("none"))}
		if head.Target == "/none" {
			return nil, nil
		}
		return nil, a
	}
	_, gateway := serve(t, Options{Handler: h})
	client, r := dial(t, gateway)
	send(t, client, "POST /x?y HTTP/1.1\r\nHost: b\r\nUser-Agent: me\r\nContent-Length: 3\r\n\r\nabc")
	response, body := readResponse(t, r, "POST")
	require.Equal(t, 503, response.StatusCode)
	require.Equal(t, "5", response.Header.Get("Retry-After"))
	require.Empty(t, response.Header.Get("X"))
	require.Equal(t, "POST /x?y b me", body)
	send(t, client, "HEAD / HTTP/1.1\r\nHost: b\r\n\r\n")
	response, body = readResponse(t, r, "HEAD")
	require.Empty(t, body)
	require.Positive(t, response.ContentLength)
	send(t, client, "GET /none HTTP/1.1\r\nHost: b\r\n\r\n")
	_, err := r.ReadByte()
	require.ErrorIs(t, err, io.EOF, "no answer at all: the connection ends")
	require.Contains(t, ask(t, gateway, "POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 300\r\n\r\nabc"+strings.Repeat("x", 20)), "Connection: close")
}

// While a Handler waits, a client that leaves is noticed, and what it sends besides is not lost.
func TestWaitingForAHandler(t *testing.T) {
	t.Parallel()
	address := instance(t, echo)
	entered, release, gone := make(chan struct{}, 1), make(chan struct{}), make(chan error, 1)
	h := newRoute(address)
	h.enter = func(ctx context.Context, head *Head) (*Pass, *Answer) {
		if head.Target == "/" {
			entered <- struct{}{}
			select {
			case <-release:
			case <-ctx.Done():
				gone <- ctx.Err()
				return nil, nil
			}
		}
		return h.next(), nil
	}
	_, gateway := serve(t, Options{Handler: h, AnswerTimeout: patience, HeaderTimeout: 100 * time.Millisecond})
	client, r := dial(t, gateway)
	send(t, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
	<-entered
	send(t, client, "defGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
	close(release)
	_, body := readResponse(t, r, "POST")
	require.True(t, strings.HasSuffix(body, "|abcdef"), body)
	_, body = readResponse(t, r, "GET")
	require.True(t, strings.HasPrefix(body, "GET /2 "), body)
	release = make(chan struct{})
	send(t, client, simpleGet+"GET /3 HTTP/1.1\r\n")
	<-entered
	require.NoError(t, client.Close())
	select {
	case err := <-gone:
		require.ErrorIs(t, err, context.Canceled)
	case <-time.After(patience):
		require.Fail(t, "not noticed")
	}
}

// A client that leaves while the instance works ends the exchange on both sides.
func TestClientsThatLeave(t *testing.T) {
	t.Parallel()
	asked, closed := make(chan struct{}, 1), make(chan struct{})
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		_, _ = readLines(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
		asked <- struct{}{}
		_, _ = r.ReadByte()
		close(closed)
	}))
	_, gateway := serve(t, Options{Handler: h, HeaderTimeout: 100 * time.Millisecond})
	client, _ := dial(t, gateway)
	send(t, client, simpleGet)
	<-asked
	require.NoError(t, client.Close())
	require.ErrorIs(t, h.end(t).err, ErrClientGone)
	<-closed
}

func TestBreaks(t *testing.T) {
	t.Parallel()
	began := make(chan struct{}, 1)
	h := newRoute(instance(t, func(n int, conn net.Conn, r *bufio.Reader) {
		_, _ = readLines(r)
		if n == 1 {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
		}
		began <- struct{}{}
		_, _ = r.ReadByte()
	}))
	for n, want := range []string{"HTTP/1.1 502", "HTTP/1.1 200"} {
		broken := make(chan struct{})
		h.pass.Break = broken
		_, gateway := serve(t, Options{Handler: h, HeaderTimeout: 100 * time.Millisecond})
		client, r := dial(t, gateway)
		send(t, client, simpleGet)
		<-began
		if n == 1 {
			line, err := r.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "HTTP/1.1 200 OK\r\n", line)
		}
		close(broken)
		all, err := io.ReadAll(r)
		if n == 0 {
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(string(all), want), string(all))
		} else {
			require.Error(t, err)
		}
		require.ErrorIs(t, h.end(t).err, ErrBroken)
	}
}

// A break ends what goes on, and nothing that comes after it.
func TestBreaksOfExchangesThatEnded(t *testing.T) {
	t.Parallel()
	h := newRoute(instance(t, answers(simpleAnswer)))
	broken := make(chan struct{})
	h.pass.Break = broken
	s, gateway := serve(t, Options{Handler: h, HeaderTimeout: 20 * time.Millisecond})
	client, r := dial(t, gateway)
	send(t, client, simpleGet)
	readResponse(t, r, "GET")
	h.end(t)
	close(broken)
	h.pass.Break = nil
	before := s.lives.now.Load()
	require.Eventually(t, func() bool { return s.lives.now.Load() > before+int64(5*s.lives.tick) }, patience, time.Millisecond)
	send(t, client, simpleGet)
	response, _ := readResponse(t, r, "GET")
	require.Equal(t, 200, response.StatusCode)
}

func TestStreamsAtOnce(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		_, _ = readLines(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
		for i := range 3 {
			fmt.Fprintf(conn, "data: %d\n\n", i)
			<-next
		}
	}))
	_, gateway := serve(t, Options{Handler: h})
	client, r := dial(t, gateway)
	send(t, client, simpleGet)
	response, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	for i := range 3 { // each event arrives before the instance goes on
		event := make([]byte, len("data: 0\n\n"))
		_, err := io.ReadFull(response.Body, event)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("data: %d\n\n", i), string(event))
		next <- struct{}{}
	}
	_, err = response.Body.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.EqualValues(t, 27, h.pass.Meter.Out.Load())
}
