package wire

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// reader is a connection that only reads.
type reader struct {
	net.Conn
	from io.Reader
}

func (r reader) Read(p []byte) (int, error) { return r.from.Read(p) }

func newReader(from io.Reader) *stream {
	s := new(stream)
	s.init(reader{from: from}, new(buffers))
	return s
}

// FuzzRequest: what is taken goes on as something that everybody reads in one way.
func FuzzRequest(f *testing.F) {
	for _, test := range refused() {
		if len(test.text) < 300 { // long ones take the fuzzer long to shorten
			f.Add([]byte(test.text))
		}
	}
	f.Add([]byte("POST http://[::1]:80/p?q HTTP/1.1\r\nHost: [::1]:80\r\nConnection: x\r\nX: y\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n"))
	f.Add([]byte("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		head, err := newReader(bytes.NewReader(p)).readHead(64<<10, nil)
		dripped, drippedErr := newReader(iotest.OneByteReader(bytes.NewReader(p))).readHead(64<<10, nil)
		require.Equal(t, err, drippedErr)
		require.Equal(t, head, dripped)
		var r request
		if err != nil || r.parse(head, 100) != nil {
			return
		}
		out := r.appendTo(nil, "192.0.2.1", false)
		var again request
		require.NoError(t, again.parse(out, 200), "%q", out)
		require.Equal(t, []any{r.length, r.chunked, string(r.path), string(r.host)}, []any{again.length, again.chunked, string(again.path), string(again.host)})
		if r.upgrade == nil {
			require.Equal(t, out, again.appendTo(nil, "192.0.2.1", false), "written twice is written once")
		}
		std, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(out)))
		if err != nil && strings.Contains(err.Error(), "parse") {
			return // a target that net/url does not like, which frames nothing
		}
		require.NoError(t, err, "%q", out)
		require.Equal(t, string(r.method), std.Method)
		require.Equal(t, string(r.host), std.Host)
		require.Equal(t, r.chunked, len(std.TransferEncoding) == 1)
		require.Equal(t, max(r.length, 0), max(std.ContentLength, 0))
		require.Equal(t, []string{"192.0.2.1"}, std.Header.Values("X-Forwarded-For"))
	})
}

// FuzzResponse: the same for answers.
func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\n\r\nhi"))
	f.Add([]byte("HTTP/1.0 404\r\nConnection: keep-alive, a\r\nA: b\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		head, err := newReader(bytes.NewReader(p)).readHead(64<<10, nil)
		var r response
		if err != nil || r.parse(head, 100) != nil {
			return
		}
		out := append(r.appendLine(nil), "Content-Length: 0\r\n\r\n"...)
		std, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(out)), nil)
		require.NoError(t, err, "%q", out)
		require.Equal(t, r.status, std.StatusCode)
		require.Empty(t, std.TransferEncoding)
		var again response
		require.NoError(t, again.parse(out, 200), "%q", out)
		require.EqualValues(t, 0, again.length)
	})
}

func readBody(b *body, s *stream) ([]byte, error) {
	var all []byte
	for {
		p, err := b.next(s, 1000, true)
		if err != nil {
			return all, err
		}
		all = append(all, p...)
	}
}

// FuzzChunks: bodies that are taken are what net/http takes, too, however they arrive.
func FuzzChunks(f *testing.F) {
	for _, test := range refused() {
		if _, chunks, found := strings.Cut(test.text, "chunked\r\n\r\n"); found && len(chunks) < 100 {
			f.Add([]byte(chunks))
		}
	}
	f.Add([]byte("3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET"))
	f.Fuzz(func(t *testing.T, p []byte) {
		whole, dripped := body{kind: bodyChunked, maxFields: 10}, body{kind: bodyChunked, maxFields: 10}
		s := newReader(bytes.NewReader(p))
		all, err := readBody(&whole, s)
		again, againErr := readBody(&dripped, newReader(iotest.OneByteReader(bytes.NewReader(p))))
		require.Equal(t, err == io.EOF, againErr == io.EOF, "%v, %v", err, againErr)
		if err != io.EOF {
			return
		}
		require.Equal(t, all, again)
		require.Equal(t, whole.trailer, dripped.trailer)
		std, stdErr := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(p)))
		if stdErr == nil { // it bounds the extensions of small chunks
			require.True(t, bytes.Equal(all, std))
		}
		framed := appendEnd(appendChunk(nil, append(all, 'x')), whole.trailer)
		b := body{kind: bodyChunked, maxFields: 10}
		unframed, err := readBody(&b, newReader(bytes.NewReader(framed)))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, append(all, 'x'), unframed)
	})
}
