package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Answer is an HTTP answer, read whole.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Decode reads the body as JSON, unknown members allowed.
func (a Answer) Decode(out any) error {
	if err := json.Unmarshal([]byte(a.Body), out); err != nil {
		return fmt.Errorf("decoding an answer with status %d: %w: %.300s", a.Status, err, a.Body)
	}
	return nil
}

// Call is a raw request to the API. Header holds pairs of name and value.
func (e *Environment) Call(ctx context.Context, method, path, body string, header ...string) (Answer, error) {
	return e.send(ctx, method, e.URL+path, "", body, header...)
}

// Visit is a request to an installation, through the gateway.
func (e *Environment) Visit(ctx context.Context, name, method, path, body string) (Answer, error) {
	return e.send(ctx, method, "http://"+e.GatewayAddress+path, name+".localhost", body)
}

func (e *Environment) send(ctx context.Context, method, url, host, body string, header ...string) (Answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	if host != "" {
		r.Host = host
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := e.http.Do(r)
	if err != nil {
		return Answer{}, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return Answer{Status: answer.StatusCode, Header: answer.Header, Body: string(text)}, err
}

// AwaitAnswer visits an installation until it answers 200, and decodes the answer into out.
func (e *Environment) AwaitAnswer(ctx context.Context, name, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		answer, err := e.Visit(ctx, name, "GET", path, "")
		if err == nil && answer.Status == http.StatusOK {
			if out == nil {
				return nil
			}
			return answer.Decode(out)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s to answer: %w; last: %d %.200s %v", name, ctx.Err(), answer.Status, answer.Body, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
