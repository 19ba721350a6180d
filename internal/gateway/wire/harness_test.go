package wire

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// route is a Handler that lets everything through to one address, unless told otherwise.
type route struct {
	pass  Pass
	enter func(context.Context, *Head) (*Pass, *Answer)

	mu    sync.Mutex
	ended chan ending // what Done was told
	wrong []error     // what Failed was told
}

type ending struct {
	status int
	err    error
}

func (h *route) Enter(ctx context.Context, head *Head) (*Pass, *Answer) {
	if h.enter != nil {
		return h.enter(ctx, head)
	}
	return h.next(), nil
}

func (h *route) next() *Pass {
	p := h.pass
	p.Done = func(status int, err error) { h.ended <- ending{status, err} }
	return &p
}

func (h *route) Failed(_ context.Context, _ *Head, _ *Pass, err error) *Answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wrong = append(h.wrong, err)
	status := http.StatusBadGateway
	if timeout, ok := err.(interface{ Timeout() bool }); ok && timeout.Timeout() || strings.Contains(err.Error(), ErrSlow.Error()) {
		status = http.StatusGatewayTimeout
	}
	return &Answer{Status: status, Body: []byte("no answer\n")}
}

func newRoute(address string) *route {
	return &route{pass: Pass{Key: "instance", Address: address, Meter: new(Meter)}, ended: make(chan ending, 1000)}
}

// serve starts a server and returns it with its address.
func serve(t *testing.T, o Options) (*Server, string) {
	t.Helper()
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	s := New(o)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return s, l.Addr().String()
}

// instance listens, and runs a script on each connection, by its number.
func instance(t *testing.T, script func(n int, conn net.Conn, r *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	var running sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	running.Go(func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			running.Go(func() {
				defer conn.Close()
				script(n, conn, bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return l.Addr().String()
}

// head reads lines up to the empty one.
func readLines(r *bufio.Reader) (string, error) {
	var lines strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		if line == "\r\n" {
			return lines.String(), nil
		}
		lines.WriteString(line)
	}
}

// answers is a script that gives the same answer to each head.
func answers(answer string) func(int, net.Conn, *bufio.Reader) {
	return func(_ int, conn net.Conn, r *bufio.Reader) {
		for {
			if _, err := readLines(r); err != nil {
				return
			}
			if _, err := io.WriteString(conn, answer); err != nil {
				return
			}
		}
	}
}

// echo answers with the head and body of each request, as it came.
func echo(_ int, conn net.Conn, r *bufio.Reader) {
	for {
		head, err := readLines(r)
		if err != nil {
			return
		}
		request, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(head+"\r\n"), r)))
		if err != nil {
			return
		}
		var body strings.Builder
		if _, err := io.Copy(&body, request.Body); err != nil {
			return
		}
		response := http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(head) + 1 + body.Len()),
			Body: io.NopCloser(strings.NewReader(head + "|" + body.String()))}
		if response.Write(conn) != nil {
			return
		}
	}
}

func dial(t *testing.T, address string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp4", address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn.(*net.TCPConn), bufio.NewReader(conn)
}

func send(t *testing.T, conn io.Writer, text string) {
	t.Helper()
	_, err := io.WriteString(conn, text)
	require.NoError(t, err)
}

// ask sends text on a new connection and returns all that comes until its end.
func ask(t *testing.T, address, text string) string {
	t.Helper()
	conn, r := dial(t, address)
	send(t, conn, text)
	all, _ := io.ReadAll(r) // a reset ends it, too
	return string(all)
}

// response reads one answer.
func readResponse(t *testing.T, r *bufio.Reader, method string) (*http.Response, string) {
	t.Helper()
	response, err := http.ReadResponse(r, &http.Request{Method: method})
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(body)
}

func (h *route) end(t *testing.T) ending {
	t.Helper()
	select {
	case e := <-h.ended:
		return e
	case <-time.After(patience):
		require.Fail(t, "the exchange has not ended")
		return ending{}
	}
}
