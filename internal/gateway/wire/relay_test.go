package wire

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What an instance gets is written anew: the parts that frame it, and who the client is.
func TestRequestsAsTheInstanceGetsThem(t *testing.T) {
	t.Parallel()
	_, gateway := serve(t, Options{Handler: newRoute(instance(t, echo))})
	const ours = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: http\r\n"
	for name, test := range map[string]struct{ text, want string }{
		"plain":           {"GET /p?q HTTP/1.1\r\nhost: a\r\nX:  y \r\n\r\n", "GET /p?q HTTP/1.1\r\nHost: a\r\nX: y\r\n" + ours + "|"},
		"1.0":             {"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n" + ours + "|"},
		"absolute":        {"GET http://A/p?q HTTP/1.1\r\nHost: a\r\n\r\n", "GET /p?q HTTP/1.1\r\nHost: A\r\n" + strings.Replace(ours, "Host: a", "Host: A", 1) + "|"},
		"absolute, bare":  {"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n" + ours + "|"},
		"absolute, query": {"GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?q HTTP/1.1\r\nHost: a\r\n" + ours + "|"},
		"asterisk":        {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n" + ours + "|"},
		"empty line":      {"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n" + ours + "|"},
		"spoofed": {"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nx-forwarded-proto: https\r\nX-Forwarded-Anything-Else-That-There-Is: z\r\n" +
			"Forwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nX_Forwarded_For: 1.2.3.4\r\nX-Real_IP: 1\r\nContent_Length: 5\r\nProxy: p\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a\r\n" + ours + "|"},
		"hop by hop": {"GET / HTTP/1.1\r\nHost: a\r\nConnection: Foo, X-Bar,host, content-length\r\nFoo: 1\r\nx-bar: 2\r\nKeep-Alive: 5\r\nTE: gzip\r\n" +
			"Proxy-Authorization: p\r\nProxy-Connection: close\r\nBaz: 3\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nBaz: 3\r\n" + ours + "|"},
		"trailers taken": {"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers, gzip\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a\r\n" + ours + "Connection: TE\r\nTE: trailers\r\n|"},
		"body":                          {"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 03\r\n\r\nabc", "POST / HTTP/1.1\r\nHost: a\r\n" + ours + "Content-Length: 3\r\n|abc"},
		"empty body":                    {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\n" + ours + "Content-Length: 0\r\n|"},
		"GET, body":                     {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "GET / HTTP/1.1\r\nHost: a\r\n" + ours + "Content-Length: 3\r\n|abc"},
		"chunked":                       {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n1;x=\"y\"\r\na\r\n002\r\nbc\r\n0\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\n" + ours + "Transfer-Encoding: chunked\r\n|abc"},
		"h2c upgrade":                   {"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n" + ours + "|"},
		"upgrade that is not asked for": {"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n" + ours + "|"},
		"upgrade with a body":           {"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\na", "POST / HTTP/1.1\r\nHost: a\r\n" + ours + "Content-Length: 1\r\n|a"},
	} {
		conn, r := dial(t, gateway)
		for range 2 { // the connection stays in step
			send(t, conn, test.text)
			response, body := readResponse(t, r, "GET")
			require.Equal(t, 200, response.StatusCode, name)
			require.Equal(t, test.want, body, name)
		}
		send(t, conn, test.text+test.text) // pipelined
		for range 2 {
			_, body := readResponse(t, r, "GET")
			require.Equal(t, test.want, body, name)
		}
	}
}

// What a client gets of an instance's answer.
func TestAnswersAsTheClientGetsThem(t *testing.T) {
	t.Parallel()
	const get, last = "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	const old = "GET / HTTP/1.0\r\nHost: a\r\n\r\n"
	for name, test := range map[string]struct{ text, answer, want string }{
		"length":         {get + last, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\n\r\nhi", "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"},
		"1.0":            {old, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"},
		"1.0, kept":      {"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" + old, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"},
		"1.0, chunked":   {old, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi"},
		"chunked":        {last, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n002;x\r\nhi\r\n0\r\nT: u\r\nContent-Length: 7\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\nT: u\r\n\r\n"},
		"no content":     {last, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"},
		"not modified":   {last, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nConnection: close\r\n\r\n"},
		"head":           {"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n"},
		"head, chunked":  {"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"},
		"no reason":      {last, "HTTP/1.1 299\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 299 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
		"early hints":    {last, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
		"1.0 and 1xx":    {old, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
		"hop by hop":     {last, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Foo, keep-alive\r\nFoo: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
		"length twice":   {last, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"},
		"forwarded back": {last, "HTTP/1.1 200 OK\r\nX-Forwarded-For: me\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nX-Forwarded-For: me\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
	} {
		_, gateway := serve(t, Options{Handler: newRoute(instance(t, answers(test.answer)))})
		require.Equal(t, test.want, ask(t, gateway, test.text), name)
	}
	closing := instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		_, _ = readLines(r)
		_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\nhi")
	})
	_, gateway := serve(t, Options{Handler: newRoute(closing)})
	require.Equal(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\n\r\n", ask(t, gateway, last))
	require.Equal(t, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi", ask(t, gateway, old))
}

// An answer that is no HTTP, or has an end that nobody can tell, is a 502.
func TestBadAnswers(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"garbage":             "garbage\r\n\r\n",
		"nothing":             "",
		"half a head":         "HTTP/1.1 200 OK\r\nContent-",
		"bad status":          "HTTP/1.1 2x0 OK\r\n\r\n",
		"status of 4 digits":  "HTTP/1.1 2000 OK\r\n\r\n",
		"status below 100":    "HTTP/1.1 099 OK\r\n\r\n",
		"HTTP/2":              "HTTP/2.0 200 OK\r\n\r\n",
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
		"length and chunked":  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"unknown coding":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"fold":                "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
		"splitting":           "HTTP/1.1 200 OK\r\nA: b\rSet-Cookie: c\r\nContent-Length: 0\r\n\r\n",
		"101 not asked for":   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
		"head without an end": "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 100000),
		"1xx without an end":  strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 30),
	} {
		h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
			_, _ = readLines(r)
			_, _ = io.WriteString(conn, answer)
		}))
		_, gateway := serve(t, Options{Handler: h})
		got := ask(t, gateway, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		got = strings.ReplaceAll(got, "HTTP/1.1 102 Processing\r\n\r\n", "")
		require.True(t, strings.HasPrefix(got, "HTTP/1.1 502 Bad Gateway\r\n"), "%s: %s", name, got)
		end := h.end(t)
		require.Equal(t, 502, end.status, name)
		require.Error(t, end.err, name)
	}
}

// An answer that breaks off is cut, never made to look whole.
func TestAnswersCutOff(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"length":        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi",
		"chunked":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
		"bad chunk":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nx\r\n",
		"half a chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhi",
		"trailer's end": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n",
	} {
		for _, version := range []string{"1.1", "1.0"} {
			h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
				_, _ = readLines(r)
				_, _ = io.WriteString(conn, answer)
			}))
			_, gateway := serve(t, Options{Handler: h})
			conn, r := dial(t, gateway)
			send(t, conn, "GET / HTTP/"+version+"\r\nHost: a\r\n\r\n")
			all, err := io.ReadAll(r)
			require.Error(t, err, "%s: the connection is reset", name)
			require.NotContains(t, string(all), "\r\n0\r\n", name)
			end := h.end(t)
			require.Equal(t, 200, end.status, name)
			require.Error(t, end.err, name)
		}
	}
}
