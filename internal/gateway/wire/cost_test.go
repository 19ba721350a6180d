package wire

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// always lets everything through with one Pass.
type always struct{ pass Pass }

func (h *always) Enter(context.Context, *Head) (*Pass, *Answer)       { return &h.pass, nil }
func (h *always) Failed(context.Context, *Head, *Pass, error) *Answer { return nil }

// In the common case a request costs no allocation. (Not parallel: the count is the process's.)
func TestRequestsAllocateNothing(t *testing.T) {
	if raced {
		t.Skip("the race detector has pools forget, which allocates")
	}
	address := instance(t, func(_ int, conn net.Conn, _ *bufio.Reader) {
		buf, answer := make([]byte, 4096), []byte(simpleAnswer)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	})
	_, gateway := serve(t, Options{Handler: &always{Pass{Key: "instance", Address: address, Meter: new(Meter)}}})
	conn, _ := dial(t, gateway)
	for name, request := range map[string]string{
		"get":  "GET /p?q HTTP/1.1\r\nHost: acme.example.com\r\nUser-Agent: me\r\nCookie: a=b\r\n\r\n",
		"post": "POST /p HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 5\r\n\r\nhello",
	} {
		buf, text := make([]byte, 4096), []byte(request)
		one := func() {
			if _, err := conn.Write(text); err != nil {
				panic(err)
			}
			if _, err := conn.Read(buf); err != nil {
				panic(err)
			}
		}
		require.Less(t, testing.AllocsPerRun(2000, one), 0.5, name)
	}
}

// A body in chunks of a byte does not reach an instance as one write for each.
func TestTinyChunksAreGathered(t *testing.T) {
	t.Parallel()
	h := newRoute(instance(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		if _, err := readLines(r); err != nil {
			return
		}
		lines := 0
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if lines++; line == "0\r\n" {
				break
			}
		}
		text := fmt.Sprint(lines)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"+text)
	}))
	_, gateway := serve(t, Options{Handler: h})
	client, r := dial(t, gateway)
	send(t, client, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+strings.Repeat("1\r\nx\r\n", 2000)+"0\r\n\r\n")
	_, lines := readResponse(t, r, "POST")
	require.Less(t, len(lines), 3, "2,000 chunks became %s lines", lines)
	require.EqualValues(t, 2000, h.pass.Meter.In.Load())
}
