package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

var noon = time.Date(2030, 5, 17, 12, 0, 0, 0, time.FixedZone("odd", 5*3600+45*60))

// buffer is an output that several goroutines may write to and look at.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// run is one run of cloudctl in a test.
type run struct {
	*app
	out, err *buffer
}

func newRun(server string) run {
	out, stderr := &buffer{}, &buffer{}
	return run{&app{
		stdin: strings.NewReader(""), stdout: out, stderr: stderr,
		getenv: func(name string) string {
			if name == "DORMOUSE_SERVER" {
				return server
			}
			return ""
		},
		now:        func() time.Time { return noon },
		width:      func() int { return 80 },
		openURL:    func(context.Context, string) error { return errors.New("there is no browser") },
		readHidden: func() ([]byte, error) { return nil, io.EOF },
		lookEvery:  time.Millisecond,
		client:     client.Options{Backoff: time.Millisecond, BackoffMax: 5 * time.Millisecond},
	}, out, stderr}
}

// line runs a command line, split at spaces.
func (r run) line(t *testing.T, line string) int {
	t.Helper()
	return r.app.main(t.Context(), strings.Fields(line))
}

func (r run) with(ctx context.Context, line string) int {
	return r.app.main(ctx, strings.Fields(line))
}

// request is what the fake server was asked.
type request struct{ route, query, body string }

// fake is a server with a handler for each "METHOD /path".
type fake struct {
	*httptest.Server
	mu       sync.Mutex
	requests []request
}

func newFake(t *testing.T, routes map[string]http.HandlerFunc) *fake {
	t.Helper()
	f := &fake{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // what did not arrive is missed by the test
		route := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/api/v1")
		f.mu.Lock()
		f.requests = append(f.requests, request{route, r.URL.RawQuery, string(body)})
		f.mu.Unlock()
		h := routes[route]
		if h == nil {
			h = refuse(404, client.KindNotFound, "there is no such thing")
		}
		h(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) asked() []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]request(nil), f.requests...)
}

func answer(status int, body any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
}

func refuse(status int, kind, detail string) http.HandlerFunc {
	return problem(client.Problem{Type: "urn:dormouse:problem:" + kind, Title: "t", Status: status, Kind: kind, Detail: detail})
}

func problem(p client.Problem) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(p.Status)
		_ = json.NewEncoder(w).Encode(p)
	}
}

// inTurn answers by each handler in turn, and by the last one from then on.
func inTurn(handlers ...http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	next := 0
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		h := handlers[min(next, len(handlers)-1)]
		next++
		mu.Unlock()
		h(w, r)
	}
}

func operation() client.Operation {
	return client.Operation{
		ID: "op1", Kind: "create", ResourceType: "installation", ResourceID: "in1", ResourceName: "acme",
		State: "active", Step: "create-instance", StepNumber: 3, StepsTotal: 6, StepSince: noon.Add(-12 * time.Second),
		Steps: []client.StepDone{
			{Name: "place", StartedAt: noon.Add(-20 * time.Second), FinishedAt: noon.Add(-19900 * time.Millisecond), Number: 1, Attempts: 1},
			{Name: "build-image", StartedAt: noon.Add(-19 * time.Second), FinishedAt: noon.Add(-12 * time.Second), Number: 2, Attempts: 2},
		},
		Attempt: 1, WaitReason: "backing-off", FailReason: "provider-error", Error: "no tap device",
		Revision: 4, CreatedAt: noon.Add(-20 * time.Second),
	}
}

func ended(state string) client.Operation {
	op := operation()
	op.State, op.Revision, op.WaitReason, op.FinishedAt = state, 9, "", noon
	if state == "succeeded" {
		op.Attempt, op.FailReason, op.Error = 0, "", ""
		op.Steps = append(op.Steps, client.StepDone{Name: "create-instance", StartedAt: noon.Add(-12 * time.Second), FinishedAt: noon, Number: 3, Attempts: 1})
	}
	return op
}

func installation(state string, op *client.Operation) client.Installation {
	return client.Installation{
		ID: "in1", Name: "acme", Owner: "alice", State: state, URL: "http://acme.localhost:8065",
		Endpoints: []client.Endpoint{{Port: 8080, Protocol: "http", Name: "web", Address: "10.1.0.2:8080"}},
		Cluster:   "local", Package: "workspace@1.1", RunningPackage: "workspace@1.0", VerifiedPackage: "workspace@1.0",
		MemoryMiB: 128, DiskMiB: 1024, VCPUs: 1, Env: map[string]string{"LOG": "debug", "A": "\x1b[31mred"},
		SecretNames: []string{"DB_PASSWORD"}, Labels: map[string]string{"tier": "gold"},
		Instance: &client.Instance{ID: "vm1", Host: "host1", Power: "running", MemoryMiB: 128, Restarts: 2, CreatedAt: noon.Add(-time.Hour),
			Exit: &client.Exit{Code: 3, Reason: "program-exited", At: noon.Add(-90 * time.Minute), LastLines: []string{"starting", "out of \x07luck"}}},
		Operation: op, Generation: 2, Version: 7, CreatedAt: noon.Add(-49 * time.Hour), UpdatedAt: noon,
	}
}

// golden compares with a file in testdata; UPDATE_GOLDEN=1 writes it anew.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "write it with UPDATE_GOLDEN=1")
	require.Equal(t, string(want), got)
}
