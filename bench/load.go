package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one keep-alive connection to a server. It does as little as HTTP
// needs, so that on a small machine the server is measured and not the client.
type conn struct {
	addr string
	c    net.Conn
	r    *bufio.Reader
}

func dial(addr string) (*conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &conn{addr: addr, c: c, r: bufio.NewReaderSize(c, 64<<10)}, nil
}

func (c *conn) close() { _ = c.c.Close() }

// requestTimeout bounds one request.
const requestTimeout = time.Minute

// do sends a request and returns status and body.
func (c *conn) do(method, path, header, body string) (int, []byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n%s", method, path, c.addr, header)
	if body != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.WriteString(body)
	if err := c.c.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return 0, nil, err
	}
	if _, err := c.c.Write(b.Bytes()); err != nil {
		return 0, nil, err
	}
	answer, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return 0, nil, err
	}
	content, err := io.ReadAll(answer.Body)
	return answer.StatusCode, content, err
}

// want is do where only one status is right.
func (c *conn) want(status int, method, path, header, body string) ([]byte, error) {
	got, content, err := c.do(method, path, header, body)
	if err == nil && got != status {
		err = fmt.Errorf("%s %s answered %d: %s", method, path, got, firstLine(string(content), 300))
	}
	return content, err
}

// spread has clients do work 0 to n-1 (or until the context ends, where n is
// negative), each with a connection of its own, and returns how long each piece
// took. The first error ends it.
func spread(ctx context.Context, addr string, clients, n int, work func(c *conn, i int) error) ([]time.Duration, error) {
	conns := make([]*conn, clients)
	for i := range conns {
		c, err := dial(addr)
		if err != nil {
			return nil, err
		}
		defer c.close()
		conns[i] = c
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	took := make([][]time.Duration, clients)
	var next atomic.Int64
	var wg sync.WaitGroup
	for w, c := range conns {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if n >= 0 && i >= n {
					return
				}
				begin := time.Now()
				if err := work(c, i); err != nil {
					cancel(err)
					return
				}
				took[w] = append(took[w], time.Since(begin))
			}
		})
	}
	wg.Wait()
	var all []time.Duration
	for _, t := range took {
		all = append(all, t...)
	}
	if cause := context.Cause(ctx); cause != nil && cause != context.DeadlineExceeded {
		return all, cause
	}
	return all, nil
}

// idOf takes the ID out of an answer.
func idOf(content []byte) (string, error) {
	var have struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(content, &have); err != nil {
		return "", fmt.Errorf("reading an answer: %w", err)
	}
	return have.ID, nil
}
