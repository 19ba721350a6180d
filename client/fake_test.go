package client

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// recorded is a request as a server saw it.
type recorded struct {
	method, uri, body string
	header            http.Header
}

// fake is a server that answers by a script: one handler per request, the last one for ever.
type fake struct {
	*httptest.Server
	mu       sync.Mutex
	requests []recorded
}

func newFake(t *testing.T, script ...http.HandlerFunc) *fake {
	t.Helper()
	f := &fake{}
	f.Server = httptest.NewServer(f.handler(script))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) handler(script []http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, 0, 512)
		buf := make([]byte, 512)
		for {
			n, err := r.Body.Read(buf)
			body = append(body, buf[:n]...)
			if err != nil {
				break
			}
		}
		f.mu.Lock()
		next := script[min(len(f.requests), len(script)-1)]
		f.requests = append(f.requests, recorded{r.Method, r.RequestURI, string(body), r.Header.Clone()})
		f.mu.Unlock()
		next(w, r)
	})
}

func (f *fake) seen() []recorded {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]recorded(nil), f.requests...)
}

func answer(status int, body any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
}

func refuse(p Problem) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(p.Status)
		_ = json.NewEncoder(w).Encode(p)
	}
}

// hangUp breaks the connection without an answer.
func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// cutOff breaks the connection in the middle of an answer.
func cutOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = w.Write([]byte(`{"id":"1`))
	panic(http.ErrAbortHandler)
}

// hurried are options that do not keep a test waiting.
func hurried() Options {
	return Options{Backoff: time.Millisecond, BackoffMax: 5 * time.Millisecond, Timeout: 20 * time.Second}
}

func newClient(t *testing.T, url string, options Options) *Client {
	t.Helper()
	c, err := New(url, options)
	require.NoError(t, err)
	return c
}

// listenAgain takes an address that a server has just left.
func listenAgain(t *testing.T, address string) net.Listener {
	t.Helper()
	var l net.Listener
	require.Eventually(t, func() bool {
		var err error
		l, err = net.Listen("tcp", address)
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	return l
}

// routeCase is a call, and what the server is asked by it.
type routeCase struct {
	call func(context.Context, *Client) error
	want string
	body string
}

func testRoutes(t *testing.T, cases map[string]routeCase) {
	t.Helper()
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, answer(http.StatusOK, struct{}{}))
			require.NoError(t, tc.call(t.Context(), newClient(t, f.URL, Options{UserAgent: "agent/1"})))
			got := f.seen()
			require.Len(t, got, 1)
			require.Equal(t, tc.want, got[0].method+" "+got[0].uri)
			require.Equal(t, tc.body, strings.TrimSpace(got[0].body))
			require.Equal(t, "agent/1", got[0].header.Get("User-Agent"))
			if got[0].method == http.MethodGet {
				require.Empty(t, got[0].header.Get("Idempotency-Key"))
			} else {
				require.GreaterOrEqual(t, len(got[0].header.Get("Idempotency-Key")), 20)
			}
		})
	}
}
