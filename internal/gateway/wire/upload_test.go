package wire

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// digest answers with how much it got, and its digest; trailers too.
func digest(_ int, conn net.Conn, r *bufio.Reader) {
	for {
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		sum := sha256.New()
		n, err := io.Copy(sum, request.Body)
		if err != nil {
			return
		}
		text := fmt.Sprintf("%d %x %s", n, sum.Sum(nil), request.Trailer.Get("T"))
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	}
}

func TestUploads(t *testing.T) {
	t.Parallel()
	h := newRoute(instance(t, digest))
	_, gateway := serve(t, Options{Handler: h})
	client, r := dial(t, gateway)
	sent := int64(0)
	for _, size := range []int{1, 1000, bufferSize - 1, bufferSize, bufferSize + 1, 3 << 20} {
		body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		want := fmt.Sprintf("%d %x ", size, sha256.Sum256(body))
		send(t, client, fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", size, body))
		_, got := readResponse(t, r, "POST")
		require.Equal(t, want, got)
		// In chunks of an odd size, with a trailer, and the next request right behind.
		var chunked bytes.Buffer
		chunked.WriteString("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n")
		for rest := body; len(rest) > 0; {
			n := min(len(rest), 777)
			fmt.Fprintf(&chunked, "%x;e=f\r\n%s\r\n", n, rest[:n])
			rest = rest[n:]
		}
		chunked.WriteString("0\r\nT: end\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
		send(t, client, chunked.String()+"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
		_, got = readResponse(t, r, "POST")
		require.Equal(t, want+"end", got)
		_, got = readResponse(t, r, "POST")
		require.True(t, strings.HasPrefix(got, "0 "), got)
		sent += 2 * int64(size)
	}
	require.Equal(t, sent, h.pass.Meter.In.Load())
}

// A large body passes through, and never stays.
func TestUploadsTakeNoMemory(t *testing.T) {
	const size = 256 << 20
	var most uint64
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		buf := make([]byte, 1<<20)
		for n, next := int64(0), int64(0); ; {
			read, err := request.Body.Read(buf)
			if n += int64(read); n > next {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapInuse)
				next += 16 << 20
			}
			if err != nil {
				break
			}
		}
		_, _ = io.WriteString(conn, simpleAnswer)
	}))
	_, gateway := serve(t, Options{Handler: h})
	client, r := dial(t, gateway)
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	send(t, client, fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size))
	_, err := io.CopyN(client, zeros{}, size)
	require.NoError(t, err)
	response, _ := readResponse(t, r, "POST")
	require.Equal(t, 200, response.StatusCode)
	require.Less(t, most, before.HeapInuse+16<<20)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestExpectations(t *testing.T) {
	t.Parallel()
	h := newRoute(instance(t, func(n int, conn net.Conn, r *bufio.Reader) {
		head, err := readLines(r)
		if err != nil {
			return
		}
		if !strings.Contains(head, "Expect: 100-continue\r\n") || n == 1 {
			_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
			_, _ = io.Copy(io.Discard, r)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
		body := make([]byte, 5)
		if _, err := io.ReadFull(r, body); err == nil && string(body) == "hello" {
			_, _ = io.WriteString(conn, simpleAnswer)
		}
	}))
	_, gateway := serve(t, Options{Handler: h})
	client, r := dial(t, gateway)
	const request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n"
	send(t, client, request)
	head, err := readLines(r)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 100 Continue\r\n", head)
	send(t, client, "hello")
	response, _ := readResponse(t, r, "POST")
	require.Equal(t, 200, response.StatusCode)
	// One that is refused need not send the body, so that the connection ends.
	client, r = dial(t, gateway)
	send(t, client, request)
	response, _ = readResponse(t, r, "POST")
	require.Equal(t, 403, response.StatusCode)
	require.True(t, response.Close)
}

// An answer may come before the whole request; the client gets it.
func TestEarlyAnswers(t *testing.T) {
	t.Parallel()
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		_, _ = readLines(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
	}))
	_, gateway := serve(t, Options{Handler: h})
	client, r := dial(t, gateway)
	send(t, client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"+strings.Repeat("x", 100000))
	response, body := readResponse(t, r, "POST")
	require.Equal(t, 413, response.StatusCode)
	require.Equal(t, "no", body)
	_, err := r.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, 413, h.end(t).status)
}

// An instance never takes a part of a body for the whole.
func TestUploadsCutOff(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]string{
		"length":  "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
		"chunked": "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	} {
		whole := make(chan error, 1)
		h := newRoute(instance(t, func(_ int, _ net.Conn, r *bufio.Reader) {
			request, err := http.ReadRequest(r)
			if err == nil {
				_, err = io.Copy(io.Discard, request.Body)
			}
			whole <- err
		}))
		_, gateway := serve(t, Options{Handler: h})
		client, _ := dial(t, gateway)
		send(t, client, request)
		require.NoError(t, client.CloseWrite())
		require.Error(t, <-whole, name)
		end := h.end(t)
		require.Zero(t, end.status, name)
		require.ErrorIs(t, end.err, ErrClientGone, name)
	}
}

func TestUpgrades(t *testing.T) {
	t.Parallel()
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		head, err := readLines(r)
		if err != nil || !strings.Contains(head, "Connection: Upgrade\r\nUpgrade: websocket\r\n") {
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello")
		_, _ = io.Copy(conn, r) // echoes until the client ends its half
		_, _ = io.WriteString(conn, "bye")
	}))
	_, gateway := serve(t, Options{Handler: h, HeaderTimeout: 100 * time.Millisecond})
	client, r := dial(t, gateway)
	// The client does not wait for the answer.
	send(t, client, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
	head, err := readLines(r)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", head)
	got := make([]byte, len("helloearly"))
	_, err = io.ReadFull(r, got)
	require.NoError(t, err)
	require.Equal(t, "helloearly", string(got))
	text := strings.Repeat("message ", 100000)
	go func() { _, _ = io.WriteString(client, text); _ = client.CloseWrite() }()
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, text+"bye", string(rest))
	require.Equal(t, ending{101, nil}, h.end(t))
	require.EqualValues(t, len(text)+5, h.pass.Meter.In.Load())
	require.EqualValues(t, len(text)+13, h.pass.Meter.Out.Load())
	// A refused one is an ordinary answer.
	client, r = dial(t, gateway)
	send(t, client, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
	response, _ := readResponse(t, r, "GET")
	require.Equal(t, 400, response.StatusCode)
}

func TestBreaksTunnels(t *testing.T) {
	t.Parallel()
	broken, closed := make(chan struct{}), make(chan struct{})
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		_, _ = readLines(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(io.Discard, r)
		close(closed)
	}))
	h.pass.Break = broken
	_, gateway := serve(t, Options{Handler: h})
	client, r := dial(t, gateway)
	send(t, client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	_, err := readLines(r)
	require.NoError(t, err)
	close(broken)
	_, err = r.ReadByte()
	require.Error(t, err)
	<-closed
	end := h.end(t)
	require.Equal(t, 101, end.status)
	require.ErrorIs(t, end.err, ErrBroken)
}
