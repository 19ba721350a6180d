package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	randv2 "math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// RequestOption changes how one change is requested.
type RequestOption func(*request)

// WithIdempotencyKey sends the change under that key instead of a random one:
// for a caller that repeats it itself, perhaps after its own restart.
func WithIdempotencyKey(key string) RequestOption {
	return func(r *request) { r.key = key }
}

// IfMatch makes the change only if the resource is still at that version;
// otherwise the error IsStale. 0 is any version.
func IfMatch(version int64) RequestOption {
	return func(r *request) { r.ifMatch = version }
}

// request is what is asked of the server, once or repeatedly.
type request struct {
	method string
	// path is escaped; below /api/v1, or below the base if root.
	path  string
	root  bool
	query url.Values
	// body is JSON; open gives a stream instead, once per attempt.
	body []byte
	open func() (io.ReadCloser, error)
	// streamType is the Content-Type of what open gives.
	streamType string
	// timeout bounds one attempt; 0 is Options.Timeout, negative is none.
	timeout  time.Duration
	attempts int
	key      string
	ifMatch  int64
}

// change is a request that changes something: with a body, a key and options.
func change(method, path string, body any, options []RequestOption) (request, error) {
	r := request{method: method, path: path, key: rand.Text()}
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return request{}, fmt.Errorf("encoding the request: %w", err)
		}
		r.body = encoded
	}
	for _, option := range options {
		option(&r)
	}
	return r, nil
}

// pathOf joins path elements, escaped. The elements that callers give must
// name something: "" would ask for the whole list, ".." for something else.
func pathOf(collection string, elements ...string) (string, error) {
	path := "/" + collection
	for _, e := range elements {
		if e == "" || e == "." || e == ".." {
			return "", fmt.Errorf("naming one of the %s: %q is no ID and no name", collection, e)
		}
		path += "/" + url.PathEscape(e)
	}
	return path, nil
}

// do sends the request, repeats it where that is worth it, and decodes the answer into out.
func (c *Client) do(ctx context.Context, r request, out any) error {
	attempts := r.attempts
	if attempts == 0 {
		attempts = c.options.Attempts
	}
	for attempt := 1; ; attempt++ {
		err := c.once(ctx, r, out)
		if err == nil || ctx.Err() != nil || attempt >= attempts || !worthRepeating(err) {
			return err
		}
		if err := c.pause(ctx, attempt, err); err != nil {
			return err
		}
	}
}

// once sends the request one time and reads the whole answer.
func (c *Client) once(ctx context.Context, r request, out any) error {
	timeout := r.timeout
	if timeout == 0 {
		timeout = c.options.Timeout
	}
	attempt := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		attempt, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	answer, err := c.send(attempt, ctx, r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	// Read whole before it is decoded: an answer cut off by a server that dies
	// is a broken connection, not a wrong document.
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes+1))
	if err != nil {
		return c.broken(ctx, r, err)
	}
	if len(body) > maxAnswerBytes {
		return fmt.Errorf("%s %s: the answer is larger than %d MiB; ask for a smaller page", r.method, r.path, maxAnswerBytes>>20)
	}
	if out == nil || len(body) == 0 && answer.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s %s: the answer is not what a dormouse server sends; check the server's address: %w", r.method, c.BaseURL()+r.path, err)
	}
	return nil
}

// send sends the request one time and returns an answer that is a success.
// attempt is ctx with the attempt's own end.
func (c *Client) send(attempt, ctx context.Context, r request) (*http.Response, error) {
	var body io.Reader
	var stream *watchedBody
	switch {
	case r.open != nil:
		opened, err := r.open()
		if err != nil {
			return nil, fmt.Errorf("opening what is to be sent: %w", err)
		}
		stream = &watchedBody{ReadCloser: opened}
		body = stream
	case r.body != nil:
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(attempt, r.method, c.urlOf(r), body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	req.Header.Set("User-Agent", c.options.UserAgent)
	req.Header.Set("Accept", "application/json, application/problem+json, text/plain")
	switch {
	case stream != nil:
		req.Header.Set("Content-Type", r.streamType)
		// A server that refuses says so before megabytes are sent.
		req.Header.Set("Expect", "100-continue")
	case r.method == http.MethodPatch:
		req.Header.Set("Content-Type", "application/merge-patch+json")
	case r.body != nil:
		req.Header.Set("Content-Type", "application/json")
	}
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	if r.ifMatch != 0 {
		req.Header.Set("If-Match", strconv.Quote(strconv.FormatInt(r.ifMatch, 10)))
	}
	answer, err := c.http.Do(req)
	if err != nil {
		if stream != nil && stream.failed() != nil {
			return nil, fmt.Errorf("reading what is to be sent: %w", stream.failed())
		}
		return nil, c.broken(ctx, r, err)
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		defer answer.Body.Close()
		return nil, problemOf(r.method, c.shownPath(r), answer)
	}
	return answer, nil
}

// broken tells apart a context that ended from a server that can't be reached.
func (c *Client) broken(ctx context.Context, r request, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", r.method, c.shownPath(r), ctx.Err())
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	// Not the context's own error: the caller's context has not ended.
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("the server accepted the request and then fell silent")
	}
	return &UnreachableError{Method: r.method, URL: c.BaseURL() + c.shownPath(r), Err: err}
}

func (c *Client) shownPath(r request) string {
	if r.root {
		return r.path
	}
	return apiPrefix + r.path
}

func (c *Client) urlOf(r request) string {
	u := *c.base
	// String, not the Path field, so that the escapes in r.path are kept.
	u.RawQuery, u.Fragment = "", ""
	full := strings.TrimRight(u.String(), "/") + c.shownPath(r)
	if len(r.query) > 0 {
		full += "?" + r.query.Encode()
	}
	return full
}

// pause waits before the repeat that follows the given number of failures. It
// returns an error, with both causes in its chain, if the context ends first.
func (c *Client) pause(ctx context.Context, failures int, cause error) error {
	after := c.backoff(failures)
	var refused *Error
	if errors.As(cause, &refused) && refused.RetryAfter > after {
		after = min(refused.RetryAfter, 10*c.options.BackoffMax)
	}
	if c.options.OnRetry != nil {
		c.options.OnRetry(Retry{Attempt: failures, After: after, Err: cause})
	}
	if err := sleep(ctx, after); err != nil {
		return fmt.Errorf("%w while waiting to try again after: %w", err, cause)
	}
	return nil
}

// backoff doubles with every failure up to BackoffMax; the half of it is jitter.
func (c *Client) backoff(failures int) time.Duration {
	full := float64(c.options.Backoff) * math.Pow(2, float64(min(failures-1, 20)))
	full = min(full, float64(c.options.BackoffMax))
	return time.Duration(full/2 + randv2.Float64()*full/2)
}

// watchedBody remembers why reading failed, which net/http reports as if the
// connection had broken.
type watchedBody struct {
	io.ReadCloser
	mu  sync.Mutex
	err error
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
	}
	return n, err
}

func (b *watchedBody) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}
